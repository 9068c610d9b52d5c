//! Files for connections to the stores.

use anyhow::Error;
use clap::Args;
use tokio_rustls::rustls::ClientConfig;

use super::ssl_cert_file;
use crate::tls::{Tls, TlsFiles, TlsServer};

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Stores")]
pub struct TlsArgs {
    /// PEM file of this process's client certificate for Redis, MySQL and Kafka
    #[arg(long, env = "TLS_CERT_FILE", value_name = "FILE")]
    tls_cert_file: Option<String>,
    /// PEM file of the private key of TLS_CERT_FILE
    #[arg(long, env = "TLS_KEY_FILE", value_name = "FILE")]
    tls_key_file: Option<String>,
}

impl TlsArgs {
    /// Returns the settings for TLS to an attached system's PostgreSQL.
    pub fn for_postgres(&self) -> anyhow::Result<ClientConfig> {
        let tls = Tls::new(TlsServer::Mysql, &self.files()).map_err(Error::msg)?;
        Ok(tls.client_config())
    }

    /// Returns the files. A variable that is set but empty, as in docker-compose, counts as not
    /// set.
    pub(super) fn files(&self) -> TlsFiles {
        let [cert, key] = [&self.tls_cert_file, &self.tls_key_file].map(|path| {
            let path = path.as_ref().filter(|path| !path.is_empty())?;
            Some(path.into())
        });
        TlsFiles {
            authorities: ssl_cert_file(),
            cert,
            key,
        }
    }
}
