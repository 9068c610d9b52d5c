//! Alerts and mails about runs of the reconciler: deduplicated alerts, transactional outboxes, and
//! senders.
//!
//! The input is a [`Run`], the output is mails and webhooks. [`alerts`] decides what to mail (a
//! pure function), [`render`] renders the mail, `record` writes alerts and outbox in one
//! transaction, and a separate task sends the outbox. `webhooks` does the same for programs. A pass
//! only waits for MySQL, never for a mail server or a receiver.

mod admission;
pub mod alerts;
mod args;
mod clock;
mod firing;
mod operators;
mod outage;
mod record;
mod relay;
pub mod render;
mod send;
mod settings;
mod smtp;
mod test_email;
mod webhooks;
pub mod wording;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use firstcome_shared::mysql::{Db, DbError, digest, refusal};
use futures_util::future::{join_all, try_join_all};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use alerts::MailPolicy;
use clock::elapsed;
use firstcome_shared::report::{self, Run};
use outage::{AdmissionWatch, OutageNotifier, UnsentRuns};
use record::StandaloneMail;
use relay::Outbox;
use send::{MailsUnderWay, Sender};
use settings::MailSettings;
use webhooks::{EventKind, Receivers, Relay};

pub use admission::SeenGate;
pub use args::{NotifyArgs, Sending};
pub use clock::{Clock, SystemClock};
pub use firstcome_shared::mysql::alerts::ListedAlert;
pub use operators::{AlertError, AlertPage, acknowledge, alert, list, silence};
pub use render::{DailyDigest, MissedRun};
pub use smtp::{Encryption, SendError, SmtpAddress, SmtpServer, SmtpStep};
pub use test_email::test_email;
pub use webhooks::{WebhookArgs, test_webhook};

/// Key in `reconciler_state` of the time when the last digest was enqueued.
pub const LAST_DIGEST: &str = "last_run:digest";

/// The notifier of a process. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    db: Db,
    settings: Arc<MailSettings>,
    sender: Option<Sender>,
    /// One relay for each webhook target.
    relays: Arc<Vec<Relay>>,
    receivers: Arc<Receivers>,
    wake: Arc<Notify>,
    outage: Arc<OutageNotifier>,
    unsent: Arc<UnsentRuns>,
    admission: Arc<AdmissionWatch>,
    redis_is_managed: bool,
}

impl Notifier {
    /// Creates a notifier. Checks the settings.
    pub fn new(db: Db, args: &NotifyArgs, webhooks: &WebhookArgs) -> anyhow::Result<Self> {
        Self::with_clock(db, args, webhooks, Arc::new(SystemClock))
    }

    /// Like [`Notifier::new`], but with the given clock. Used in tests.
    pub fn with_clock(
        db: Db,
        args: &NotifyArgs,
        webhooks: &WebhookArgs,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        args.check()?;
        let wake = Arc::new(Notify::new());
        let sending = args.sending()?;
        let receivers = webhooks.receivers()?;
        let recipients: Vec<String> = args.recipients().iter().map(ToString::to_string).collect();
        let settings = MailSettings {
            recipients,
            domain: args.from().map_or_else(
                || "localhost".to_owned(),
                |from| from.email.domain().to_owned(),
            ),
            links: args.links(),
            policy: MailPolicy {
                cooldown: seconds(args.alert_cooldown_seconds),
                patience: seconds(args.alert_patience_seconds),
            },
            subscriptions: receivers.subscriptions(),
        };
        let settings = Arc::new(settings);
        let relays = Arc::new(receivers.relays(&db, &settings, &clock));
        let sender = sending.zip(args.from()).map(|(sending, from)| Sender {
            db: db.clone(),
            sending,
            from,
            clock,
            wake: wake.clone(),
            has_given_up_old: Arc::default(),
            under_way: MailsUnderWay::default(),
        });
        Ok(Self {
            db,
            settings,
            sender,
            relays,
            receivers: Arc::new(receivers),
            wake,
            outage: Arc::default(),
            unsent: Arc::default(),
            admission: Arc::default(),
            redis_is_managed: false,
        })
    }

