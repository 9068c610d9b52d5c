//! Schedules passes and digests, and detects missed runs.
//!
//! Each schedule is checked once a second against the time at which its run last *ended*. A run
//! that was prevented by a restart, another process's lock or a store therefore stays due.
//! tokio-cron-scheduler only wakes this code at each full second. On its own it would start a job
//! while the previous one runs, forget running jobs at shutdown, and do nothing after the clock was
//! set back. It also computes a time zone's offset only once, so `times.rs` handles daylight saving
//! time.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::mysql::{Db, DbError};
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;

use crate::context::{PassError, PassRequest};
use crate::notify::{LAST_DIGEST, MissedRun, Notifier};
use crate::passes::Passes;
use crate::queries;
use crate::record;
use crate::report::{Status, Trigger};
use crate::times::Times;

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
    const fn setting(self) -> &'static str {
        match self {
            Self::Reconcile => "RECONCILE_CRON",
            Self::Deep => "DEEP_CRON",
            Self::Digest => "DIGEST_CRON",
        }
    }

    /// Returns the schedules that have run once this job ends in any process, by their keys in
    /// `reconciler_state`. The first key is the job's own. A deep pass also covers the normal one.
    const fn counts_for(self) -> &'static [&'static str] {
        match self {
            Self::Deep => &["last_run:deep", "last_run:reconcile"],
            Self::Reconcile => &["last_run:reconcile"],
            Self::Digest => &[LAST_DIGEST],
        }
    }
}

/// The outcome of an attempt to run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum RunAttempt {
    /// The run completed.
    Ran,
    /// There was no run: another process holds the pass lock or has made the run, or the pass ended
    /// without a result.
    Busy,
    /// The run failed, with the reason.
    Failed(String),
}

/// Pause after an attempt without a run, usually because the pass lock was taken. Each attempt
/// costs one statement.
const AFTER_BUSY: TimeDelta = TimeDelta::seconds(5);
/// Pause after a failed attempt, unless the next scheduled run comes sooner.
const AFTER_FAILURE: TimeDelta = TimeDelta::seconds(30);

/// A schedule with the state of its runs.
#[derive(Debug, Clone)]
pub(crate) struct CronSchedule {
    job: ScheduledJob,
    times: Times,
    /// A run that is later than this is missed.
    tolerance: TimeDelta,
    /// When a run last ended in any process, as known to this process.
    last: DateTime<Utc>,
    /// A run that was due before this counts as due at this time when it is reported as late.
    late_from: DateTime<Utc>,
    /// When the last failed attempt began, or `None` if none has failed since the last run.
    /// Failures are reported in separate mails.
    failed_from: Option<DateTime<Utc>>,
    retry_at: Option<DateTime<Utc>>,
    /// Why the due run has not happened yet.
    because: Option<String>,
    /// Whether the delay was mailed.
    is_mailed: bool,
}

impl CronSchedule {
    /// Creates a schedule whose run last ended at `last`.
    fn new(job: ScheduledJob, times: Times, last: DateTime<Utc>) -> Self {
        Self {
            job,
            times,
            tolerance: TimeDelta::seconds(300),
            last,
            late_from: last,
            failed_from: None,
            retry_at: None,
            because: None,
            is_mailed: false,
        }
    }

    /// Creates a schedule in a process that starts `now`. A digest is late from now on at the
    /// earliest: until now, perhaps no process had recipients.
    fn begin(job: ScheduledJob, times: Times, last: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        let late_from = match job {
            ScheduledJob::Digest => now.max(last),
            ScheduledJob::Deep | ScheduledJob::Reconcile => last,
        };
        Self {
            late_from,
            ..Self::new(job, times, last)
        }
    }

