//! Schedules passes and digests, and detects missed runs.
//!
//! Each schedule is checked once a second against the time at which its run last *ended*. A run
//! that was prevented by a restart, another process's lock or a store therefore stays due.
//! tokio-cron-scheduler only wakes this code at each full second. On its own it would start a job
//! while the previous one runs, forget running jobs at shutdown, and do nothing after the clock was
//! set back. It also computes a time zone's offset only once, so all times are UTC.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::tuning::Tuning;
use tokio::sync::{Notify, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;

use crate::context::{PassError, PassRequest};
use crate::notify::{LAST_DIGEST, MissedRun, Notifier};
use crate::passes::{PassResult, Passes};
use crate::record;
use crate::report::{Status, Trigger};

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
    /// Returns the name of the setting, and the key in `reconciler_state` of the time of its last
    /// run in any process.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Reconcile => ("RECONCILE_CRON", "last_run:reconcile"),
            Self::Deep => ("DEEP_CRON", "last_run:deep"),
            Self::Digest => ("DIGEST_CRON", LAST_DIGEST),
        }
    }

    /// Returns the keys of the schedules that count as run when its pass ends. A deep pass also
    /// covers the normal one.
    fn counts_for(self) -> &'static [&'static str] {
        const RECONCILE: &str = ScheduledJob::Reconcile.names().1;
        const DEEP: &str = ScheduledJob::Deep.names().1;
        match self {
            Self::Reconcile => &[RECONCILE],
            Self::Deep => &[DEEP, RECONCILE],
            Self::Digest => &[LAST_DIGEST],
        }
    }
}

/// Parses a cron expression with six fields, or one such as `@daily`, that has a future occurrence.
pub fn parse_cron(text: &str) -> Result<Cron, String> {
    if text.contains("TZ=") {
        return Err("times are in UTC: leave the time zone out, and convert the hours".to_owned());
    }
    let fields = text.split_whitespace().count();
    match fields {
        6 => {}
        1 if text.starts_with('@') => {}
        5 => {
            return Err(format!(
                "the field of the seconds is missing; write \"0 {text}\""
            ));
        }
        _ => {
            return Err(format!(
                "it has {fields} fields; six are needed: second minute hour day month weekday"
            ));
        }
    }
    let parser = CronParser::builder()
        .seconds(Seconds::Required)
        .dom_and_dow(true)
        .build();
    let cron = parser.parse(text);
    let cron = cron.map_err(|error| format!("it cannot be read: {error}"))?;
    cron.find_next_occurrence(&Utc::now(), false)
        .map_err(|_| "it never comes".to_owned())?;
    Ok(cron)
}

/// The outcome of an attempt to run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum RunAttempt {
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
pub(crate) struct CronSchedule {
    job: ScheduledJob,
    cron: Cron,
    /// A run that is later than this is missed.
    tolerance: TimeDelta,
    /// When a run last ended in any process, as known to this process.
    last: DateTime<Utc>,
    /// When the last attempt began, if it failed. Failures are reported in separate mails.
    failed_from: Option<DateTime<Utc>>,
    retry_at: Option<DateTime<Utc>>,
    /// Why the due run has not happened yet.
    because: Option<String>,
    /// Whether the delay was mailed.
    is_mailed: bool,
}

impl CronSchedule {
    /// Creates a schedule whose run last ended at `last`.
    fn new(job: ScheduledJob, cron: Cron, last: DateTime<Utc>) -> Self {
        Self {
            job,
            cron,
            tolerance: TimeDelta::seconds(Tuning::MissedAfterSeconds.or(300)),
            last,
            failed_from: None,
            retry_at: None,
            because: None,
            is_mailed: false,
        }
    }

    /// Reads from MySQL when the run last ended, or begins now if it has never run. Logs the next
    /// runs.
    pub(crate) async fn load(db: &Db, job: ScheduledJob, cron: &Cron) -> Result<Self, DbError> {
        let now = Utc::now();
        let (setting, key) = job.names();
        let last = match record::recall(db, key).await? {
            Some(last) => last,
            None => record::remember(db, key, now).await.map(|()| now)?,
        };
        let next = cron.iter_after(now).take(3).map(|at| at.to_string());
        let next: Vec<String> = next.collect();
        tracing::info!(schedule = setting, ?next, "the next three runs");
        Ok(Self::new(job, cron.clone(), last))
    }

    fn next_after(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.cron.find_next_occurrence(&at, false).ok()
    }

    /// Returns the time of the first run that is due.
    fn due_since(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let due = self.next_after(self.last)?;
        (due <= now && self.retry_at.is_none_or(|at| at <= now)).then_some(due)
    }

    /// Returns the time of the first run whose delay exceeds the tolerance. A normal pass that was
    /// attempted and failed does not count as late.
    fn missed_since(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let from = self
            .failed_from
            .filter(|_| self.job == ScheduledJob::Reconcile)
            .map_or(self.last, |at| at.max(self.last));
        let due = self.next_after(from)?;
        (due + self.tolerance < now).then_some(due)
    }

