//! Alerts are levels: what is wrong is a state, and one function decides what to mail.
//!
//! `levels` folds what a look saw into MySQL, `conditions` derives what is wrong from a snapshot,
//! [`decide`] compares it with what was told, [`mails`] writes the mail, and `evaluate` does this
//! every few seconds, in one transaction with the outbox. `local` does it in memory while MySQL is
//! away. A separate task sends the outbox: a pass only waits for MySQL, never for a mail server.
#![warn(clippy::print_stdout, clippy::print_stderr)] // `say!` and `complain!` never end the program

mod alert;
mod args;
mod clock;
pub mod condition;
pub mod conditions;
pub mod decide;
mod evaluate;
mod events;
pub mod explain;
mod firing;
pub mod levels;
mod local;
mod look;
pub mod mails;
pub mod queries;
mod send;
mod settings;
pub mod times;
mod try_out;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use firstcome_shared::mysql::levels::{NotifyRow, clock};
use firstcome_shared::mysql::{Db, DbResult, processes, runs};
use firstcome_shared::process_state::{SeenState, StoreState};
pub use firstcome_shared::report::wording;
use firstcome_shared::report::{FailureCause, Run, Status, StoreRefusal};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use evaluate::{Cache, Evaluator, LIMIT, unwritten};
use local::Local;
use mails::Links;
use queries::{digest, outbox};
use send::Sender;
use settings::MailSettings;
use times::Policy;

pub use args::NotifyArgs;
pub use clock::{Clock, SystemClock};
pub use condition::ScheduledRun;
pub use evaluate::WatchedSchedule;
pub use events::{DropAtMoment, DropMoment};
pub use send::webhook::WebhookArgs;
pub use try_out::{test_email, test_webhook};

/// Interval of evaluations.
const EVERY: Duration = Duration::from_secs(5);

/// Key in `reconciler_state` of the time when the last digest was enqueued.
pub const LAST_DIGEST: &str = "last_run:digest";

