//! The mail server: lettre's transport, and what its errors usually mean.

use std::fmt;
use std::time::Duration;

use lettre::transport::smtp::AsyncSmtpTransport;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncTransport as _, Message, Tokio1Executor};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::timeout;
use url::Url;

/// Maximum wait for the response to a mail, because a server may scan it before it responds. A
/// client that gives up earlier sends more copies of a mail that has already arrived (RFC 5321,
/// 4.5.3.2.6).
pub(crate) const CONTENT_LIMIT: Duration = Duration::from_secs(600);

/// How `SMTP_URL` is written.
const SHAPE: &str = "SMTP_URL must look like smtp://user:password@host:587?tls=required or smtps://user:password@host";

/// How special characters are written in it.
const ENCODED: &str =
    "in its user and password write / as %2F, @ as %40, : as %3A, # as %23, ? as %3F and % as %25";

/// A mail server with its login.
#[derive(Clone)]
pub(crate) struct SmtpServer {
    pub address: SmtpAddress,
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl fmt::Debug for SmtpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

type UseTls = fn(TlsParameters) -> Tls;

/// The parts of an `SMTP_URL`, without the password.
#[derive(Debug, Clone)]
pub(crate) struct SmtpAddress {
    pub host: String,
    pub port: u16,
    pub encryption: &'static str,
    /// The login, if there is one.
    pub user: Option<String>,
    /// The name that this client sends in EHLO, if the URL has one.
    hello: Option<String>,
    tls: UseTls,
    /// Whether the password is sent without encryption.
    pub shows_password: bool,
}

impl SmtpAddress {
    /// Parses a URL.
    ///
    /// # Errors
    /// A description of the fault, never with the URL.
    pub(crate) fn parse(url: &SecretString) -> Result<Self, String> {
        let text = url.expose_secret();
        let wrong = || {
            if text.contains('@') {
                format!("{SHAPE}; {ENCODED}")
            } else {
                SHAPE.to_owned()
            }
        };
        let url = Url::parse(text).map_err(|_| wrong())?;
        // A / in the password ends the host: what follows it would become the name in EHLO.
        if url.username().is_empty() && text.contains('@') {
            return Err(wrong());
        }
        let tls = url.query_pairs().find(|(name, _)| name == "tls");
        let tls = tls.map(|(_, value)| value.into_owned());
        let none: UseTls = |_| Tls::None;
        let (encryption, port, tls) = match (url.scheme(), tls.as_deref()) {
            ("smtp", None) => ("none", 25, none),
            ("smtp", Some("required")) => ("STARTTLS, required", 587, Tls::Required as UseTls),
            ("smtp", Some("opportunistic")) => {
                ("STARTTLS if offered", 587, Tls::Opportunistic as UseTls)
            }
            ("smtp", Some(_)) => {
                return Err("SMTP_URL: tls is `required` or `opportunistic`".into());
            }
            ("smtps", _) => ("TLS from the first byte", 465, Tls::Wrapper as UseTls),
            _ => return Err(wrong()),
        };
        let host = url.host_str().filter(|host| !host.is_empty());
        if !url.username().is_empty() && url.password().is_none() {
            return Err("SMTP_URL names a user but no password: write user:password@".into());
        }
        let user = percent_encoding::percent_decode_str(url.username()).decode_utf8_lossy();
        let hello = url.path().trim_matches('/').to_owned();
        Ok(Self {
            host: host.ok_or_else(wrong)?.to_owned(),
            port: url.port().unwrap_or(port),
            encryption,
            user: url.password().map(|_| user.into_owned()),
            hello: Some(hello).filter(|name| !name.is_empty()),
            tls,
            shows_password: url.password().is_some()
                && matches!(encryption, "none" | "STARTTLS if offered"),
        })
    }
}

impl SmtpServer {
    /// Creates a client from `SMTP_URL`, certificate authorities in PEM, which may be empty, and
    /// the domain of the sender.
    ///
    /// # Errors
    /// A description of the fault, never with the password.
    pub(crate) fn new(
        url: &SecretString,
        authorities: &[u8],
        domain: &str,
    ) -> Result<Self, String> {
        let address = SmtpAddress::parse(url)?;
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose_secret());
        let mut transport = transport.map_err(|_| format!("{SHAPE}; {ENCODED}"))?;
        if !authorities.is_empty() {
            let wrong = || "SSL_CERT_FILE holds no certificate in PEM".to_owned();
            if !String::from_utf8_lossy(authorities).contains("-----BEGIN CERTIFICATE-----") {
                return Err(wrong());
            }
            let certificate = Certificate::from_pem(authorities).map_err(|_| wrong())?;
            let tls = TlsParameters::builder(address.host.clone());
            let tls = tls.add_root_certificate(certificate).build();
            let failed = |error| {
                format!(
                    "SMTP_URL: TLS can't be set up for {}: {error}",
                    address.host
                )
            };
            transport = transport.tls((address.tls)(tls.map_err(failed)?));
        }
        // Servers refuse a name without a dot, as containers have.
        if address.hello.is_none() && !ClientId::default().to_string().contains('.') {
            transport = transport.hello_name(ClientId::Domain(domain.to_owned()));
        }
        Ok(Self {
            address,
            transport: transport.build(),
        })
    }

