//! Settings of mails and webhooks, after parsing, and the messages that follow from them.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use firstcome_shared::mysql::Conn;
use uuid::Uuid;

use crate::clock::{self, Clock};
use crate::events::{Event, Format};
use crate::mails::{Links, Rendered};
use crate::queries::outbox::{Channel, Outgoing};
use crate::times::Policy;

/// Who gets mails and webhook events, how often, and the links in them.
#[derive(Debug, Clone)]
pub(crate) struct MailSettings {
    pub(crate) clock: Arc<dyn Clock>,
    /// The recipients in the format of a header.
    pub(crate) recipients: Vec<String>,
    /// The part of message IDs after the `@`.
    pub(crate) domain: String,
    pub(crate) links: Links,
    pub(crate) policy: Policy,
    /// The names of the webhooks' addresses, without their secrets, and their formats.
    pub(crate) hooks: Vec<(String, Format)>,
}

impl MailSettings {
    /// The time by which alerts are decided.
    pub(crate) async fn now(&self, conn: &mut Conn) -> QueryResult<DateTime<Utc>> {
        clock::now(&*self.clock, conn).await
    }

    /// Whether anybody gets what this process mails or posts.
    pub(crate) fn has_readers(&self) -> bool {
        !self.recipients.is_empty() || !self.hooks.is_empty()
    }

    /// The targets that are reached without MySQL.
    pub(crate) fn targets(&self, has_mailer: bool) -> Vec<String> {
        let recipients = self.recipients.iter().filter(|_| has_mailer).cloned();
        let hooks = self.hooks.iter().map(|(hook, _)| hook.clone());
        recipients.chain(hooks).collect()
    }

    /// Returns a mail to each recipient. It belongs to the threads with these IDs.
    pub(crate) fn mails(
        &self,
        mail: &Rendered,
        threads: &[String],
        now: DateTime<Utc>,
    ) -> Vec<Outgoing> {
        let thread = Some(threads.join(" ")).filter(|threads| !threads.is_empty());
        let batch = Uuid::now_v7().to_string();
        self.recipients
            .iter()
            .map(|recipient| Outgoing {
                batch: batch.clone(),
                thread: thread.clone(),
                ..mail_to(recipient, mail, now)
            })
            .collect()
    }

    /// Returns a message for each event and webhook.
    pub(crate) fn posts(&self, events: &[Event], now: DateTime<Utc>) -> Vec<Outgoing> {
        let mut to_all = Vec::new();
        for event in events {
            for (hook, format) in &self.hooks {
                to_all.push(Outgoing {
                    kind: event.kind.to_owned(),
                    batch: event.id.clone(),
                    body: event.body(*format),
                    ..message(Channel::Webhook, hook, now)
                });
            }
        }
        to_all
    }
}

/// Returns a mail to one recipient that belongs to no thread.
pub(crate) fn mail_to(recipient: &str, mail: &Rendered, now: DateTime<Utc>) -> Outgoing {
    Outgoing {
        kind: mail.kind.to_owned(),
        batch: Uuid::now_v7().to_string(),
        subject: mail.subject.clone(),
        body: mail.text.clone(),
        html: Some(mail.html.clone()),
        ..message(Channel::Mail, recipient, now)
    }
}

/// Returns an empty message.
fn message(channel: Channel, target: &str, now: DateTime<Utc>) -> Outgoing {
    Outgoing {
        created_at: now,
        next_attempt_at: now,
        channel: channel.word().to_owned(),
        target: target.to_owned(),
        ..Outgoing::default()
    }
}
