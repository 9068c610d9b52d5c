//! Clients that occupy connections without using them, while probes request `/healthz`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use firstcome_stack::{HogKind, Hogs};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::effect::Effect;
use crate::supervisor::Supervised;
use crate::system::SystemUnderTest;
use crate::wait::pause;

/// Connections of each kind; together they stay below the smallest limit of a process.
const HOGS: usize = 75;

/// Longer than Kubernetes' default of one second, because test machines are slower.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Keeps idle and polite connections to a process open for `ms`, and records a failure if most
/// probes fail.
pub(super) async fn hold(
    system: &SystemUnderTest,
    process: &Supervised,
    ms: u64,
) -> Result<Effect> {
    let begun = Instant::now();
    let Some(address) = process.address() else {
        return Ok(Effect::now(false, "it does not run"));
    };
    let address: SocketAddr = address.trim_start_matches("http://").parse()?;
    let hogs =
        [HogKind::Silent, HogKind::Polite].map(|kind| Hogs::start(address, kind, "/healthz", HOGS));
    let mut answered = 0_u32;
    let mut failed = 0_u32;
    while begun.elapsed() < Duration::from_millis(ms) {
        let probe = timeout(PROBE_TIMEOUT, probe(address)).await;
        *(if matches!(probe, Ok(Ok(()))) {
            &mut answered
        } else {
            &mut failed
        }) += 1;
        pause(200).await;
    }
    drop(hogs);
    // On a busy machine one probe may fail. On a full server all probes fail.
    if failed > answered && process.address().is_some() {
        system.object(format!(
            "{failed} of {} probes failed during {} idle connections",
            answered + failed,
            2 * HOGS
        ));
    }
    let note = format!("{answered} of {} probes answered", answered + failed);
    Ok(Effect::of(
        begun..Instant::now(),
        answered + failed > 0,
        note,
    ))
}

async fn probe(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    // 503 also counts as an answer: the process reports that its loop is stuck.
    if answer.starts_with("HTTP/1.1 ") {
        Ok(())
    } else {
        Err(std::io::ErrorKind::UnexpectedEof.into())
    }
}
