//! Schedules passes, and detects missed runs.
//!
//! Each schedule is checked once a second against the time at which its run last *ended*. A run
//! that was prevented by a restart, another process's lock or a store therefore stays due.
//! tokio-cron-scheduler only wakes this code at the exact second. On its own it would start a job
//! while the previous one runs, forget running jobs at shutdown, and do nothing after the clock was
//! set back. It also computes a time zone's offset only once, so all times are UTC.

use std::sync::Arc;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use croner::Cron;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::tuning::Tuning;
use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler};

use crate::notify::LAST_DIGEST;
use crate::record;

/// The scheduled jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScheduledJob {
    /// A pass that includes sealed drops.
    Deep,
    /// A pass over drops that are not sealed.
    Reconcile,
    Digest,
}

impl ScheduledJob {
    /// Returns the name of the setting.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Reconcile => "RECONCILE_CRON",
            Self::Deep => "DEEP_CRON",
            Self::Digest => "DIGEST_CRON",
        }
    }

    /// Returns the key in `reconciler_state` of the time of its last run in any process.
    pub const fn state_name(self) -> &'static str {
        match self {
            Self::Reconcile => "last_run:reconcile",
            Self::Deep => "last_run:deep",
            Self::Digest => LAST_DIGEST,
        }
    }

    /// Returns the keys of the schedules that count as run when its pass ends. A deep pass also
    /// covers the normal one.
    pub fn counts_for(self) -> &'static [&'static str] {
        const RECONCILE: &str = ScheduledJob::Reconcile.state_name();
        const DEEP: &str = ScheduledJob::Deep.state_name();
        match self {
            Self::Reconcile => &[RECONCILE],
            Self::Deep => &[DEEP, RECONCILE],
            Self::Digest => &[LAST_DIGEST],
        }
    }
}

/// Checks that a cron expression has six fields and at least one future occurrence.
pub fn six_fields(text: &str) -> Result<String, String> {
    let fields = text.split_whitespace().count();
    if fields != 6 {
        return Err(format!(
            "it has {fields} fields; six are needed: second minute hour day month weekday"
        ));
    }
    let cron = parse(text).map_err(|error| format!("it cannot be read: {error}"))?;
    cron.find_next_occurrence(&Utc::now(), false)
        .map_err(|_| "it never comes".to_owned())?;
    Ok(text.to_owned())
}

fn parse(text: &str) -> Result<Cron, croner::errors::CronError> {
    croner::parser::CronParser::builder()
        .seconds(croner::parser::Seconds::Required)
        .dom_and_dow(true)
        .build()
        .parse(text)
}

/// The outcome of an attempt to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunAttempt {
    /// The run completed.
    Ran,
    /// Another process holds the pass lock.
    Busy,
    /// The run failed, with the reason.
    Failed(String),
}

/// Pause after an attempt that found the pass lock taken. Each attempt costs one statement.
const AFTER_BUSY: TimeDelta = TimeDelta::seconds(5);
/// Pause after a failed attempt, unless the next scheduled run comes sooner.
const AFTER_FAILURE: TimeDelta = TimeDelta::seconds(30);

/// A schedule with the state of its runs.
#[derive(Debug, Clone)]
pub struct CronSchedule {
    pub event: ScheduledJob,
    cron: Cron,
    /// A run that is later than this is missed.
    tolerance: TimeDelta,
    /// When a run last ended in any process, as known to this process.
    pub last: DateTime<Utc>,
    /// When the last attempt began, if it failed. Failures are reported in separate mails.
    failed_from: Option<DateTime<Utc>>,
    retry_at: Option<DateTime<Utc>>,
    /// Why the due run has not happened yet.
    pub because: Option<String>,
    /// Whether the delay was mailed.
    pub is_mailed: bool,
}

impl CronSchedule {
    /// Creates a schedule whose run last ended at `last`.
    pub fn new(event: ScheduledJob, text: &str, last: DateTime<Utc>) -> anyhow::Result<Self> {
        let cron = parse(text).with_context(|| format!("{} cannot be read", event.setting()))?;
        Ok(Self {
            event,
            cron,
            tolerance: TimeDelta::seconds(Tuning::MissedAfterSeconds.or(300)),
            last,
            failed_from: None,
            retry_at: None,
            because: None,
            is_mailed: false,
        })
    }

