//! Certificates that are generated for one run: valid, expired, and signed by a foreign authority.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::temp_dir::TempDirGuard;

/// PEM files in a temporary folder, which is deleted with this value.
#[derive(Debug)]
pub struct CertificateFolder {
    folder: TempDirGuard,
}

impl CertificateFolder {
    /// Generates all certificates. Blocks for some milliseconds.
    ///
    /// The authority `ca.pem` has signed `server` (for `127.0.0.1` only), `expired` (the same, but
    /// expired years ago) and `client`. The authority `foreign-ca.pem` has signed `foreign`. Each
    /// of these has a `.pem`, a `.key`, and both in one `.store.pem`.
    pub fn make() -> Result<Self> {
        let this = Self {
            folder: TempDirGuard::new()?,
        };
        let authority = this.authority("ca.pem", "Firstcome stack authority")?;
        let foreign = this.authority("foreign-ca.pem", "Somebody else's authority")?;
        let of_server = || CertificateParams::new(vec!["127.0.0.1".to_owned()]);
        this.sign("server", &of_server()?, &authority)?;
        let mut expired = of_server()?;
        expired.not_before = date_time_ymd(2020, 1, 1);
        expired.not_after = date_time_ymd(2021, 1, 1);
        this.sign("expired", &expired, &authority)?;
        for (name, issuer) in [("client", &authority), ("foreign", &foreign)] {
            let mut client = CertificateParams::new(Vec::new())?;
            client
                .distinguished_name
                .push(DnType::CommonName, "firstcome");
            this.sign(name, &client, issuer)?;
        }
        Ok(this)
    }

    /// Returns the path of the file with this name.
    pub fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// Returns the TLS acceptor of a server that uses the certificate with this name.
    pub fn acceptor(&self, name: &str) -> Result<TlsAcceptor> {
        let certificate = CertificateDer::from_pem_file(self.file(&format!("{name}.pem")))?;
        let key = PrivateKeyDer::from_pem_file(self.file(&format!("{name}.key")))?;
        // Names the provider explicitly, because a process may have no default provider.
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.dir().join(name)
    }

    fn authority(&self, file: &str, name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        self.write(file, &authority.pem())?;
        Ok(authority)
    }

    fn sign(
        &self,
        name: &str,
        params: &CertificateParams,
        issuer: &CertifiedIssuer<'static, KeyPair>,
    ) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, issuer)?.pem();
        let key = key.serialize_pem();
        self.write(&format!("{name}.pem"), &certificate)?;
        self.write(&format!("{name}.key"), &key)?;
        self.write(&format!("{name}.store.pem"), &format!("{key}{certificate}"))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.file(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}
