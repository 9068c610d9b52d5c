//! The in-flight limits: one for claims, and a separate one for reads of their status. Above its
//! limit this process sheds load (503), so that a slow store does not exhaust its memory. Work runs
//! in separate tasks: it continues if the client hangs up, and shutdown waits for it.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, counter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::outcome::ClaimRefusal;

pub(crate) struct InFlightLimit {
    limit: u32,
    places: Arc<Semaphore>,
    shed: Counter,
    tasks: TaskTracker,
}

impl InFlightLimit {
    /// Creates the limit on claims.
    pub(crate) fn new(limit: u32) -> Self {
        let shed = counter!("firstcome_claims_shed_total");
        Self::with(limit, shed, TaskTracker::new())
    }

    /// Creates the limit on reads. [`Self::finish`] waits for both kinds of work.
    pub(crate) fn for_questions(&self, limit: u32) -> Self {
        let shed = counter!("firstcome_questions_shed_total");
        Self::with(limit, shed, self.tasks.clone())
    }

    fn with(limit: u32, shed: Counter, tasks: TaskTracker) -> Self {
        Self {
            limit,
            places: Arc::new(Semaphore::new(limit as usize)),
            shed,
            tasks,
        }
    }

    pub(super) fn enter(&self) -> Result<OwnedSemaphorePermit, ClaimRefusal> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| {
            self.shed.increment(1);
            ClaimRefusal::TooMany
        })
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.limit as usize - self.places.available_permits()
    }

    /// Starts `work` within the limit, and runs it to its end even if the caller is dropped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, ClaimRefusal> {
        let place = self.enter()?;
        self.run_unlimited(async move {
            let done = work.await;
            drop(place);
            done
        })
        .await
    }

    /// Like [`InFlightLimit::run`], without the limit, for operators: their requests must succeed
    /// while claims are shed.
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
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.tasks.spawn(work)
    }

    /// Waits, for at most `limit`, until all work has ended. Returns how many tasks are left.
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
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn refuses_work_above_the_limit_and_finishes_work_of_a_dropped_caller() {
        let limit = Arc::new(InFlightLimit::new(1));
        let (go, gate) = oneshot::channel::<()>();
        let (done, finished) = oneshot::channel::<()>();
        let (begun, has_begun) = oneshot::channel::<()>();
        let inner = Arc::clone(&limit);
        let caller = tokio::spawn(async move {
            let work = async move {
                begun.send(()).unwrap();
                gate.await.unwrap();
                done.send(()).unwrap();
            };
            inner.run(work).await
        });
        has_begun.await.unwrap();
        let refused = limit.run(async {}).await;
        assert!(matches!(refused, Err(ClaimRefusal::TooMany)));

        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        go.send(()).unwrap();
        finished.await.unwrap();
        assert_eq!(limit.finish(Duration::from_secs(5)).await, 0);
        assert_eq!(limit.run(async { 7 }).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn reads_and_claims_have_separate_limits_and_shutdown_waits_for_both() {
        let claims = InFlightLimit::new(1);
        let questions = claims.for_questions(1);
        let (go, gate) = oneshot::channel::<()>();
        let mut asked = Box::pin(questions.run(async move { gate.await.unwrap() }));
        assert!((&mut asked).now_or_never().is_none());
        let refused = questions.run(async {}).await;
        assert!(matches!(refused, Err(ClaimRefusal::TooMany)));
        assert_eq!(claims.run(async { 7 }).await.unwrap(), 7);
        assert_eq!(claims.finish(Duration::ZERO).await, 1);
        go.send(()).unwrap();
        asked.await.unwrap();
        assert_eq!(claims.finish(Duration::from_secs(5)).await, 0);
    }

    #[tokio::test]
    async fn panicked_work_releases_its_place() {
        let limit = InFlightLimit::new(1);
        let panicked = limit.run(async { panic!("on purpose") }).await;
        assert!(matches!(panicked, Err::<(), _>(ClaimRefusal::Panicked)));
        limit.run(async {}).await.unwrap();
    }
}