    /// Returns when its run last ended according to MySQL, or the current time if it has never run.
    pub(super) async fn last_run(db: &Db, event: ScheduledJob) -> Result<DateTime<Utc>, DbError> {
        if let Some(at) = record::recall(db, event.state_name()).await? {
            return Ok(at);
        }
        let now = Utc::now();
        record::remember(db, event.state_name(), now).await?;
        Ok(now)
    }

    /// Returns the time of the first run that is due.
    pub fn due_since(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let due = self.cron.find_next_occurrence(&self.last, false).ok()?;
        (due <= now && self.retry_at.is_none_or(|at| at <= now)).then_some(due)
    }

    /// Returns the time of the first run whose delay exceeds the tolerance. A normal pass that was
    /// attempted and failed does not count as late.
    pub fn missed_since(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let from = self
            .failed_from
            .filter(|_| self.event == ScheduledJob::Reconcile)
            .map_or(self.last, |at| at.max(self.last));
        let due = self.cron.find_next_occurrence(&from, false).ok()?;
        (due + self.tolerance < now).then_some(due)
    }

    /// Returns the time of a missed run that has not been mailed yet.
    pub fn unmailed(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.missed_since(now).filter(|_| !self.is_mailed)
    }

    /// Corrects times that are in the future. Otherwise a clock that was set back would stop the
    /// schedule until it has caught up.
    pub fn note_clock(&mut self, now: DateTime<Utc>) {
        self.last = self.last.min(now);
        self.retry_at = self.retry_at.filter(|at| *at <= now + AFTER_FAILURE);
    }

    /// Whether another process has completed the run. Ignores times in the future, which come from
    /// a wrong clock.
    pub(super) async fn recall(&mut self, db: &Db, now: DateTime<Utc>) -> bool {
        let made = record::recall(db, self.event.state_name()).await;
        let made = made.ok().flatten();
        let made = made.filter(|at| *at <= now && *at > self.last);
        made.inspect(|at| self.ran(*at)).is_some()
    }

    /// Records the end of a run.
    fn ran(&mut self, ended: DateTime<Utc>) {
        self.last = ended;
        self.failed_from = None;
        self.retry_at = None;
        self.because = None;
        self.is_mailed = false;
    }

    /// Records the outcome of an attempt by this process.
    pub fn note(&mut self, attempt: RunAttempt, began: DateTime<Utc>, ended: DateTime<Utc>) {
        self.retry_at = match attempt {
            RunAttempt::Ran => return self.ran(ended),
            RunAttempt::Busy => Some(ended + AFTER_BUSY),
            RunAttempt::Failed(reason) => {
                self.failed_from = Some(began);
                self.because = Some(format!("its last attempt failed: {reason}"));
                let next = self.cron.find_next_occurrence(&ended, false).ok();
                Some(next.map_or(ended + AFTER_FAILURE, |next| {
                    next.min(ended + AFTER_FAILURE)
                }))
            }
        };
    }
}

