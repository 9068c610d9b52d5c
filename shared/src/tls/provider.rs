//! The cryptography provider of all clients in this process: ring.

use std::sync::{Arc, LazyLock};

use tokio_rustls::rustls::Error;
use tokio_rustls::rustls::crypto::{CryptoProvider, KeyProvider, ring};
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use tokio_rustls::rustls::sign::SigningKey;

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        key_provider: &AnyForm,
        ..ring::default_provider()
    })
});

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Installs the provider as the default for the Redis and MySQL clients, unless there already is
/// one.
pub(super) fn install() {
    if CryptoProvider::get_default().is_none()
        && CryptoProvider::clone(&PROVIDER).install_default().is_err()
    {
        tracing::debug!("another thread has already installed a cryptography provider");
    }
}

/// Reads a key in any format. mysql_async labels every key as PKCS #1, and ring trusts the label,
/// so MySQL logins would fail with elliptic-curve keys and with the PKCS #8 format that most tools
/// write.
#[derive(Debug)]
struct AnyForm;

impl KeyProvider for AnyForm {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        let bytes = key.secret_der().to_vec();
        ring::sign::any_supported_type(&key)
            .or_else(|_| {
                ring::sign::any_supported_type(&PrivatePkcs8KeyDer::from(bytes.clone()).into())
            })
            .or_else(|_| ring::sign::any_supported_type(&PrivateSec1KeyDer::from(bytes).into()))
    }
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;

    use super::*;

    #[test]
    fn private_key_that_is_wrongly_labelled_pkcs1_is_accepted() {
        let files = firstcome_stack::CertificateFolder::make().unwrap();
        let key = PrivateKeyDer::from_pem_slice(&std::fs::read(files.path("client.key")).unwrap())
            .unwrap();
        let as_mysql_async_gives_it = || PrivateKeyDer::Pkcs1(key.secret_der().to_vec().into());
        assert!(ring::sign::any_supported_type(&as_mysql_async_gives_it()).is_err());
        assert!(AnyForm.load_private_key(as_mysql_async_gives_it()).is_ok());
    }
}
