//! The mail server: lettre's transport, mails as the server gets them, and what its errors usually
//! mean.

use std::borrow::Cow;
use std::str::Utf8Error;
use std::time::Duration;

use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::{AsyncSmtpTransport, Error as SmtpError};
use lettre::{AsyncTransport as _, Message, Tokio1Executor};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use url::Url;

use super::failure::Failure;
use crate::queries::outbox::Outgoing;

/// How `SMTP_URL` is written.
const SHAPE: &str = "SMTP_URL must look like smtp://user:password@host:587?tls=required or \
    smtps://user:password@host";

/// How special characters are written in it.
const ENCODED: &str = "; in its user and password write / as %2F, @ as %40, : as %3A, # as %23, \
    ? as %3F and % as %25";

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// A client of a mail server, with the sender of its mails.
#[derive(Clone)]
pub(crate) struct Mailer {
    pub(crate) from: Mailbox,
    pub(crate) server: SmtpServer,
    /// Time limit of one mail, from connecting to the server's confirmation.
    pub(crate) limit: Duration,
    transport: Transport,
}

/// The parts of an `SMTP_URL`. All but the password may be shown.
#[derive(Debug, Clone)]
pub(crate) struct SmtpServer {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) encryption: Encryption,
    pub(crate) user: Option<String>,
    password: Option<SecretString>,
    /// The name for EHLO.
    hello: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encryption {
    None,
    /// STARTTLS, if the server offers it.
    Opportunistic,
    /// STARTTLS.
    Required,
    /// TLS from the first byte.
    Wrapper,
}

impl Encryption {
    pub(crate) const fn description(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Opportunistic => "STARTTLS if offered",
            Self::Required => "STARTTLS, required",
            Self::Wrapper => "TLS from the first byte",
        }
    }
}

impl SmtpServer {
    /// Parses a URL, with more checks than lettre makes.
    ///
    /// # Errors
    /// A description of the fault, never with the URL.
    pub(crate) fn parse(url: &SecretString) -> Result<Self, String> {
        let text = url.expose_secret();
        let wrong = || {
            let encoded = if text.contains('@') { ENCODED } else { "" };
            format!("{SHAPE}{encoded}")
        };
        let url = Url::parse(text).map_err(|_| wrong())?;
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            // The resolver wants an IPv6 address without its brackets.
            .map(|host| host.trim_start_matches('[').trim_end_matches(']'));
        // A / in the password ends the host: what follows it would become the name in EHLO.
        if url.username().is_empty() && text.contains('@') {
            return Err(wrong());
        }
        if !url.username().is_empty() && url.password().is_none() {
            return Err("SMTP_URL names a user but no password: write user:password@".into());
        }
        let (encryption, port) = match (url.scheme(), url.query()) {
            ("smtps", _) => (Encryption::Wrapper, 465),
            ("smtp", None) => (Encryption::None, 25),
            ("smtp", Some("tls=required")) => (Encryption::Required, 587),
            ("smtp", Some("tls=opportunistic")) => (Encryption::Opportunistic, 587),
            ("smtp", _) => return Err("SMTP_URL: tls is `required` or `opportunistic`".into()),
            _ => return Err(wrong()),
        };
        let hello = url.path().trim_matches('/');
        let password = url.password().map(decoded).transpose();
        let user = decoded(url.username()).map_err(|_| wrong())?;
        Ok(Self {
            host: host.ok_or_else(wrong)?.to_owned(),
            port: url.port().unwrap_or(port),
            encryption,
            user: url.password().map(|_| user),
            password: password.map_err(|_| wrong())?.map(SecretString::from),
            hello: Some(hello.to_owned()).filter(|hello| !hello.is_empty()),
        })
    }

    /// Whether the password is sent without encryption.
    pub(crate) fn shows_password(&self) -> bool {
        self.password.is_some()
            && matches!(
                self.encryption,
                Encryption::None | Encryption::Opportunistic
            )
    }

    /// Returns what lettre sends as the login.
    fn credentials(&self) -> Option<Credentials> {
        let password = self.password.as_ref()?.expose_secret().to_owned();
        Some(Credentials::new(self.user.clone()?, password))
    }

