//! Schedules passes and digests.
//!
//! tokio-cron-scheduler has a job for each schedule, which pushes it: a [`Notify`] is a queue that
//! keeps one push. Whether a run is due is then decided by the time at which it last *ended* in any
//! process. So runs never overlap, and one that was prevented by a restart, another process's lock
//! or a store stays due. The library computes the next time of a job once, by the clock and the
//! zone's offset of that moment, so jobs are registered again when clocks are set or change for
//! daylight saving time.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, FixedOffset, TimeDelta, Utc};
use firstcome_shared::mysql::{Db, DbError};
use futures_util::future::{join_all, try_join_all};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::CancellationToken;

use crate::context::{Ask, PassError, PassRequest, counts_for};
use crate::notify::{self, Notifier, ScheduledRun};
use crate::passes::Passes;
use crate::record;
use crate::report::{Kind, Status};
use crate::times::Times;

/// The outcome of an attempt to run.
#[derive(Clone, Copy)]
enum RunAttempt {
    /// The run completed.
    Ran,
    /// It completed, and saw something that another look soon must confirm.
    Unsure,
    /// There was no run: another pass is running, another process has made the run, or the pass
    /// ended without a result.
    Busy,
    Failed,
}

/// Pause after an attempt without a run. Each attempt costs one statement.
const AFTER_BUSY: Duration = Duration::from_secs(5);
/// Pause after a failed or doubtful attempt.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// How often a look that saw something doubtful is repeated, whatever the schedule.
const REPEATS: u32 = 3;

/// A schedule with the state of its runs.
#[derive(Debug, Clone)]
pub(crate) struct CronSchedule {
    job: ScheduledRun,
    times: Times,
    pushed: Arc<Notify>,
    /// When a run last ended before this process began.
    last: DateTime<Utc>,
    /// How many runs in a row were doubtful. While they are few, another one is due.
    doubtful: u32,
}

impl CronSchedule {
    /// Whether this process runs the schedule, and watches it. A process that mails nobody must not
    /// take the digest from one that does, and to it none is late.
    pub(crate) fn is_for(&self, has_recipients: bool) -> bool {
        has_recipients || self.job != ScheduledRun::Digest
    }

    /// The schedule as alerts see it. A digest is late from now on at the earliest: until now,
    /// perhaps no process had recipients.
    pub(crate) fn watched(&self) -> notify::WatchedSchedule {
        let times = self.times.clone();
        notify::WatchedSchedule {
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
        let key = counts_for(job)[0];
        let last = match record::recall(db, key).await? {
            Some(last) => last,
            None => record::remember(db, key, now).await.map(|()| now)?,
        };
        let zone = times.zone.name();
        let next: Vec<String> =
            std::iter::successors(times.next_after(now), |at| times.next_after(*at))
                .take(3)
                .map(|at| times.zone.local(at).to_string())
                .collect();
        tracing::info!(schedule = job.setting(), zone, ?next, "the next three runs");
        Ok(Self {
            job,
            times,
            pushed: Arc::default(),
            last,
            doubtful: 0,
        })
    }

    /// Returns the time of the first run that is due. If it is not known when a run last ended, or
    /// only by a clock that was ahead, one is due now.
    fn due(&self, last: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let is_repeated = (1..=REPEATS).contains(&self.doubtful);
        match last {
            Some(last) if last <= now && !is_repeated => {
                self.times.next_after(last).filter(|due| *due <= now)
            }
            _ => Some(now),
        }
    }

    /// Notes the outcome of an attempt. Returns the pause before the next one, unless the schedule
    /// is pushed sooner.
    fn note(&mut self, attempt: RunAttempt) -> Duration {
        match attempt {
            RunAttempt::Ran => {
                self.doubtful = 0;
                Duration::MAX
            }
            RunAttempt::Busy => AFTER_BUSY,
            RunAttempt::Unsure => {
                self.doubtful += 1;
                AFTER_FAILURE
            }
            RunAttempt::Failed => AFTER_FAILURE,
        }
    }

    /// Keeps a job registered that pushes this schedule at its times.
    async fn register(&self, scheduler: &JobScheduler) -> Result<(), JobSchedulerError> {
        let Times { cron, zone } = &self.times;
        loop {
            let since = Instant::now();
            let clock = zone.local(Utc::now());
            let pushed = self.pushed.clone();
            let push = move |_, _| pushed.notify_one();
            let job = Job::new_tz(&cron.pattern, *clock.offset(), push)?;
            let id = scheduler.add(job).await?;
            // The job leaves out what is due already.
            self.pushed.notify_one();
            while !is_changed(clock, zone.local(Utc::now()), since.elapsed()) {
                sleep(Duration::from_secs(1)).await;
            }
            scheduler.remove(&id).await?;
        }
    }
}

/// Whether a clock was set, or changed for daylight saving time, while this time passed.
fn is_changed(
    before: DateTime<FixedOffset>,
    after: DateTime<FixedOffset>,
    passed: Duration,
) -> bool {
    let shown = after.naive_local() - passed - before.naive_local();
    shown.abs() > TimeDelta::seconds(1)
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
        all: Vec<CronSchedule>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut scheduler = JobScheduler::new().await?;
        scheduler.start().await?;
        let registered = all.clone();
        let jobs = registered.iter().map(|own| own.register(&scheduler));
        tokio::select! {
            () = stop.cancelled() => {}
            _ = join_all(all.into_iter().map(|own| self.follow(own))) => {}
            failed = try_join_all(jobs) => drop(failed?),
        }
        Ok(scheduler.shutdown().await?)
    }

