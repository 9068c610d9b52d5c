//! One keep-alive HTTP/1.1 connection. No pool in between, no redirects, no TLS: on two cores a full client would cost as
//! much as the server it is to measure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longest wait for one answer.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Where a service is: `http://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    authority: String,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let uri: Uri = text.parse().with_context(|| format!("{text:?} is no address"))?;
        if uri.scheme_str() != Some("http") || !matches!(uri.path(), "" | "/") {
            bail!("{text:?} must look like http://host:port, without a path");
        }
        let authority = uri.authority().context("no host")?;
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self { authority: format!("{}:{port}", authority.host()) })
    }
}

impl Target {
    /// `host:port`.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// A connection; it ends when dropped.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn open(target: &Target) -> Result<Self> {
        let stream =
            TcpStream::connect(&target.authority).await.with_context(|| format!("{target} does not answer"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // How the connection ended is seen by whoever sends next.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, authority: target.authority.clone(), driver })
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection broke or [`ANSWER_LIMIT`] passed; the connection is then of no more use.
    pub async fn send(&mut self, call: Call<'_>) -> Result<(StatusCode, Bytes)> {
        let mut request = Request::builder().method(call.method).uri(call.path).header("host", &self.authority);
        for (name, value) in call.headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(call.body)))?;
        timeout(ANSWER_LIMIT, async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            Ok((head.status, body.collect().await?.to_bytes()))
        })
        .await
        .with_context(|| format!("no answer within {ANSWER_LIMIT:?}"))?
    }
}

/// One request.
#[derive(Debug)]
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// Headers beside `Host` and `Content-Length`.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body, empty for none.
    pub body: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_addresses_are_targets() {
        assert_eq!("http://127.0.0.1:8080".parse::<Target>().unwrap().to_string(), "http://127.0.0.1:8080");
        assert_eq!("http://[::1]:8080/".parse::<Target>().unwrap().to_string(), "http://[::1]:8080");
        assert_eq!("http://api".parse::<Target>().unwrap().to_string(), "http://api:80");
        for bad in ["https://api", "api:80", "http://api/v1", ""] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
