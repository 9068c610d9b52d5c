//! Waits for conditions by polling.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The shortest and the longest polling interval. Each check may query a server.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(50)];

/// Waits until a condition holds.
///
/// # Panics
///
/// Panics with `what` after `limit`.
pub async fn eventually(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) {
    eventually_some(what, limit, async || {
        if holds().await {
            Ok(())
        } else {
            Err("not yet")
        }
    })
    .await;
}

/// Waits until `check` returns a value.
///
/// # Panics
///
/// Panics with `what` and the last error after `limit`.
pub async fn eventually_some<T, E: std::fmt::Display>(
    what: &str,
    limit: Duration,
    check: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    match within(limit, check).await {
        Ok(value) => value,
        Err(seen) => panic!("not within {limit:?}: {what}; last seen: {seen}"),
    }
}

/// Waits until `check` returns a value. Returns its last error after `limit`.
pub(crate) async fn within<T, E>(
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let start = Instant::now();
    loop {
        let seen = check().await;
        if seen.is_ok() || start.elapsed() >= limit {
            return seen;
        }
        sleep((start.elapsed() / 20).clamp(PAUSES[0], PAUSES[1])).await;
    }
}
