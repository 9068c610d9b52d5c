//! TLS to the stores and other servers: trusted authorities, this process's certificate, and
//! explanations of failed handshakes. librdkafka uses OpenSSL instead
//! (docs/decisions/0001-libraries.md).

mod provider;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use mysql_async::{ClientIdentity, Opts, SslOpts};
use redis::{ClientTlsConfig, TlsCertificates};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

/// Servers reached over TLS. Errors name the setting of the server's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsServer {
    Redis,
    Mysql,
    /// The issuer of tokens, for the keys that verify them.
    Jwks,
    /// The API, for operators' programs.
    Api,
    /// A receiver of webhooks.
    Webhook,
    /// The collector of traces.
    Collector,
}

impl TlsServer {
    /// Whether public authorities are trusted in addition to those of `SSL_CERT_FILE`. The operator
    /// knows the authority of a store's certificate; the other servers may use any.
    fn trusts_public(self) -> bool {
        !matches!(self, Self::Redis | Self::Mysql)
    }

    /// Returns the setting for its address.
    pub(crate) fn address(self) -> &'static str {
        match self {
            Self::Redis => "REDIS_URL",
            Self::Mysql => "DATABASE_URL",
            Self::Jwks => "JWT_JWKS_URL",
            Self::Api => "API_URL",
            Self::Webhook => "WEBHOOK_URLS",
            Self::Collector => "OTEL_EXPORTER_OTLP_ENDPOINT",
        }
    }
}

/// Files for TLS; all are optional.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsFiles {
    /// `SSL_CERT_FILE`.
    pub(crate) authorities: Option<PathBuf>,
    /// `TLS_CERT_FILE`.
    pub(crate) cert: Option<PathBuf>,
    /// `TLS_KEY_FILE`.
    pub(crate) key: Option<PathBuf>,
}

/// The trusted authorities and this process's certificate, which are read once, at start-up.
#[derive(Clone)]
pub struct Tls {
    store: TlsServer,
    config: Arc<ClientConfig>,
    /// The authorities to trust, as PEM. `None` means those that browsers trust. See
    /// [`TlsServer::trusts_public`].
    ca: Option<Arc<[u8]>>,
    identity: Option<Arc<Identity>>,
}

/// This process's certificate and private key.
struct Identity {
    cert: Vec<u8>,
    key: SecretSlice<u8>,
    key_der: PrivateKeyDer<'static>,
}

/// Prints no key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.store).finish()
    }
}

/// Reads a file. `name` is the setting of its path.
fn read(name: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{name} {} can't be read: {error}", path.display()))
}

/// Parses one or more certificates, in the order of the file. `name` is the setting of its path.
fn certificates(name: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let some = parsed.ok().filter(|certificates| !certificates.is_empty());
    some.ok_or_else(|| format!("{name} holds no certificate in PEM form"))
}

impl Tls {
    /// Reads the files. Errors name the setting to change.
    pub(crate) fn new(store: TlsServer, files: &TlsFiles) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let mut ca = None;
        if let Some(path) = &files.authorities {
            let pem = read("SSL_CERT_FILE", path)?;
            for certificate in certificates("SSL_CERT_FILE", &pem)? {
                roots.add(certificate).map_err(|error| {
                    format!("SSL_CERT_FILE holds no authority's certificate: {error}")
                })?;
            }
            ca = Some(pem.into());
        }
        if ca.is_none() || store.trusts_public() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        let config = ClientConfig::builder_with_provider(provider::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS can't be set up: {error}"))?
            .with_root_certificates(roots);
        let (config, identity) = match (&files.cert, &files.key) {
            (None, None) => (config.with_no_client_auth(), None),
            (Some(cert_path), Some(key_path)) => {
                let cert = read("TLS_CERT_FILE", cert_path)?;
                let key = read("TLS_KEY_FILE", key_path)?;
                let certificates = certificates("TLS_CERT_FILE", &cert)?;
                let key_der = PrivateKeyDer::from_pem_slice(&key).map_err(
                    |_| "TLS_KEY_FILE holds no private key in PEM form, or one behind a password",
                )?;
                let config = config
                    .with_client_auth_cert(certificates, key_der.clone_key())
                    .map_err(|error| {
                        format!(
                            "TLS_KEY_FILE is no key to TLS_CERT_FILE, or of a kind that can't be \
                        used: {error}"
                        )
                    })?;
                let key = key.into();
                (config, Some(Arc::new(Identity { cert, key, key_der })))
            }
            _ => return Err("TLS_CERT_FILE and TLS_KEY_FILE: give both, or neither".into()),
        };
        Ok(Self {
            store,
            config: Arc::new(config),
            ca,
            identity,
        })
    }

