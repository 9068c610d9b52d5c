//! The in-flight limit: how many claims, and questions about claims, are worked on at a time, so that a store that answers
//! slowly makes this process shed load instead of grow. Work runs in tasks of its own, so that a client that hangs up does not
//! stop it half-way; shutdown waits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use firstcome_shared::http::Problem;
use metrics::counter;
use tokio_util::task::TaskTracker;

/// The tasks in hand.
pub(crate) struct InHand {
    most: usize,
    taken: Arc<AtomicUsize>,
    tasks: TaskTracker,
}

impl InHand {
    /// With a bound on how many at a time.
    pub(crate) fn new(most: u32) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Self { most, taken: Arc::default(), tasks: TaskTracker::new() }
    }

    /// A place for one claim.
    pub(crate) fn enter(&self) -> Result<Place, Problem> {
        // Taken first and looked at then, so that two can't take the last one.
        let place = Place(Arc::clone(&self.taken));
        if self.taken.fetch_add(1, Ordering::Relaxed) < self.most {
            return Ok(place);
        }
        counter!("firstcome_claims_shed_total").increment(1);
        Err(Problem::unavailable("too many claims at once; try again in a moment"))
    }

    /// How many places are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Runs `work` to its end in a place, whatever becomes of the caller, and gives its result. It begins at once.
    ///
    /// # Errors
    /// 503 when all places are taken (nothing was begun), 500 when the work panicked.
    pub(crate) fn run<T, W>(&self, work: W) -> impl Future<Output = Result<T, Problem>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        let begun = self.enter().map(|place| {
            self.see_through(async move {
                let done = work.await;
                drop(place);
                done
            })
        });
        async move { begun?.await }
    }

    /// [`InHand::run`] without the bound: for operators, who must get through while claims are refused.
    pub(crate) fn see_through<T, W>(&self, work: W) -> impl Future<Output = Result<T, Problem>> + Send + use<T, W>
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

    /// Runs `work` to its end; nobody waits for it but shutdown.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// Waits until all of it is done, for at most `limit`; gives how many are left.
    pub(crate) async fn finish(&self, limit: Duration) -> usize {
        self.tasks.close();
        match tokio::time::timeout(limit, self.tasks.wait()).await {
            Ok(()) => 0,
            Err(_) => self.tasks.len(),
        }
    }
}

/// A place in the in-flight limit, given back when dropped.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