    /// Reads from MySQL when the run last ended. If it has never run, stores the present time as
    /// that. Logs the next runs.
    pub(crate) async fn load(db: &Db, job: ScheduledJob, times: Times) -> Result<Self, DbError> {
        let now = Utc::now();
        let setting = job.setting();
        let key = job.counts_for()[0];
        let last = match record::recall(db, key).await? {
            Some(last) => last,
            None => record::remember(db, key, now).await.map(|()| now)?,
        };
        let next = std::iter::successors(times.next_after(now), |at| times.next_after(*at))
            .take(3)
            .map(|at| times.zone.local(at).to_string());
        let (next, zone): (Vec<String>, _) = (next.collect(), times.zone.name());
        tracing::info!(schedule = setting, zone, ?next, "the next three runs");
        Ok(Self::begin(job, times, last, now))
    }

    fn next_after(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.times.next_after(at)
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
        let due = self.next_after(from)?.max(self.late_from);
        (due + self.tolerance < now).then_some(due)
    }

    /// Corrects times that are in the future. Otherwise a clock that was set back would stop the
    /// schedule until it has caught up.
    fn note_clock(&mut self, now: DateTime<Utc>) {
        self.last = self.last.min(now);
        self.late_from = self.late_from.min(now);
        self.retry_at = self.retry_at.filter(|at| *at <= now + AFTER_FAILURE);
    }

    /// If a process has completed the run since the last known one, notes and returns when. Ignores
    /// times in the future, which come from a wrong clock.
    async fn recall(&mut self, db: &Db, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let ended = record::recall(db, self.job.counts_for()[0])
            .await
            .ok()
            .flatten()?;
        let is_new = ended <= now && ended > self.last;
        if !is_new {
            return None;
        }
        self.note(RunAttempt::Ran, ended, ended);
        Some(ended)
    }

