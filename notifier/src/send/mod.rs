//! Transactional outbox relay: a task that delivers each message at least once, with exponential
//! backoff. A server or a receiver that is down, slow or silent delays only its own messages.

pub(crate) mod failure;
pub(crate) mod mail;
pub(crate) mod webhook;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::mysql::{Conn, Db, DbError, DbResult};
use futures_util::future::join_all;
use rand::RngExt as _;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::failure::Failure;
use self::mail::Mailer;
use self::webhook::Webhook;
use crate::clock::{self, Clock};
use crate::queries::outbox::{
    self, Channel, DeliveryOutcome, Leased, Outgoing, PUT_OFF_AT_MOST, Served,
};

/// Interval of polling the outbox for messages of other processes and for retries.
const POLL: Duration = Duration::from_secs(5);

/// How long a round waits for its deliveries. Slower ones go on while the next rounds deliver to
/// other targets.
const ROUND: Duration = Duration::from_secs(2);

/// Grace period for deliveries in progress at shutdown.
const GRACE: Duration = Duration::from_secs(5);

/// Length of a lease: longer than a delivery and the recording of its outcome. The message of a
/// sender that died is retried when it expires.
const LEASE: TimeDelta = TimeDelta::minutes(4);

/// Maximum time to record an outcome. A delivery that is not recorded is repeated.
const RECORDING: Duration = Duration::from_secs(60);

/// First and longest pause between attempts for a message, in seconds.
const BACKOFF_SECONDS: (i64, i64) = (30, 3_600);

/// Number of attempts from which on a permanent refusal gives a message up, after about eight
/// minutes: a server's rule that refuses everybody may be a mistake that is soon corrected.
const REFUSALS: u32 = 5;

/// Delivers the outbox. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sender {
    db: Db,
    clock: Arc<dyn Clock>,
    pub(crate) mailer: Option<Mailer>,
    pub(crate) webhooks: Arc<Vec<Webhook>>,
    pub(crate) wake: Arc<Notify>,
    tasks: TaskTracker,
}

impl Sender {
    pub(crate) fn new(
        db: Db,
        clock: Arc<dyn Clock>,
        mailer: Option<Mailer>,
        webhooks: Vec<Webhook>,
    ) -> Self {
        let tasks = TaskTracker::new();
        // A tracker only reports that it is empty once it is closed.
        tasks.close();
        Self {
            db,
            clock,
            mailer,
            webhooks: Arc::new(webhooks),
            wake: Arc::default(),
            tasks,
        }
    }

