//! The parts of the stack whose failure no other test would reveal: clean-up, the fault proxy,
//! MySQL's failover and its client. All other tests depend on the rest.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests are not marked as tests"
)]

mod cleanup;
mod mysql;
mod proxy;

use std::time::Duration;

/// Long enough for a busy machine. It is only reached if something is broken.
const LIMIT: Duration = Duration::from_secs(90);

/// Waits until a condition holds.
async fn eventually(what: &str, condition: impl AsyncFnMut() -> bool) {
    firstcome_stack::eventually(what, LIMIT, condition).await;
}

/// Sends one command to Redis on a new connection. Returns the response without the line end.
async fn redis(port: u16, command: &str) -> std::io::Result<String> {
    Wire::connect(port).await?.ask(command).await
}

/// A line-based connection.
struct Wire(tokio::io::BufReader<tokio::net::TcpStream>);

impl Wire {
    async fn connect(port: u16) -> std::io::Result<Self> {
        Ok(Self(tokio::io::BufReader::new(
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await?,
        )))
    }

    async fn say(&mut self, line: &str) -> std::io::Result<()> {
        use tokio::io::AsyncWriteExt;
        self.0.write_all(format!("{line}\r\n").as_bytes()).await
    }

    /// Reads the next line. Empty at the end of the stream.
    async fn hear(&mut self) -> std::io::Result<String> {
        use tokio::io::AsyncBufReadExt;
        let mut line = String::new();
        tokio::time::timeout(LIMIT, self.0.read_line(&mut line))
            .await
            .expect("an answer")?;
        Ok(line.trim_end().to_owned())
    }

    /// Sends a line and returns the response. For a Redis string, returns its value.
    async fn ask(&mut self, line: &str) -> std::io::Result<String> {
        self.say(line).await?;
        let answer = self.hear().await?;
        if answer.starts_with('$') && answer != "$-1" {
            self.hear().await
        } else {
            Ok(answer)
        }
    }

    /// Waits until the other side closes the connection. Returns `false` if it sends data instead.
    async fn is_closed(&mut self) -> bool {
        self.hear().await.map_or(true, |line| line.is_empty())
    }

    /// Closes this side and returns everything that the other side still sends.
    async fn rest(mut self) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut rest = Vec::new();
        let _ = self.0.shutdown().await;
        let _ = tokio::time::timeout(LIMIT, self.0.read_to_end(&mut rest))
            .await
            .expect("the other side hangs up");
        String::from_utf8_lossy(&rest).into_owned()
    }
}
