//! An HTTP client for one server, based on hyper-util, with a new connection for each request. It
//! uses no proxy and follows no redirects.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::uri::{Authority, Scheme};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::timeout;

use crate::tls::{Tls, TlsFiles, TlsServer, cause};

/// Maximum number of bytes read from the head of a response.
const HEAD: usize = 16 * 1024;

/// Maximum number of bytes read from the body of a response.
const BODY: usize = 256 * 1024;

/// Maximum duration of [`HttpClient::get`], including the DNS lookup.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct HttpClient {
    /// The address, which may contain a secret.
    address: SecretString,
    authority: String,
    tls: Tls,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// Why a request got no usable response.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No complete answer came, or one with 429 or 5xx. A later attempt may succeed.
    #[error("{0}")]
    Away(String),
    /// Retrying does not help.
    #[error("{0}")]
    Refused(String),
}

impl FetchError {
    pub fn away(error: impl Into<anyhow::Error>) -> Self {
        Self::Away(format!("{:#}", error.into()))
    }
}

/// Shows host and port, because the rest of the address may be a secret.
impl fmt::Display for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority)
    }
}

impl HttpClient {
    /// Parses an address, with a file of additional certificate authorities.
    ///
    /// # Errors
    /// Returns a message that names the setting to change.
    pub fn new(
        store: TlsServer,
        address: &str,
        authorities: Option<PathBuf>,
    ) -> Result<Self, String> {
        let name = store.address();
        let wrong = || {
            format!(
                "{name} must look like https://host/path or http://host:port, without user and password"
            )
        };
        let url: Uri = address.parse().map_err(|_| wrong())?;
        let is_web = url.scheme() == Some(&Scheme::HTTP) || is_encrypted(&url);
        let is_fit = is_web && url.host().is_some_and(|host| !host.is_empty());
        let authority = url
            .authority()
            .filter(|it| is_fit && !it.as_str().contains('@'));
        let files = TlsFiles {
            authorities: authorities.filter(|_| is_encrypted(&url)),
            ..TlsFiles::default()
        };
        let authority = authority.ok_or_else(wrong)?.to_string();
        let tls = Tls::new(store, &files)?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls.client_config());
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .http1_max_buf_size(HEAD)
            .build(connector.https_or_http().enable_http1().build());
        Ok(Self {
            address: address.into(),
            authority,
            tls,
            client,
        })
    }

    /// Whether TLS protects requests against eavesdropping and changes.
    pub fn is_encrypted(&self) -> bool {
        let address = self.address.expose_secret();
        address.parse().is_ok_and(|url| is_encrypted(&url))
    }

    /// Whether requests stay on this machine.
    pub fn is_loopback(&self) -> bool {
        let authority = self.authority.parse::<Authority>();
        let host = authority.as_ref().map_or("", Authority::host);
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost")
            || address
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// Returns the address with this path at its end.
    pub fn url(&self, path: &str) -> String {
        let address = self.address.expose_secret();
        match path {
            "" => address.to_owned(),
            path => format!("{}{path}", address.trim_end_matches('/')),
        }
    }

    /// Sends a request, and returns when the head of the response has arrived. The caller limits
    /// the duration and the body.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Incoming>, FetchError> {
        let sent = self.client.request(request.map(Full::new)).await;
        sent.map_err(|error| match cause(&error) {
            Some(reason) => FetchError::Refused(self.tls.sentence(reason)),
            None => FetchError::away(error),
        })
    }

    /// Sends a request, and reads the body. The caller limits the duration.
    pub async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, FetchError> {
        let (head, body) = self.send(request).await?.into_parts();
        let body = Limited::new(body, BODY).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                FetchError::Refused(format!("it answered more than {BODY} bytes"))
            } else {
                FetchError::Away(error.to_string())
            }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    /// Sends a GET request to the address, and returns the body of a 200 response.
    pub async fn get(&self) -> Result<Bytes, FetchError> {
        let request = Request::get(self.url(""))
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("firstcome/", env!("CARGO_PKG_VERSION")))
            .body(Bytes::new())
            .map_err(FetchError::away)?;
        let answer = timeout(LIMIT, self.exchange(request)).await;
        let response =
            answer.map_err(|_| FetchError::Away(format!("no answer within {LIMIT:?}")))??;
        let status = response.status();
        let said = format!("it answered {status}");
        match status {
            StatusCode::OK => Ok(response.into_body()),
            StatusCode::TOO_MANY_REQUESTS => Err(FetchError::Away(said)),
            _ if status.is_server_error() => Err(FetchError::Away(said)),
            _ => Err(FetchError::Refused(said)),
        }
    }
}

fn is_encrypted(url: &Uri) -> bool {
    url.scheme() == Some(&Scheme::HTTPS)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use firstcome_stack::CertificateFolder;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;

    /// Starts a server with this certificate that responds with `{}`. Returns its port.
    async fn https_server(files: &CertificateFolder, name: &str) -> u16 {
        let certificate =
            CertificateDer::from_pem_file(files.path(&format!("{name}.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(files.path(&format!("{name}.key"))).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth();
        let tls = TlsAcceptor::from(Arc::new(
            config.with_single_cert(vec![certificate], key).unwrap(),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that does not trust the certificate closes the connection.
                let Ok(mut stream) = tls.accept(stream).await else {
                    continue;
                };
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                    .await;
            }
        });
        port
    }

    #[tokio::test]
    async fn response_is_accepted_only_with_a_valid_certificate() {
        let files = CertificateFolder::make().unwrap();
        let get = async |port: u16, ca: &str| {
            let ca = (!ca.is_empty()).then(|| PathBuf::from(files.path(ca)));
            let source = HttpClient::new(
                TlsServer::Jwks,
                &format!("https://127.0.0.1:{port}/keys"),
                ca,
            );
            source.unwrap_or_else(|why| panic!("{why}")).get().await
        };
        let good = https_server(&files, "server").await;
        assert_eq!(get(good, "ca.pem").await.unwrap(), "{}");
        let expired = https_server(&files, "expired").await;
        for (port, ca, says) in [
            (good, "foreign-ca.pem", "SSL_CERT_FILE"),
            (good, "", "UnknownIssuer"),
            (expired, "ca.pem", "certificate expired"),
        ] {
            let error = get(port, ca).await.unwrap_err();
            assert!(
                matches!(&error, FetchError::Refused(why) if why.contains(says)),
                "{says}: {error}"
            );
        }
    }
}