    /// Corrects times that are in the future. Otherwise a clock that was set back would stop the
    /// schedule until it has caught up.
    fn note_clock(&mut self, now: DateTime<Utc>) {
        self.last = self.last.min(now);
        self.retry_at = self.retry_at.filter(|at| *at <= now + AFTER_FAILURE);
    }

    /// Whether another process has completed the run. Ignores times in the future, which come from
    /// a wrong clock.
    async fn recall(&mut self, db: &Db, now: DateTime<Utc>) -> bool {
        let made = record::recall(db, self.job.names().1).await;
        let made = made.ok().flatten();
        let made = made.filter(|at| *at <= now && *at > self.last);
        made.inspect(|at| self.note(RunAttempt::Ran, *at, *at))
            .is_some()
    }

    /// Records the outcome of an attempt.
    fn note(&mut self, attempt: RunAttempt, began: DateTime<Utc>, ended: DateTime<Utc>) {
        match attempt {
            RunAttempt::Ran => *self = Self::new(self.job, self.cron.clone(), ended),
            RunAttempt::Busy => self.retry_at = Some(ended + AFTER_BUSY),
            RunAttempt::Failed(reason) => {
                self.failed_from = Some(began);
                self.because = Some(format!("its last attempt failed: {reason}"));
                let pause = ended + AFTER_FAILURE;
                let next = self.next_after(ended);
                self.retry_at = Some(next.map_or(pause, |next| next.min(pause)));
            }
        }
    }
}

/// Runs passes and digests when they are due, retries each until it succeeds, and reports late runs
/// by mail.
pub(crate) struct Schedules {
    db: Db,
    passes: Passes,
    notifier: Notifier,
    /// The deep one is first, because its pass includes the normal one.
    all: Vec<CronSchedule>,
    /// The trigger of the next pass. A pass runs at start-up even if none is due.
    trigger: Trigger,
    under_way: Option<UnderWay>,
}

/// A pass started by a schedule.
struct UnderWay {
    job: ScheduledJob,
    began: DateTime<Utc>,
    answer: oneshot::Receiver<PassResult>,
}

impl Schedules {
    pub(crate) fn new(db: Db, passes: Passes, notifier: Notifier, all: Vec<CronSchedule>) -> Self {
        Self {
            db,
            passes,
            notifier,
            all,
            trigger: Trigger::Startup,
            under_way: None,
        }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let wake = Arc::new(Notify::new());
        let mut scheduler = JobScheduler::new().await?;
        let notify = wake.clone();
        let every_second = Job::new("* * * * * *", move |_, _| notify.notify_one())?;
        scheduler.add(every_second).await?;
        scheduler.start().await?;
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = Utc::now();
            for at in 0..self.all.len() {
                self.tend(at, now).await;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                result = pass_ended(&mut self.under_way) => {
                    if let Some(pass) = self.under_way.take() {
                        self.note(pass.job, pass.began, result).await;
                    }
                }
                () = wake.notified() => {}
                _ = ticks.tick() => {}
            }
        }
        Ok(scheduler.shutdown().await?)
    }

    /// Reports a late run by mail, and starts a due one.
    async fn tend(&mut self, at: usize, now: DateTime<Utc>) {
        let own = &mut self.all[at];
        let job = own.job;
        own.note_clock(now);
        let is_due = own.missed_since(now).is_some() || own.due_since(now).is_some();
        // Another process may have completed the run, and exports the remaining drift then. While
        // this process runs a pass, no other can.
        if self.under_way.is_none()
            && is_due
            && own.recall(&self.db, now).await
            && job != ScheduledJob::Digest
        {
            crate::metrics::drift(None, job == ScheduledJob::Deep);
        }
        self.mail_missed(at, now).await;
        let is_first = self.trigger == Trigger::Startup && job == ScheduledJob::Reconcile;
        match self.all[at].due_since(now) {
            Some(due) if job == ScheduledJob::Digest => {
                let mailed = self.notifier.daily_digest(due, now).await;
                let attempt = mailed.map_or_else(
                    |error| RunAttempt::Failed(format!("{error:#}")),
                    |()| RunAttempt::Ran,
                );
                tracing::debug!(?attempt, "the daily digest");
                self.all[at].note(attempt, now, now);
            }
            due if due.is_some() || is_first => self.begin(job, now),
            _ => {}
        }
    }

    /// Starts a pass, unless one is running: then it stays due.
    fn begin(&mut self, job: ScheduledJob, began: DateTime<Utc>) {
        if self.under_way.is_some() {
            return;
        }
        let request = PassRequest {
            deep: job == ScheduledJob::Deep,
            counts_for: job.counts_for(),
            ..PassRequest::new(self.trigger)
        };
        if let Ok((run_id, answer)) = self.passes.start(request) {
            tracing::debug!(run_id, schedule = job.names().0, "pass begins");
            self.trigger = Trigger::Cron;
            self.under_way = Some(UnderWay { job, began, answer });
        }
    }

    /// Records the end of a pass. There is no result if the process is stopping or it panicked.
    async fn note(&mut self, job: ScheduledJob, began: DateTime<Utc>, result: Option<PassResult>) {
        let now = Utc::now();
        let attempt = match result {
            Some(Ok(run)) if run.status == Status::Failed => {
                RunAttempt::Failed(run.error.unwrap_or_default())
            }
            Some(Ok(_)) => RunAttempt::Ran,
            Some(Err(PassError::Busy)) | None => RunAttempt::Busy,
            Some(Err(error)) => RunAttempt::Failed(error.to_string()),
        };
        for at in 0..self.all.len() {
            let own = self.all[at].job;
            let counts = job.counts_for().contains(&own.names().1);
            let has_run = attempt == RunAttempt::Ran && counts;
            if has_run {
                // It may have ended late before anybody noticed: the process was suspended.
                self.mail_missed(at, now).await;
            }
            if own == job || has_run {
                self.all[at].note(attempt.clone(), began, now);
            }
        }
    }

    async fn mail_missed(&mut self, at: usize, now: DateTime<Utc>) {
        let missed = self.all[at].missed_since(now);
        let Some(due) = missed.filter(|_| !self.all[at].is_mailed) else {
            return;
        };
        // The lock was just released, or MySQL is unavailable: the next attempt shows which.
        let holder = self.db.pass_holder().await.ok().flatten();
        let own = &mut self.all[at];
        let missed = MissedRun {
            schedule: own.job.names().0.to_owned(),
            expected_at: due,
            noticed_at: now,
            because: holder.or_else(|| own.because.clone()),
        };
        tracing::warn!(?missed, "a scheduled run is late");
        match self.notifier.missed_run(missed).await {
            Ok(()) => own.is_mailed = true,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::debug!(error, "the mail about a late run is not in the outbox yet");
            }
        }
    }
}

