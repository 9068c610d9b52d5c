//! Alerts and mails about a run of the reconciler: deduplicated alerts, an outbox, and a sender.
//!
//! A [`report::Run`] comes in, mails go out. [`alerts`] decides what is mailed (a pure function),
//! [`render`] writes the mail, `record` writes alerts and outbox in one transaction, and a task of
//! its own sends the outbox. A pass only ever waits for MySQL, never for a mail server.

pub mod alerts;
mod args;
mod operators;
mod outage;
mod record;
pub mod render;
pub mod report;
mod send;
mod smtp;
mod test_email;
pub mod wording;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use firstcome_shared::mysql::{Db, DbError, digest, refusal};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::report::Run;
use alerts::Policy;
use outage::{AdmissionWatch, OutageNotifier, UnsentRuns};
use record::Notice;
use render::Links;
use send::Sender;

pub use args::{NotifyArgs, Sending};
pub use firstcome_shared::mysql::alerts::ListedAlert;
pub use operators::{AlertError, AlertPage, acknowledge, alert, list, silence};
pub use render::{Day, MissedRun};
pub use send::{Clock, SystemClock};
pub use smtp::{Address, Encryption, SendError, SmtpServer, Step};
pub use test_email::test_email;

/// Name in `reconciler_state` of when the last digest was enqueued.
pub const LAST_DIGEST: &str = "last_run:digest";

/// What mails need to know of the settings.
#[derive(Debug, Clone)]
struct MailSettings {
    /// Who gets mails, as they stand in a header.
    recipients: Vec<String>,
    /// What comes after the `@` of ids.
    domain: String,
    links: Links,
    policy: Policy,
}

/// The notifier of a process. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    db: Db,
    settings: Arc<MailSettings>,
    sender: Option<Sender>,
    wake: Arc<Notify>,
    outage: Arc<OutageNotifier>,
    unsent: Arc<UnsentRuns>,
    admission: Arc<AdmissionWatch>,
}

impl Notifier {
    /// Checks the settings.
    pub fn new(db: Db, args: &NotifyArgs) -> anyhow::Result<Self> {
        Self::with_clock(db, args, Arc::new(SystemClock))
    }

    /// [`Notifier::new`] with another clock, for tests.
    pub fn with_clock(db: Db, args: &NotifyArgs, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        args.check()?;
        let wake = Arc::new(Notify::new());
        let sending = args.sending()?;
        let recipients: Vec<String> = args.recipients().iter().map(ToString::to_string).collect();
        let sender = sending.zip(args.from()).map(|(sending, from)| Sender {
            db: db.clone(),
            sending,
            from,
            clock,
            wake: wake.clone(),
            has_given_up_old: Arc::default(),
        });
        let settings = MailSettings {
            recipients,
            domain: args.from().map_or_else(|| "localhost".to_owned(), |from| from.email.domain().to_owned()),
            links: args.links(),
            policy: Policy {
                cooldown: seconds(args.alert_cooldown_seconds),
                patience: seconds(args.alert_patience_seconds),
            },
        };
        let (outage, unsent, admission) = (Arc::default(), Arc::default(), Arc::default());
        Ok(Self { db, settings: Arc::new(settings), sender, wake, outage, unsent, admission })
    }

    /// Says in the log what becomes of mails.
    pub fn announce(&self) {
        announce(self.sender.as_ref().map(|sender| &sender.sending), self.settings.recipients.len());
    }

    /// Records the alerts of a pass and mails what is new. To be called once a pass has ended,
    /// however it ended, and also when it could not be recorded.
    ///
    /// # Errors
    /// Of MySQL. Called again with the same run, nothing is mailed twice.
    pub async fn after_pass(&self, run: &Run, now: DateTime<Utc>) -> anyhow::Result<()> {
        // As MySQL keeps it, so that what is read back compares equal.
        let now = now.trunc_subsecs(3);
        if let Err(error) = self.record(run, now).await {
            let is_away = self.db.ping().await.is_err();
            self.cannot_record(is_away, &error.to_string(), now);
            self.unsent.keep(run, now);
            return Err(error);
        }
        self.can_record(now).await?;
        self.wake.notify_one();
        Ok(())
    }

    /// Earlier runs first, whose repairs could not be recorded while MySQL was away.
    async fn record(&self, run: &Run, now: DateTime<Utc>) -> anyhow::Result<()> {
        while let Some((earlier, at)) = self.unsent.take() {
            match record::record_pass(&self.db, earlier.clone(), self.settings.clone(), None, at).await {
                Ok(_) => {}
                Err(DbError::Query { source, .. }) if refusal(&source).is_some() => {
                    tracing::error!(run_id = earlier.run_id, %source, "the alerts of an earlier run can't be recorded");
                }
                // It must not hold up this pass, whose own error says whether MySQL is away.
                Err(error) => {
                    tracing::debug!(run_id = earlier.run_id, %error, "the alerts of an earlier run can't be recorded yet");
                    self.unsent.put_back(earlier, at);
                    break;
                }
            }
        }
        let closed_for = self.admission.closed_for(run);
        record::record_pass(&self.db, run.clone(), self.settings.clone(), closed_for, now).await?;
        Ok(())
    }

