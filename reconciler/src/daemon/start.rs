//! Start-up of both daemons: here they wait for the stores, without a limit. If a daemon ended
//! instead, it would be restarted repeatedly, and would never run long enough to send a mail.

use std::time::Duration;

use firstcome_shared::config::StartError;
use firstcome_shared::mysql::Db;
use firstcome_shared::process_state::{SeenState, StoreState};
use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::schedule::CronSchedule;
use crate::notify::ScheduledRun;
use crate::report::FailureCause;
use crate::times::Times;

/// Maximum wait for a store in one attempt, and the time from one attempt to the next.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(2);

/// Repeats `attempt` until it returns a value. Notes which store does not answer. Returns `None` if `stop` is cancelled first.
///
/// # Errors
/// If a store rejects this process.
pub(super) async fn until_ready<T>(
    seen: &SeenState,
    stop: &CancellationToken,
    attempt: impl AsyncFn() -> Result<T, (FailureCause, StartError)>,
) -> anyhow::Result<Option<T>> {
    let mut without = None;
    loop {
        let next = Instant::now() + ATTEMPT;
        let (cause, reason) = match attempt().await {
            Ok(ready) => return Ok(Some(ready)),
            Err((_, StartError::Stopped(_))) => return Ok(None),
            Err((cause, StartError::Missing { reason, .. })) => (cause, reason),
            Err((_, refused @ StartError::Refused(_))) => return Err(refused.into()),
        };
        note_store(seen, cause, &reason);
        if without.replace(cause) != Some(cause) {
            tracing::warn!(?cause, reason, "passes begin once every store answers");
        }
        // Pause before the next attempt, since a store may reject a connection at once (a MySQL
        // without a free connection, for example).
        if stop.run_until_cancelled(sleep_until(next)).await.is_none() {
            return Ok(None);
        }
    }
}

/// Notes that a store does not answer. What the attempt did not reach is not known.
fn note_store(seen: &SeenState, cause: FailureCause, reason: &str) {
    seen.note(|state| {
        state.redis = None;
        state.kafka = None;
        let store = match cause {
            FailureCause::Redis => &mut state.redis,
            FailureCause::Kafka => &mut state.kafka,
            FailureCause::Mysql => &mut state.mysql,
            FailureCause::Other => return,
        };
        *store = Some(StoreState::from_error(cause, reason));
    });
}

/// Loads the schedules.
pub(super) async fn schedules(
    db: &Db,
    crons: &[(ScheduledRun, Times)],
) -> Result<Vec<CronSchedule>, (FailureCause, StartError)> {
    let loads = crons
        .iter()
        .map(|(job, times)| CronSchedule::load(db, *job, times.clone()));
    try_join_all(loads).await.map_err(|error| {
        let missing = StartError::Missing {
            store: "MySQL".to_owned(),
            waited: ATTEMPT,
            reason: error.to_string(),
        };
        (FailureCause::Mysql, missing)
    })
}
