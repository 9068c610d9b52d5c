//! Explains a failed handshake in a message that names the settings.

use std::error::Error;
use std::io;

use tokio_rustls::rustls;

use super::Tls;

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

impl Tls {
    /// Adds the settings to rustls's reason why one side does not trust the other.
    pub(crate) fn sentence(&self, reason: impl std::fmt::Display) -> String {
        let address = self.store.address();
        format!("TLS fails: {reason}; see {address}, SSL_CERT_FILE and TLS_CERT_FILE")
    }
}