    /// Returns the encryption, which trusts these authorities (PEM) too.
    fn tls(&self, authorities: &[u8]) -> Result<Tls, String> {
        let mut tls = TlsParameters::builder(self.host.clone());
        if !authorities.is_empty() {
            let wrong = || "SSL_CERT_FILE holds no certificate in PEM".to_owned();
            if !String::from_utf8_lossy(authorities).contains("-----BEGIN CERTIFICATE-----") {
                return Err(wrong());
            }
            tls =
                tls.add_root_certificate(Certificate::from_pem(authorities).map_err(|_| wrong())?);
        }
        let host = &self.host;
        let tls = tls
            .build()
            .map_err(|error| format!("SMTP_URL: TLS can't be set up for {host}: {error}"))?;
        Ok(match self.encryption {
            Encryption::None => Tls::None,
            Encryption::Opportunistic => Tls::Opportunistic(tls),
            Encryption::Required => Tls::Required(tls),
            Encryption::Wrapper => Tls::Wrapper(tls),
        })
    }
}

fn decoded(text: &str) -> Result<String, Utf8Error> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    decoded.map(Cow::into_owned)
}

impl Mailer {
    /// Creates a client from `SMTP_URL`, and certificate authorities in PEM, which may be empty.
    ///
    /// # Errors
    /// A description of the fault, never with the password.
    pub(crate) fn new(
        url: &SecretString,
        authorities: &[u8],
        from: Mailbox,
        limit: Duration,
    ) -> Result<Self, String> {
        let server = SmtpServer::parse(url)?;
        let mut transport = Transport::builder_dangerous(&server.host)
            .port(server.port)
            .tls(server.tls(authorities)?);
        if let Some(credentials) = server.credentials() {
            transport = transport.credentials(credentials);
        }
        // Servers refuse a name without a dot, as containers have.
        let has_dot = ClientId::default().to_string().contains('.');
        let domain = (!has_dot).then(|| from.email.domain().to_owned());
        if let Some(name) = server.hello.clone().or(domain) {
            transport = transport.hello_name(ClientId::Domain(name));
        }
        Ok(Self {
            from,
            server,
            limit,
            transport: transport.timeout(Some(limit)).build(),
        })
    }

    /// Delivers a mail over a separate connection.
    pub(crate) async fn send(&self, mail: &Outgoing) -> Result<(), Failure> {
        let written = message(mail, &self.from).map_err(|error| Failure {
            is_final: true,
            ..Failure::new(
                format!("it cannot be written: {error:#}"),
                "check ALERT_FROM and ALERT_TO",
            )
        })?;
        match timeout(self.limit, self.transport.send(written)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(refused(&error)),
            // The server may have accepted the mail nevertheless.
            Err(_) => {
                let reason = format!("no answer within {:?}", self.limit);
                Err(Failure::new(reason, UNREACHABLE))
            }
        }
    }
}

/// What usually helps if the server has not replied.
const UNREACHABLE: &str = "check host, port and DNS, and whether a firewall is between: 587 wants \
    smtp://…?tls=required, 465 smtps://, 25 between servers smtp://; SSL_CERT_FILE names a private \
    certificate authority";

/// Why the server did not take a mail. A refused login concerns every mail, and operators correct
/// it; other permanent refusals concern this mail or its recipient.
fn refused(error: &SmtpError) -> Failure {
    let code = error.status().map(u16::from);
    let is_login = match code {
        Some(code) => matches!(code, 530 | 534 | 535 | 538),
        // lettre offers a login that the server does not, or the server has no STARTTLS.
        None => error.is_client(),
    };
    let advice = match code {
        _ if is_login => {
            "the server wants a login, refuses this one, or wants TLS first (?tls=required); \
            special characters in SMTP_URL are percent-encoded, and some providers want an app \
            password"
        }
        Some(550 | 553 | 554) => {
            "the server does not take mail for this address or from ALERT_FROM: check ALERT_TO, \
            and whether it relays for this host or wants an address of its own domain"
        }
        Some(_) => {
            "the server's log says why: size, spam, policy, or the name for EHLO, which may end \
            SMTP_URL (smtp://…/NAME)"
        }
        None => UNREACHABLE,
    };
    Failure {
        is_final: error.is_permanent() && !is_login,
        ..Failure::new(one_line(error), advice)
    }
}

