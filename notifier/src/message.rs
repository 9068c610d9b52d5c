//! A mail as it goes over the wire.

use chrono::{DateTime, Utc};
use lettre::Message;
use lettre::message::header::{Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

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

macro_rules! fixed_header {
    ($(#[$doc:meta])* $type:ident, $name:literal) => {
        $(#[$doc])*
        #[derive(Clone)]
        struct $type(String);

        impl Header for $type {
            fn name() -> HeaderName {
                HeaderName::new_from_ascii_str($name)
            }

            fn parse(text: &str) -> Result<Self, BoxError> {
                Ok(Self(text.to_owned()))
            }

            fn display(&self) -> HeaderValue {
                HeaderValue::new(Self::name(), self.0.clone())
            }
        }
    };
}

fixed_header! {
    /// RFC 2919: lets people file all mails of one installation.
    ListId, "List-Id"
}
fixed_header! {
    /// RFC 3834: no out-of-office reply, please.
    AutoSubmitted, "Auto-Submitted"
}
fixed_header! {
    /// What Exchange listens to instead.
    SuppressReplies, "X-Auto-Response-Suppress"
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
            .header(ListId(format!("Firstcome <firstcome.{domain}>")))
            .header(AutoSubmitted("auto-generated".to_owned()))
            .header(SuppressReplies("All".to_owned()));
        if let Some(thread) = self.thread.filter(|thread| !thread.is_empty()) {
            let ids: Vec<String> = thread.split_whitespace().map(bracketed).collect();
            builder = builder.in_reply_to(ids.first().cloned().unwrap_or_default()).references(ids.join(" "));
        }
        Ok(builder.multipart(MultiPart::alternative_plain_html(self.text.to_owned(), self.html.to_owned()))?)
    }
}

fn bracketed(id: &str) -> String {
    format!("<{id}>")
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;
    use mail_parser::MessageParser;

    use super::*;

    fn sent(subject: &str, thread: Option<&str>) -> String {
        let (from, to) = ("Firstcome <firstcome@example.com>".parse().unwrap(), "a@example.org".parse().unwrap());
        let date = Utc.with_ymd_and_hms(2026, 12, 1, 6, 0, 31).unwrap();
        let envelope = Envelope {
            from: &from,
            to: &to,
            subject,
            message_id: "1.2@example.com",
            thread,
            date,
            text: "one\n.\ntwo · 쿠폰\n",
            html: "<p>one</p>",
        };
        String::from_utf8(envelope.message().unwrap().formatted()).unwrap()
    }

    #[test]
    fn headers_are_right() {
        let raw = sent("[firstcome] repaired: Winter coupon · 100 of 100 issued (3 reissued)", Some("d1@x d2@x"));
        let mail = MessageParser::default().parse(&raw).unwrap();
        assert_eq!(mail.subject(), Some("[firstcome] repaired: Winter coupon · 100 of 100 issued (3 reissued)"));
        assert_eq!(mail.message_id(), Some("1.2@example.com"));
        assert_eq!(mail.date().unwrap().to_rfc3339(), "2026-12-01T06:00:31Z");
        assert_eq!(mail.in_reply_to().as_text(), Some("d1@x"));
        assert_eq!(mail.references().as_text_list().unwrap(), ["d1@x", "d2@x"]);
        assert_eq!(mail.header_raw("List-Id").unwrap().trim(), "Firstcome <firstcome.example.com>");
        assert_eq!(mail.header_raw("Auto-Submitted").unwrap().trim(), "auto-generated");
        assert_eq!(mail.body_text(0).unwrap().replace("\r\n", "\n"), "one\n.\ntwo · 쿠폰\n");
        assert_eq!(mail.body_html(0).unwrap(), "<p>one</p>");
        assert!(raw.is_ascii());
    }

    #[test]
    fn the_first_mail_of_nothing_answers_nothing() {
        let raw = sent("x", None);
        assert!(!raw.contains("In-Reply-To") && !raw.contains("References"));
    }

    #[test]
    fn a_subject_never_makes_a_header() {
        for subject in ["a\r\nBcc: x@example.com", "a\nBcc: x@example.com", "가\r\nBcc: x@example.com"] {
            let raw = sent(subject, None);
            let mail = MessageParser::default().parse(&raw).unwrap();
            assert!(mail.bcc().is_none() && !raw.contains("\nBcc:"), "{raw}");
        }
    }
}