    /// Records the outcome of an attempt.
    fn note(&mut self, attempt: RunAttempt, began: DateTime<Utc>, ended: DateTime<Utc>) {
        match attempt {
            RunAttempt::Ran => *self = Self::new(self.job, self.times.clone(), ended),
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

/// Runs the schedules of a daemon.
pub(crate) struct Schedules {
    db: Db,
    passes: Passes,
    notifier: Notifier,
    all: Vec<CronSchedule>,
}

impl Schedules {
    pub(crate) fn new(
        db: Db,
        passes: Passes,
        notifier: Notifier,
        mut all: Vec<CronSchedule>,
    ) -> Self {
        // A process that mails nobody must not take the digest from one that does.
        all.retain(|it| it.job != ScheduledJob::Digest || notifier.has_recipients());
        Self {
            db,
            passes,
            notifier,
            all,
        }
    }

    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let second = Arc::new(Notify::new());
        let mut scheduler = JobScheduler::new().await?;
        let notify = second.clone();
        let every_second = Job::new("* * * * * *", move |_, _| notify.notify_waiters())?;
        scheduler.add(every_second).await?;
        scheduler.start().await?;
        let all = self
            .all
            .iter()
            .cloned()
            .map(|schedule| self.follow(schedule, &second));
        tokio::select! {
            () = stop.cancelled() => {}
            _ = join_all(all) => {}
        }
        Ok(scheduler.shutdown().await?)
    }

    /// Starts the due runs of one schedule, one at a time, and reports late ones by mail. A pass
    /// runs at start-up even if none is due.
    async fn follow(&self, mut own: CronSchedule, second: &Notify) {
        let mut is_first = own.job == ScheduledJob::Reconcile;
        loop {
            let began = Utc::now();
            own.note_clock(began);
            let is_due = own.missed_since(began).is_some() || own.due_since(began).is_some();
            if is_due && let Some(ended) = own.recall(&self.db, began).await {
                is_first = false;
                // Another process has completed the run, and exports the remaining drift.
                if own.job != ScheduledJob::Digest && !self.passes.current.has_exported_since(ended)
                {
                    crate::metrics::drift(None, own.job == ScheduledJob::Deep);
                }
            }
            self.mail_missed(&mut own, began).await;
            let due = own.due_since(began);
            if let Some(due) = due.or(is_first.then_some(began)) {
                let mut attempt = std::pin::pin!(self.attempt(own.job, is_first, due));
                let attempt = loop {
                    tokio::select! {
                        attempt = &mut attempt => break attempt,
                        () = wake(second) => self.mail_missed(&mut own, Utc::now()).await,
                    }
                };
                let ended = Utc::now();
                if let Some(attempt) = attempt {
                    is_first = false;
                    // The run may have been late without a check in between, if the process was
                    // suspended.
                    self.mail_missed(&mut own, ended).await;
                    own.note(attempt, began, ended);
                }
            }
            wake(second).await;
        }
    }

    /// Runs a job once. Returns `None` if this process runs another pass: then the run stays due.
    async fn attempt(
        &self,
        job: ScheduledJob,
        is_first: bool,
        due: DateTime<Utc>,
    ) -> Option<RunAttempt> {
        if job == ScheduledJob::Digest {
            let mailed = self.notifier.daily_digest(due, Utc::now()).await;
            return Some(mailed.map_or_else(
                |error| RunAttempt::Failed(format!("{error:#}")),
                |()| RunAttempt::Ran,
            ));
        }
        let due = (!is_first).then_some(due);
        let trigger = due.map_or(Trigger::Startup, |_| Trigger::Cron);
        let request = PassRequest {
            deep: job == ScheduledJob::Deep,
            counts_for: job.counts_for(),
            due,
            ..PassRequest::new(trigger)
        };
        let started = self.passes.start(request).ok()?;
        tracing::debug!(started.run_id, schedule = job.setting(), "pass begins");
        Some(match started.ended.await {
            Ok(Ok(run)) if run.status == Status::Failed => {
                RunAttempt::Failed(run.error.unwrap_or_default())
            }
            Ok(Ok(_)) => RunAttempt::Ran,
            // Without a result, the process is stopping or the pass panicked.
            Ok(Err(PassError::Busy)) | Err(_) => RunAttempt::Busy,
            Ok(Err(error)) => RunAttempt::Failed(error.to_string()),
        })
    }

    async fn mail_missed(&self, own: &mut CronSchedule, now: DateTime<Utc>) {
        let Some(due) = own.missed_since(now).filter(|_| !own.is_mailed) else {
            return;
        };
        // `None` if no pass holds the lock now, or MySQL does not answer.
        let holder = queries::processes::pass_holder(&self.db)
            .await
            .ok()
            .flatten();
        let missed = MissedRun {
            schedule: own.job.setting().to_owned(),
            expected_at: due,
            noticed_at: now,
            because: holder.or_else(|| own.because.clone()),
        };
        tracing::warn!(?missed, "a scheduled run is late");
        match self.notifier.missed_run(missed).await {
            Ok(()) => own.is_mailed = true,
            Err(error) => tracing::debug!("no mail about a late run yet: {error:#}"),
        }
    }
}

/// Waits for the next full second, or for a second if the clock was set back.
async fn wake(second: &Notify) {
    tokio::select! {
        () = second.notified() => {}
        () = tokio::time::sleep(Duration::from_secs(1)) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::times::tests::{at, times};

    fn schedule(text: &str, job: ScheduledJob, last: &str) -> CronSchedule {
        CronSchedule::new(job, times(text, "UTC"), at(last))
    }

    fn deep() -> CronSchedule {
        schedule("0 0 3 * * *", ScheduledJob::Deep, "2026-01-01T03:00:05Z")
    }

    fn frequent(last: &str) -> CronSchedule {
        schedule("*/10 * * * * *", ScheduledJob::Reconcile, last)
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

    #[test]
    fn digest_is_late_from_the_start_of_the_process_at_the_earliest() {
        let [last, started] = ["2026-01-01T00:00:00Z", "2026-01-22T09:00:00Z"].map(at);
        let begin = |job| CronSchedule::begin(job, times("0 0 0 * * *", "UTC"), last, started);
        let digest = begin(ScheduledJob::Digest);
        assert!(digest.due_since(started).is_some(), "it is mailed at once");
        assert_eq!(digest.missed_since(started), None);
        let tolerated = started + TimeDelta::minutes(5);
        assert_eq!(digest.missed_since(tolerated), None);
        let second = TimeDelta::seconds(1);
        assert_eq!(digest.missed_since(tolerated + second), Some(started));
        assert!(begin(ScheduledJob::Deep).missed_since(started).is_some());
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
