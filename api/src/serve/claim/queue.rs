//! Queues of claims that wait for a call to Redis, and group commit between calls.
//!
//! The first claim in an idle queue is sent immediately. While a call is in progress, claims gather
//! for the next one. After a call that admitted users, the next one waits for a moment, so that
//! calls are larger ([`gather`]); a call without admissions never delays the next one.

use std::collections::HashMap;
use std::time::Duration;

use firstcome_shared::redis::admission::{CandidateIds, MAX_BATCH};
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// This many claims are worth a separate call: more would not make a claim cheaper.
const ENOUGH: usize = 64;

/// Maximum wait for the acknowledgement of the last message.
const ACKNOWLEDGED: Duration = Duration::from_millis(3);

/// Time for users who were just answered to return with another claim, which then joins the call.
const ANSWERED: Duration = Duration::from_micros(500);

/// How a call ended, as far as it concerns the claims that wait for the next one.
pub(super) enum Called {
    /// No user was admitted: the next call follows at once.
    Answered,
    /// This task stores the admissions.
    Admitted(JoinHandle<()>),
    /// The call to Redis failed.
    Failed,
}

/// Claims that wait for the next call. Those with the same candidates share calls. An entry exists
/// while a task makes calls for these drops. If the task panics, the entry stays, and
/// [`join`](Self::join) lets the next claim take over.
pub(crate) struct Queues<T>(Mutex<HashMap<CandidateIds, UnboundedSender<T>>>);

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Queues<T> {
    /// Adds a claim to a queue. If the queue was idle, or its task has panicked, returns its
    /// claims: the caller must make the calls.
    pub(super) fn join(&self, id: CandidateIds, claim: T) -> Option<UnboundedReceiver<T>> {
        let mut queues = self.0.lock();
        let claim = match queues.get(&id) {
            Some(queue) => queue.send(claim).err()?.0,
            None => claim,
        };
        let (queue, waiting) = unbounded_channel();
        // It cannot fail, because the receiver exists.
        let _ = queue.send(claim);
        queues.insert(id, queue);
        Some(waiting)
    }

    /// Makes calls, with the claims in order of arrival, until the queue is empty.
    pub(super) async fn make_calls<Calling: Future<Output = Called>>(
        &self,
        id: CandidateIds,
        mut waiting: UnboundedReceiver<T>,
        call: impl Fn(Vec<T>) -> Calling,
        refuse: impl Fn(Vec<T>),
    ) {
        let mut batch = Vec::new();
        loop {
            take(&mut waiting, &mut batch, MAX_BATCH);
            if batch.is_empty() {
                let mut queues = self.0.lock();
                if waiting.is_empty() {
                    queues.remove(&id);
                    return;
                }
                continue;
            }
            match call(std::mem::take(&mut batch)).await {
                Called::Answered => {}
                Called::Admitted(storing) => gather(storing, &mut waiting, &mut batch).await,
                Called::Failed => {
                    // Refuse the waiting claims too, instead of letting them wait for a second
                    // timeout.
                    let mut left = Vec::new();
                    take(&mut waiting, &mut left, usize::MAX);
                    refuse(left);
                }
            }
        }
    }
}

/// Takes waiting claims until the batch has `most`.
fn take<T>(waiting: &mut UnboundedReceiver<T>, batch: &mut Vec<T>, most: usize) {
    while batch.len() < most
        && let Ok(claim) = waiting.try_recv()
    {
        batch.push(claim);
    }
}