/// Starts the scheduler, which wakes the loop at the time of each event until its `shutdown`.
pub async fn start(
    schedules: &[(ScheduledJob, &str)],
    wake: Arc<Notify>,
) -> anyhow::Result<JobScheduler> {
    let scheduler = JobScheduler::new().await?;
    for (event, text) in schedules {
        let wake = wake.clone();
        let job = Job::new(*text, move |_, _| wake.notify_one())
            .with_context(|| format!("{} cannot be read", event.setting()))?;
        scheduler.add(job).await?;
    }
    scheduler.start().await?;
    Ok(scheduler)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::from_str(text).unwrap()
    }

    fn schedule(text: &str, event: ScheduledJob, last: &str) -> CronSchedule {
        CronSchedule::new(event, text, at(last)).unwrap()
    }

    fn deep() -> CronSchedule {
        schedule("0 0 3 * * *", ScheduledJob::Deep, "2026-01-01T03:00:05Z")
    }

    fn frequent(last: &str) -> CronSchedule {
        schedule("*/10 * * * * *", ScheduledJob::Reconcile, last)
    }

    #[test]
    fn only_six_field_schedules_with_a_future_run_are_accepted() {
        assert!(six_fields("*/30 * * * * *").is_ok());
        assert!(six_fields("* * * * *").unwrap_err().contains("5 fields"));
        assert!(six_fields("0 0 0 31 2 *").unwrap_err().contains("never"));
        assert!(six_fields("x * * * * *").is_err());
    }

    #[test]
    fn run_is_missed_when_it_is_later_than_tolerated_and_mailed_once() {
        let due = Some(at("2026-01-02T03:00:00Z"));
        let mut schedule = deep();
        for (now, expected) in [
            ("2026-01-01T23:00:00Z", None),
            ("2026-01-02T03:04:00Z", None),
            ("2026-01-02T03:06:00Z", due),
            ("2026-01-09T00:00:00Z", due),
        ] {
            assert_eq!(schedule.missed_since(at(now)), expected, "{now}");
        }
        let ended = at("2026-01-02T03:06:00Z");
        assert_eq!(schedule.unmailed(ended), due);
        schedule.is_mailed = true;
        assert_eq!(schedule.unmailed(ended), None);
        schedule.note(RunAttempt::Ran, ended, ended);
        assert_eq!(schedule.unmailed(ended), None, "it has run");
        let next = schedule.unmailed(at("2026-01-03T03:06:00Z"));
        assert!(next.is_some(), "the next one");
    }

    /// The daily deep pass is due at 03:00 while an operator's pass holds the lock.
    #[test]
    fn run_that_could_not_start_or_failed_stays_due() {
        let mut schedule = deep();
        let first = at("2026-01-02T03:00:00Z");
        let due = Some(first);
        let second = TimeDelta::seconds(1);
        assert_eq!(schedule.due_since(first - second), None);
        for n in 0..100 {
            let tried = first + second * (5 * n);
            assert_eq!(schedule.due_since(tried), due, "attempt {n}");
            schedule.note(RunAttempt::Busy, tried, tried);
            let at_once = schedule.due_since(tried + second * 4);
            assert_eq!(at_once, None, "not at once again");
        }
        let tried = at("2026-01-02T03:10:00Z");
        assert_eq!(schedule.missed_since(tried), due);
        schedule.note(RunAttempt::Failed("MySQL is away".into()), tried, tried);
        assert_eq!(schedule.due_since(tried + second * 29), None);
        assert_eq!(schedule.due_since(tried + second * 30), due);
        let missed = schedule.missed_since(tried);
        assert_eq!(missed, due, "no other mail says that it is lost");
        schedule.note(RunAttempt::Ran, tried, at("2026-01-02T03:20:00Z"));
        assert_eq!(schedule.due_since(at("2026-01-03T02:59:59Z")), None);
        assert_eq!(schedule.missed_since(at("2026-01-02T23:00:00Z")), None);
    }

    #[test]
    fn frequent_pass_is_late_if_it_hangs_but_not_if_it_fails() {
        let mut schedule = frequent("2026-01-01T03:00:00Z");
        let tried = at("2026-01-01T04:00:00Z");
        schedule.note(RunAttempt::Failed("Redis is away".into()), tried, tried);
        assert_eq!(schedule.missed_since(tried + TimeDelta::minutes(1)), None);
        let hangs = schedule.missed_since(tried + TimeDelta::minutes(6));
        assert!(hangs.is_some());
        let next = schedule.due_since(tried + TimeDelta::seconds(10));
        assert!(next.is_some(), "its own next time is sooner");
    }

    #[test]
    fn clock_that_is_set_back_does_not_stop_schedules() {
        let mut schedule = frequent("2026-01-01T05:00:00Z");
        let ahead = at("2026-01-01T05:00:00Z");
        schedule.note(RunAttempt::Busy, ahead, ahead);
        let now = at("2026-01-01T03:00:00Z");
        schedule.note_clock(now);
        assert_eq!(schedule.due_since(now + TimeDelta::seconds(9)), None);
        assert!(schedule.due_since(now + TimeDelta::seconds(10)).is_some());
    }
}