    pub(crate) fn client_config(&self) -> ClientConfig {
        ClientConfig::clone(&self.config)
    }

    /// Returns the settings for the Redis client.
    pub(crate) fn for_redis(&self) -> TlsCertificates {
        provider::install();
        TlsCertificates {
            client_tls: self.identity.as_ref().map(|identity| ClientTlsConfig {
                client_cert: identity.cert.clone(),
                client_key: identity.key.expose_secret().to_vec(),
            }),
            root_cert: self.ca.as_ref().map(|pem| pem.to_vec()),
        }
    }

    /// Returns the settings for the MySQL client, which always verifies name and authority.
    pub(crate) fn for_mysql(&self) -> SslOpts {
        provider::install();
        let identity = self.identity.as_ref().map(|identity| {
            let key = identity.key_der.secret_der().to_vec();
            ClientIdentity::new(identity.cert.clone().into(), key.into())
        });
        SslOpts::default()
            .with_disable_built_in_roots(self.ca.is_some())
            .with_root_certs(self.ca.iter().map(|pem| pem.to_vec().into()).collect())
            .with_client_identity(identity)
    }

    pub(crate) fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    /// Adds the settings to rustls's reason why one side does not trust the other.
    pub(crate) fn sentence(&self, reason: impl fmt::Display) -> String {
        let address = self.store.address();
        format!("TLS fails: {reason}; see {address}, SSL_CERT_FILE and TLS_CERT_FILE")
    }
}

/// Finds the TLS error in the chain of a client's error.
pub(crate) fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    // An I/O error does not return the error inside it as its `source`.
    let held = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    held.and_then(|inner| cause(inner))
        .or_else(|| error.source().and_then(cause))
}

/// The address of a store with its TLS settings. An address converted from text alone has none.
#[derive(Debug, Clone)]
pub struct StoreAddress {
    url: SecretString,
    tls: Option<Tls>,
}

impl StoreAddress {
    pub(crate) fn new(url: SecretString, tls: Option<Tls>) -> Self {
        Self { url, tls }
    }

    pub(crate) fn url(&self) -> &str {
        self.url.expose_secret()
    }

    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Returns host and port of MySQL, without user, password and database.
    pub fn host_and_port(&self) -> String {
        Opts::from_url(self.url()).map_or_else(
            |_| String::new(),
            |opts| format!("{}:{}", opts.ip_or_hostname(), opts.tcp_port()),
        )
    }

    /// Returns the name of MySQL's database.
    pub(crate) fn database(&self) -> String {
        let opts = Opts::from_url(self.url()).ok();
        let name = opts.as_ref().and_then(|opts| opts.db_name());
        name.unwrap_or_default().to_owned()
    }
}

impl From<String> for StoreAddress {
    fn from(url: String) -> Self {
        Self::new(url.into(), None)
    }
}

impl From<&str> for StoreAddress {
    fn from(url: &str) -> Self {
        Self::new(url.into(), None)
    }
}

#[cfg(test)]
mod tests {
    use firstcome_stack::CertificateFolder;

    use super::*;

    #[test]
    fn store_location_contains_no_secret() {
        let url = "mysql://root:hunter2@db.example.com:3307/firstcome?require_ssl=true";
        let address = StoreAddress::from(url);
        assert_eq!(address.host_and_port(), "db.example.com:3307");
        assert_eq!(address.database(), "firstcome");
    }

    #[test]
    fn mismatched_or_unreadable_certificate_and_key_are_refused_and_never_printed() {
        let files = CertificateFolder::make().unwrap();
        let tls = |cert: &str, key: &str| {
            let [cert, key] = [cert, key].map(|name| Some(files.path(name).into()));
            let authorities = None;
            let given = TlsFiles {
                authorities,
                cert,
                key,
            };
            Tls::new(TlsServer::Redis, &given)
        };
        let good = tls("client.pem", "client.key").unwrap();
        let is_shown = format!("{good:?}").contains("PRIVATE");
        assert!(good.has_identity() && !is_shown, "{good:?}");
        for (cert, key, said) in [
            (
                "client.pem",
                "foreign.key",
                "TLS_KEY_FILE is no key to TLS_CERT_FILE",
            ),
            ("client.key", "client.key", "holds no certificate"),
            ("client.pem", "client.pem", "holds no private key"),
            ("client.pem", "none.key", "can't be read"),
        ] {
            let refused = tls(cert, key).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
    }
}
