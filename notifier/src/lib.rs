//! Alerts and mails about runs of the reconciler: deduplicated alerts, a transactional outbox, and
//! its sender.
//!
//! The input is a [`Run`], the output is mails and webhooks. [`alerts`] decides what to mail (a
//! pure function), [`mails`] writes the mail, `record` stores alerts and outbox in one transaction,
//! and a separate task sends the outbox. A pass only waits for MySQL, never for a mail server or a
//! receiver.

mod admission;
pub mod alerts;
mod args;
mod clock;
mod firing;
pub mod mails;
mod outage;
mod record;
mod send;
mod settings;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use firstcome_shared::mysql::{Db, DbError, digest, refusal};
pub use firstcome_shared::report::wording;
use firstcome_shared::report::{self, AlertKind, Finding, Kind, Run};
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use admission::AdmissionWatch;
use alerts::{MailPolicy, Problem, is_repair};
use mails::Links;
use outage::MysqlOutage;
use record::{Seen, record_seen};
use send::Sender;
use settings::MailSettings;

pub use admission::SeenGate;
pub use args::NotifyArgs;
pub use clock::{Clock, SystemClock};
pub use send::try_out::{test_email, test_webhook};
pub use send::webhook::WebhookArgs;

/// Key in `reconciler_state` of the time when the last digest was enqueued.
pub const LAST_DIGEST: &str = "last_run:digest";

/// Maximum number of runs that wait to be recorded.
const UNRECORDED: usize = 20;

type Unrecorded = VecDeque<(Run, DateTime<Utc>)>;

/// A run that did not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissedRun {
    /// The name of the schedule's setting, such as `RECONCILE_CRON`.
    pub schedule: String,
    /// When the first missed run was due.
    pub expected_at: DateTime<Utc>,
    /// When the miss was noticed.
    pub noticed_at: DateTime<Utc>,
    /// Why the run did not happen, for example because another pass was running.
    pub because: Option<String>,
}

impl MissedRun {
    /// The problem that the next run ends.
    pub fn problem(&self) -> Problem {
        let schedule = wording::line(&self.schedule, 80);
        let mut problem =
            Problem::outage(AlertKind::RunMissed, format!("a run of {schedule} is late"));
        problem.name = format!("{}.{schedule}", problem.name);
        let because = self.because.as_ref();
        let because = because.map(|because| Finding::report(Kind::Stalled, because.clone()));
        problem.findings.extend(because);
        problem
    }
}