/// An error with its causes, without those that the text contains already.
fn one_line(error: &SmtpError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// Writes a mail. Its ID is the same for all attempts, because a server may have accepted it
/// without confirming it.
fn message(mail: &Outgoing, from: &Mailbox) -> anyhow::Result<Message> {
    let domain = from.email.domain();
    let recipient = Sha256::digest(&mail.target);
    let id = format!("<{}.{recipient:.8x}@{domain}>", mail.batch);
    let mut builder = Message::builder()
        .from(from.clone())
        .to(mail.target.parse()?)
        .subject(mail.subject.as_str())
        .message_id(Some(id))
        .date(mail.created_at.into())
        // RFC 2919: lets recipients file all mails of one installation.
        .raw_header(raw("List-Id", format!("Firstcome <firstcome.{domain}>")))
        // RFC 3834: suppresses out-of-office replies. Exchange obeys only the other header.
        .raw_header(raw("Auto-Submitted", "auto-generated".to_owned()))
        .raw_header(raw("X-Auto-Response-Suppress", "All".to_owned()));
    let thread = mail.thread.as_deref().unwrap_or_default();
    let ids: Vec<String> = thread
        .split_whitespace()
        .map(|id| format!("<{id}>"))
        .collect();
    if let Some(first) = ids.first() {
        builder = builder.in_reply_to(first.clone()).references(ids.join(" "));
    }
    let html = mail.html.clone().unwrap_or_default();
    let both = MultiPart::alternative_plain_html(mail.body.clone(), html);
    Ok(builder.multipart(both)?)
}

fn raw(name: &'static str, value: String) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    /// This must hold even if a caller did not reduce the subject to one line.
    #[test]
    fn subject_cannot_inject_a_header_and_the_text_arrives_unchanged() {
        let from = "f@example.com".parse().unwrap();
        for subject in [
            "a\r\nBcc: x@example.com",
            "a\nBcc: x@example.com",
            "가\r\nBcc: x@example.com",
        ] {
            let text = "one\n.\ntwo · 쿠폰\n";
            let mail = Outgoing {
                created_at: DateTime::UNIX_EPOCH,
                next_attempt_at: DateTime::UNIX_EPOCH,
                channel: "mail".to_owned(),
                kind: "test".to_owned(),
                batch: "1".to_owned(),
                target: "a@example.org".to_owned(),
                subject: subject.to_owned(),
                thread: None,
                body: text.to_owned(),
                html: Some("<p>one</p>".to_owned()),
            };
            let raw = message(&mail, &from).unwrap().formatted();
            let raw = String::from_utf8(raw).unwrap();
            let mail = mail_parser::MessageParser::default().parse(&raw).unwrap();
            assert!(
                raw.is_ascii() && mail.bcc().is_none() && !raw.contains("\nBcc:"),
                "{raw}"
            );
            assert_eq!(mail.body_text(0).unwrap().replace("\r\n", "\n"), text);
        }
    }

    fn parse(url: &str) -> Result<SmtpServer, String> {
        SmtpServer::parse(&url.to_owned().into())
    }

    fn mailer(url: &str, authorities: &[u8]) -> Result<Mailer, String> {
        let from = "f@example.com".parse().unwrap();
        let limit = Duration::from_secs(1);
        Mailer::new(&url.to_owned().into(), authorities, from, limit)
    }

    #[test]
    fn file_without_a_certificate_is_rejected() {
        assert!(mailer("smtps://h", b"").is_ok());
        let error = mailer("smtps://h", b"nothing").err().unwrap();
        assert!(error.contains("SSL_CERT_FILE"), "{error}");
    }

    #[test]
    fn name_for_ehlo_has_a_dot_unless_smtp_url_gives_another() {
        let own = ClientId::default();
        let named = |name: &str| ClientId::Domain(name.to_owned());
        let has_dot = own.to_string().contains('.');
        let usual = if has_dot { own } else { named("example.com") };
        for (url, name) in [("smtp://h", usual), ("smtp://h/mx1", named("mx1"))] {
            let transport = format!("{:?}", mailer(url, b"").unwrap().transport);
            let hello = format!("hello_name: {name:?}");
            assert!(transport.contains(&hello), "{transport}");
        }
    }

    #[test]
    fn port_and_login_follow_the_url() {
        for (url, port, user) in [
            ("smtp://mail.example.com", 25, None),
            ("smtp://mail.example.com:2525", 2525, None),
            (
                "smtp://u%40x.org:p%23w@h?tls=required",
                587,
                Some("u@x.org"),
            ),
            ("smtps://u:p%2Fw@h/client.example.com", 465, Some("u")),
            ("smtp://[::1]:25", 25, None),
        ] {
            let server = parse(url).unwrap();
            assert_eq!((server.port, server.user.as_deref()), (port, user), "{url}");
            let lettres = format!("{:?}", mailer(url, b"").unwrap().transport);
            assert!(lettres.contains(&format!("port: {port}")), "{lettres}");
        }
    }

    #[tokio::test]
    async fn mail_server_is_reached_at_its_ipv6_address() {
        let listener = tokio::net::TcpListener::bind("[::1]:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("smtp://[::1]:{port}");
        let transport = mailer(&url, b"").unwrap().transport;
        let connecting = tokio::spawn(async move { transport.test_connection().await });
        listener.accept().await.unwrap();
        connecting.abort();
    }

    #[test]
    fn wrong_smtp_url_is_refused_without_showing_its_password() {
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
