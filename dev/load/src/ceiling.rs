//! The limit of the load generator: the same crowd against a server in this process that does
//! nothing. A measured rate near this limit says more about the generator than about the system.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::crowd::Crowd;
use crate::generator::{self, CrowdPlan};
use crate::tally::{CrowdProgress, Tally};

/// Number of requests, which take about a second.
const REQUESTS: u32 = 20_000;
const BODY: &str = r#"{"type":"about:blank","title":"Sold out","status":409,"code":"sold_out","detail":"all are given out"}"#;

/// Runs a crowd against a server that does nothing, over this many connections. Both share the
/// cores of this machine, so a system on other machines can get more requests than this.
pub async fn measure(connections: usize) -> Result<Tally> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let target = listener.local_addr()?.into();
    let server = tokio::spawn(serve(listener));
    let plan = CrowdPlan::new(
        vec![target],
        1,
        Crowd::gather(REQUESTS, "none-", 1, 1)?,
        connections,
    );
    let tally = generator::run(plan, Arc::new(CrowdProgress::default())).await;
    server.abort();
    tally
}

async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        // Connection errors are irrelevant here.
        tokio::spawn(async move { drop(answer(stream).await) });
    }
}

/// Answers every request in the same way. No request has a body.
async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let answer = format!(
        "HTTP/1.1 409 Conflict\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let mut request = Vec::with_capacity(512);
    while stream.read_buf(&mut request).await? > 0 {
        if request.ends_with(b"\r\n\r\n") {
            stream.write_all(answer.as_bytes()).await?;
            request.clear();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::AnswerKind;

    #[tokio::test(flavor = "multi_thread")]
    async fn server_that_does_nothing_answers_every_request() {
        let tally = measure(8).await.unwrap();
        assert_eq!(tally.count(AnswerKind::SoldOut), u64::from(REQUESTS));
        assert!(tally.per_second > 0.0);
    }
}
