//! Explains a failed handshake in a message that names the setting to change.

use std::error::Error;
use std::io;

use tokio_rustls::rustls::{self, AlertDescription, CertificateError};

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
    /// Describes why one side of a connection does not trust the other.
    pub(crate) fn sentence(&self, error: &rustls::Error) -> String {
        use CertificateError::{
            BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext,
            NotValidYet, NotValidYetContext, UnknownIssuer,
        };
        let authorities = self.store.authorities();
        let address = self.store.address();
        match error {
            rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature) => match &self.ca {
                Some(ca) => format!(
                    "its certificate comes from an unknown authority, none of those in {authorities} ({})",
                    ca.path().display()
                ),
                None => format!(
                    "its certificate comes from an unknown authority, none of the public ones: name its own by {authorities}"
                ),
            },
            rustls::Error::InvalidCertificate(NotValidForNameContext {
                expected,
                presented,
            }) => format!(
                "its certificate is for another name ({}), not for {}: use a name in {address} that it is for",
                presented.join(", "),
                expected.to_str()
            ),
            rustls::Error::InvalidCertificate(NotValidForName) => {
                format!(
                    "its certificate is for another name: use a name in {address} that it is for"
                )
            }
            rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
                "its certificate has expired (or the clock here is wrong): renew it".to_owned()
            }
            rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
                "its certificate is not valid yet: is the clock here right?".to_owned()
            }
            rustls::Error::AlertReceived(alert) if is_about_us(*alert) => {
                self.not_believed(&format!("{alert:?}"))
            }
            other => format!("TLS fails: {other}; see {authorities} and {address}"),
        }
    }

    /// Explains that the server refuses this process's certificate, or requires one.
    fn not_believed(&self, alert: &str) -> String {
        let prefix = self.store.prefix();
        if self.store.trusts_public() {
            format!("it asks this process for a certificate ({alert}), and it has none")
        } else if self.has_identity() {
            format!(
                "it does not take the certificate of this process ({alert}): see {prefix}_CERT_FILE"
            )
        } else {
            format!(
                "it asks this process for a certificate ({alert}): set {prefix}_CERT_FILE and {prefix}_KEY_FILE"
            )
        }
    }
}

fn is_about_us(alert: AlertDescription) -> bool {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked,
        CertificateUnknown, DecryptError, HandshakeFailure, UnknownCA, UnsupportedCertificate,
    };
    matches!(
        alert,
        AccessDenied
            | BadCertificate
            | CertificateExpired
            | CertificateRequired
            | CertificateRevoked
            | CertificateUnknown
            | DecryptError
            | HandshakeFailure
            | UnknownCA
            | UnsupportedCertificate
    )
}