    /// Mails that a scheduled run is late, or was, once for each time at which one was due. While a
    /// pass that is still running is the reason, once a cooldown.
    pub async fn missed_run(&self, missed: MissedRun) -> anyhow::Result<()> {
        let (settings, now) = (self.settings.clone(), missed.noticed_at.trunc_subsecs(3));
        let name = format!("missed:{}", missed.schedule);
        let (due, cooldown) = (missed.expected_at.to_rfc3339(), self.settings.policy.cooldown);
        record::enqueue_once(&self.db, self.settings.clone(), now, name, move |fact| {
            let (mailed_due, mailed_at) = fact.and_then(|fact| fact.split_once(' ')).unwrap_or_default();
            let is_recent =
                DateTime::parse_from_rfc3339(mailed_at).is_ok_and(|at| elapsed(at.to_utc(), now) < cooldown);
            if mailed_due == due || missed.because.is_some() && is_recent {
                return Ok(None);
            }
            let fact = format!("{due} {}", now.to_rfc3339());
            Ok(Some(Notice { mail: render::missed(&missed, &settings.links)?, fact }))
        })
        .await?;
        self.wake();
        Ok(())
    }

    /// Mails what happened in the 24 hours before `now`: the digest that was due at `due`, which
    /// another process may have mailed already.
    pub async fn daily_digest(&self, due: DateTime<Utc>, now: DateTime<Utc>) -> anyhow::Result<()> {
        let now = now.trunc_subsecs(3);
        let day = digest::day(&self.db, now - TimeDelta::hours(24), now).await?;
        let settings = self.settings.clone();
        record::enqueue_once(&self.db, self.settings.clone(), now, LAST_DIGEST.to_owned(), move |fact| {
            let last = fact.and_then(|fact| DateTime::parse_from_rfc3339(fact).ok());
            // One from a day ahead was written by a clock that has been set back since.
            let is_mailed = last.is_some_and(|last| last >= due && last < now + TimeDelta::days(1));
            let mail = || render::daily(&day, &settings.links);
            (!is_mailed).then(|| Ok(Notice { mail: mail()?, fact: now.to_rfc3339() })).transpose()
        })
        .await?;
        self.wake();
        Ok(())
    }

    /// Makes the sender read the outbox now.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Sends the outbox until `shutdown`, then finishes the mails it has begun within five seconds.
    /// Without `SMTP_URL` it only waits.
    pub async fn run_sender(self, shutdown: CancellationToken) {
        match self.sender {
            Some(sender) => sender.run(shutdown).await,
            None => shutdown.cancelled().await,
        }
    }

    /// Sends what is due now, for at most `limit`: for a process that ends after its pass. What is
    /// left stays in the outbox.
    pub async fn flush(&self, limit: Duration) -> anyhow::Result<()> {
        let Some(sender) = &self.sender else { return Ok(()) };
        let rounds = async {
            while sender.round().await? > 0 {}
            anyhow::Ok(())
        };
        if let Ok(done) = timeout(limit, rounds).await {
            return done;
        }
        tracing::warn!(?limit, "mails are left in the outbox; a daemon, or the next run, sends them");
        Ok(())
    }
}

fn announce(sending: Option<&Sending>, recipients: usize) {
    let Some(sending) = sending else {
        tracing::warn!("SMTP_URL is not set: mails stay in the outbox (table mail_outbox) until it is");
        if recipients == 0 {
            tracing::warn!("ALERT_TO is not set: alerts are kept, but no mail is written");
        }
        return;
    };
    let address = &sending.server.address;
    tracing::info!(server = address.host, port = address.port, encryption = %address.encryption, recipients, "mails will be sent");
    if sending.server.shows_password() {
        tracing::warn!("the password in SMTP_URL can be read on the way: use ?tls=required or smtps://");
    }
}

/// How long ago that was. An instant in the future was noted by a clock that has been set back
/// since; it must not silence anything until the clock has caught up.
fn elapsed(at: DateTime<Utc>, now: DateTime<Utc>) -> TimeDelta {
    if at > now { TimeDelta::MAX } else { now - at }
}

fn seconds(n: u64) -> TimeDelta {
    TimeDelta::seconds(i64::try_from(n).unwrap_or(i64::MAX / 1_000))
}
