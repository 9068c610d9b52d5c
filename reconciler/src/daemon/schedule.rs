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

use chrono::{DateTime, Utc};
use firstcome_shared::mysql::{Db, DbError};
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;

use crate::context::{Ask, PassError, PassRequest, counts_for};
use crate::notify::{self, Notifier, ScheduledRun};
use crate::passes::Passes;
use crate::record;
use crate::report::{Kind, Run, Status};
use crate::times::Times;

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
const AFTER_BUSY: Duration = Duration::from_secs(5);
/// Pause after a failed or doubtful attempt, unless the next scheduled run comes sooner.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// How often a look that saw something doubtful is repeated, whatever the schedule.
const REPEATS: u32 = 3;

/// A schedule with the state of its runs.
#[derive(Debug, Clone)]
pub(crate) struct CronSchedule {
    job: ScheduledRun,
    times: Times,
    /// When a run last ended in any process, as known to this process.
    last: DateTime<Utc>,
    /// How many runs in a row were doubtful. While they are few, another one is due.
    doubtful: u32,
}

impl CronSchedule {
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
        Ok(Self {
            job,
            times,
            last,
            doubtful: 0,
        })
    }

    /// Returns the time of the first run that is due.
    fn due_since(&mut self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // Otherwise a clock that was set back would stop the schedule until it has caught up.
        self.last = self.last.min(now);
        let next = self.times.next_after(self.last);
        let is_repeated = (1..=REPEATS).contains(&self.doubtful);
        let again = is_repeated.then_some(now);
        next.into_iter()
            .chain(again)
            .min()
            .filter(|due| *due <= now)
    }

    /// Notes that another process has completed the run since the last known one. Ignores times in
    /// the future, which come from a wrong clock.
    async fn recall(&mut self, db: &Db, now: DateTime<Utc>) {
        let ended = record::recall(db, counts_for(self.job)[0]).await;
        let new = ended
            .ok()
            .flatten()
            .filter(|at| *at <= now && *at > self.last);
        if let Some(ended) = new {
            self.note(RunAttempt::Ran, ended);
        }
    }

    /// Records the outcome of an attempt. Returns the pause before the next one.
    fn note(&mut self, attempt: RunAttempt, ended: DateTime<Utc>) -> Duration {
        if matches!(attempt, RunAttempt::Ran | RunAttempt::Unsure) {
            self.last = ended;
        }
        match attempt {
            RunAttempt::Ran => {
                self.doubtful = 0;
                return Duration::ZERO;
            }
            RunAttempt::Busy => return AFTER_BUSY,
            RunAttempt::Unsure => self.doubtful += 1,
            RunAttempt::Failed => {}
        }
        let next = self.times.next_after(ended);
        let wait = next.and_then(|next| (next - ended).to_std().ok());
        wait.map_or(AFTER_FAILURE, |wait| wait.min(AFTER_FAILURE))
    }
}

/// Runs the schedules of a daemon.
pub(crate) struct Schedules {
    pub(crate) db: Db,
    pub(crate) passes: Passes,
    pub(crate) notifier: Notifier,
}

impl Schedules {
    pub(crate) async fn run(
        self,
        mut all: Vec<CronSchedule>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        // A process that mails nobody must not take the digest from one that does.
        all.retain(|it| it.job != ScheduledRun::Digest || self.notifier.has_recipients());
        let second = Arc::new(Notify::new());
        let mut scheduler = JobScheduler::new().await?;
        let notify = second.clone();
        let every_second = Job::new("* * * * * *", move |_, _| notify.notify_waiters())?;
        scheduler.add(every_second).await?;
        scheduler.start().await?;
        let all = all
            .into_iter()
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
            if own.due_since(began).is_some() {
                own.recall(&self.db, began).await;
            }
            let due = own.due_since(began).or(is_first.then_some(began));
            if let Some(due) = due
                && let Some(attempt) = self.attempt(own.job, is_first, due).await
            {
                is_first = false;
                tokio::time::sleep(own.note(attempt, Utc::now())).await;
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
        let ask = if is_first {
            Ask::Startup
        } else {
            Ask::Cron { run: job, due }
        };
        let request = PassRequest {
            deep: job == ScheduledRun::Deep,
            ..PassRequest::new(ask)
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
    use chrono::TimeDelta;

    use super::*;
    use crate::times::tests::{at, times};

    fn schedule(text: &str, job: ScheduledRun, last: &str) -> CronSchedule {
        CronSchedule {
            job,
            times: times(text, "UTC"),
            last: at(last),
            doubtful: 0,
        }
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
        let second = TimeDelta::seconds(1);
        assert_eq!(schedule.due_since(first - second), None);
        for (attempt, pause) in [
            (RunAttempt::Busy, AFTER_BUSY),
            (RunAttempt::Failed, AFTER_FAILURE),
        ] {
            for n in 0..100 {
                let tried = first + second * n;
                assert_eq!(schedule.due_since(tried), Some(first), "attempt {n}");
                assert_eq!(schedule.note(attempt, tried), pause);
            }
        }
        schedule.note(RunAttempt::Ran, at("2026-01-02T03:20:00Z"));
        assert_eq!(schedule.due_since(at("2026-01-03T02:59:59Z")), None);
        let now = at("2026-01-01T05:00:03Z");
        let pause = frequent("2026-01-01T05:00:00Z").note(RunAttempt::Failed, now);
        assert_eq!(pause, Duration::from_secs(7), "the next run");
    }

    #[test]
    fn doubtful_look_is_repeated_three_times_whatever_the_schedule() {
        let mut schedule = deep();
        let mut ended = at("2026-01-02T03:00:05Z");
        for repeats in 0..4 {
            let pause = schedule.note(RunAttempt::Unsure, ended);
            assert_eq!(pause, AFTER_FAILURE);
            ended += pause;
            let is_due = schedule.due_since(ended).is_some();
            assert_eq!(is_due, repeats < 3, "{repeats}");
        }
        schedule.note(RunAttempt::Ran, ended);
        assert_eq!(schedule.due_since(ended + AFTER_FAILURE), None);
    }

    #[test]
    fn clock_that_is_set_back_does_not_stop_schedules() {
        let mut schedule = frequent("2026-01-01T05:00:00Z");
        let now = at("2026-01-01T03:00:00Z");
        assert_eq!(schedule.due_since(now), None);
        assert_eq!(schedule.due_since(now + TimeDelta::seconds(9)), None);
        assert!(schedule.due_since(now + TimeDelta::seconds(10)).is_some());
    }
}