    /// Sets whether Redis is managed. The daily digest then mentions that nothing checks its
    /// durability.
    #[must_use]
    pub fn of_managed_redis(self, redis_is_managed: bool) -> Self {
        Self {
            redis_is_managed,
            ..self
        }
    }

    /// Logs how mails, events and alerts are sent.
    pub fn announce(&self) {
        self.receivers.announce();
        let sending = self.sender.as_ref().map(|sender| &sender.sending);
        announce(sending, self.settings.recipients.len());
        if sending.is_some_and(|sending| !render::is_local(&sending.server.address.host)) {
            for render::DeadLink {
                setting,
                address,
                of,
            } in self.settings.links.dead()
            {
                tracing::warn!(
                    "mails lead to {address}, which is the machine of whoever reads them: set {setting} to the address \
                     by which people reach {of}"
                );
            }
        }
    }

    /// Records the alerts of a pass and mails what is new. Must be called after every pass, even if
    /// it failed or could not be recorded.
    ///
    /// # Errors
    /// If MySQL fails. A second call with the same run mails nothing twice.
    pub async fn after_pass(&self, run: &Run, now: DateTime<Utc>) -> anyhow::Result<()> {
        // Truncate to MySQL's precision, so that the value is equal when it is read back.
        let now = now.trunc_subsecs(3);
        if let Err(error) = self.record(run, now).await {
            let is_away = self.db.ping().await.is_err();
            self.cannot_record(is_away, &error.to_string(), now);
            self.unsent.keep(run, now);
            return Err(error);
        }
        self.can_record(now).await?;
        self.wake();
        Ok(())
    }

    /// Records the run, after earlier runs whose repairs could not be recorded while MySQL was
    /// unavailable.
    async fn record(&self, run: &Run, now: DateTime<Utc>) -> anyhow::Result<()> {
        while let Some((earlier, at)) = self.unsent.take() {
            match record::record_pass(&self.db, earlier.clone(), self.settings.clone(), None, at)
                .await
            {
                Ok(_) => {}
                Err(DbError::Query { source, .. }) if refusal(&source).is_some() => {
                    tracing::error!(run_id = earlier.run_id, %source, "the alerts of an earlier run can't be recorded");
                }
                // A failure here must not delay this pass. If MySQL is unavailable, recording this
                // pass fails as well.
                Err(error) => {
                    tracing::debug!(run_id = earlier.run_id, %error, "the alerts of an earlier run can't be recorded yet");
                    self.unsent.put_back(earlier, at);
                    break;
                }
            }
        }
        let closed_for = self.admission.closed_for(run);
        record::record_pass(
            &self.db,
            run.clone(),
            self.settings.clone(),
            closed_for,
            now,
        )
        .await?;
        Ok(())
    }

    /// Mails that a scheduled run is or was late, once for each time at which a run was due. If the
    /// reason is a pass that is still running, mails it at most once per cooldown.
    pub async fn missed_run(&self, missed: MissedRun) -> anyhow::Result<()> {
        let now = missed.noticed_at.trunc_subsecs(3);
        let name = format!("missed:{}", missed.schedule);
        let due = missed.expected_at.to_rfc3339();
        self.mail_once(now, &name, move |fact, settings| {
            let (mailed_due, mailed_at) = fact
                .and_then(|fact| fact.split_once(' '))
                .unwrap_or_default();
            let is_recent = DateTime::parse_from_rfc3339(mailed_at)
                .is_ok_and(|at| elapsed(at.to_utc(), now) < settings.policy.cooldown);
            if mailed_due == due || missed.because.is_some() && is_recent {
                return Ok(None);
            }
            let mail = StandaloneMail {
                mail: render::missed(&missed, &settings.links)?,
                fact: format!("{due} {}", now.to_rfc3339()),
                event: None,
            };
            let since = missed.expected_at;
            Ok(Some(mail.with_event(
                EventKind::Drift,
                "run_missed",
                since,
                now,
            )))
        })
        .await
    }