    /// Delivers until `shutdown`, then finishes the deliveries in progress within a few seconds.
    pub(crate) async fn run(&self, shutdown: &CancellationToken) {
        let mut is_failing = false;
        while !shutdown.is_cancelled() {
            let tried = self.round().await;
            if let Err(error) = &tried
                && !is_failing
            {
                tracing::warn!(%error, "the outbox can't be read; mails and webhooks wait");
            }
            is_failing = tried.is_err();
            if matches!(tried, Ok(1..)) {
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
        if timeout(GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                "mails or webhooks were still being handed over at shutdown; they are tried \
                again after their lease"
            );
        }
    }

    /// Attempts everything that is due.
    pub(crate) async fn flush(&self) -> Result<(), DbError> {
        loop {
            while self.round().await? > 0 {}
            if self.tasks.is_empty() {
                return Ok(());
            }
            // A target whose delivery has ended may have another message that is due.
            self.tasks.wait().await;
        }
    }

    /// Starts the delivery of one due message of each target, and waits a moment for them. Returns
    /// how many were attempted.
    async fn round(&self) -> Result<usize, DbError> {
        let now = self.now().await?;
        for channel in [Channel::Mail, Channel::Webhook] {
            let given_up = outbox::give_up_untried(&self.db, channel, now).await?;
            if given_up > 0 {
                let kind = channel.word();
                tracing::warn!(
                    given_up,
                    kind,
                    "messages were given up: no process sends them"
                );
                metrics::counter!(total(channel), "result" => "given_up")
                    .increment(given_up as u64);
            }
        }
        let served = Served {
            mails: self.mailer.is_some(),
            webhooks: self.webhooks.iter().map(|it| it.name.clone()).collect(),
        };
        let leased = outbox::lease(&self.db, served, now, now + LEASE).await?;
        let tried = leased.len();
        let sends = leased.into_iter().map(|message| {
            let sender = self.clone();
            self.tasks.spawn(async move {
                sender.send(&message, now).await;
                sender.wake.notify_one();
            })
        });
        drop(timeout(ROUND, join_all(sends.collect::<Vec<_>>())).await);
        self.show_waiting().await;
        Ok(tried)
    }

    async fn show_waiting(&self) {
        let Ok(waiting) = outbox::waiting(&self.db).await else {
            return;
        };
        for (channel, gauge) in [
            (Channel::Mail, "firstcome_mails_waiting"),
            (Channel::Webhook, "firstcome_webhooks_waiting"),
        ] {
            let mut waiting = waiting.iter();
            let found = waiting.find(|(name, _)| name == channel.word());
            #[allow(clippy::cast_precision_loss)] // a gauge is a float; no outbox has 2^52 rows
            metrics::gauge!(gauge).set(found.map_or(0.0, |(_, n)| *n as f64));
        }
    }

    /// Reads the clock of MySQL, by which rows are written.
    async fn now(&self) -> DbResult<DateTime<Utc>> {
        let clock = self.clock.clone();
        let read = async move |conn: &mut Conn| clock::now(&*clock, conn).await;
        self.db.run("read the clock", read).await
    }

    async fn send(&self, leased: &Leased, now: DateTime<Utc>) {
        let message = &leased.message;
        let [due, sent] = if message.is_mail() {
            [Point::MailDue, Point::MailSent]
        } else {
            [Point::WebhookDue, Point::WebhookSent]
        };
        crash_point(due);
        let delivered = self.deliver(message, now).await;
        crash_point(sent);
        self.record(leased, delivered).await;
    }

    /// Makes one attempt.
    pub(crate) async fn deliver(
        &self,
        message: &Outgoing,
        now: DateTime<Utc>,
    ) -> Result<(), Failure> {
        let mut webhooks = self.webhooks.iter();
        if let Some(webhook) = webhooks.find(|it| it.name == message.target) {
            webhook.post(&message.batch, &message.body, now).await
        } else if let Some(mailer) = &self.mailer {
            mailer.send(message).await
        } else {
            let reason = "nothing is set that sends it".to_owned();
            Err(Failure::new(reason, "set SMTP_URL or WEBHOOK_URLS"))
        }
    }

    /// Records the outcome of a delivery. Retries for [`RECORDING`].
    async fn record(&self, leased: &Leased, delivered: Result<(), Failure>) {
        let id = leased.id;
        let record = async {
            while let Err(error) = self.try_to_record(leased, delivered.as_ref().err()).await {
                tracing::debug!(%error, id, "the outcome of a delivery can't be recorded yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        if timeout(RECORDING, record).await.is_err() {
            tracing::error!(
                id,
                ?delivered,
                "the outcome of a delivery could not be recorded; it may come twice"
            );
        }
    }

    async fn try_to_record(&self, leased: &Leased, failure: Option<&Failure>) -> DbResult<()> {
        let now = self.now().await?;
        let outcome = failure.map_or(DeliveryOutcome::Sent, |it| outcome(leased, it, now));
        outbox::record_outcome(&self.db, leased.id, outcome.clone(), now).await?;
        log(leased, &outcome);
        Ok(())
    }
}

/// Decides when to try again, or to give the message up.
fn outcome(leased: &Leased, failure: &Failure, now: DateTime<Utc>) -> DeliveryOutcome {
    let is_refused = failure.is_final && leased.attempts + 1 >= REFUSALS;
    if is_refused || outbox::is_old(leased.message.created_at, now) {
        return DeliveryOutcome::GivenUp(failure.to_string());
    }
    let next = now + pause(leased.attempts, failure.after);
    DeliveryOutcome::Retry(next, failure.to_string())
}

/// Returns the pause before the next attempt: as long as the target wants, but at most
/// [`PUT_OFF_AT_MOST`].
fn pause(attempts: u32, wanted: Option<TimeDelta>) -> TimeDelta {
    let pause = backoff(attempts);
    wanted.map_or(pause, |wanted| pause.max(wanted.min(PUT_OFF_AT_MOST)))
}

fn log(leased: &Leased, outcome: &DeliveryOutcome) {
    let id = leased.id;
    let message = &leased.message;
    let kind = &message.kind;
    let target = &message.target;
    let attempt = leased.attempts + 1;
    let result = match outcome {
        DeliveryOutcome::Sent => {
            tracing::info!(id, kind, attempt, target, subject = message.subject, "sent");
            "sent"
        }
        DeliveryOutcome::Retry(at, error) => {
            tracing::warn!(id, kind, attempt, target, error, next_attempt_at = %at, "not sent yet");
            "retried"
        }
        DeliveryOutcome::GivenUp(error) => {
            tracing::error!(id, kind, attempt, target, error, "given up");
            "given_up"
        }
    };
    let channel = if message.is_mail() {
        Channel::Mail
    } else {
        Channel::Webhook
    };
    metrics::counter!(total(channel), "result" => result).increment(1);
}

/// The metric that counts deliveries.
const fn total(channel: Channel) -> &'static str {
    match channel {
        Channel::Mail => "firstcome_mails_total",
        Channel::Webhook => "firstcome_webhooks_total",
    }
}

/// Returns the pause before the next attempt. It doubles each time and varies by a fifth, so that
/// deliveries that failed together are not retried together.
fn backoff(attempts: u32) -> TimeDelta {
    let (first, longest) = BACKOFF_SECONDS;
    let seconds = (first << attempts.min(16)).min(longest);
    TimeDelta::milliseconds(seconds * rand::rng().random_range(800..=1_200))
}

#[cfg(test)]
mod tests {
    use firstcome_shared::mysql::DbSettings;

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn delivery_without_a_mail_server_or_webhook_fails_temporarily() {
        let db = Db::new(&DbSettings {
            url: "mysql://nobody@127.0.0.1:1/none".into(),
            pool_size: 1,
            limit: Duration::from_secs(1),
        });
        let sender = Sender::new(db.unwrap(), Arc::new(SystemClock), None, Vec::new());
        let now = Utc::now();
        let message = Outgoing {
            created_at: now,
            next_attempt_at: now,
            channel: Channel::Mail.word().to_owned(),
            kind: "daily".to_owned(),
            batch: "a batch".to_owned(),
            target: "a@example.org".to_owned(),
            subject: String::new(),
            thread: None,
            body: String::new(),
            html: None,
        };
        let failure = sender.deliver(&message, now).await.unwrap_err();
        assert!(!failure.is_final, "{failure}");
    }

    #[test]
    fn next_attempt_waits_as_long_as_the_receiver_asks_but_at_most_six_hours() {
        for (wanted, expected) in [
            (None, 24..=36),
            (Some(1), 24..=36),
            (Some(600), 600..=600),
            (Some(864_000), 21_600..=21_600),
        ] {
            let pause = pause(0, wanted.map(TimeDelta::seconds)).num_seconds();
            assert!(expected.contains(&pause), "{wanted:?}: {pause}");
        }
    }

    #[test]
    fn retry_delay_doubles_up_to_one_hour() {
        for (attempts, seconds) in [
            (0, 30),
            (1, 60),
            (2, 120),
            (6, 1_920),
            (7, 3_600),
            (8, 3_600),
            (500, 3_600),
        ] {
            for _ in 0..50 {
                let pause = backoff(attempts).num_milliseconds();
                let range = seconds * 800..=seconds * 1_200;
                assert!(range.contains(&pause), "{attempts}: {pause}");
            }
        }
    }
}
