//! Passes that an operator's change asks for: a quantity was raised, say, while people wait. They
//! must not wait for the next scheduled pass, since newcomers join the line behind them until then.

use std::collections::BTreeSet;
use std::time::Duration;

use firstcome_shared::redis::Redis;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Passes;
use crate::pass::{PassError, Request};
use crate::report::Trigger;

/// How often Redis is asked for coupons to compare.
const EVERY: Duration = Duration::from_millis(250);

/// How long to wait for the end of another process's pass.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs a pass over each coupon that is asked for, until `stop`.
pub(super) async fn watch(redis: Redis, passes: Passes, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pending = BTreeSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if pending.is_empty() {
            match redis.take_woken().await {
                Ok(coupons) => pending.extend(coupons),
                Err(error) => tracing::debug!(%error, "Redis could not be asked for coupons to compare"),
            }
        }
        while let Some(coupon) = pending.first().copied() {
            // A closed gate needs a pass over everything, which does this coupon too.
            if !redis.gate_is_open().await.unwrap_or(false) {
                break;
            }
            let request = Request { coupon: Some(coupon), patience: PATIENCE, ..Request::new(Trigger::Startup) };
            // A pass of another coupon may be running, so it stays pending.
            let Ok((run_id, answer)) = passes.start(request) else { break };
            tracing::info!(run_id, coupon_id = coupon.0, "a change asks for a pass");
            if matches!(answer.await, Ok(Err(PassError::Busy))) {
                break;
            }
            pending.pop_first();
        }
    }
}
