//! Bulkheads: each part of the API has its own MySQL connections, so that a part that waits for
//! MySQL does not delay the others; and the number of claims in progress is limited, so that a slow
//! store does not exhaust the memory.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::mysql::{Db, DbSettings};
use metrics::counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::claim::outcome::ClaimRefusal;

#[derive(Clone)]
pub(crate) struct Bulkheads {
    /// Writes rows of claims that Kafka has not acknowledged.
    pub(crate) fallback: Db,
    /// Users' reads. They fail fast, because there may be very many.
    pub(crate) reads: Db,
    pub(crate) operators: Db,
    pub(crate) catalogue: Db,
    /// Uses of codes by shops, which may be as busy as a drop.
    pub(crate) uses: Db,
}

/// Connections for uses of codes. With only four, MySQL is often idle because it waits for the API
/// (docs/PERFORMANCE.md).
const CONNECTIONS_FOR_USES: usize = 8;

impl Bulkheads {
    /// Gives each part a quarter of the connections, and at least one; the fallback twice as many,
    /// because each call writes a transaction for each of its drops while Kafka is away; uses have
    /// their own number.
    pub(crate) fn new(mysql: &DbSettings, question_timeout: Duration) -> anyhow::Result<Self> {
        let share = (mysql.pool_size / 4).max(1);
        let pool = |pool_size, limit| {
            Db::new(&DbSettings {
                pool_size,
                limit,
                ..mysql.clone()
            })
            .context("DATABASE_URL can't be used")
        };
        Ok(Self {
            fallback: pool(2 * share, mysql.limit)?,
            reads: pool(share, question_timeout.min(mysql.limit))?,
            operators: pool(share, mysql.limit)?,
            catalogue: pool(share, mysql.limit)?,
            uses: pool(CONNECTIONS_FOR_USES, mysql.limit)?,
        })
    }
}

/// Limits the claims in progress: above the limit, this process sheds load (503). Its tasks run to
/// their end even if the client hangs up, and shutdown waits for them.
pub(crate) struct InFlightLimit {
    limit: usize,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl InFlightLimit {
    pub(crate) fn new(limit: u32) -> Self {
        let limit = limit as usize;
        Self {
            limit,
            places: Arc::new(Semaphore::new(limit)),
            tasks: TaskTracker::new(),
        }
    }

    pub(crate) fn enter(&self) -> Result<OwnedSemaphorePermit, ClaimRefusal> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| {
            counter!("firstcome_claims_shed_total").increment(1);
            ClaimRefusal::TooMany
        })
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.limit - self.places.available_permits()
    }

    /// Runs `work` to its end even if the caller is dropped, without the limit: operators'
    /// requests must succeed while claims are shed.
    pub(crate) async fn run_unlimited<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, ClaimRefusal> {
        self.tasks.spawn(work).await.map_err(|error| {
            tracing::error!(%error, "a task ended before its work was done");
            ClaimRefusal::Panicked
        })
    }

    /// Runs `work` in the background; shutdown waits for it.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.tasks.spawn(work)
    }

    /// Waits, for at most `limit`, until all tasks have ended. Returns how many are left.
    pub(crate) async fn finish(&self, limit: Duration) -> usize {
        self.tasks.close();
        match tokio::time::timeout(limit, self.tasks.wait()).await {
            Ok(()) => 0,
            Err(_) => self.tasks.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn claim_above_the_limit_is_refused_and_work_of_a_dropped_caller_finishes() {
        let limit = Arc::new(InFlightLimit::new(1));
        let place = limit.enter().unwrap();
        assert!(matches!(limit.enter(), Err(ClaimRefusal::TooMany)));
        drop(place);
        assert!(limit.enter().is_ok());

        let (go, gate) = oneshot::channel::<()>();
        let inner = Arc::clone(&limit);
        let caller = tokio::spawn(async move { inner.run_unlimited(gate).await });
        while limit.tasks.is_empty() {
            tokio::task::yield_now().await;
        }
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        assert_eq!(limit.finish(Duration::ZERO).await, 1);
        go.send(()).unwrap();
        assert_eq!(limit.finish(Duration::from_secs(5)).await, 0);
    }

    #[tokio::test]
    async fn panic_of_the_work_is_a_refusal() {
        let limit = Arc::new(InFlightLimit::new(1));
        let panicked = limit.run_unlimited(async { panic!("on purpose") }).await;
        assert!(matches!(panicked, Err::<(), _>(ClaimRefusal::Panicked)));
    }
}
