//! Mails as the mail server gets them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use firstcome_shared::mysql::outbox::Leased;
use lettre::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};

use super::smtp::{SendError, SmtpServer};

/// Sends mails.
#[derive(Debug, Clone)]
pub(crate) struct Mailer {
    pub(crate) server: SmtpServer,
    pub(crate) from: Mailbox,
    /// Time limit to connect and to log in.
    pub(crate) limit: Duration,
}

/// A mail to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    /// As in a header.
    pub(crate) to: &'a str,
    pub(crate) subject: &'a str,
    /// Without angle brackets and domain. The same for all attempts, because a server may have
    /// accepted the mail without confirming it.
    pub(crate) id: &'a str,
    /// Message IDs without angle brackets, separated by spaces. The mail is a reply to the first.
    pub(crate) thread: Option<&'a str>,
    pub(crate) date: DateTime<Utc>,
    pub(crate) text: &'a str,
    pub(crate) html: &'a str,
}

/// Why a mail was not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MailError {
    /// The mail cannot be written for this recipient.
    #[error("it cannot be written: {0}")]
    Unwritable(String),
    #[error(transparent)]
    Send(#[from] SendError),
}

impl MailError {
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Unwritable(_) => true,
            Self::Send(error) => error.is_final(),
        }
    }
}

impl Mailer {
    /// Sends a leased mail.
    pub(crate) async fn send(&self, mail: &Leased) -> Result<(), MailError> {
        let envelope = Envelope {
            to: &mail.target,
            subject: &mail.subject,
            id: &format!("{}.{}", mail.batch, mail.id),
            thread: mail.thread.as_deref(),
            date: mail.created_at.and_utc(),
            text: &mail.body,
            html: mail.html.as_deref().unwrap_or_default(),
        };
        self.deliver(&envelope).await
    }

    /// Connects first: a server that does not answer soon is not worth the wait of ten minutes that
    /// a mail's content may take.
    pub(crate) async fn deliver(&self, envelope: &Envelope<'_>) -> Result<(), MailError> {
        let message = envelope.message(&self.from);
        let message = message.map_err(|error| MailError::Unwritable(format!("{error:#}")))?;
        self.server.log_in(self.limit).await?;
        Ok(self.server.hand_over(message).await?)
    }
}

impl Envelope<'_> {
    fn message(&self, from: &Mailbox) -> anyhow::Result<Message> {
        let domain = from.email.domain();
        let mut builder = Message::builder()
            .from(from.clone())
            .to(self.to.parse()?)
            .subject(self.subject)
            .message_id(Some(bracketed(&format!("{}@{domain}", self.id))))
            .date(self.date.into())
            // RFC 2919: lets recipients file all mails of one installation.
            .raw_header(raw("List-Id", format!("Firstcome <firstcome.{domain}>")))
            // RFC 3834: suppresses out-of-office replies. Exchange obeys only the other header.
            .raw_header(raw("Auto-Submitted", "auto-generated".to_owned()))
            .raw_header(raw("X-Auto-Response-Suppress", "All".to_owned()));
        if let Some(thread) = self.thread.filter(|thread| !thread.is_empty()) {
            let ids: Vec<String> = thread.split_whitespace().map(bracketed).collect();
            builder = builder
                .in_reply_to(ids.first().cloned().unwrap_or_default())
                .references(ids.join(" "));
        }
        let [text, html] = [self.text, self.html].map(str::to_owned);
        Ok(builder.multipart(MultiPart::alternative_plain_html(text, html))?)
    }
}

fn raw(name: &'static str, value: String) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value)
}

fn bracketed(id: &str) -> String {
    format!("<{id}>")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This must hold even if a caller did not reduce the subject to one line.
    #[test]
    fn subject_cannot_inject_a_header() {
        let from = "f@example.com".parse().unwrap();
        for subject in [
            "a\r\nBcc: x@example.com",
            "a\nBcc: x@example.com",
            "가\r\nBcc: x@example.com",
        ] {
            let text = "one\n.\ntwo · 쿠폰\n";
            let envelope = Envelope {
                to: "a@example.org",
                subject,
                id: "1.2",
                thread: None,
                date: DateTime::UNIX_EPOCH,
                text,
                html: "<p>one</p>",
            };
            let raw = envelope.message(&from).unwrap().formatted();
            let raw = String::from_utf8(raw).unwrap();
            let mail = mail_parser::MessageParser::default().parse(&raw).unwrap();
            assert!(
                raw.is_ascii() && mail.bcc().is_none() && !raw.contains("\nBcc:"),
                "{raw}"
            );
            assert_eq!(mail.body_text(0).unwrap().replace("\r\n", "\n"), text);
        }
    }
}
