//! TLS to the stores and other servers: trusted authorities, this process's certificate, and
//! explanations of failed handshakes. librdkafka uses OpenSSL instead (docs/decisions/0020-tls.md).

mod fault;
mod files;
mod provider;

use std::path::PathBuf;
use std::sync::Arc;

use mysql_async::{ClientIdentity, SslOpts};
use redis::{ClientTlsConfig, TlsCertificates};
use secrecy::{ExposeSecret as _, SecretString};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use self::files::{Certificates, PrivateKey};

pub(crate) use fault::cause;

/// Servers reached over TLS, which determine the names of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
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

impl Store {
    /// Whether public authorities are trusted in addition to those of `SSL_CERT_FILE`. A store's
    /// certificate comes from a known authority; the other servers may use any.
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
#[derive(Debug, Clone)]
pub struct Tls {
    store: Store,
    /// The authorities to trust. `None` means those that browsers trust. See
    /// [`Store::trusts_public`].
    ca: Option<Certificates>,
    identity: Option<(Certificates, PrivateKey)>,
}

impl Tls {
    /// Reads the files. Errors name the setting to change.
    pub(crate) fn new(store: Store, files: &TlsFiles) -> Result<Self, String> {
        let ca = files.authorities.as_deref();
        let ca = ca.map(|path| Certificates::read("SSL_CERT_FILE", path));
        let identity = match (&files.cert, &files.key) {
            (Some(cert), Some(key)) => Some((
                Certificates::read("TLS_CERT_FILE", cert)?,
                PrivateKey::read("TLS_KEY_FILE", key)?,
            )),
            (None, None) => None,
            _ => return Err("TLS_CERT_FILE and TLS_KEY_FILE: give both, or neither".into()),
        };
        let ca = ca.transpose()?;
        let tls = Self {
            store,
            ca,
            identity,
        };
        tls.client_config()?;
        Ok(tls)
    }

    pub(crate) fn client_config(&self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        if let Some(ca) = &self.ca {
            for certificate in ca.der() {
                roots.add(certificate).map_err(|error| {
                    let path = ca.path().display();
                    format!("SSL_CERT_FILE {path} holds no authority's certificate: {error}")
                })?;
            }
        }
        if self.ca.is_none() || self.store.trusts_public() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        let config = ClientConfig::builder_with_provider(provider::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS can't be set up: {error}"))?
            .with_root_certificates(roots);
        let config = match &self.identity {
            None => config.with_no_client_auth(),
            Some((cert, key)) => config.with_client_auth_cert(cert.der(), key.der()).map_err(|error| {
                format!("TLS_KEY_FILE is no key to TLS_CERT_FILE, or of a kind that can't be used: {error}")
            })?,
        };
        Ok(Arc::new(config))
    }

    /// Returns the settings for the Redis client.
    pub(crate) fn for_redis(&self) -> TlsCertificates {
        provider::install();
        TlsCertificates {
            client_tls: self.identity.as_ref().map(|(cert, key)| ClientTlsConfig {
                client_cert: cert.pem().to_vec(),
                client_key: key.pem().to_vec(),
            }),
            root_cert: self.ca.as_ref().map(|ca| ca.pem().to_vec()),
        }
    }

    /// Returns the settings for the MySQL client, which always verifies name and authority.
    pub(crate) fn for_mysql(&self) -> SslOpts {
        provider::install();
        let identity = self.identity.as_ref().map(|(cert, key)| {
            ClientIdentity::new(
                cert.pem().to_vec().into(),
                key.der().secret_der().to_vec().into(),
            )
        });
        SslOpts::default()
            .with_disable_built_in_roots(self.ca.is_some())
            .with_root_certs(self.ca.iter().map(|ca| ca.pem().to_vec().into()).collect())
            .with_client_identity(identity)
    }

    pub(crate) fn has_identity(&self) -> bool {
        self.identity.is_some()
    }
}

/// The address of a store with its TLS settings. An address parsed from text is not encrypted.
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

    /// Returns the address without user, password and database.
    pub fn host_and_port(&self) -> &str {
        let rest = self
            .url()
            .split_once("://")
            .map_or(self.url(), |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host)
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
        for (url, expected) in [
            (
                "mysql://root:hunter2@db.example.com:3306/firstcome?x=hunter2",
                "db.example.com:3306",
            ),
            ("redis://:hunter2@127.0.0.1:6379", "127.0.0.1:6379"),
            ("rediss://user:hunter2@[::1]:6379/#hunter2", "[::1]:6379"),
            ("redis://127.0.0.1:6379/3", "127.0.0.1:6379"),
        ] {
            assert_eq!(StoreAddress::from(url).host_and_port(), expected);
        }
    }

    #[test]
    fn mismatched_key_and_wrong_file_types_are_refused_by_name() {
        let files = CertificateFolder::make().unwrap();
        let tls = |cert: &str, key: &str| {
            let cert = Some(files.path(cert).into());
            let key = Some(files.path(key).into());
            let authorities = None;
            Tls::new(
                Store::Redis,
                &TlsFiles {
                    authorities,
                    cert,
                    key,
                },
            )
        };
        let good = tls("client.pem", "client.key").unwrap();
        assert!(
            good.has_identity() && !format!("{good:?}").contains("PRIVATE"),
            "{good:?}"
        );
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
