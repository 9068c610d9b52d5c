//! The cryptography of every client of this process: ring.

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

/// Installs it as the default for the clients of Redis and MySQL. If the process already has one,
/// that stays.
pub(super) fn install() {
    if CryptoProvider::get_default().is_none()
        && CryptoProvider::clone(&PROVIDER).install_default().is_err()
    {
        tracing::debug!("another thread was quicker to choose the cryptography");
    }
}

/// Reads a key in any format. mysql_async declares every key as PKCS #1, and ring believes it: with
/// elliptic curves, and with the format that most tools write today, logging in to MySQL would
/// fail.
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
    fn private_key_with_the_wrong_pem_label_is_accepted() {
        let files = firstcome_stack::CertificateFolder::make().unwrap();
        let key = PrivateKeyDer::from_pem_slice(&std::fs::read(files.path("client.key")).unwrap())
            .unwrap();
        let as_mysql_async_gives_it = || PrivateKeyDer::Pkcs1(key.secret_der().to_vec().into());
        assert!(ring::sign::any_supported_type(&as_mysql_async_gives_it()).is_err());
        assert!(AnyForm.load_private_key(as_mysql_async_gives_it()).is_ok());
    }
}
