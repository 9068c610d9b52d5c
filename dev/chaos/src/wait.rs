use std::ops::Range;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

/// Waits for this duration and returns its start and end.
pub(crate) async fn lasting(ms: u64) -> Range<Instant> {
    let begun = Instant::now();
    pause(ms).await;
    begun..Instant::now()
}

pub(crate) async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Waits until this time, if it is in the future.
pub(crate) async fn until_time(at: DateTime<Utc>) {
    let left = (at - Utc::now()).to_std().unwrap_or_default();
    tokio::time::sleep(left).await;
}

/// Waits until the condition holds. Returns false if it does not hold within `limit`.
pub(crate) async fn until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > limit {
            return false;
        }
        pause(20).await;
    }
    true
}
