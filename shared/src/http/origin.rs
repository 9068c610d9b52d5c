//! The HTTP client: one server, and one connection per request. It has no pool, uses no proxy and
//! follows no redirects. It uses TLS if the address is https. The caller limits the duration and
//! the body.
//!
//! reqwest is unsuitable: it follows the URL standard, which removes `..`, even if percent-encoded,
//! although `..` is a valid user id (docs/decisions/0001-libraries.md).

use std::fmt;
use std::path::PathBuf;

use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::tls::{Store, Tls, TlsFiles, cause};

/// Maximum number of bytes read from the head of a response.
const HEAD: usize = 16 * 1024;

#[derive(Debug, Clone)]
pub struct Origin {
    host: String,
    port: u16,
    /// The value of the header `Host`.
    authority: String,
    tls: Option<Tls>,
}

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No server answered. A later attempt may succeed.
    #[error("{0}")]
    Away(String),
    /// Retrying does not help.
    #[error("{0}")]
    Refused(String),
}

impl FetchError {
    #[allow(clippy::needless_pass_by_value)] // the signature that map_err requires
    pub(super) fn away(error: impl fmt::Display) -> Self {
        Self::Away(error.to_string())
    }
}

/// The step that a request has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpStep {
    Connect,
    Tls,
    /// The request was sent; waiting for the head of the response.
    Answer,
}

impl fmt::Display for HttpStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Tls => "TLS",
            Self::Answer => "request",
        })
    }
}

/// A connection, encrypted or not.
trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority)
    }
}

impl Origin {
    /// Parses an address of the pattern `shape`, with a file of additional certificate authorities.
    /// Also returns the path of the address.
    ///
    /// # Errors
    /// Returns a message that names the setting to change.
    pub fn new(
        url: &str,
        store: Store,
        shape: &str,
        authorities: Option<PathBuf>,
    ) -> Result<(Self, String), String> {
        let name = store.address();
        let wrong = || format!("{name} must look like {shape}, without user and password");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let (host, authority) = uri.host().zip(uri.authority()).ok_or_else(wrong)?;
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let (tls, default_port) = match uri.scheme_str() {
            Some("https") => {
                let files = TlsFiles {
                    authorities,
                    ..TlsFiles::default()
                };
                (Some(Tls::new(store, &files)?), 443)
            }
            Some("http") => (None, 80),
            _ => return Err(wrong()),
        };
        let origin = Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(default_port),
            authority: authority.to_string(),
            tls,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok((origin, path.to_owned()))
    }

    /// Whether TLS protects requests against eavesdropping and changes.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Sends a request whose URI is a path, and returns when the head of the response has arrived.
    /// `step` reports the progress.
    pub async fn send(
        &self,
        mut request: Request<Bytes>,
        step: &mut HttpStep,
    ) -> Result<Response<Incoming>, FetchError> {
        let host: HeaderValue = self.authority.parse().map_err(FetchError::away)?;
        request.headers_mut().insert(HOST, host);
        *step = HttpStep::Connect;
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(FetchError::away)?;
        let stream: Box<dyn ByteStream> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                *step = HttpStep::Tls;
                self.encrypt(tls, stream).await?
            }
        };
        *step = HttpStep::Answer;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(FetchError::away)?;
        // The task ends with the response, or when the caller gives up.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP connection ended early");
            }
        });
        sender
            .send_request(request.map(Full::new))
            .await
            .map_err(FetchError::away)
    }

    /// Sends a request, and reads a body of at most so many bytes.
    pub async fn exchange(
        &self,
        request: Request<Bytes>,
        most: usize,
    ) -> Result<Response<Bytes>, FetchError> {
        let response = self.send(request, &mut HttpStep::Connect).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, most).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                FetchError::Refused(format!("it answered more than {most} bytes"))
            } else {
                FetchError::away(error)
            }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    async fn encrypt(
        &self,
        tls: &Tls,
        stream: TcpStream,
    ) -> Result<Box<dyn ByteStream>, FetchError> {
        let name = ServerName::try_from(self.host.clone()).map_err(FetchError::away)?;
        let config = tls.client_config();
        match TlsConnector::from(config).connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(match cause(&error) {
                Some(reason) => FetchError::Refused(tls.sentence(reason)),
                None => FetchError::away(error),
            }),
        }
    }
}
