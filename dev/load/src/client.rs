//! An HTTP/1.1 client with keep-alive connections and one request at a time. It is hand-written,
//! because on two cores a full client uses as much CPU as the server under test.

use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time limit of one response.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Address of a service: `http://host:port`.
#[derive(Debug, Clone)]
pub struct Target {
    pub authority: String,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let rest = text.strip_prefix("http://");
        let authority = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let is_address = |authority: &&str| {
            let port = authority
                .rsplit_once(':')
                .map(|(_, port)| port.parse::<u16>());
            matches!(port, Some(Ok(_))) && !authority.contains(['/', '?', '#', ' '])
        };
        let authority = authority.filter(is_address);
        let authority = authority.with_context(|| format!("{text:?} is not http://host:port"))?;
        Ok(Self {
            authority: authority.to_owned(),
        })
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self {
            authority: address.to_string(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// A keep-alive connection to an API. It carries one request at a time, and is closed on drop.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    pub async fn open(target: &Target) -> Result<Self> {
        let stream = TcpStream::connect(&target.authority)
            .await
            .with_context(|| format!("{target} does not answer"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            request: Vec::with_capacity(512),
            answer: Vec::with_capacity(4096),
        })
    }

    /// Sends a `POST` without a body, and returns the status and body of the response.
    ///
    /// # Errors
    ///
    /// Fails if the connection breaks, the response is not HTTP with a length, or `ANSWER_LIMIT`
    /// passes. The connection is then unusable.
    pub async fn post(&mut self, path: &str, header: (&str, &str)) -> Result<(u16, &[u8])> {
        self.request.clear();
        let (name, value) = header;
        write!(
            self.request,
            "POST {path} HTTP/1.1\r\nhost: x\r\n{name}: {value}\r\ncontent-length: 0\r\n\r\n"
        )?;
        let (status, body) = timeout(ANSWER_LIMIT, self.exchange())
            .await
            .with_context(|| format!("no answer within {ANSWER_LIMIT:?}"))??;
        Ok((status, &self.answer[body]))
    }

    async fn exchange(&mut self) -> Result<(u16, Range<usize>)> {
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.answer).await?;
            ensure!(read > 0, "the connection was closed");
            if let Some(answer) = read_answer(&self.answer)? {
                return Ok(answer);
            }
        }
    }
}

/// Returns the status and the range of the body, or `None` while data is missing.
fn read_answer(bytes: &[u8]) -> Result<Option<(u16, Range<usize>)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end])?;
    let status = head.get(9..12).and_then(|code| code.parse().ok());
    let mut headers = head.split("\r\n").filter_map(|line| line.split_once(':'));
    let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.context("no content-length")?.1.trim().parse()?;
    let body = end + 4..(end + 4).saturating_add(length);
    Ok((bytes.len() >= body.end).then_some((status.context("no status")?, body)))
}
