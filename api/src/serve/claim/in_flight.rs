//! The in-flight limits: one for claims, and a separate one for reads of their status. Above its
//! limit this process sheds load (503), so that a slow store does not exhaust its memory. Work runs
//! in separate tasks: it continues if the client hangs up, and shutdown waits for it.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, counter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

pub(crate) struct InFlightLimit {
    limit: usize,
    places: Arc<Semaphore>,
    shed: Counter,
    tasks: TaskTracker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkError {
    /// The limit is reached, and the work was not started.
    TooMany,
    Panicked,
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
        let limit = usize::try_from(limit).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            limit,
            places: Arc::new(Semaphore::new(limit)),
            shed,
            tasks,
        }
    }

    pub(super) fn enter(&self) -> Result<OwnedSemaphorePermit, WorkError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| {
            self.shed.increment(1);
            WorkError::TooMany
        })
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.limit - self.places.available_permits()
    }

    /// Starts `work` immediately, within the limit, and runs it to its end even if the caller is
    /// dropped.
    pub(super) fn run<T, W>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<T, WorkError>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        let begun = self.enter().map(|place| {
            self.run_unlimited(async move {
                let done = work.await;
                drop(place);
                done
            })
        });
        async move { begun?.await }
    }

    /// Like [`InFlightLimit::run`], without the limit, for operators: their requests must succeed
    /// while claims are shed.
    pub(crate) fn run_unlimited<T, W>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<T, WorkError>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        let task = self.tasks.spawn(work);
        async move {
            task.await.map_err(|error| {
                tracing::error!(%error, "a task ended before its work was done");
                WorkError::Panicked
            })
        }
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
    use super::*;
    use tokio::sync::oneshot;

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
        assert_eq!(limit.run(async {}).await, Err(WorkError::TooMany));

        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        go.send(()).unwrap();
        finished.await.unwrap();
        assert_eq!(limit.finish(Duration::from_secs(5)).await, 0);
        assert_eq!(limit.run(async { 7 }).await, Ok(7));
    }

    #[tokio::test]
    async fn reads_and_claims_have_separate_limits_and_shutdown_waits_for_both() {
        let claims = InFlightLimit::new(1);
        let questions = claims.for_questions(1);
        let (go, gate) = oneshot::channel::<()>();
        let asked = questions.run(async move { gate.await.unwrap() });
        assert_eq!(questions.run(async {}).await, Err(WorkError::TooMany));
        assert_eq!(claims.run(async { 7 }).await, Ok(7));
        assert_eq!(claims.finish(Duration::ZERO).await, 1);
        go.send(()).unwrap();
        assert_eq!(
            (asked.await, claims.finish(Duration::from_secs(5)).await),
            (Ok(()), 0)
        );
    }

    #[tokio::test]
    async fn panicked_work_releases_its_place() {
        let limit = InFlightLimit::new(1);
        assert_eq!(
            limit.run(async { panic!("on purpose") }).await,
            Err::<(), _>(WorkError::Panicked)
        );
        assert_eq!(limit.run(async {}).await, Ok(()));
    }
}
