//! Where an HTTP server is, and one connection to it: no pool, no proxy, TLS if the address says
//! https.

use std::fmt;
use std::path::PathBuf;

use hyper::Uri;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::fetch::FetchError;
use crate::tls::{Paths, Store, Tls, cause};

pub(super) struct Origin {
    host: String,
    port: u16,
    /// As the header `Host` has it.
    pub(super) authority: String,
    tls: Option<Tls>,
}

/// A connection, encrypted or not.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority)
    }
}

impl Origin {
    /// Takes an address that looks like `shape`, and a file of authorities to trust instead of the
    /// public ones. Gives its path as well.
    ///
    /// # Errors
    /// One sentence with the setting to change.
    pub(super) fn new(
        store: Store,
        url: &str,
        shape: &str,
        ca: Option<PathBuf>,
    ) -> Result<(Self, String), String> {
        let (prefix, name) = (store.prefix(), store.address());
        let wrong = || format!("{name} must look like {shape}, without user and password");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let (host, authority) = uri.host().zip(uri.authority()).ok_or_else(wrong)?;
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let paths = Paths::new(ca, None, None);
        let (tls, default_port) = match uri.scheme_str() {
            Some("https") => (Some(Tls::new(store, &paths)?), 443),
            Some("http") if paths.first().is_some() => {
                return Err(format!(
                    "{prefix}_CA_FILE is set, but {name} is http://: write https://, or leave it out"
                ));
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
        Ok((
            origin,
            uri.path_and_query()
                .map_or("/", |path| path.as_str())
                .to_owned(),
        ))
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) async fn connect(&self) -> Result<Box<dyn ByteStream>, FetchError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(FetchError::away)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(self.host.clone()).map_err(FetchError::away)?;
        let config = tls.client_config().map_err(FetchError::Refused)?;
        match TlsConnector::from(config).connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(match cause(&error) {
                Some(reason) => FetchError::Refused(tls.sentence(reason)),
                None => FetchError::away(error),
            }),
        }
    }
}