/// Group commit: while the admissions of the last call are being stored, claims gather for the next
/// one. Waiting only for the acknowledgement would split a crowd into two halves that wait for each
/// other, so the users who were just answered get a moment to return (docs/PERFORMANCE.md).
async fn gather<T>(
    storing: JoinHandle<()>,
    waiting: &mut UnboundedReceiver<T>,
    batch: &mut Vec<T>,
) {
    let moment = async {
        if timeout(ACKNOWLEDGED, storing).await.is_ok() {
            sleep(ANSWERED).await;
        }
    };
    tokio::pin!(moment);
    while batch.len() < ENOUGH {
        tokio::select! {
            () = &mut moment => return,
            Some(claim) = waiting.recv() => batch.push(claim),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::ready;

    use firstcome_shared::domain::DropId;
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    const QUEUE: CandidateIds = (DropId(1), None);

    /// Puts claims into the queue, makes calls until it is empty, and returns the claims of each.
    /// `then` gets the number of the call; claims that it adds are in the next call.
    async fn calls(
        queues: &Queues<usize>,
        claims: impl IntoIterator<Item = usize>,
        then: impl Fn(usize) -> Called,
    ) -> Vec<Vec<usize>> {
        let mut waiting = None;
        for claim in claims {
            waiting = queues.join(QUEUE, claim).or(waiting);
        }
        let made: RefCell<Vec<Vec<usize>>> = RefCell::default();
        let call = |batch| {
            made.borrow_mut().push(batch);
            ready(then(made.borrow().len()))
        };
        let refuse = |left| made.borrow_mut().push(left);
        let waiting = waiting.expect("the queue was idle");
        queues.make_calls(QUEUE, waiting, call, refuse).await;
        made.into_inner()
    }

    #[test]
    fn claims_that_arrive_during_a_call_share_the_next_one_at_once_and_in_order() {
        let queues = Queues::default();
        let others = queues.join((DropId(1), Some(DropId(2))), 9);
        assert!(others.is_some(), "other candidates have separate calls");
        let join_two = |call| {
            if call < 3 {
                assert!(queues.join(QUEUE, 2 * call).is_none());
                assert!(queues.join(QUEUE, 2 * call + 1).is_none());
            }
            Called::Answered
        };
        // Nothing waits, so all calls are made in one go.
        let made = calls(&queues, [1], join_two).now_or_never();
        assert_eq!(made, Some(vec![vec![1], vec![2, 3], vec![4, 5]]));
        assert!(queues.join(QUEUE, 6).is_some(), "the queue is idle again");
    }

    #[test]
    fn claims_that_wait_for_a_call_after_a_failed_one_are_refused() {
        let queues = Queues::default();
        let fail = |_| {
            (2..=500).for_each(|claim| assert!(queues.join(QUEUE, claim).is_none()));
            Called::Failed
        };
        let made = calls(&queues, [1], fail).now_or_never();
        assert_eq!(made, Some(vec![vec![1], (2..=500).collect()]));
    }

    #[tokio::test]
    async fn call_after_admissions_waits_a_moment_or_until_enough_claims_wait() {
        for is_stored in [false, true] {
            for last in [1, ENOUGH] {
                let queues = Queues::default();
                let (store, stored) = oneshot::channel::<()>();
                let stored = Cell::new(Some(stored));
                let storing = |_| {
                    stored.take().map_or(Called::Answered, |stored| {
                        Called::Admitted(tokio::spawn(async { drop(stored.await) }))
                    })
                };
                let mut calling = Box::pin(calls(&queues, [0], storing));
                assert!((&mut calling).now_or_never().is_none());
                if is_stored {
                    store.send(()).unwrap();
                    tokio::task::yield_now().await;
                    assert!((&mut calling).now_or_never().is_none());
                }
                for user in 1..=last {
                    assert!(queues.join(QUEUE, user).is_none());
                }
                let expected = vec![vec![0], (1..=last).collect()];
                let at_once = (&mut calling).now_or_never();
                if last == ENOUGH {
                    assert_eq!(at_once, Some(expected));
                } else {
                    assert_eq!(at_once, None);
                    // The wait ends even if nothing was stored.
                    assert_eq!(calling.await, expected);
                }
            }
        }
    }

    #[test]
    fn call_takes_at_most_a_full_batch_of_claims() {
        let queues = Queues::default();
        let made = calls(&queues, 0..=MAX_BATCH, |_| Called::Answered);
        let expected = vec![(0..MAX_BATCH).collect(), vec![MAX_BATCH]];
        assert_eq!(made.now_or_never(), Some(expected));
    }

    #[test]
    fn queue_is_idle_again_after_a_panic() {
        let queues = Queues::default();
        let panics = |_| panic!("on purpose");
        let made = std::panic::AssertUnwindSafe(calls(&queues, [1], panics)).catch_unwind();
        assert!(made.now_or_never().unwrap().is_err());
        assert!(queues.join(QUEUE, 2).is_some());
    }
}
