//! What must not wait for the next scheduled pass: a closed gate, an emptied Redis, and runs that did not happen.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::redis::{Redis, RedisError, keys};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::daemon::runner::Passes;
use crate::daemon::schedule::{Event, Schedule};
use crate::engine::{Engine, Request};
use crate::notify::Notifier;
use crate::record;
use crate::report::{Status, Trigger};

/// How long to wait after a pass that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// How often Redis is asked whether it still has what admission needs.
const EVERY: Duration = Duration::from_secs(1);

/// Why Redis needs a pass at once; `None` while all is well.
async fn trouble(redis: &Redis) -> Result<Option<&'static str>, RedisError> {
    if !redis.gate_is_open().await? {
        return Ok(Some("the admission gate is closed"));
    }
    let there: bool =
        redis::cmd("EXISTS").arg(keys::canary(redis.prefix())).query_async(&mut redis.connection()).await?;
    Ok((!there).then_some("Redis was emptied"))
}

/// Watches Redis until told to stop, and sets off a pass where something is gone.
pub(crate) async fn redis(engine: Engine, passes: Passes, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reachable = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match trouble(&engine.redis).await {
            Ok(None) => reachable = true,
            Ok(Some(what)) => {
                reachable = true;
                engine.losses.seen();
                if let Ok((run_id, answer)) = passes.start(Request::new(Trigger::Startup)) {
                    tracing::warn!(run_id, "{what}: admission is closed; verifying at once");
                    let failed = !answer.await.is_ok_and(|ended| ended.is_ok_and(|run| run.status != Status::Failed));
                    if failed {
                        // Another store is away, most likely: no new pass every second.
                        ticks.reset_after(AFTER_FAILURE);
                    }
                }
            }
            Err(error) => {
                if reachable {
                    tracing::warn!(%error, "Redis cannot be reached");
                }
                reachable = false;
            }
        }
    }
}

/// Runs that were due and did not come: this process was stopped, paused, or started late. They are caught up at once.
pub(crate) struct Missed {
    /// The schedules with when they last ran.
    pub schedules: Vec<Schedule>,
    /// How late is missed.
    pub tolerance: TimeDelta,
}

impl Missed {
    /// The schedules as they stand in MySQL; one that never ran counts from now.
    pub(crate) async fn load(
        engine: &Engine,
        schedules: &[(Event, &str)],
        tolerance: TimeDelta,
    ) -> anyhow::Result<Self> {
        let mut loaded = Vec::with_capacity(schedules.len());
        for (event, text) in schedules {
            let last = if let Some(at) = record::recall(&engine.db, event.state_name()).await? {
                at
            } else {
                let now = Utc::now();
                record::remember(&engine.db, event.state_name(), now).await?;
                now
            };
            loaded.push(Schedule::new(*event, text, last)?);
        }
        Ok(Self { schedules: loaded, tolerance })
    }

    /// Notes that an event ran.
    pub(crate) fn ran(&mut self, event: Event, now: DateTime<Utc>) {
        for schedule in self.schedules.iter_mut().filter(|s| s.event == event) {
            schedule.last = now;
        }
    }

    /// What was missed at `now`, with since when.
    pub(crate) fn at(&self, now: DateTime<Utc>) -> Vec<(Event, DateTime<Utc>)> {
        self.schedules.iter().filter_map(|s| Some((s.event, s.missed_since(now, self.tolerance)?))).collect()
    }
}

/// Tells that a run was missed.
pub(crate) async fn tell_missed(notifier: &Notifier, event: Event, since: DateTime<Utc>, now: DateTime<Utc>) {
    tracing::warn!(schedule = event.setting(), since = %since.to_rfc3339(), "a scheduled run did not happen; catching up");
    if let Err(error) = notifier.missed_run(event.setting(), since, now).await {
        tracing::error!(error = format!("{error:#}"), "the mail about a missed run could not be prepared");
    }
}