/// Waits for the end of the pass under way. Never completes if there is none.
async fn pass_ended(under_way: &mut Option<UnderWay>) -> Option<PassResult> {
    match under_way {
        Some(pass) => (&mut pass.answer).await.ok(),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::from_str(text).unwrap()
    }

    fn schedule(text: &str, job: ScheduledJob, last: &str) -> CronSchedule {
        CronSchedule::new(job, parse_cron(text).unwrap(), at(last))
    }

    fn deep() -> CronSchedule {
        schedule("0 0 3 * * *", ScheduledJob::Deep, "2026-01-01T03:00:05Z")
    }

    fn frequent(last: &str) -> CronSchedule {
        schedule("*/10 * * * * *", ScheduledJob::Reconcile, last)
    }

    #[test]
    fn dialects_are_understood_or_refused_with_what_to_write() {
        let next = |text: &str| {
            let cron = parse_cron(text).unwrap();
            let next = cron.find_next_occurrence(&at("2026-01-01T12:00:00Z"), false);
            next.unwrap().to_string()
        };
        assert_eq!(next("*/30 * * * * *"), "2026-01-01 12:00:30 UTC");
        assert_eq!(next("@daily"), "2026-01-02 00:00:00 UTC");
        assert_eq!(next("0 0 3 ? * MON"), "2026-01-05 03:00:00 UTC");
        for (text, says) in [
            ("30 3 * * *", "write \"0 30 3 * * *\""),
            ("CRON_TZ=Asia/Seoul 0 0 3 * * *", "UTC"),
            ("0 0 3 * * ? 2027", "7 fields"),
            ("0 0 0 31 2 *", "never"),
            ("@every 5m", "2 fields"),
            ("x * * * * *", "cannot be read"),
        ] {
            let why = parse_cron(text).unwrap_err();
            assert!(why.contains(says), "{text}: {why}");
        }
    }

    #[test]
    fn run_is_missed_when_it_is_later_than_tolerated() {
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
        schedule.is_mailed = true;
        schedule.note(RunAttempt::Ran, ended, ended);
        assert_eq!(schedule.missed_since(ended), None, "it has run");
        let next = schedule.missed_since(at("2026-01-03T03:06:00Z"));
        assert!(next.is_some() && !schedule.is_mailed, "the next one");
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
            assert_eq!(schedule.due_since(tried + second * 4), None);
        }
        let tried = at("2026-01-02T03:10:00Z");
        assert_eq!(schedule.missed_since(tried), due);
        schedule.note(RunAttempt::Failed("MySQL is away".into()), tried, tried);
        assert_eq!(schedule.due_since(tried + second * 29), None);
        assert_eq!(schedule.due_since(tried + second * 30), due);
        assert_eq!(schedule.missed_since(tried), due, "no other mail says so");
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
