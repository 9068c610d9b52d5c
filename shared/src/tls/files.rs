//! Reads certificates and keys from PEM files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretSlice};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// One or more certificates, starting with the end-entity certificate.
#[derive(Clone)]
pub(super) struct Certificates {
    path: PathBuf,
    pem: Arc<[u8]>,
    der: Arc<[CertificateDer<'static>]>,
}

impl Certificates {
    /// Reads a file. `name` is the setting of its path.
    pub(super) fn read(name: &str, path: &Path) -> Result<Self, String> {
        let pem = read(name, path)?;
        let der: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        match der {
            Ok(der) if !der.is_empty() => Ok(Self {
                path: path.to_owned(),
                pem: pem.into(),
                der: der.into(),
            }),
            _ => Err(format!(
                "{name} {} holds no certificate in PEM form",
                path.display()
            )),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn pem(&self) -> &[u8] {
        &self.pem
    }

    pub(super) fn der(&self) -> Vec<CertificateDer<'static>> {
        self.der.to_vec()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificates").field(&self.path).finish()
    }
}

/// A private key. It is never printed.
#[derive(Clone)]
pub(super) struct PrivateKey {
    pem: Arc<SecretSlice<u8>>,
    der: Arc<PrivateKeyDer<'static>>,
}

impl PrivateKey {
    pub(super) fn read(name: &str, path: &Path) -> Result<Self, String> {
        let pem = read(name, path)?;
        match PrivateKeyDer::from_pem_slice(&pem) {
            Ok(der) => Ok(Self {
                pem: Arc::new(pem.into()),
                der: Arc::new(der),
            }),
            Err(_) => Err(format!(
                "{name} {} holds no private key in PEM form, or one behind a password",
                path.display()
            )),
        }
    }

    pub(super) fn pem(&self) -> &[u8] {
        self.pem.expose_secret()
    }

    pub(super) fn der(&self) -> PrivateKeyDer<'static> {
        self.der.clone_key()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

fn read(name: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{name} {} can't be read: {error}", path.display()))
}
