//! Delivers a mail to a server, step by step.
//!
//! lettre's `AsyncSmtpTransport` does this in one call, but its error does not say which command
//! was rejected. That matters because a rejected recipient is permanent and a rejected login is
//! not, and because `test-email` reports each step. This module therefore sends the commands itself
//! over lettre's connection. It parses the URL as lettre's `from_url` does.

use std::fmt;
use std::time::Duration;

use lettre::address::Address as Mailbox;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::timeout;
use url::Url;

/// Maximum wait for the response to the content, because a server may scan a mail before it
/// responds. A client that gives up earlier sends more copies of a mail that has already arrived
/// (RFC 5321, 4.5.3.2.6).
pub(crate) const CONTENT_LIMIT: Duration = Duration::from_secs(600);

/// A mail server with its login.
#[derive(Clone)]
pub struct SmtpServer {
    pub address: SmtpAddress,
    hello: ClientId,
    tls: Option<TlsParameters>,
    credentials: Option<Credentials>,
}

impl fmt::Debug for SmtpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// A step of the delivery of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpStep {
    /// Connecting, implicit TLS, and the server's greeting.
    Connect,
    StartTls,
    Login,
    Sender,
    Recipient,
    /// The content of the mail, up to the server's confirmation.
    Content,
}

impl fmt::Display for SmtpStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::StartTls => "STARTTLS",
            Self::Login => "log in",
            Self::Sender => "name the sender",
            Self::Recipient => "name the recipient",
            Self::Content => "hand over the mail",
        })
    }
}

/// Why a mail was not delivered.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {}", self.reason())]
pub struct SendError {
    pub step: SmtpStep,
    /// lettre's error, or `None` after a timeout.
    pub cause: Option<lettre::transport::smtp::Error>,
    /// The time limit.
    pub limit: Duration,
}

impl SendError {
    /// Whether the server rejects this mail for this recipient permanently, according to its reply.
    pub fn is_final(&self) -> bool {
        let permanent = self
            .cause
            .as_ref()
            .is_some_and(lettre::transport::smtp::Error::is_permanent);
        permanent && matches!(self.step, SmtpStep::Recipient | SmtpStep::Content)
    }

    /// Returns the cause as one line.
    pub fn reason(&self) -> String {
        let Some(cause) = &self.cause else {
            return format!("no answer within {:?}", self.limit);
        };
        let mut text = cause.to_string();
        let mut source = std::error::Error::source(cause);
        while let Some(error) = source {
            let more = error.to_string();
            if more.contains(&text) {
                text = more;
            } else if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            source = error.source();
        }
        text
    }
}

impl SmtpServer {
    /// Creates a client from `SMTP_URL` and certificate authorities in PEM, which may be empty.
    ///
    /// # Errors
    /// A description of the fault, never with the password.
    pub fn new(url: &SecretString, authorities: &[u8]) -> Result<Self, String> {
        let address = SmtpAddress::parse(url)?;
        let tls = match address.encryption {
            Encryption::None => None,
            _ => Some(tls(&address.host, authorities)?),
        };
        let password = Url::parse(url.expose_secret())
            .ok()
            .and_then(|url| url.password().map(decoded));
        let credentials = address
            .user
            .clone()
            .zip(password)
            .map(|(user, password)| Credentials::new(user, password));
        let hello = address
            .hello
            .clone()
            .map_or_else(ClientId::default, ClientId::Domain);
        Ok(Self {
            address,
            hello,
            tls,
            credentials,
        })
    }

    /// Whether the password is sent without encryption.
    pub fn shows_password(&self) -> bool {
        let open = matches!(
            self.address.encryption,
            Encryption::None | Encryption::Opportunistic
        );
        open && self.credentials.is_some()
    }