    /// Starts the due runs of one schedule, one at a time. A pass runs at start-up even if none is
    /// due.
    async fn follow(&self, mut own: CronSchedule) {
        let mut is_first = own.job == ScheduledRun::Reconcile;
        loop {
            let now = Utc::now();
            // Without MySQL the attempt fails, and says so.
            let last = record::recall(&self.db, counts_for(own.job)[0]).await;
            let due = own.due(last.ok().flatten(), now);
            let mut again = Duration::MAX;
            if let Some(due) = due.or(is_first.then_some(now)) {
                again = own.note(self.attempt(own.job, is_first, due).await);
                is_first = false;
            }
            timeout(again, own.pushed.notified()).await.ok();
        }
    }

    /// Runs a job once.
    async fn attempt(&self, job: ScheduledRun, is_first: bool, due: DateTime<Utc>) -> RunAttempt {
        if job == ScheduledRun::Digest {
            let mailed = self.notifier.daily_digest(due, Utc::now()).await;
            return match mailed {
                Ok(()) => RunAttempt::Ran,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the digest is not mailed yet");
                    RunAttempt::Failed
                }
            };
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
        let Ok(started) = self.passes.start(request) else {
            return RunAttempt::Busy;
        };
        tracing::debug!(started.run_id, schedule = job.setting(), "pass begins");
        match started.ended.await {
            Ok(Ok(run)) if run.status == Status::Failed => RunAttempt::Failed,
            // It could not compare something that it may compare in a moment.
            Ok(Ok(run)) if run.all_findings().any(|found| found.kind == Kind::Stalled) => {
                RunAttempt::Unsure
            }
            Ok(Ok(_)) => RunAttempt::Ran,
            // Without a result, the process is stopping or the pass panicked.
            Ok(Err(PassError::Busy)) | Err(_) => RunAttempt::Busy,
            Ok(Err(_)) => RunAttempt::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::times::tests::{at, times};

    fn deep() -> CronSchedule {
        let last = at("2026-01-01T03:00:05Z");
        CronSchedule {
            job: ScheduledRun::Deep,
            times: times("0 0 3 * * *", "UTC"),
            pushed: Arc::default(),
            last,
            doubtful: 0,
        }
    }

    /// The daily deep pass is due at 03:00 while an operator's pass holds the lock.
    #[test]
    fn run_that_could_not_start_or_failed_stays_due() {
        let mut schedule = deep();
        let first = at("2026-01-02T03:00:00Z");
        let second = TimeDelta::seconds(1);
        assert_eq!(schedule.due(Some(schedule.last), first - second), None);
        for (attempt, pause) in [
            (RunAttempt::Busy, AFTER_BUSY),
            (RunAttempt::Failed, AFTER_FAILURE),
        ] {
            for n in 0..100 {
                let due = schedule.due(Some(schedule.last), first + second * n);
                assert_eq!(due, Some(first), "attempt {n}");
                assert_eq!(schedule.note(attempt), pause);
            }
        }
        let ended = at("2026-01-02T03:20:00Z");
        assert_eq!(schedule.note(RunAttempt::Ran), Duration::MAX);
        let due = schedule.due(Some(ended), at("2026-01-03T02:59:59Z"));
        assert_eq!(due, None);
    }

    #[test]
    fn process_without_recipients_neither_runs_nor_watches_the_digest() {
        let mut schedule = deep();
        assert!(schedule.is_for(false));
        schedule.job = ScheduledRun::Digest;
        assert!(!schedule.is_for(false) && schedule.is_for(true));
    }

    #[test]
    fn doubtful_look_is_repeated_three_times_whatever_the_schedule() {
        let mut schedule = deep();
        let mut ended = at("2026-01-02T03:00:05Z");
        for repeats in 0..4 {
            let pause = schedule.note(RunAttempt::Unsure);
            assert_eq!(pause, AFTER_FAILURE);
            let is_due = schedule.due(Some(ended), ended + pause).is_some();
            assert_eq!(is_due, repeats < 3, "{repeats}");
            ended += pause;
        }
        schedule.note(RunAttempt::Ran);
        assert_eq!(schedule.due(Some(ended), ended + AFTER_FAILURE), None);
    }

    #[test]
    fn clock_that_is_set_back_does_not_stop_schedules() {
        let now = at("2026-01-01T01:00:00Z");
        assert_eq!(deep().due(Some(deep().last), now), Some(now));
    }

    #[test]
    fn jobs_are_registered_again_when_clocks_are_set_or_change() {
        let zone = times("0 0 3 * * *", "America/New_York").zone;
        let before = at("2026-11-01T05:59:59Z");
        let shown = |seconds| zone.local(before + TimeDelta::seconds(seconds));
        for (after, passed, expected) in [
            (0, 0, false),
            (1, 1, true),
            (3_601, 1, false),
            (-3_600, 1, true),
            (-86_400, 86_400, true),
        ] {
            let is_changed = is_changed(shown(0), shown(after), Duration::from_secs(passed));
            assert_eq!(is_changed, expected, "{after} s after {passed} s");
        }
    }
}
