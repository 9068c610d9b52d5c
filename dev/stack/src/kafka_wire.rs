//! The two Kafka requests that show whether a broker is ready.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Metadata, version 1, without topics: `api_key`, `api_version`, `correlation_id`, `client_id`
/// (null), topics (none).
const METADATA: &[u8] = &[0, 3, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0, 0, 0, 0];
/// `InitProducerId`, version 0: the same header, `transactional_id` (null),
/// `transaction_timeout_ms` (60,000, unused).
const INIT_PRODUCER_ID: &[u8] = &[
    0, 22, 0, 0, 0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff, 0, 0, 0xea, 0x60,
];
const LONGEST_ANSWER: u32 = 1 << 20;

/// Returns the IDs of the brokers in the cluster's metadata.
pub(crate) async fn brokers(port: u16) -> Result<Vec<i32>> {
    let answer = request(port, METADATA).await?;
    broker_ids(&answer).context("the answer is too short")
}

/// Parses the response. After the correlation ID comes the number of brokers, then the ID, host,
/// port and optional rack of each broker.
fn broker_ids(answer: &[u8]) -> Option<Vec<i32>> {
    let (count, mut rest) = answer.get(4..)?.split_first_chunk()?;
    let mut ids = Vec::new();
    for _ in 0..i32::from_be_bytes(*count) {
        let (id, after) = rest.split_first_chunk()?;
        ids.push(i32::from_be_bytes(*id));
        let after_host = after_text(after)?;
        rest = after_text(after_host.get(4..)?)?;
    }
    Some(ids)
}

/// Returns the bytes after a length-prefixed string. A negative length means null.
fn after_text(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.get(usize::try_from(i16::from_be_bytes(*length)).unwrap_or(0)..)
}

/// Fails until the broker assigns producer IDs. Directly after startup it answers "coordinator load
/// in progress" (14). A producer would then retry after half a second, which is longer than the
/// publishing deadline of some tests.
pub(crate) async fn gives_producer_ids(port: u16) -> Result<()> {
    let answer = request(port, INIT_PRODUCER_ID).await?;
    // The error code follows the correlation ID and the throttle time, each of which has four
    // bytes.
    let code = answer
        .get(8..10)
        .and_then(|bytes| bytes.try_into().ok())
        .context("the answer is too short")?;
    match i16::from_be_bytes(code) {
        0 => Ok(()),
        code => bail!("no producer id yet (Kafka's error code {code})"),
    }
}

async fn request(port: u16, request: &[u8]) -> Result<Vec<u8>> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    connection.write_u32(u32::try_from(request.len())?).await?;
    connection.write_all(request).await?;
    let length = connection.read_u32().await?;
    if length > LONGEST_ANSWER {
        bail!("an answer of {length} bytes: is this Kafka?");
    }
    let mut answer = vec![0; usize::try_from(length)?];
    connection.read_exact(&mut answer).await?;
    Ok(answer)
}
