//! An HTTP/1.1 client with keep-alive connections and one request at a time. It is hand-written,
//! because on two cores a full client costs as much as the server under test.

use std::fmt;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Time limit of one response.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Address of a service: `http://host:port` or `https://host:port`.
#[derive(Clone)]
pub struct Target {
    host: String,
    authority: String,
    tls: Option<TlsConnector>,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let shape = || format!("{text:?} must look like http://host:port or https://host:port");
        let (scheme, rest) = text.split_once("://").with_context(shape)?;
        let (tls, usual_port) = match scheme {
            "http" => (None, 80),
            "https" => (
                Some(connector(
                    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
                )?),
                443,
            ),
            _ => bail!(shape()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            bail!("{text:?} must look like http://host:port, without a path");
        }
        // An IPv6 address has its colons inside brackets.
        let (host, port) = match authority
            .rsplit_once(':')
            .filter(|(_, port)| !port.ends_with(']'))
        {
            Some((host, port)) => (host, port.parse::<u16>().ok().with_context(shape)?),
            None => (authority, usual_port),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        ensure!(!host.is_empty() && host.chars().all(plain), shape());
        Ok(Self {
            authority: format!("{host}:{port}"),
            host: host.to_owned(),
            tls,
        })
    }
}

impl Target {
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

fn connector(roots: RootCertStore) -> Result<TlsConnector> {
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(TlsConnector::from(Arc::new(
        config.with_root_certificates(roots).with_no_client_auth(),
    )))
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            authority: address.to_string(),
            tls: None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "http{}://{}",
            if self.tls.is_some() { "s" } else { "" },
            self.authority
        )
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug)]
pub struct Call<'a> {
    pub method: &'static str,
    pub path: &'a str,
    /// Headers in addition to `Host` and `Content-Length`.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body. Empty if there is none.
    pub body: &'a [u8],
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    // Boxed, because the type is large and rarely used.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read_buf(buffer).await,
            Self::Tls(stream) => stream.read_buf(buffer).await,
        }
    }
}

/// A connection. It is closed on drop.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    authority: String,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    pub async fn open(target: &Target) -> Result<Self> {
        let stream = TcpStream::connect(&target.authority)
            .await
            .with_context(|| format!("{target} does not answer"))?;
        stream.set_nodelay(true)?;
        let stream = match &target.tls {
            None => Stream::Plain(stream),
            Some(tls) => {
                let name = ServerName::try_from(target.host.trim_matches(['[', ']']).to_owned())?;
                let stream = Box::pin(tls.connect(name, stream))
                    .await
                    .with_context(|| format!("{target}: TLS"))?;
                Stream::Tls(Box::new(stream))
            }
        };
        let authority = target.authority.clone();
        Ok(Self {
            stream,
            authority,
            request: Vec::with_capacity(512),
            answer: Vec::with_capacity(4096),
        })
    }

    /// Sends one request and returns the status and body of the response.
    ///
    /// # Errors
    ///
    /// Fails if the connection breaks, the response is not HTTP, or [`ANSWER_LIMIT`] passes. The
    /// connection is then unusable.
    pub async fn send(&mut self, call: &Call<'_>) -> Result<(u16, &[u8])> {
        self.prepare(call);
        let (status, body) = timeout(ANSWER_LIMIT, self.exchange())
            .await
            .with_context(|| format!("no answer within {ANSWER_LIMIT:?}"))??;
        Ok((status, &self.answer[body]))
    }

    fn prepare(&mut self, call: &Call<'_>) {
        let request = &mut self.request;
        request.clear();
        for part in [
            call.method,
            " ",
            call.path,
            " HTTP/1.1\r\nhost: ",
            &self.authority,
        ] {
            request.extend_from_slice(part.as_bytes());
        }
        for (name, value) in call.headers {
            for part in ["\r\n", name, ": ", value] {
                request.extend_from_slice(part.as_bytes());
            }
        }
        // Writing to memory cannot fail.
        let _ = write!(request, "\r\ncontent-length: {}\r\n\r\n", call.body.len());
        request.extend_from_slice(call.body);
    }

    async fn exchange(&mut self) -> Result<(u16, Range<usize>)> {
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        loop {
            let closed = self.stream.read(&mut self.answer).await? == 0;
            if let Some(answer) = read_answer(&mut self.answer, closed)? {
                return Ok(answer);
            }
            ensure!(!closed, "the connection was closed");
        }
    }
}

