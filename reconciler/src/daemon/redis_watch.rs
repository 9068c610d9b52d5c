//! Watches Redis once a second, for what must not wait for the next scheduled pass: a closed gate,
//! an emptied Redis.

use std::time::Duration;

use firstcome_shared::redis::{Redis, RedisError};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::runner::Passes;
use crate::pass::Request;
use crate::pass::memory::LossClock;
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
    Ok((!redis.has_canary().await?).then_some("Redis was emptied"))
}

/// Watches Redis until `stop`, and sets off a pass where something is gone.
pub(super) async fn watch(redis: Redis, losses: LossClock, passes: Passes, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reachable = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match trouble(&redis).await {
            Ok(None) => reachable = true,
            Ok(Some(what)) => {
                reachable = true;
                losses.seen();
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