/// The notifier of a process. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    db: Db,
    settings: Arc<MailSettings>,
    sender: Sender,
    outage: Arc<MysqlOutage>,
    /// Runs that repaired or sealed something but could not be recorded, oldest first. The findings
    /// of other runs come again with the next pass.
    unrecorded: Arc<Mutex<Unrecorded>>,
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
        let webhooks = webhooks.webhooks()?;
        let hooks = webhooks.iter().map(|it| (it.name.clone(), it.format));
        let domain = args.from().map(|from| from.email.domain().to_owned());
        let settings = MailSettings {
            recipients: args.recipients().iter().map(ToString::to_string).collect(),
            domain: domain.unwrap_or_else(|| "localhost".to_owned()),
            links: args.links(),
            policy: MailPolicy {
                cooldown: seconds(args.alert_cooldown_seconds),
                patience: seconds(args.alert_patience_seconds),
            },
            hooks: hooks.collect(),
        };
        let server = args.smtp_url.as_ref().map(ExposeSecret::expose_secret);
        let identity = format!("{server:?} {:?} {:?}", settings.recipients, settings.links);
        Ok(Self {
            sender: Sender::new(db.clone(), clock, args.mailer()?, webhooks),
            db,
            settings: Arc::new(settings),
            outage: Arc::new(MysqlOutage::new(&identity)),
            unrecorded: Arc::default(),
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

    /// Logs how mails and events are sent.
    pub fn announce(&self) {
        let targets = &self.sender.webhooks;
        if !targets.is_empty() {
            tracing::info!(?targets, "webhooks will be posted");
        }
        let recipients = self.settings.recipients.len();
        let Some(mailer) = &self.sender.mailer else {
            tracing::warn!(
                recipients,
                "SMTP_URL is not set: mails stay in the outbox (table outbox) until it is; without ALERT_TO none is written"
            );
            return;
        };
        let server = &mailer.server;
        let (host, port, encryption) = (&server.host, server.port, server.encryption);
        tracing::info!(host, port, encryption, recipients, "mails will be sent");
        if server.shows_password {
            tracing::warn!(
                "the password in SMTP_URL can be read on the way: use ?tls=required or smtps://"
            );
        }
        if !mails::is_local(host) {
            for (setting, address) in self.settings.links.dead() {
                tracing::warn!(
                    "mails lead to {address}, which is the machine of whoever reads them: set {setting} to the address by \
                     which people reach it"
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
            let is_sealed = run.drops.iter().any(|drop| drop.sealed);
            let has_news = run.all_findings().any(is_repair) || is_sealed;
            let mut runs = self.unrecorded.lock();
            if runs.len() < UNRECORDED && !run.dry_run && has_news {
                runs.push_back((run.clone(), now));
            }
            return Err(error.into());
        }
        self.can_record(now).await?;
        self.wake();
        Ok(())
    }

    /// Records the run, after earlier runs whose repairs could not be recorded.
    async fn record(&self, run: &Run, now: DateTime<Utc>) -> Result<(), DbError> {
        let record = |run: Run, closed_for, at| {
            record::record_pass(&self.db, run, self.settings.clone(), closed_for, at)
        };
        loop {
            let Some((earlier, at)) = self.unrecorded.lock().pop_front() else {
                break;
            };
            match record(earlier.clone(), None, at).await {
                Ok(()) => {}
                Err(DbError::Query { source, .. }) if refusal(&source).is_some() => {
                    tracing::error!(run_id = earlier.run_id, %source, "the alerts of an earlier run can't be recorded");
                }
                // This pass tells whether MySQL is unavailable.
                Err(error) => {
                    tracing::debug!(run_id = earlier.run_id, %error, "the alerts of an earlier run can't be recorded yet");
                    self.unrecorded.lock().push_front((earlier, at));
                    break;
                }
            }
        }
        record(run.clone(), self.admission.closed_for(run), now).await
    }

    /// Records that a scheduled run is late. The next run ends it.
    pub async fn missed_run(&self, missed: MissedRun) -> anyhow::Result<()> {
        let now = missed.noticed_at.trunc_subsecs(3);
        let seen = Seen::Outage(missed.problem(), missed.expected_at);
        record_seen(&self.db, seen, self.settings.clone(), now).await?;
        self.wake();
        Ok(())
    }

    /// Mails the digest of the 24 hours before `now`, which was due at `due`, unless another
    /// process has already mailed it.
    pub async fn daily_digest(&self, due: DateTime<Utc>, now: DateTime<Utc>) -> anyhow::Result<()> {
        let now = now.trunc_subsecs(3);
        let mut day = digest::day(&self.db, now - TimeDelta::hours(24), now).await?;
        day.redis_is_managed = self.redis_is_managed;
        let settings = self.settings.clone();
        let decide = move |fact: Option<&str>| {
            let last = fact.and_then(|fact| DateTime::parse_from_rfc3339(fact).ok());
            // A time more than a day ahead was written by a clock that has been set back since.
            if last.is_some_and(|last| last >= due && last < now + TimeDelta::days(1)) {
                return Ok(None);
            }
            let mail = mails::daily(&day, &settings.links)?;
            Ok(Some((mail, now.to_rfc3339())))
        };
        let settings = self.settings.clone();
        record::enqueue_once(&self.db, settings, now, LAST_DIGEST, decide).await?;
        self.wake();
        Ok(())
    }

    /// Makes the sender read the outbox now.
    pub fn wake(&self) {
        self.sender.wake.notify_one();
    }

    /// Returns the addresses for links.
    pub fn links(&self) -> &Links {
        &self.settings.links
    }

    /// Sends the outbox until `shutdown`, then finishes deliveries in progress within five seconds.
    /// Also updates the gauge of firing alerts. Without `SMTP_URL`, mails remain in the outbox.
    pub async fn run_sender(self, shutdown: CancellationToken) {
        tokio::join!(
            self.sender.run(&shutdown),
            firing::watch(&self.db, &shutdown)
        );
    }

    /// Sends everything that is due, for at most `limit`. The rest stays in the outbox. Used by a
    /// process that ends after its pass.
    pub async fn flush(&self, limit: Duration) -> anyhow::Result<()> {
        if let Ok(sent) = timeout(limit, self.sender.flush()).await {
            return Ok(sent?);
        }
        tracing::warn!(
            ?limit,
            "mails or webhooks are left in the outbox; a daemon, or the next run, sends them"
        );
        Ok(())
    }
}

fn seconds(n: u64) -> TimeDelta {
    TimeDelta::seconds(i64::try_from(n).unwrap_or(i64::MAX / 1_000))
}
