//! A minimal HTTP client for servers of this stack.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends a `GET` and returns the body. Uses HTTP/1.0, which has no chunked encoding.
pub(crate) async fn get(port: u16, path: &str) -> Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    connection
        .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no end of its head")?;
    if !head.contains(" 200 ") {
        bail!("{path} was answered with {answer:?}");
    }
    Ok(body.to_owned())
}