    /// Connects and logs in, within the limit. lettre's own timeout only covers connecting.
    pub(crate) async fn log_in(&self, limit: Duration) -> Result<(), SendError> {
        let step = SmtpStep::LogIn;
        match timeout(limit, self.transport.test_connection()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(cause)) => Err(SendError::new(step, Some(cause), limit)),
            Err(_) => Err(SendError::new(step, None, limit)),
        }
    }

    /// Delivers one mail.
    ///
    /// # Errors
    /// If there is no reply, the server may still have the mail.
    pub(crate) async fn hand_over(&self, mail: Message) -> Result<(), SendError> {
        let step = SmtpStep::HandOver;
        match timeout(CONTENT_LIMIT, self.transport.send(mail)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(cause)) => Err(SendError::new(step, Some(cause), CONTENT_LIMIT)),
            Err(_) => Err(SendError::new(step, None, CONTENT_LIMIT)),
        }
    }
}

/// A step of the delivery of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SmtpStep {
    /// Connecting, TLS and the login.
    LogIn,
    /// Sender, recipient and the content, up to the server's confirmation.
    HandOver,
}

/// Why a mail was not delivered.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", match step { SmtpStep::LogIn => "connect and log in", SmtpStep::HandOver => "hand over the mail" })]
pub(crate) struct SendError {
    pub step: SmtpStep,
    /// The reply code of the server, if it has replied.
    code: Option<String>,
    is_permanent: bool,
    reason: String,
}

impl SendError {
    fn new(step: SmtpStep, cause: Option<lettre::transport::smtp::Error>, limit: Duration) -> Self {
        let reason = cause
            .as_ref()
            .map_or_else(|| format!("no answer within {limit:?}"), one_line);
        Self {
            step,
            code: cause
                .as_ref()
                .and_then(lettre::transport::smtp::Error::status)
                .map(|code| code.to_string()),
            is_permanent: cause.is_some_and(|it| it.is_permanent()),
            reason,
        }
    }

    /// Whether the server rejects this mail for this recipient permanently, according to its reply.
    pub(crate) fn is_final(&self) -> bool {
        self.is_permanent && self.step == SmtpStep::HandOver
    }

    /// Returns the usual reason, and what to do.
    pub(crate) fn advice(&self) -> &'static str {
        match (self.step, self.code.as_deref()) {
            _ if self
                .reason
                .contains("No compatible authentication mechanism") =>
            {
                "the server offers no login with a password here: it wants TLS first (?tls=required), or only XOAUTH2: then create \
                 an app password, or use its SMTP relay"
            }
            (_, Some("534" | "535" | "538")) => {
                "the server refuses the user or the password; special characters in SMTP_URL are percent-encoded, and some \
                 providers want an app password"
            }
            (_, Some("530" | "550" | "553" | "554")) if self.step == SmtpStep::HandOver => {
                "the server does not take mail for this address or from ALERT_FROM: check ALERT_TO, whether it relays for this \
                 host, and whether it wants a login, TLS first (?tls=required) or an address of its own domain"
            }
            (SmtpStep::HandOver, _) => "the server's log says why (size, spam, policy)",
            (SmtpStep::LogIn, Some(_)) => "the server does not talk to this host: its log says why",
            (SmtpStep::LogIn, None) if self.reason.to_lowercase().contains("certificate") => {
                "its certificate is not trusted, or names another host (a private authority: SSL_CERT_FILE)"
            }
            (SmtpStep::LogIn, None) => {
                "check host, port and DNS, and whether a firewall is between: 587 wants smtp://…?tls=required, 465 smtps://, \
                 25 between servers smtp://"
            }
        }
    }
}

/// An error with its causes.
fn one_line(error: &lettre::transport::smtp::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<SmtpAddress, String> {
        SmtpAddress::parse(&url.to_owned().into())
    }

    #[test]
    fn file_without_a_certificate_is_rejected() {
        let server = |pem: &[u8]| SmtpServer::new(&"smtps://h".to_owned().into(), pem, "x.org");
        assert!(server(b"").is_ok());
        assert!(server(b"nothing").unwrap_err().contains("SSL_CERT_FILE"));
    }

    #[test]
    fn smtp_url_is_parsed_like_lettre_parses_it() {
        for url in [
            "smtp://mail.example.com",
            "smtp://mail.example.com:2525",
            "smtp://user%40example.com:p%23w@mail.example.com?tls=required",
            "smtp://mail.example.com?tls=opportunistic",
            "smtps://u:p%2Fw@mail.example.com/client.example.com",
            "smtps://127.0.0.1:4465",
        ] {
            let ours = parse(url).unwrap();
            let lettres = AsyncSmtpTransport::<Tokio1Executor>::from_url(url).unwrap();
            let lettres = format!("{lettres:?}");
            let tls = match ours.encryption {
                "none" => "tls: None",
                "STARTTLS if offered" => "tls: Opportunistic",
                "STARTTLS, required" => "tls: Required",
                _ => "tls: Wrapper",
            };
            for part in [
                format!("server: {:?}", ours.host),
                format!("port: {}", ours.port),
                tls.to_owned(),
            ] {
                assert!(lettres.contains(&part), "{part}: {lettres}");
            }
            assert_eq!(lettres.contains("credentials: Some"), ours.user.is_some());
        }
        let user = parse("smtp://user%40example.com:p@h").unwrap().user;
        assert_eq!(user.as_deref(), Some("user@example.com"));
    }

    #[test]
    fn wrong_smtp_url_is_refused_with_how_to_write_it() {
        for wrong in [
            "mail.example.com",
            "http://h",
            "smtp://h?tls=no",
            "smtp://u@h",
            "smtp://",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for slash in [
            "smtp://u:hunter2/x@h",
            "smtps://u:25/hunter2@h",
            "smtp://u:hunter2#x@h",
        ] {
            let error = parse(slash).unwrap_err();
            assert!(
                error.contains("%2F") && !error.contains("hunter2"),
                "{error}"
            );
        }
    }
}
