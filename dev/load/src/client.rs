//! One keep-alive HTTP/1.1 connection. No pool in between and no redirects: on two cores a full client would cost as much as
//! the server it is to measure.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Longest wait for one answer.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Where a service is: `http://host:port` or `https://host:port`.
#[derive(Clone)]
pub struct Target {
    host: String,
    authority: String,
    tls: Option<TlsConnector>,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let uri: Uri = text.parse().with_context(|| format!("{text:?} is no address"))?;
        let (tls, usual_port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(connector(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect())?), 443),
            _ => bail!("{text:?} must look like http://host:port or https://host:port"),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            bail!("{text:?} must look like http://host:port, without a path");
        }
        let authority = uri.authority().context("no host")?;
        let (host, port) = (authority.host().to_owned(), authority.port_u16().unwrap_or(usual_port));
        Ok(Self { authority: format!("{host}:{port}"), host, tls })
    }
}

impl Target {
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The same, trusting these authorities and no others.
    #[must_use = "it is another target"]
    pub fn trusting(self, roots: RootCertStore) -> Result<Self> {
        let tls = self.tls.is_some().then(|| connector(roots)).transpose()?;
        Ok(Self { tls, ..self })
    }
}

fn connector(roots: RootCertStore) -> Result<TlsConnector> {
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http{}://{}", if self.tls.is_some() { "s" } else { "" }, self.authority)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
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
    pub async fn open(target: &Target) -> Result<Self> {
        let stream =
            TcpStream::connect(&target.authority).await.with_context(|| format!("{target} does not answer"))?;
        stream.set_nodelay(true)?;
        match &target.tls {
            None => Self::over(stream, target).await,
            // Boxed: it is large, and mostly not there.
            Some(tls) => Box::pin(Self::over_tls(tls, stream, target)).await,
        }
    }

    async fn over_tls(tls: &TlsConnector, stream: TcpStream, target: &Target) -> Result<Self> {
        let name = ServerName::try_from(target.host.trim_matches(['[', ']']).to_owned())?;
        let stream = tls.connect(name, stream).await.with_context(|| format!("{target}: TLS"))?;
        Self::over(stream, target).await
    }

    async fn over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, target: &Target) -> Result<Self> {
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

#[derive(Debug)]
pub struct Call<'a> {
    pub method: Method,
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
        assert_eq!("https://api".parse::<Target>().unwrap().to_string(), "https://api:443");
        for bad in ["ftp://api", "api:80", "http://api/v1", "http://api?x=1", ""] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