/// Returns the status and the range of the body, or `None` while data is missing. Removes chunk
/// headers and interim responses from the buffer.
fn read_answer(bytes: &mut Vec<u8>, closed: bool) -> Result<Option<(u16, Range<usize>)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let body_at = end + 4;
    let head = std::str::from_utf8(&bytes[..end])?;
    let status: u16 = head
        .get(9..12)
        .and_then(|code| code.parse().ok())
        .context("no status")?;
    if (100..200).contains(&status) {
        bytes.drain(..body_at);
        return read_answer(bytes, closed);
    }
    let header = |wanted: &str| {
        let mut lines = head
            .split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(':'));
        lines
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim())
    };
    let length = match header("content-length") {
        Some(length) => length.parse()?,
        None if matches!(status, 204 | 304) => 0,
        None if header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) =>
        {
            let Some(body) = without_chunk_marks(&bytes[body_at..])? else {
                return Ok(None);
            };
            let length = body.len();
            bytes.splice(body_at.., body);
            length
        }
        // If there is no length, the body ends with the connection.
        None if closed => bytes.len() - body_at,
        None => return Ok(None),
    };
    let end = body_at.saturating_add(length);
    Ok((bytes.len() >= end).then_some((status, body_at..end)))
}

/// Removes the chunk headers. Returns `None` while the last chunk is missing.
fn without_chunk_marks(mut chunked: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let Some(end) = chunked.windows(2).position(|two| two == b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&chunked[..end])?
            .split(';')
            .next()
            .unwrap_or_default();
        let size = usize::from_str_radix(size.trim(), 16).context("a chunk without its size")?;
        let from = end + 2;
        let Some(chunk) = chunked.get(from..from.saturating_add(size)) else {
            return Ok(None);
        };
        if size == 0 {
            return Ok(Some(body));
        }
        body.extend_from_slice(chunk);
        chunked = chunked.get(from + size + 2..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_an_address_without_a_path() {
        assert_eq!(
            "http://127.0.0.1:8080"
                .parse::<Target>()
                .unwrap()
                .to_string(),
            "http://127.0.0.1:8080"
        );
        assert_eq!(
            "http://[::1]:8080/".parse::<Target>().unwrap().to_string(),
            "http://[::1]:8080"
        );
        assert_eq!(
            "http://api".parse::<Target>().unwrap().to_string(),
            "http://api:80"
        );
        assert_eq!(
            "https://api".parse::<Target>().unwrap().to_string(),
            "https://api:443"
        );
        for bad in [
            "ftp://api",
            "api:80",
            "http://api/v1",
            "http://api?x=1",
            "http://:80",
            "http://a b",
            "http://api:x",
            "",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parses_an_answer_once_it_is_complete() {
        let whole = b"HTTP/1.1 409 Conflict\r\nContent-Length: 5\r\ndate: x\r\n\r\nhello";
        for end in 0..whole.len() {
            assert_eq!(
                read_answer(&mut whole[..end].to_vec(), false).unwrap(),
                None,
                "{end}"
            );
        }
        let at = whole.len() - 5;
        assert_eq!(
            read_answer(&mut whole.to_vec(), false).unwrap(),
            Some((409, at..at + 5))
        );
        assert!(read_answer(&mut b"nonsense\r\n\r\n".to_vec(), false).is_err());
    }

    #[test]
    fn parses_bodies_with_every_kind_of_framing() {
        for (answer, status, body) in [
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
                200,
                "abcde",
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab",
                200,
                "ab",
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
            ("HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, "until the end"),
        ] {
            let mut bytes = answer.as_bytes().to_vec();
            let (read, range) = read_answer(&mut bytes, true).unwrap().unwrap();
            assert_eq!(
                (read, std::str::from_utf8(&bytes[range]).unwrap()),
                (status, body),
                "{answer}"
            );
        }
        let mut part =
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n".to_vec();
        assert_eq!(read_answer(&mut part, false).unwrap(), None);
    }
}
