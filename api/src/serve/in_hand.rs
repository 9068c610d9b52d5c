//! Work in hand: each claim runs in a task of its own, so that a client that hangs up does not stop it half-way. There is a
//! bound on how many, so that a store that answers slowly makes this process refuse instead of grow; and shutdown waits
//! for them.

use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::http::Problem;
use metrics::{counter, gauge};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// The tasks in hand.
pub(super) struct InHand {
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl InHand {
    /// With a bound on how many at a time.
    pub(super) fn new(most: u32) -> Self {
        let slots = usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { slots: Arc::new(Semaphore::new(slots)), tasks: TaskTracker::new() }
    }

    /// Runs `work` to its end, whatever becomes of the caller, and gives its result. It begins at once; what is given back is
    /// small, so that a request does not hold its work a second time.
    ///
    /// # Errors
    /// 503 when too much is in hand (nothing was begun), 500 when the work panicked.
    pub(super) fn run<T, W>(&self, work: W) -> impl Future<Output = Result<T, Problem>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        let begun = Arc::clone(&self.slots).try_acquire_owned().map(|slot| {
            self.see_through(async move {
                let _counted = Counted::new();
                let done = work.await;
                drop(slot);
                done
            })
        });
        async move {
            let Ok(begun) = begun else {
                counter!("firstcome_claims_shed_total").increment(1);
                return Err(Problem::unavailable("too many claims at once; try again in a moment"));
            };
            begun.await
        }
    }

    /// [`InHand::run`] without the bound: for operators, who must get through while claims are refused.
    ///
    /// # Errors
    /// 500 when the work panicked.
    pub(super) fn see_through<T, W>(&self, work: W) -> impl Future<Output = Result<T, Problem>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        let task = self.tasks.spawn(work);
        async move {
            task.await.map_err(|error| {
                tracing::error!(%error, "a task ended before its work was done");
                Problem::internal()
            })
        }
    }

    /// Waits until all of it is done, for at most `limit`; gives how many are left.
    pub(super) async fn finish(&self, limit: Duration) -> usize {
        self.tasks.close();
        match tokio::time::timeout(limit, self.tasks.wait()).await {
            Ok(()) => 0,
            Err(_) => self.tasks.len(),
        }
    }
}

/// Keeps the gauge right, also when the task panics.
struct Counted;

impl Counted {
    fn new() -> Self {
        gauge!("firstcome_claims_in_hand").increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!("firstcome_claims_in_hand").decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn one_too_many_is_refused_and_a_dropped_caller_does_not_stop_the_work() {
        let hand = Arc::new(InHand::new(1));
        let (go, gate) = oneshot::channel::<()>();
        let (done, finished) = oneshot::channel::<()>();
        let (begun, has_begun) = oneshot::channel::<()>();
        let inner = Arc::clone(&hand);
        let caller = tokio::spawn(async move {
            let work = async move {
                begun.send(()).unwrap();
                gate.await.unwrap();
                done.send(()).unwrap();
            };
            inner.run(work).await
        });
        has_begun.await.unwrap();
        let refused = hand.run(async {}).await.unwrap_err();
        assert_eq!(refused.code(), "unavailable");

        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        go.send(()).unwrap();
        finished.await.unwrap();
        assert_eq!(hand.finish(Duration::from_secs(5)).await, 0);
        assert!(hand.run(async { 7 }).await.is_ok_and(|n| n == 7));
    }

    #[tokio::test]
    async fn a_panic_is_a_500_and_gives_its_place_back() {
        let hand = InHand::new(1);
        assert_eq!(hand.run(async { panic!("on purpose") }).await.map(|(): ()| ()).unwrap_err().code(), "internal");
        assert!(hand.run(async {}).await.is_ok());
    }
}
