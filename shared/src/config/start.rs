//! Waits for a store at start-up, because containers start in any order. A wrong setting, by
//! contrast, must stop the process immediately.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Why a process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store answered, but this process cannot work with it.
    #[error("{0}")]
    Refused(String),
    /// The store did not answer in time.
    #[error("{store} did not answer within {waited:?} of start-up: {reason}")]
    Missing {
        /// The store and its address.
        store: String,
        /// The time limit of the wait.
        waited: Duration,
        /// The last error.
        reason: String,
    },
    /// The process stops.
    #[error("stopped while waiting for {0}")]
    Stopped(String),
}

/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Calls `ask` until it returns a value, for at most `limit`. `retry` distinguishes temporary
/// errors (the store does not answer yet) from permanent ones (a wrong setting). `store` is the
/// store's name and address.
pub async fn wait_for<T, E: Display, Fut: Future<Output = Result<T, E>>>(
    store: &str,
    limit: Duration,
    shutdown: &CancellationToken,
    retry: impl Fn(&E) -> bool,
    mut ask: impl FnMut() -> Fut,
) -> Result<T, StartError> {
    let waiting = async {
        let start = Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            let error = match ask().await {
                Ok(value) => return Ok(value),
                Err(error) if !retry(&error) => {
                    return Err(StartError::Refused(format!("{error:#}")));
                }
                Err(error) => error,
            };
            if start.elapsed() + pause > limit {
                return Err(StartError::Missing {
                    store: store.to_owned(),
                    waited: limit,
                    reason: format!("{error:#}"),
                });
            }
            tokio::time::sleep(pause).await;
            if pause < LONGEST_PAUSE && pause * 2 >= LONGEST_PAUSE {
                tracing::warn!("waiting for {store}, for up to {limit:?}: {error:#}");
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => Err(StartError::Stopped(store.to_owned())),
        answer = waiting => answer,
    }
}
