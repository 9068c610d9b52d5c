//! The relay of the outbox of mails.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::mysql::outbox::{DeliveryOutcome, LeasedMail};
use firstcome_shared::mysql::{Db, DbError, outbox};
use futures_util::future::join_all;
use lettre::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::args::Sending;
use super::clock::Clock;
use super::relay::{self, DeliveryFailure, GIVE_UP_DAYS, Outbox, RECORDING};
use super::render::Rendered;
use super::smtp::SendError;

/// Maximum number of concurrent mails when a round begins. A round may exceed it by one mail per
/// recipient.
const AT_ONCE: usize = 16;

/// How long a round waits for its mails. A server that takes longer to scan a mail does not delay
/// other mails.
const ROUND: Duration = Duration::from_secs(2);

/// Interval for renewing the lease of a mail that is being delivered.
const RENEW: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub(super) struct Sender {
    pub(super) db: Db,
    pub(super) sending: Sending,
    pub(super) from: Mailbox,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) wake: Arc<Notify>,
    /// Whether this process has already given up the mails that had waited too long when it
    /// started.
    pub(super) has_given_up_old: Arc<AtomicBool>,
    pub(super) under_way: MailsUnderWay,
}

/// The mails being delivered, each in its own task.
#[derive(Clone)]
pub(super) struct MailsUnderWay {
    tasks: TaskTracker,
    places: Arc<Semaphore>,
}

