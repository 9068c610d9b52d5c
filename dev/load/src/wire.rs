//! One keep-alive HTTP/1.1 connection that only knows what a claim needs: a request made before, a status, a length, a body.
//! On two cores a full client costs as much as the server it is to measure.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    request: Vec<u8>,
    head: Vec<u8>,
}

/// Where an answer's parts are.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    body_at: usize,
    length: usize,
}

impl Wire {
    /// Connects, for claims of one coupon.
    pub async fn open(target: SocketAddr, coupon: i64) -> Result<Self> {
        let stream = TcpStream::connect(target).await.with_context(|| format!("{target} does not answer"))?;
        stream.set_nodelay(true)?;
        let head =
            format!("POST /v1/coupons/{coupon}/claims HTTP/1.1\r\nhost: {target}\r\ncontent-length: 0\r\nx-user-id: ");
        Ok(Self { stream, buffer: Vec::with_capacity(4096), request: Vec::with_capacity(256), head: head.into() })
    }

    /// Claims for a person; gives status and body.
    ///
    /// # Errors
    /// When the connection broke or the answer can't be read; the connection is then of no more use.
    pub async fn claim(&mut self, user: &str) -> Result<(u16, &[u8])> {
        self.request.clear();
        self.request.extend_from_slice(&self.head);
        self.request.extend_from_slice(user.as_bytes());
        self.request.extend_from_slice(b"\r\n\r\n");
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the connection was closed");
            }
            if let Some(Head { status, body_at, length }) = read_head(&self.buffer)?
                && self.buffer.len() >= body_at + length
            {
                return Ok((status, &self.buffer[body_at..body_at + length]));
            }
        }
    }
}

/// `None` while the head is not whole.
fn read_head(bytes: &[u8]) -> Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..end])?;
    let mut lines = text.split("\r\n");
    let status =
        lines.next().and_then(|line| line.get(9..12)).and_then(|code| code.parse().ok()).context("no status")?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(Ok(0), |(_, value)| value.trim().parse())?;
    Ok(Some(Head { status, body_at: end + 4, length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_its_head_is_whole() {
        let answer = b"HTTP/1.1 409 Conflict\r\nContent-Length: 5\r\ndate: x\r\n\r\nhello";
        assert_eq!(read_head(answer).unwrap(), Some(Head { status: 409, body_at: answer.len() - 5, length: 5 }));
        assert_eq!(read_head(&answer[..40]).unwrap(), None);
        assert!(read_head(b"nonsense\r\n\r\n").is_err());
    }
}