    /// Delivers one mail: all steps up to the content within `limit`, then the content within ten
    /// minutes. Calls `done` after each successful step.
    ///
    /// # Errors
    /// [`SendError`]. If there is no reply at [`SmtpStep::Content`], the server may still have the
    /// mail.
    pub async fn deliver(
        &self,
        limit: Duration,
        from: &Mailbox,
        to: &Mailbox,
        mail: &[u8],
        done: &mut (dyn FnMut(SmtpStep) + Send),
    ) -> Result<(), SendError> {
        let mut step = SmtpStep::Connect;
        // lettre's own timeout only covers connecting. Without this timeout, a server that stops
        // responding later would block the task forever.
        let opened = timeout(limit, self.open(limit, from, to, mail, &mut step, done)).await;
        let failed = |step, cause, limit| SendError { step, cause, limit };
        let mut smtp = match opened {
            Ok(Ok(smtp)) => smtp,
            Ok(Err(cause)) => return Err(failed(step, Some(cause), limit)),
            Err(_) => return Err(failed(step, None, limit)),
        };
        let step = SmtpStep::Content;
        match timeout(CONTENT_LIMIT, smtp.message(mail)).await {
            Ok(Ok(_)) => done(step),
            Ok(Err(cause)) => return Err(failed(step, Some(cause), CONTENT_LIMIT)),
            Err(_) => return Err(failed(step, None, CONTENT_LIMIT)),
        }
        // The server has the mail, so its reply to QUIT does not matter.
        drop(timeout(Duration::from_secs(1), smtp.quit()).await);
        Ok(())
    }

    /// Runs the dialogue up to the server's permission to send the content.
    async fn open(
        &self,
        limit: Duration,
        from: &Mailbox,
        to: &Mailbox,
        mail: &[u8],
        step: &mut SmtpStep,
        done: &mut (dyn FnMut(SmtpStep) + Send),
    ) -> Result<AsyncSmtpConnection, lettre::transport::smtp::Error> {
        let at_once = self
            .tls
            .clone()
            .filter(|_| self.address.encryption == Encryption::Implicit);
        let server = (
            self.address.host.trim_matches(['[', ']']),
            self.address.port,
        );
        let mut smtp =
            AsyncSmtpConnection::connect_tokio1(server, Some(limit), &self.hello, at_once, None)
                .await?;
        done(*step);
        if self.wants_starttls(&smtp) {
            *step = SmtpStep::StartTls;
            if let Some(tls) = &self.tls {
                smtp.starttls(tls.clone(), &self.hello).await?;
            }
            done(*step);
        }
        if let Some(credentials) = &self.credentials {
            *step = SmtpStep::Login;
            smtp.auth(DEFAULT_MECHANISMS, credentials).await?;
            done(*step);
        }
        *step = SmtpStep::Sender;
        smtp.command(Mail::new(
            Some(from.clone()),
            parameters(&smtp, from, to, mail),
        ))
        .await?;
        done(*step);
        *step = SmtpStep::Recipient;
        smtp.command(Rcpt::new(to.clone(), Vec::new())).await?;
        done(*step);
        *step = SmtpStep::Content;
        smtp.command(Data).await?;
        Ok(smtp)
    }

    fn wants_starttls(&self, smtp: &AsyncSmtpConnection) -> bool {
        match self.address.encryption {
            Encryption::StartTls => true,
            Encryption::Opportunistic => smtp.can_starttls(),
            Encryption::None | Encryption::Implicit => false,
        }
    }
}

fn parameters(
    smtp: &AsyncSmtpConnection,
    from: &Mailbox,
    to: &Mailbox,
    mail: &[u8],
) -> Vec<MailParameter> {
    let mut parameters = Vec::new();
    let international =
        !AsRef::<str>::as_ref(from).is_ascii() || !AsRef::<str>::as_ref(to).is_ascii();
    if international && smtp.server_info().supports_feature(Extension::SmtpUtfEight) {
        parameters.push(MailParameter::SmtpUtfEight);
    }
    if !mail.is_ascii() && smtp.server_info().supports_feature(Extension::EightBitMime) {
        parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    parameters
}

fn tls(host: &str, authorities: &[u8]) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(host.to_owned());
    if !authorities.is_empty() {
        let wrong = "SSL_CERT_FILE holds no certificate in PEM";
        if !String::from_utf8_lossy(authorities).contains("-----BEGIN CERTIFICATE-----") {
            return Err(wrong.into());
        }
        builder = builder.add_root_certificate(
            Certificate::from_pem(authorities).map_err(|_| wrong.to_owned())?,
        );
    }
    builder
        .build()
        .map_err(|error| format!("SMTP_URL: TLS can't be set up for {host}: {error}"))
}

