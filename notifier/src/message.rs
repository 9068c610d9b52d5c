//! A mail as it goes over the wire.

use chrono::{DateTime, Utc};
use lettre::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};

/// One mail to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Envelope<'a> {
    pub(super) from: &'a Mailbox,
    pub(super) to: &'a Mailbox,
    pub(super) subject: &'a str,
    pub(super) message_id: &'a str,
    /// Ids without angle brackets, apart by spaces; the first is what this mail answers.
    pub(super) thread: Option<&'a str>,
    pub(super) date: DateTime<Utc>,
    pub(super) text: &'a str,
    pub(super) html: &'a str,
}

impl Envelope<'_> {
    pub(super) fn message(&self) -> anyhow::Result<Message> {
        let domain = self.from.email.domain();
        let mut builder = Message::builder()
            .from(self.from.clone())
            .to(self.to.clone())
            .subject(self.subject)
            .message_id(Some(bracketed(self.message_id)))
            .date(self.date.into())
            // RFC 2919: lets people file all mails of one installation.
            .raw_header(raw("List-Id", format!("Firstcome <firstcome.{domain}>")))
            // RFC 3834: no out-of-office reply; Exchange listens to the other one.
            .raw_header(raw("Auto-Submitted", "auto-generated".to_owned()))
            .raw_header(raw("X-Auto-Response-Suppress", "All".to_owned()));
        if let Some(thread) = self.thread.filter(|thread| !thread.is_empty()) {
            let ids: Vec<String> = thread.split_whitespace().map(bracketed).collect();
            builder = builder.in_reply_to(ids.first().cloned().unwrap_or_default()).references(ids.join(" "));
        }
        Ok(builder.multipart(MultiPart::alternative_plain_html(self.text.to_owned(), self.html.to_owned()))?)
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

    /// Also where a text was not made one line before.
    #[test]
    fn a_subject_never_makes_a_header() {
        let (from, to) = ("f@example.com".parse().unwrap(), "a@example.org".parse().unwrap());
        for subject in ["a\r\nBcc: x@example.com", "a\nBcc: x@example.com", "가\r\nBcc: x@example.com"] {
            let (message_id, date) = ("1.2@example.com", DateTime::UNIX_EPOCH);
            let (text, html) = ("one\n.\ntwo · 쿠폰\n", "<p>one</p>");
            let envelope = Envelope { from: &from, to: &to, subject, message_id, thread: None, date, text, html };
            let raw = String::from_utf8(envelope.message().unwrap().formatted()).unwrap();
            let mail = mail_parser::MessageParser::default().parse(&raw).unwrap();
            assert!(raw.is_ascii() && mail.bcc().is_none() && !raw.contains("\nBcc:"), "{raw}");
            assert_eq!(mail.body_text(0).unwrap().replace("\r\n", "\n"), text);
        }
    }
}
