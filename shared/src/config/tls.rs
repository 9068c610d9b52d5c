//! Files for connections to the stores.

use std::path::PathBuf;

use clap::Args;

use super::{path, ssl_cert_file};
use crate::tls::TlsFiles;

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Stores")]
pub struct TlsArgs {
    /// PEM file of this process's client certificate for Redis, MySQL and Kafka
    #[arg(long, env = "TLS_CERT_FILE", value_name = "FILE", value_parser = path)]
    tls_cert_file: Option<PathBuf>,
    /// PEM file of the private key of TLS_CERT_FILE
    #[arg(long, env = "TLS_KEY_FILE", value_name = "FILE", value_parser = path)]
    tls_key_file: Option<PathBuf>,
}

impl TlsArgs {
    /// Returns the files. A variable that is set but empty, as in docker-compose, counts as not
    /// set.
    pub(super) fn files(&self) -> TlsFiles {
        let given = |path: &Option<PathBuf>| path.clone().filter(|it| !it.as_os_str().is_empty());
        TlsFiles {
            authorities: ssl_cert_file(),
            cert: given(&self.tls_cert_file),
            key: given(&self.tls_key_file),
        }
    }
}
