//! The HTTP client of one server: hyper-util's, with a connection for each request. It uses no proxy
//! and follows no redirects. The caller limits the duration and the body.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::uri::{Authority, PathAndQuery, Scheme};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::tls::{Store, Tls, TlsFiles, cause};

/// Maximum number of bytes read from the head of a response.
const HEAD: usize = 16 * 1024;

#[derive(Debug, Clone)]
pub struct Origin {
    scheme: Scheme,
    authority: Authority,
    tls: Tls,
    client: Arc<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
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
    pub(super) fn away(error: impl Into<anyhow::Error>) -> Self {
        Self::Away(format!("{:#}", error.into()))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.authority.as_str())
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
        let parts = url.parse::<Uri>().map_err(|_| wrong())?.into_parts();
        let (scheme, authority) = parts.scheme.zip(parts.authority).ok_or_else(wrong)?;
        let is_web = scheme == Scheme::HTTPS || scheme == Scheme::HTTP;
        if !is_web || authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let files = TlsFiles {
            authorities: authorities.filter(|_| scheme == Scheme::HTTPS),
            ..TlsFiles::default()
        };
        let tls = Tls::new(store, &files)?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls.client_config());
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .http1_max_buf_size(HEAD)
            .build(connector.https_or_http().enable_http1().build());
        let path = parts.path_and_query;
        let path = path.as_ref().map_or("/", PathAndQuery::as_str).to_owned();
        let origin = Self {
            scheme,
            authority,
            tls,
            client: Arc::new(client),
        };
        Ok((origin, path))
    }

    /// Whether TLS protects requests against eavesdropping and changes.
    pub fn is_encrypted(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// Sends a request whose URI is a path, and returns when the head of the response has arrived.
    pub async fn send(
        &self,
        mut request: Request<Bytes>,
    ) -> Result<Response<Incoming>, FetchError> {
        let mut to = std::mem::take(request.uri_mut()).into_parts();
        to.scheme = Some(self.scheme.clone());
        to.authority = Some(self.authority.clone());
        *request.uri_mut() = Uri::from_parts(to).map_err(FetchError::away)?;
        let sent = self.client.request(request.map(Full::new)).await;
        sent.map_err(|error| match cause(&error) {
            Some(reason) => FetchError::Refused(self.tls.sentence(reason)),
            None => FetchError::away(error),
        })
    }

    /// Sends a request, and reads a body of at most so many bytes.
    pub async fn exchange(
        &self,
        request: Request<Bytes>,
        most: usize,
    ) -> Result<Response<Bytes>, FetchError> {
        let (head, body) = self.send(request).await?.into_parts();
        let body = Limited::new(body, most).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                FetchError::Refused(format!("it answered more than {most} bytes"))
            } else {
                FetchError::Away(error.to_string())
            }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}
