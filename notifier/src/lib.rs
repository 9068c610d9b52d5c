//! Alerts and mails about runs of the reconciler: deduplicated alerts, a transactional outbox, and
//! its sender.
//!
//! The input is a [`Run`], the output is mails and webhooks. [`alerts`] decides what to mail (a
//! pure function), [`mails`] writes the mail, `record` stores alerts and outbox in one transaction,
//! and a separate task sends the outbox. A pass only waits for MySQL, never for a mail server or a
//! receiver.
#![warn(clippy::print_stdout, clippy::print_stderr)] // `say!` and `complain!` never end the program

mod admission;
pub mod alerts;
mod args;
mod clock;
pub mod condition;
pub mod decide;
mod events;
pub mod explain;
mod firing;
pub mod mails;
mod outage;
mod record;
mod refusals;
mod send;
mod settings;
pub mod times;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use diesel::result::QueryResult;
use firstcome_shared::mysql::{Conn, Db, alerts as stored, digest, outbox, runs};
pub use firstcome_shared::report::wording;
use firstcome_shared::report::{
    self, AlertKind, COMMITS_HANG, FailureCause, Finding, Kind, Run, Status, StoreRefusal,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use admission::AdmissionWatch;
use alerts::{MailPolicy, Problem};
use mails::Links;
use outage::MysqlOutage;
use record::{Seen, record, record_locked, unwritten};
use refusals::RefusalWatch;
use send::Sender;
use settings::MailSettings;

pub use admission::SeenGate;
pub use args::NotifyArgs;
pub use clock::{Clock, SystemClock};
pub use send::try_out::{test_email, test_webhook};
pub use send::webhook::WebhookArgs;

/// Key in `reconciler_state` of the time when the last digest was enqueued.
pub const LAST_DIGEST: &str = "last_run:digest";

/// A scheduled run, or digest, that did not happen in time.
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
    /// The problem of the late run.
    pub fn problem(&self) -> Problem {
        let schedule = wording::line(&self.schedule, 80);
        let mut problem =
            Problem::outage(AlertKind::RunMissed, format!("a run of {schedule} is late"));
        problem.name = format!("{}.{schedule}", problem.name);
        let why = self.because.iter().cloned();
        problem.findings = why.map(|why| Finding::report(Kind::Stalled, why)).collect();
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
    admission: Arc<AdmissionWatch>,
    refusals: Arc<RefusalWatch>,
    /// Whether this process has recorded that Kafka is away, and no whole pass of it has ended
    /// since.
    has_lost_kafka: Arc<AtomicBool>,
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
        let mailer = args.mailer()?;
        let server = mailer.as_ref().map(|mailer| &mailer.server);
        // Several installations on one host may use the same mail server, recipients and pages.
        // The address of MySQL is left out, because it may change during the outage.
        let identity = format!(
            "{} {server:?} {:?} {:?}",
            db.database(),
            settings.recipients,
            settings.links
        );
        Ok(Self {
            sender: Sender::new(db.clone(), clock, mailer, webhooks),
            db,
            settings: Arc::new(settings),
            outage: Arc::new(MysqlOutage::new(&identity)),
            admission: Arc::default(),
            refusals: Arc::default(),
            has_lost_kafka: Arc::default(),
        })
    }

    /// Logs how mails and events are sent.
    pub fn announce(&self) {
        let targets = &self.sender.webhooks;
        if !targets.is_empty() {
            tracing::info!(?targets, "webhooks will be posted");
        }
        for (setting, address) in self.settings.links.dead() {
            tracing::warn!(
                "mails and QR codes lead to {address}, which is another machine for others, or \
                none: set {setting} to the address by which people reach it"
            );
        }
        let recipients = self.settings.recipients.len();
        let Some(mailer) = &self.sender.mailer else {
            tracing::warn!(
                recipients,
                "SMTP_URL is not set: mails stay in the outbox (table outbox) until it is; \
                without ALERT_TO none is written"
            );
            return;
        };
        let server = &mailer.server;
        let host = &server.host;
        let port = server.port;
        let encryption = server.encryption;
        tracing::info!(host, port, encryption, recipients, "mails will be sent");
        if server.shows_password() {
            tracing::warn!(
                "the password in SMTP_URL can be read on the way: use ?tls=required or smtps://"
            );
        }
    }

    /// Records the alerts of a pass, and enqueues mails and events about problems that are new,
    /// have changed, last or are over. Must be called after every pass, even if it failed or could
    /// not be recorded. Problems that could not be recorded come again with the next pass; repairs
    /// of such a pass are in no mail.
    ///
    /// # Errors
    /// If MySQL fails. A second call with the same run mails nothing twice.
    pub async fn after_pass(&self, run: &Run, now: DateTime<Utc>) -> anyhow::Result<()> {
        // Truncate to MySQL's precision, so that the value is equal when it is read back.
        let now = now.trunc_subsecs(3);
        let mut run = run.clone();
        if run.failure().is_some() && self.admission.reports_redis() {
            // A pass that failed only because of Redis causes no other alert.
            run.findings
                .retain(|it: &Finding| it.failure() != Some(FailureCause::Redis));
            run.stopped |= run.failure().is_none();
        }
        let loses_kafka =
            (run.findings.iter()).any(|it: &Finding| it.failure() == Some(FailureCause::Kafka));
        let is_whole = run.status != Status::Failed && !run.partial && !run.dry_run;
        let has_lost_kafka = self.has_lost_kafka.load(Ordering::Relaxed);
        let seen = Seen::Pass {
            run: Box::new(run),
            has_lost_kafka,
        };
        if let Err(error) = record(&self.db, seen, self.settings.clone(), now).await {
            self.cannot_write(&error.to_string(), now).await;
            return Err(error.into());
        }
        if loses_kafka || is_whole {
            self.has_lost_kafka.store(loses_kafka, Ordering::Relaxed);
        }
        self.can_record(now).await?;
        self.wake();
        Ok(())
    }

    /// Handles an attempt to start during which a store did not answer: like a failed pass. The
    /// watch over Redis, which would find out whether only this process has lost it, does not run
    /// yet.
    ///
    /// # Errors
    /// Like [`Self::after_pass`].
    pub async fn after_attempt(&self, run: &Run, now: DateTime<Utc>) -> anyhow::Result<()> {
        if run.failure() == Some(FailureCause::Redis) {
            let text = run.error.as_deref().unwrap_or_default();
            let gate = StoreRefusal::from_error(FailureCause::Redis, text)
                .map_or(SeenGate::Unreachable, |refusal| {
                    SeenGate::Refuses(refusal, text.to_owned())
                });
            if let Err(error) = self.admission(gate, now).await {
                let error = format!("{error:#}");
                tracing::debug!(error, "the loss of Redis is not recorded yet");
            }
        } else {
            // The attempt got past Redis, or did not use it.
            self.admission.forget_outage();
        }
        self.after_pass(run, now).await
    }

    /// Handles an error of recording, or a MySQL in which no commit ends: mails without MySQL, if
    /// it lasts.
    pub async fn cannot_write(&self, error: &str, now: DateTime<Utc>) {
        let is_away = self.db.ping().await.is_err();
        let hangs = !is_away && self.db.commits_hang().await.unwrap_or(false);
        let error = if hangs { COMMITS_HANG } else { error };
        // Truncate to the precision of the table of alerts.
        self.cannot_record(is_away, error, now.trunc_subsecs(3));
    }

    /// Handles the end of the problem that [`Self::cannot_write`] has reported. Returns whether it
    /// is recorded.
    pub async fn can_write(&self, now: DateTime<Utc>) -> bool {
        let recorded = self.can_record(now.trunc_subsecs(3)).await;
        if let Err(error) = &recorded {
            let error = format!("{error:#}");
            tracing::debug!(error, "the end of an outage is told after the next pass");
        }
        self.wake();
        recorded.is_ok()
    }

    /// Handles the refusals by stores that processes report. Must be called every few seconds.
    /// Mails if a refusal lasts, and when it is over.
    pub async fn refusals(
        &self,
        seen: Vec<(StoreRefusal, String)>,
        now: DateTime<Utc>,
    ) -> anyhow::Result<()> {
        let now = now.trunc_subsecs(3);
        let news = self.refusals.news(seen, now);
        for (seen, name) in news {
            if let Err(error) = record(&self.db, seen, self.settings.clone(), now).await {
                // A MySQL that refuses rows may refuse the outbox, too.
                self.cannot_write(&error.to_string(), now).await;
                return Err(error.into());
            }
            self.refusals.is_recorded(&name, now);
            self.wake();
        }
        Ok(())
    }

    /// Records that a scheduled run is late. The next run ends the alert. If a deep run or the
    /// digest is late, only the next one of these does.
    pub async fn missed_run(&self, missed: MissedRun) -> anyhow::Result<()> {
        let now = missed.noticed_at.trunc_subsecs(3);
        let seen = Seen::Outage(missed.problem(), missed.expected_at);
        record(&self.db, seen, self.settings.clone(), now).await?;
        self.wake();
        Ok(())
    }

    /// Whether this process mails the digest to anybody.
    pub fn has_recipients(&self) -> bool {
        !self.settings.recipients.is_empty()
    }

    /// Mails the digest that was due at `due`, unless another process has already mailed it. It
    /// covers the time since the last one: at least 24 hours, at most a week.
    pub async fn daily_digest(&self, due: DateTime<Utc>, now: DateTime<Utc>) -> anyhow::Result<()> {
        let now = now.trunc_subsecs(3);
        let settings = self.settings.clone();
        let subject = settings.links.subject();
        let stored = self.db.state(LAST_DIGEST).await?;
        let last = stored.as_deref().and_then(noted_time).unwrap_or(now);
        let from = last.clamp(now - TimeDelta::weeks(1), now - TimeDelta::hours(24));
        let day = digest::day(&self.db, subject, from, now).await?;
        let enqueue = async move |conn: &mut Conn| {
            stored::lock(conn).await?;
            let last = runs::state(LAST_DIGEST)
                .first::<String>(conn)
                .await?
                .as_deref()
                .and_then(noted_time);
            // A time more than a day ahead was written by a clock that has been set back since.
            if last.is_some_and(|last| last >= due && last < now + TimeDelta::days(1)) {
                return end_late_digest(conn, &settings, now).await;
            }
            let mail = mails::daily(&day, &settings.links).map_err(unwritten)?;
            outbox::enqueue(conn, settings.mails(&mail, &[], now)).await?;
            let noted = runs::set_state(LAST_DIGEST, &now.to_rfc3339());
            noted.run(conn).await?;
            end_late_digest(conn, &settings, now).await
        };
        self.db.transaction("enqueue the digest", enqueue).await?;
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

/// Ends the alert about a late digest in the transaction of the digest: nothing else ends it before
/// the next digest.
async fn end_late_digest(
    conn: &mut Conn,
    settings: &MailSettings,
    now: DateTime<Utc>,
) -> QueryResult<()> {
    let over = Seen::Over {
        name: alerts::late_digest(),
        kinds: vec![AlertKind::RunMissed],
    };
    record_locked(conn, &over, settings, now).await
}

/// Parses a time in `reconciler_state`.
fn noted_time(text: &str) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    Some(time.with_timezone(&Utc))
}

fn seconds(n: u64) -> TimeDelta {
    TimeDelta::seconds(i64::try_from(n).unwrap_or(i64::MAX / 1_000))
}