/// The notifier of a process. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    db: Db,
    settings: Arc<MailSettings>,
    sender: Sender,
    local: Arc<Local>,
    /// Held while this process evaluates.
    cache: Arc<tokio::sync::Mutex<Cache>>,
    evaluate_now: Arc<Notify>,
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
            clock: clock.clone(),
            recipients: args.recipients().iter().map(ToString::to_string).collect(),
            domain: domain.unwrap_or_else(|| "localhost".to_owned()),
            links: args.links(),
            policy: Policy {
                repeat: seconds(args.alert_cooldown_seconds),
                patience: seconds(args.alert_patience_seconds),
                is_last: false,
            },
            hooks: hooks.collect(),
        };
        let mailer = args.mailer()?;
        Ok(Self {
            sender: Sender::new(db.clone(), clock, mailer, webhooks),
            db,
            settings: Arc::new(settings),
            local: Arc::default(),
            cache: Arc::default(),
            evaluate_now: Arc::default(),
        })
    }

    /// Whether events are posted anywhere.
    pub fn has_webhooks(&self) -> bool {
        !self.settings.hooks.is_empty()
    }

    /// Posts an event about a drop, once for each drop and moment, however often it is seen.
    pub async fn drop_moment(&self, drop: &DropAtMoment) -> DbResult<()> {
        let settings = self.settings.clone();
        let drop = drop.clone();
        let enqueued = self
            .db
            .run("enqueue an event of a drop", async move |conn| {
                let now = settings.now(conn).await?;
                let event = events::about_moment(&drop, now);
                outbox::enqueue(conn, settings.posts(&[event], now)).await
            });
        enqueued.await
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
                "SMTP_URL is not set: mails stay in the outbox (table outbox) until it is; \
                without ALERT_TO none is written"
            );
            return;
        };
        let server = &mailer.server;
        let host = &server.host;
        let port = server.port;
        let encryption = server.encryption.description();
        tracing::info!(host, port, encryption, recipients, "mails will be sent");
        if server.shows_password() {
            tracing::warn!(
                "the password in SMTP_URL can be read on the way: use ?tls=required or smtps://"
            );
        }
    }

    /// Writes what a look saw: its levels and repairs, and the events of drops that it sealed.
    /// `stored_as` is the run that stores its findings, if any does. Must be called before the run
    /// counts as done.
    ///
    /// # Errors
    /// If MySQL fails. A second call with the same run changes nothing twice.
    pub async fn note_look(&self, run: &Run, stored_as: Option<&str>) -> anyhow::Result<()> {
        if run.dry_run || run.status == Status::Running {
            return Ok(());
        }
        let run = Run {
            run_id: stored_as.unwrap_or(&run.run_id).to_owned(),
            ..run.clone()
        };
        let is_stored = stored_as.is_some();
        let settings = self.settings.clone();
        let db = self.db.within(LIMIT);
        let noted = db.transaction("note a look", async move |conn| {
            look::note(conn, &settings, &run, is_stored).await
        });
        if noted.await? {
            self.evaluate_now.notify_one();
        }
        Ok(())
    }

    /// Decides once what to tell, and tells it. Returns whether anything was told.
    ///
    /// # Errors
    /// If MySQL fails.
    pub async fn evaluate(&self, schedules: Vec<WatchedSchedule>) -> anyhow::Result<bool> {
        let evaluator = Evaluator {
            db: self.db.clone(),
            settings: self.settings.clone(),
            schedules,
        };
        let mut cache = self.cache.lock().await;
        let is_told = evaluator.evaluate(&mut cache, &self.local).await?;
        drop(cache);
        if is_told {
            self.wake();
        }
        Ok(is_told)
    }

    /// Evaluates every few seconds, and once a look has seen something new, until `stop`. While
    /// MySQL cannot be used, tells what this process sees itself.
    pub async fn watch(
        self,
        seen: SeenState,
        schedules: Vec<WatchedSchedule>,
        stop: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
                () = self.evaluate_now.notified() => {}
            }
            let error = match seen.why_not_written() {
                // An evaluation would hang, or leave another session that waits for its commit.
                Some(error) => error,
                None => match self.evaluate(schedules.clone()).await {
                    Ok(_) => continue,
                    Err(error) => format!("{error:#}"),
                },
            };
            tracing::debug!(error, "alerts cannot be evaluated");
            let mut mysql = StoreState::from_error(FailureCause::Mysql, &error);
            if let StoreState::Away(error) = &mysql
                && self.db.ping().await.is_ok()
            {
                // It answers, but takes no alerts.
                mysql = StoreState::Refuses {
                    refusal: StoreRefusal::MysqlOther,
                    error: error.clone(),
                };
            }
            self.local
                .tell(&self.sender, &self.settings, mysql, seen.get());
        }
    }

    /// Whether anybody gets what this process mails or posts.
    pub fn has_readers(&self) -> bool {
        self.settings.has_readers()
    }

    /// Like [`evaluate`](Self::evaluate), in a process that ends, unless a daemon evaluates, or
    /// nobody gets what this process mails: a daemon that starts later tells nothing twice, so it
    /// would mail neither the beginning nor the end.
    ///
    /// # Errors
    /// If MySQL fails.
    pub async fn evaluate_last(&self) -> anyhow::Result<()> {
        if !self.settings.has_readers() {
            return Ok(());
        }
        let subject = self.settings.links.subject();
        let fresh = self.db.run("look for daemons", async move |conn| {
            let now = clock(conn).await?;
            processes::fresh(conn, subject, now).await
        });
        if fresh.await?.iter().any(processes::FreshProcess::evaluates) {
            return Ok(());
        }
        let mut settings = MailSettings::clone(&self.settings);
        settings.policy.is_last = true;
        let last = Self {
            settings: Arc::new(settings),
            ..self.clone()
        };
        last.evaluate(Vec::new()).await?;
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
        let last = stored.and_then(|text| text.parse().ok()).unwrap_or(now);
        let from = last.clamp(now - TimeDelta::weeks(1), now - TimeDelta::hours(24));
        let day = digest::day(&self.db, subject, from, now).await?;
        let enqueued = self
            .db
            .transaction("enqueue the digest", async move |conn| {
                let row = NotifyRow::lock(conn, subject).await?;
                let last = runs::state(conn, LAST_DIGEST)
                    .await?
                    .and_then(|text| text.parse::<DateTime<Utc>>().ok());
                // A time more than a day ahead was written by a clock that has been set back since.
                if last.is_some_and(|last| last >= due && last < now + TimeDelta::days(1)) {
                    return Ok(());
                }
                let mail = mails::daily(&day, &settings.links).map_err(unwritten)?;
                let created_at = settings.now(conn).await?;
                outbox::enqueue(conn, settings.mails(&mail, &[], created_at)).await?;
                runs::set_state(conn, LAST_DIGEST, &now.to_rfc3339()).await?;
                row.raise(conn, subject).await
            });
        enqueued.await?;
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
