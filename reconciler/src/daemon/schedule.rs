//! Schedules passes and digests.
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
use crate::notify::{self, LAST_DIGEST, Notifier, ScheduledRun};
use crate::passes::Passes;
use crate::record;
use crate::report::{Kind, Run, Status, Trigger};
use crate::times::Times;

/// Returns the schedules that have run once this run ends in any process, by their keys in
/// `reconciler_state`. The first key is the run's own. A deep pass also covers the normal one.
const fn counts_for(run: ScheduledRun) -> &'static [&'static str] {
    match run {
        ScheduledRun::Deep => &["last_run:deep", "last_run:reconcile"],
        ScheduledRun::Reconcile => &["last_run:reconcile"],
        ScheduledRun::Digest => &[LAST_DIGEST],
    }
}

/// The outcome of an attempt to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunAttempt {
    /// The run completed.
    Ran,
    /// It completed, and saw something that another look soon must confirm.
    Unsure,
    /// There was no run: another process holds the pass lock or has made the run, or the pass ended
    /// without a result.
    Busy,
    Failed,
}

/// Pause after an attempt without a run, usually because the pass lock was taken. Each attempt
/// costs one statement.
const AFTER_BUSY: TimeDelta = TimeDelta::seconds(5);
/// Pause after a failed attempt, unless the next scheduled run comes sooner.
const AFTER_FAILURE: TimeDelta = TimeDelta::seconds(30);

/// How often a look that saw something doubtful is repeated, whatever the schedule.
const REPEATS: u32 = 3;

/// A schedule with the state of its runs.
#[derive(Debug, Clone)]
pub(crate) struct CronSchedule {
    job: ScheduledRun,
    times: Times,
    /// When a run last ended in any process, as known to this process.
    last: DateTime<Utc>,
    retry_at: Option<DateTime<Utc>>,
    /// When the last run is repeated, and how often that was done.
    again_at: Option<DateTime<Utc>>,
    repeats: u32,
}

impl CronSchedule {
    /// Creates a schedule whose run last ended at `last`.
    fn new(job: ScheduledRun, times: Times, last: DateTime<Utc>) -> Self {
        Self {
            job,
            times,
            last,
            retry_at: None,
            again_at: None,
            repeats: 0,
        }
    }

    /// The schedule as alerts see it. A digest is late from now on at the earliest: until now,
    /// perhaps no process had recipients.
    pub(crate) fn watched(&self) -> notify::Schedule {
        let times = self.times.clone();
        notify::Schedule {
            schedule: self.job,
            key: counts_for(self.job)[0],
            from: match self.job {
                ScheduledRun::Digest => Utc::now(),
                ScheduledRun::Deep | ScheduledRun::Reconcile => self.last,
            },
            next_after: Arc::new(move |at| times.next_after(at)),
        }
    }

    /// Reads from MySQL when the run last ended. If it has never run, stores the present time as
    /// that. Logs the next runs.
    pub(crate) async fn load(db: &Db, job: ScheduledRun, times: Times) -> Result<Self, DbError> {
        let now = Utc::now();
        let setting = job.setting();
        let key = counts_for(job)[0];
        let last = match record::recall(db, key).await? {
            Some(last) => last,
            None => record::remember(db, key, now).await.map(|()| now)?,
        };
        let next = std::iter::successors(times.next_after(now), |at| times.next_after(*at))
            .take(3)
            .map(|at| times.zone.local(at).to_string());
        let (next, zone): (Vec<String>, _) = (next.collect(), times.zone.name());
        tracing::info!(schedule = setting, zone, ?next, "the next three runs");
        Ok(Self::new(job, times, last))
    }

    fn next_after(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.times.next_after(at)
    }

    /// Returns the time of the first run that is due.
    fn due_since(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let next = self.next_after(self.last).into_iter().chain(self.again_at);
        let due = next.min()?;
        (due <= now && self.retry_at.is_none_or(|at| at <= now)).then_some(due)
    }

    /// Corrects times that are in the future. Otherwise a clock that was set back would stop the
    /// schedule until it has caught up.
    fn note_clock(&mut self, now: DateTime<Utc>) {
        self.last = self.last.min(now);
        let soon = |at: &DateTime<Utc>| *at <= now + AFTER_FAILURE;
        self.retry_at = self.retry_at.filter(soon);
        self.again_at = self.again_at.filter(soon);
    }

    /// Whether a process has completed the run since the last known one, which is noted. Ignores
    /// times in the future, which come from a wrong clock.
    async fn recall(&mut self, db: &Db, now: DateTime<Utc>) -> bool {
        let ended = record::recall(db, counts_for(self.job)[0]).await;
        let new = ended
            .ok()
            .flatten()
            .filter(|at| *at <= now && *at > self.last);
        if let Some(ended) = new {
            self.note(RunAttempt::Ran, ended);
        }
        new.is_some()
    }

