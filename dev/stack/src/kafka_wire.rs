//! The one Kafka request that tells whether a broker is ready.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Metadata, version 1, of no topic: `api_key`, `api_version`, `correlation_id`, `client_id` (null), topics (none).
const REQUEST: [u8; 18] = [0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0, 0, 0, 0];
const LONGEST_ANSWER: u32 = 1 << 20;

/// How many brokers the cluster says it has.
pub(crate) async fn brokers(port: u16) -> Result<u32> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    connection.write_all(&REQUEST).await?;
    let length = connection.read_u32().await?;
    if length > LONGEST_ANSWER {
        bail!("an answer of {length} bytes: is this Kafka?");
    }
    let mut answer = vec![0; usize::try_from(length)?];
    connection.read_exact(&mut answer).await?;
    // After the correlation id stands the number of brokers.
    let count = answer.get(4..8).and_then(|bytes| bytes.try_into().ok()).context("the answer is too short")?;
    Ok(u32::from_be_bytes(count))
}