/// How a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    None,
    /// STARTTLS if the server offers it.
    Opportunistic,
    /// STARTTLS, or no mail.
    StartTls,
    /// Implicit TLS, from the first byte.
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

/// The parts of an `SMTP_URL`, without the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtpAddress {
    /// The server's name or address.
    pub host: String,
    pub port: u16,
    /// How the connection is encrypted.
    pub encryption: Encryption,
    /// The login, if there is one.
    pub user: Option<String>,
    /// The name that this client sends in EHLO, if the URL has one.
    hello: Option<String>,
}

impl SmtpAddress {
    /// Parses a URL.
    ///
    /// # Errors
    /// A description of the fault, never with the URL.
    pub fn parse(url: &SecretString) -> Result<Self, String> {
        let wrong = "SMTP_URL must look like smtp://user:password@host:587?tls=required or smtps://user:password@host";
        let url = Url::parse(url.expose_secret()).map_err(|_| wrong.to_owned())?;
        let tls = url
            .query_pairs()
            .find(|(name, _)| name == "tls")
            .map(|(_, value)| value.into_owned());
        let (encryption, port) = match (url.scheme(), tls.as_deref()) {
            ("smtp", None) => (Encryption::None, 25),
            ("smtp", Some("required")) => (Encryption::StartTls, 587),
            ("smtp", Some("opportunistic")) => (Encryption::Opportunistic, 587),
            ("smtp", Some(_)) => {
                return Err("SMTP_URL: tls is `required` or `opportunistic`".into());
            }
            ("smtps", _) => (Encryption::Implicit, 465),
            _ => return Err(wrong.into()),
        };
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or(wrong)?;
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

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use lettre::transport::smtp::AsyncSmtpTransport;

    use super::*;

    #[test]
    fn file_without_a_certificate_is_rejected() {
        let server = |pem: &[u8]| SmtpServer::new(&"smtps://h".to_owned().into(), pem);
        assert!(server(b"").is_ok());
        assert!(server(b"nothing").unwrap_err().contains("SSL_CERT_FILE"));
    }

    fn parse(url: &str) -> Result<SmtpAddress, String> {
        SmtpAddress::parse(&url.to_owned().into())
    }

    #[test]
    fn smtp_url_is_parsed_like_lettre_parses_it() {
        for url in [
            "smtp://mail.example.com",
            "smtp://mail.example.com:2525",
            "smtp://user%40example.com:p%23w@mail.example.com?tls=required",
            "smtp://mail.example.com?tls=opportunistic",
            "smtps://u:p@mail.example.com/client.example.com",
            "smtps://127.0.0.1:4465",
        ] {
            let ours = parse(url).unwrap();
            let lettres = format!(
                "{:?}",
                AsyncSmtpTransport::<lettre::Tokio1Executor>::from_url(url).unwrap()
            );
            assert!(
                lettres.contains(&format!("server: {:?}", ours.host)),
                "{lettres}"
            );
            assert!(
                lettres.contains(&format!("port: {}", ours.port)),
                "{lettres}"
            );
            let tls = match ours.encryption {
                Encryption::None => "tls: None",
                Encryption::Opportunistic => "tls: Opportunistic",
                Encryption::StartTls => "tls: Required",
                Encryption::Implicit => "tls: Wrapper",
            };
            assert!(lettres.contains(tls), "{lettres}");
            assert_eq!(
                lettres.contains("credentials: Some"),
                ours.user.is_some(),
                "{lettres}"
            );
        }
        assert_eq!(
            parse("smtp://user%40example.com:p@h")
                .unwrap()
                .user
                .as_deref(),
            Some("user@example.com")
        );
        for wrong in [
            "mail.example.com",
            "http://h",
            "smtp://h?tls=no",
            "smtp://u@h",
            "smtp://",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
