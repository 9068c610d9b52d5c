//! What an `SMTP_URL` says, read as lettre's `from_url` reads it.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

/// How a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    None,
    /// STARTTLS where the server offers it.
    Opportunistic,
    /// STARTTLS, or no mail.
    StartTls,
    /// TLS from the first byte.
    Implicit,
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Opportunistic => "STARTTLS if offered",
            Self::StartTls => "STARTTLS, required",
            Self::Implicit => "TLS from the first byte",
        })
    }
}

/// What an `SMTP_URL` says, without the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The server's name or address.
    pub host: String,
    pub port: u16,
    /// How the connection is encrypted.
    pub encryption: Encryption,
    /// The login, where there is one.
    pub user: Option<String>,
    /// What this client calls itself, where the URL says so.
    pub(super) hello: Option<String>,
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// With what is wrong, never with the URL.
    pub fn parse(url: &SecretString) -> Result<Self, String> {
        let wrong = "SMTP_URL must look like smtp://user:password@host:587?tls=required or smtps://user:password@host";
        let url = Url::parse(url.expose_secret()).map_err(|_| wrong.to_owned())?;
        let tls = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value.into_owned());
        let (encryption, port) = match (url.scheme(), tls.as_deref()) {
            ("smtp", None) => (Encryption::None, 25),
            ("smtp", Some("required")) => (Encryption::StartTls, 587),
            ("smtp", Some("opportunistic")) => (Encryption::Opportunistic, 587),
            ("smtp", Some(_)) => return Err("SMTP_URL: tls is `required` or `opportunistic`".into()),
            ("smtps", _) => (Encryption::Implicit, 465),
            _ => return Err(wrong.into()),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(wrong)?;
        if !url.username().is_empty() && url.password().is_none() {
            return Err("SMTP_URL names a user but no password: write user:password@".into());
        }
        let hello = url.path().trim_matches('/').to_owned();
        Ok(Self {
            host: host.to_owned(),
            port: url.port().unwrap_or(port),
            encryption,
            user: url.password().map(|_| decoded(url.username())),
            hello: Some(hello).filter(|name| !name.is_empty()),
        })
    }
}

pub(super) fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use lettre::transport::smtp::AsyncSmtpTransport;

    use super::*;

    fn parse(url: &str) -> Result<Address, String> {
        Address::parse(&url.to_owned().into())
    }

    #[test]
    fn a_url_is_read_as_lettre_reads_it() {
        for url in [
            "smtp://mail.example.com",
            "smtp://mail.example.com:2525",
            "smtp://user%40example.com:p%23w@mail.example.com?tls=required",
            "smtp://mail.example.com?tls=opportunistic",
            "smtps://u:p@mail.example.com/client.example.com",
            "smtps://127.0.0.1:4465",
        ] {
            let ours = parse(url).unwrap();
            let lettres = format!("{:?}", AsyncSmtpTransport::<lettre::Tokio1Executor>::from_url(url).unwrap());
            assert!(lettres.contains(&format!("server: {:?}", ours.host)), "{lettres}");
            assert!(lettres.contains(&format!("port: {}", ours.port)), "{lettres}");
            let tls = match ours.encryption {
                Encryption::None => "tls: None",
                Encryption::Opportunistic => "tls: Opportunistic",
                Encryption::StartTls => "tls: Required",
                Encryption::Implicit => "tls: Wrapper",
            };
            assert!(lettres.contains(tls), "{lettres}");
            assert_eq!(lettres.contains("credentials: Some"), ours.user.is_some(), "{lettres}");
        }
        assert_eq!(parse("smtp://user%40example.com:p@h").unwrap().user.as_deref(), Some("user@example.com"));
        for wrong in ["mail.example.com", "http://h", "smtp://h?tls=no", "smtp://u@h", "smtp://"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
