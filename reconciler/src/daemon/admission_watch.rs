//! Tells the notifier once a second whether admission is open.

use std::time::Duration;

use chrono::Utc;
use firstcome_shared::redis::Redis;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::notify::Notifier;

/// Watches until `stop`. A Redis that does not answer admits nobody.
pub(super) async fn watch(redis: Redis, notifier: Notifier, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let is_open = redis.gate_is_open().await.unwrap_or(false);
        if let Err(error) = notifier.admission(is_open, Utc::now()).await {
            tracing::debug!(error = format!("{error:#}"), "the mail about admission is not in the outbox yet");
        }
    }
}