impl Default for MailsUnderWay {
    fn default() -> Self {
        let tasks = TaskTracker::new();
        // A tracker only reports that it is empty once it is closed.
        tasks.close();
        Self {
            tasks,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Outbox for Sender {
    /// Leases one mail per recipient, and sends them concurrently.
    async fn round(&self) -> Result<usize, DbError> {
        let now = self.clock.now();
        if !self.has_given_up_old.load(Ordering::Relaxed) {
            self.give_up_old(now).await?;
        }
        let MailsUnderWay { tasks, places } = &self.under_way;
        let Ok(place) = Arc::clone(places).acquire_owned().await else {
            return Ok(0);
        };
        let mails = outbox::lease(&self.db, now, self.lease_end()).await?;
        let tried = mails.len();
        let places = std::iter::once(Some(place)).chain(std::iter::repeat_with(|| {
            Arc::clone(places).try_acquire_owned().ok()
        }));
        let sends = mails.into_iter().zip(places).map(|(mail, place)| {
            let sender = self.clone();
            tasks.spawn(async move {
                sender.send(&mail).await;
                drop(place);
            })
        });
        drop(timeout(ROUND, join_all(sends)).await);
        if let Ok(waiting) = outbox::waiting(&self.db).await {
            #[allow(clippy::cast_precision_loss)] // a gauge is a float; no outbox has 2^52 mails
            metrics::gauge!("firstcome_mails_waiting").set(waiting as f64);
        }
        Ok(tried)
    }

    async fn settle(&self) {
        self.under_way.tasks.wait().await;
    }

    async fn keep(
        &self,
        id: i64,
        outcome: DeliveryOutcome,
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        match outcome {
            DeliveryOutcome::GivenUp(error) => outbox::give_up(&self.db, id, error, now).await,
            other => outbox::record_outcome(&self.db, id, other, now).await,
        }
    }
}

impl Sender {
    /// Sends a mail at once, bypassing the outbox.
    pub(super) async fn send_directly(
        &self,
        to: &str,
        mail: &Rendered,
        message_id: &str,
        now: DateTime<Utc>,
    ) -> Result<(), DeliveryFailure> {
        let envelope = Envelope {
            from: &self.from,
            to: &mailbox(to)?,
            subject: &mail.subject,
            message_id,
            thread: None,
            date: now,
            text: &mail.text,
            html: &mail.html,
        };
        self.deliver(&envelope).await?;
        metrics::counter!("firstcome_mails_total", "result" => "sent").increment(1);
        Ok(())
    }

    /// Gives up old mails. Otherwise, when `SMTP_URL` is set after months, mails would look as if
    /// their events had just happened.
    async fn give_up_old(&self, now: DateTime<Utc>) -> Result<(), DbError> {
        let given_up =
            outbox::give_up_untried(&self.db, now - TimeDelta::days(GIVE_UP_DAYS), now).await?;
        if given_up > 0 {
            tracing::warn!(
                given_up,
                days = GIVE_UP_DAYS,
                "mails were given up: they are older, and no sender was there"
            );
            metrics::counter!("firstcome_mails_total", "result" => "given_up").increment(given_up);
        }
        self.has_given_up_old.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn send(&self, mail: &LeasedMail) {
        crash_point(Point::MailDue);
        let handed_over = tokio::select! {
            handed_over = self.hand_over(mail) => handed_over,
            never = self.renew_lease(mail.id) => match never {},
        };
        crash_point(Point::MailSent);
        let now = self.clock.now();
        let outcome = match handed_over {
            Ok(()) => DeliveryOutcome::Sent,
            Err(failure) => {
                let is_final = failure.is_final && self.has_another_recipient(mail).await;
                DeliveryFailure {
                    is_final,
                    ..failure
                }
                .outcome(mail.created_at.and_utc(), mail.attempts, now)
            }
        };
        log(mail, &outcome);
        relay::record(self, mail.id, outcome, now).await;
    }

    /// Whether another recipient already has the mail. In that case, a rejection concerns only this
    /// address. If a server rejects a mail for every recipient, the cause is probably temporary (a
    /// relay rule, a policy), so the mail is retried.
    async fn has_another_recipient(&self, mail: &LeasedMail) -> bool {
        let taken = outbox::was_taken(&self.db, mail.id).await;
        taken.unwrap_or_else(|error| {
            tracing::debug!(%error, mail.id, "cannot tell whether another recipient has the mail; retrying");
            false
        })
    }

    fn lease_end(&self) -> DateTime<Utc> {
        self.clock.now() + self.sending.limit + RECORDING
    }

    /// Renews the lease during delivery. Leases are short, so that the mail of a sender that died
    /// is soon retried.
    async fn renew_lease(&self, id: i64) -> Infallible {
        loop {
            tokio::time::sleep(RENEW).await;
            if let Err(error) = outbox::renew(&self.db, id, self.lease_end()).await {
                tracing::debug!(%error, id, "the lease of a mail could not be renewed");
            }
        }
    }

    async fn hand_over(&self, mail: &LeasedMail) -> Result<(), DeliveryFailure> {
        let envelope = Envelope {
            from: &self.from,
            to: &mailbox(&mail.recipient)?,
            subject: &mail.subject,
            message_id: &mail.message_id,
            thread: mail.thread_refs.as_deref(),
            date: mail.created_at.and_utc(),
            text: &mail.body_text,
            html: &mail.body_html,
        };
        self.deliver(&envelope).await
    }

    async fn deliver(&self, envelope: &Envelope<'_>) -> Result<(), DeliveryFailure> {
        let raw = envelope
            .message()
            .map_err(|error| failure(true, format!("{error:#}")))?
            .formatted();
        let server = &self.sending.server;
        server
            .deliver(
                self.sending.limit,
                &self.from.email,
                &envelope.to.email,
                &raw,
                &mut |_| {},
            )
            .await
            .map_err(|error: SendError| failure(error.is_final(), error.to_string()))
    }
}

fn mailbox(address: &str) -> Result<Mailbox, DeliveryFailure> {
    address
        .parse()
        .map_err(|_| failure(true, "not an address".to_owned()))
}

fn failure(is_final: bool, reason: String) -> DeliveryFailure {
    DeliveryFailure {
        is_final,
        reason,
        retry_after: None,
    }
}

fn log(mail: &LeasedMail, outcome: &DeliveryOutcome) {
    let id = mail.id;
    let kind = mail.kind.as_str();
    let attempt = mail.attempts + 1;
    let result = match outcome {
        DeliveryOutcome::Sent => {
            tracing::info!(id, kind, attempt, subject = mail.subject, "mail sent");
            "sent"
        }
        DeliveryOutcome::Retry(at, error) => {
            tracing::warn!(id, kind, attempt, error, next_attempt_at = %at, "mail not sent yet");
            "retried"
        }
        DeliveryOutcome::GivenUp(error) => {
            tracing::error!(
                id,
                kind,
                attempt,
                error,
                to = mail.recipient,
                subject = mail.subject,
                "mail given up"
            );
            "given_up"
        }
    };
    metrics::counter!("firstcome_mails_total", "result" => result).increment(1);
}

/// A mail to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Envelope<'a> {
    pub(super) from: &'a Mailbox,
    pub(super) to: &'a Mailbox,
    pub(super) subject: &'a str,
    pub(super) message_id: &'a str,
    /// Message IDs without angle brackets, separated by spaces. The mail is a reply to the first.
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
        Ok(builder.multipart(MultiPart::alternative_plain_html(
            self.text.to_owned(),
            self.html.to_owned(),
        ))?)
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
        let to = "a@example.org".parse().unwrap();
        for subject in [
            "a\r\nBcc: x@example.com",
            "a\nBcc: x@example.com",
            "가\r\nBcc: x@example.com",
        ] {
            let message_id = "1.2@example.com";
            let date = DateTime::UNIX_EPOCH;
            let text = "one\n.\ntwo · 쿠폰\n";
            let html = "<p>one</p>";
            let envelope = Envelope {
                from: &from,
                to: &to,
                subject,
                message_id,
                thread: None,
                date,
                text,
                html,
            };
            let raw = String::from_utf8(envelope.message().unwrap().formatted()).unwrap();
            let mail = mail_parser::MessageParser::default().parse(&raw).unwrap();
            assert!(
                raw.is_ascii() && mail.bcc().is_none() && !raw.contains("\nBcc:"),
                "{raw}"
            );
            assert_eq!(mail.body_text(0).unwrap().replace("\r\n", "\n"), text);
        }
    }
}