    /// Records the outcome of an attempt.
    fn note(&mut self, attempt: RunAttempt, ended: DateTime<Utc>) {
        match attempt {
            RunAttempt::Ran => *self = Self::new(self.job, self.times.clone(), ended),
            RunAttempt::Unsure => {
                let repeats = self.repeats + 1;
                *self = Self {
                    again_at: (repeats <= REPEATS).then_some(ended + AFTER_FAILURE),
                    repeats,
                    ..Self::new(self.job, self.times.clone(), ended)
                };
            }
            RunAttempt::Busy => self.retry_at = Some(ended + AFTER_BUSY),
            RunAttempt::Failed => {
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
        all.retain(|it| it.job != ScheduledRun::Digest || notifier.has_recipients());
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

    /// Starts the due runs of one schedule, one at a time. A pass runs at start-up even if none is
    /// due.
    async fn follow(&self, mut own: CronSchedule, second: &Notify) {
        let mut is_first = own.job == ScheduledRun::Reconcile;
        loop {
            let began = Utc::now();
            own.note_clock(began);
            if own.due_since(began).is_some() && own.recall(&self.db, began).await {
                is_first = false;
            }
            let due = own.due_since(began);
            if let Some(due) = due.or(is_first.then_some(began)) {
                let attempt = self.attempt(own.job, is_first, due).await;
                if let Some(attempt) = attempt {
                    is_first = false;
                    own.note(attempt, Utc::now());
                }
            }
            wake(second).await;
        }
    }

    /// Runs a job once. Returns `None` if this process runs another pass: then the run stays due.
    async fn attempt(
        &self,
        job: ScheduledRun,
        is_first: bool,
        due: DateTime<Utc>,
    ) -> Option<RunAttempt> {
        if job == ScheduledRun::Digest {
            let mailed = self.notifier.daily_digest(due, Utc::now()).await;
            return Some(match mailed {
                Ok(()) => RunAttempt::Ran,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the digest is not mailed yet");
                    RunAttempt::Failed
                }
            });
        }
        let due = (!is_first).then_some(due);
        let trigger = due.map_or(Trigger::Startup, |_| Trigger::Cron);
        let request = PassRequest {
            deep: job == ScheduledRun::Deep,
            counts_for: counts_for(job),
            due,
            ..PassRequest::new(trigger)
        };
        let started = self.passes.start(request).ok()?;
        tracing::debug!(started.run_id, schedule = job.setting(), "pass begins");
        Some(match started.ended.await {
            Ok(Ok(run)) if run.status == Status::Failed => RunAttempt::Failed,
            Ok(Ok(run)) if is_unsure(&run) => RunAttempt::Unsure,
            Ok(Ok(_)) => RunAttempt::Ran,
            // Without a result, the process is stopping or the pass panicked.
            Ok(Err(PassError::Busy)) | Err(_) => RunAttempt::Busy,
            Ok(Err(_)) => RunAttempt::Failed,
        })
    }
}

/// Whether a run could not compare something that it may compare in a moment. It is mailed once
/// another look confirms it.
fn is_unsure(run: &Run) -> bool {
    run.all_findings().any(|found| found.kind == Kind::Stalled)
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

    fn schedule(text: &str, job: ScheduledRun, last: &str) -> CronSchedule {
        CronSchedule::new(job, times(text, "UTC"), at(last))
    }

    fn deep() -> CronSchedule {
        schedule("0 0 3 * * *", ScheduledRun::Deep, "2026-01-01T03:00:05Z")
    }

    fn frequent(last: &str) -> CronSchedule {
        schedule("*/10 * * * * *", ScheduledRun::Reconcile, last)
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
            schedule.note(RunAttempt::Busy, tried);
            assert_eq!(schedule.due_since(tried + second * 4), None);
        }
        let tried = at("2026-01-02T03:10:00Z");
        schedule.note(RunAttempt::Failed, tried);
        assert_eq!(schedule.due_since(tried + second * 29), None);
        assert_eq!(schedule.due_since(tried + second * 30), due);
        schedule.note(RunAttempt::Ran, at("2026-01-02T03:20:00Z"));
        assert_eq!(schedule.due_since(at("2026-01-03T02:59:59Z")), None);
    }

    #[test]
    fn doubtful_look_is_repeated_three_times_whatever_the_schedule() {
        let mut schedule = deep();
        let mut ended = at("2026-01-02T03:00:05Z");
        for repeats in 0..4 {
            schedule.note(RunAttempt::Unsure, ended);
            ended += AFTER_FAILURE;
            assert_eq!(
                schedule.due_since(ended).is_some(),
                repeats < 3,
                "{repeats}"
            );
        }
        schedule.note(RunAttempt::Ran, ended);
        assert_eq!(schedule.due_since(ended + AFTER_FAILURE), None);
    }

    #[test]
    fn clock_that_is_set_back_does_not_stop_schedules() {
        let mut schedule = frequent("2026-01-01T05:00:00Z");
        let ahead = at("2026-01-01T05:00:00Z");
        schedule.note(RunAttempt::Busy, ahead);
        let now = at("2026-01-01T03:00:00Z");
        schedule.note_clock(now);
        assert_eq!(schedule.due_since(now + TimeDelta::seconds(9)), None);
        assert!(schedule.due_since(now + TimeDelta::seconds(10)).is_some());
    }
}