    /// Mails the digest of the 24 hours before `now`, which was due at `due`, unless another
    /// process has already mailed it.
    pub async fn daily_digest(&self, due: DateTime<Utc>, now: DateTime<Utc>) -> anyhow::Result<()> {
        let now = now.trunc_subsecs(3);
        let day = digest::day(&self.db, now - TimeDelta::hours(24), now).await?;
        let day = DailyDigest {
            redis_is_managed: self.redis_is_managed,
            ..day
        };
        self.mail_once(now, LAST_DIGEST, move |fact, settings| {
            let last = fact.and_then(|fact| DateTime::parse_from_rfc3339(fact).ok());
            // A time more than a day ahead was written by a clock that has been set back since.
            if last.is_some_and(|last| last >= due && last < now + TimeDelta::days(1)) {
                return Ok(None);
            }
            Ok(Some(StandaloneMail {
                mail: render::daily(&day, &settings.links)?,
                fact: now.to_rfc3339(),
                event: None,
            }))
        })
        .await
    }

    /// Enqueues a mail as [`record::enqueue_once`] does.
    async fn mail_once(
        &self,
        now: DateTime<Utc>,
        name: &str,
        decide: impl Fn(Option<&str>, &MailSettings) -> anyhow::Result<Option<StandaloneMail>>
        + Send
        + Sync
        + 'static,
    ) -> anyhow::Result<()> {
        let settings = Arc::clone(&self.settings);
        record::enqueue_once(&self.db, settings, now, name.to_owned(), decide).await?;
        self.wake();
        Ok(())
    }

    /// Makes the senders read their outboxes now.
    pub fn wake(&self) {
        self.wake.notify_one();
        self.relays.iter().for_each(|relay| relay.wake.notify_one());
    }

    /// Returns the addresses for links.
    pub fn links(&self) -> &render::Links {
        &self.settings.links
    }

    /// Sends the outboxes until `shutdown`, then finishes deliveries in progress within five
    /// seconds. Also updates the gauge of firing alerts. Without `SMTP_URL`, mails remain in the
    /// outbox.
    pub async fn run_sender(self, shutdown: CancellationToken) {
        let mails = async {
            match &self.sender {
                Some(sender) => relay::run(sender, &sender.wake, &shutdown).await,
                None => shutdown.cancelled().await,
            }
        };
        let webhooks = join_all(
            self.relays
                .iter()
                .map(|one| relay::run(one, &one.wake, &shutdown)),
        );
        tokio::join!(mails, webhooks, firing::watch(&self.db, &shutdown));
    }

    /// Sends everything that is due, for at most `limit`. The rest stays in the outboxes. Used by a
    /// process that ends after its pass.
    pub async fn flush(&self, limit: Duration) -> anyhow::Result<()> {
        let mails = async {
            let Some(sender) = &self.sender else {
                return Ok(());
            };
            all_rounds(sender).await
        };
        let webhooks = try_join_all(self.relays.iter().map(all_rounds));
        // Mails and webhooks have separate deadlines, so that failing deliveries of one do not
        // delay the other.
        let sent = tokio::join!(timeout(limit, mails), timeout(limit, webhooks));
        if sent.0.is_err() || sent.1.is_err() {
            tracing::warn!(
                ?limit,
                "mails or webhooks are left in the outbox; a daemon, or the next run, sends them"
            );
        }
        sent.1.unwrap_or_else(|_| Ok(Vec::new()))?;
        Ok(sent.0.unwrap_or(Ok(()))?)
    }
}

async fn all_rounds(outbox: &impl Outbox) -> Result<(), DbError> {
    while outbox.round().await? > 0 {}
    outbox.settle().await;
    Ok(())
}

fn announce(sending: Option<&Sending>, recipients: usize) {
    let Some(sending) = sending else {
        tracing::warn!(
            "SMTP_URL is not set: mails stay in the outbox (table mail_outbox) until it is"
        );
        if recipients == 0 {
            tracing::warn!("ALERT_TO is not set: alerts are kept, but no mail is written");
        }
        return;
    };
    let address = &sending.server.address;
    tracing::info!(server = address.host, port = address.port, encryption = %address.encryption, recipients, "mails will be sent");
    if sending.server.shows_password() {
        tracing::warn!(
            "the password in SMTP_URL can be read on the way: use ?tls=required or smtps://"
        );
    }
}

fn seconds(n: u64) -> TimeDelta {
    TimeDelta::seconds(i64::try_from(n).unwrap_or(i64::MAX / 1_000))
}
