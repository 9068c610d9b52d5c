//! Sends one GET with a deadline, including the DNS lookup, and limits the body.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::Bytes;
use hyper::header::{ACCEPT, USER_AGENT};
use hyper::{Request, StatusCode};
use tokio::time::timeout;

pub use super::origin::FetchError;
use super::origin::Origin;
use crate::tls::Store;

/// Maximum duration of the whole request.
const LIMIT: Duration = Duration::from_secs(5);

/// Maximum number of bytes read from the body of a response.
const BODY: usize = 256 * 1024;

/// A URL to fetch.
pub struct HttpSource {
    origin: Origin,
    path: String,
}

impl fmt::Display for HttpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)
    }
}

impl HttpSource {
    /// Creates a source from an address, and a file of additional certificate authorities.
    ///
    /// # Errors
    /// Returns a message that names the setting to change.
    pub fn new(store: Store, url: &str, authorities: Option<PathBuf>) -> Result<Self, String> {
        let (origin, path) = Origin::new(url, store, "https://host/path", authorities)?;
        Ok(Self { origin, path })
    }

    /// Whether TLS protects the response against changes in transit.
    pub fn is_encrypted(&self) -> bool {
        self.origin.is_encrypted()
    }

    pub async fn get(&self) -> Result<Bytes, FetchError> {
        let answer = timeout(LIMIT, self.exchange()).await;
        answer.unwrap_or_else(|_| Err(FetchError::Away(format!("no answer within {LIMIT:?}"))))
    }

    async fn exchange(&self) -> Result<Bytes, FetchError> {
        let request = Request::get(&self.path)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("firstcome/", env!("CARGO_PKG_VERSION")))
            .body(Bytes::new())
            .map_err(FetchError::away)?;
        let response = self.origin.exchange(request, BODY).await?;
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
                // A client that does not trust it closes the connection.
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
            let source =
                HttpSource::new(Store::Jwks, &format!("https://127.0.0.1:{port}/keys"), ca);
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
