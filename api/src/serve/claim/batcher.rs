//! Micro-batches of admission: claims with the same candidate drops that arrive during a call to
//! Redis go together in the next call.
//!
//! The first claim on an idle drop is sent immediately. A busy drop has one call in progress, and
//! the claims of the next call share its costs: the round trip, the script's reads of the drop, one
//! write of each key, one entry in the append-only file, one message. After a call that admitted
//! users, the next one waits for a moment, so that calls are larger ([`wait_for_claims`]); a call
//! without admissions never delays the next one. Redis computes every answer after its
//! claim arrived, so answers are linearizable: after one process has acknowledged a claim, the next
//! claim at any process sees it (docs/decisions/0010-micro-batches.md).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::coupon::Allow;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{DropId, Slot, UserId};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::redis::admission::{
    Admission, AdmissionError, AdmissionReply, Candidates, Claimant, MAX_BATCH,
};
use firstcome_shared::trace::{self, TraceContext};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::admit::ClaimService;
use super::outcome::ClaimRefusal;
use super::second_store::{Admitted, Call, Store};
use crate::serve::auth::Requester;
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, DropCandidates, instant};

/// The script's reply to one claim. If the claim got a slot, also the second store that holds it;
/// `None` if no second store took it in time.
pub(super) type ClaimReply = (AdmissionReply, Option<Store>);

/// A claim that waits for its call and then for the second store, even after its client hung up.
pub(super) struct PendingClaim {
    coupon: Arc<CouponWithDrops>,
    user: UserId,
    /// Whether the user is in the coupon's group, if it has one and that is known.
    is_member: Option<bool>,
    arrived: Instant,
    /// The span of its request, if it has a trace.
    trace: Option<TraceContext>,
    reply: oneshot::Sender<Result<ClaimReply, Arc<AdmissionError>>>,
    /// Released when the reply is sent.
    _place: OwnedSemaphorePermit,
}

impl ClaimService {
    /// Puts one claim into the next call with these candidates and waits for its reply.
    pub(super) async fn join_call(
        self: &Arc<Self>,
        coupon: &Arc<CouponWithDrops>,
        candidates: DropCandidates<'_>,
        requester: &Requester,
    ) -> Result<ClaimReply, ClaimRefusal> {
        let place = self.in_flight.enter()?;
        let (reply, replied) = oneshot::channel();
        let pending = PendingClaim {
            coupon: Arc::clone(coupon),
            user: requester.user.clone(),
            is_member: match &coupon.coupon.allow {
                Some(Allow::Group(group)) => requester.groups.have(group),
                Some(Allow::List) | None => None,
            },
            arrived: Instant::now(),
            trace: trace::current(),
            reply,
            _place: place,
        };
        let keys = candidates.keys();
        let queue: QueueId = (keys.first.drop, keys.second.map(|keys| keys.drop));
        if self.queues.join(queue, pending) {
            let this = Arc::clone(self);
            let (first, second) = (keys.first.clone(), keys.second.cloned());
            self.in_flight.spawn(async move {
                let candidates = Candidates {
                    first: &first,
                    second: second.as_ref(),
                };
                let caller = this.queues.caller(queue);
                make_calls(caller, |batch| this.call(queue, candidates, batch)).await;
            });
        }
        let Ok(reply) = replied.await else {
            tracing::error!(drop = %queue.0, "a claim was dropped before it was answered");
            return Err(ClaimRefusal::Panicked);
        };
        reply.map_err(ClaimRefusal::NotAnswered)
    }

    /// Makes one call. If it admitted users, returns the task that stores the admissions and
    /// answers.
    async fn call(
        self: &Arc<Self>,
        queue: QueueId,
        candidates: Candidates<'_>,
        mut batch: Vec<PendingClaim>,
    ) -> Option<JoinHandle<()>> {
        let asked_at = Instant::now();
        let late = batch.extract_if(.., |pending| {
            asked_at.duration_since(pending.arrived) > self.max_wait
        });
        refuse(late.collect(), AdmissionError::Unanswered);
        let coupon = batch.first()?.coupon.coupon.id;
        // The claims of one call may have copies of the coupon from several eras. Use the newest.
        let eras = batch.iter().map(|pending| pending.coupon.coupon.era);
        let era = eras.max().unwrap_or(0);
        let people: Vec<Claimant<'_>> = batch.iter().map(PendingClaim::claimant).collect();
        crash_point(Point::ClaimAsked);
        let called = self.redis.claim_all(candidates, era, &people).await;
        self.call_seconds.record(asked_at.elapsed().as_secs_f64());
        #[allow(clippy::cast_precision_loss, reason = "at most MAX_BATCH")]
        self.batch_size.record(people.len() as f64);
        match called {
            Ok(replies) => {
                let call = Call {
                    coupon,
                    era,
                    asked_at,
                };
                let storing = self.deliver(call, batch.into_iter().zip(replies));
                // Let requests that wait on their sockets join the next call.
                tokio::task::yield_now().await;
                storing
            }
            Err(error) => {
                tracing::debug!(%error, claims = batch.len(), "claims were not answered");
                // Redis does not answer: refuse the waiting claims too, instead of letting them
                // wait for a second timeout.
                if matches!(error, AdmissionError::Redis(_)) {
                    refuse(self.queues.take_all(queue), AdmissionError::Unanswered);
                }
                refuse(batch, error);
                None
            }
        }
    }

    /// Replies immediately to claims without a slot. Claims with a slot are stored first, even if
    /// their clients hung up: those of one drop together, whether new or retries. If users were
    /// admitted, returns the task that does this for their drop.
    fn deliver(
        self: &Arc<Self>,
        call: Call,
        replies: impl Iterator<Item = (PendingClaim, Option<AdmissionReply>)>,
    ) -> Option<JoinHandle<()>> {
        let mut holders: HashMap<DropId, Vec<(PendingClaim, AdmissionReply)>> = HashMap::new();
        let mut admitting = None;
        for (pending, reply) in replies {
            // A damaged entry of one user in Redis must not affect the claims of other users.
            let Some(reply) = reply else {
                tracing::error!(coupon = %call.coupon, "the admission script's reply to one claim could not be parsed");
                refuse(vec![pending], AdmissionError::Unexpected);
                continue;
            };
            let Some((drop, _)) = slot(&reply) else {
                pending.answer(reply, None);
                continue;
            };
            if let Admission::Accepted(_) = reply.admission {
                crash_point(Point::ClaimAdmitted);
                admitting = Some(drop);
            }
            holders.entry(drop).or_default().push((pending, reply));
        }
        let mut storing = None;
        for (drop, holders) in holders {
            let this = Arc::clone(self);
            let store = async move { this.store(call, holders).await };
            let task = self.in_flight.spawn(store);
            if admitting == Some(drop) {
                storing = Some(task);
            }
        }
        storing
    }

    /// Stores claims of one drop and answers them.
    async fn store(&self, call: Call, holders: Vec<(PendingClaim, AdmissionReply)>) {
        let admitted = |(pending, reply): &(PendingClaim, AdmissionReply)| {
            let (drop_id, slot) = slot(reply)?;
            let claim = ClaimEvent {
                coupon_id: call.coupon,
                drop_id,
                slot,
                user_id: pending.user.clone(),
                claimed_at: instant(reply.admitted_at_ms.unwrap_or(reply.now_ms)),
            };
            Some(Admitted {
                claim,
                call,
                admitted_at_ms: reply.admitted_at_ms,
                trace: pending.trace,
            })
        };
        let claims: Vec<Admitted> = holders.iter().filter_map(admitted).collect();
        let stored = self.second_store.ensure(&claims).await;
        for ((pending, reply), stored) in holders.into_iter().zip(stored) {
            pending.answer(reply, stored);
        }
    }
}

/// Returns the slot that a claim got, or that the user already holds.
fn slot(reply: &AdmissionReply) -> Option<(DropId, Slot)> {
    match reply.admission {
        Admission::Accepted(slot) => Some((reply.open_drop?, slot)),
        Admission::Already(drop, slot) => Some((drop, slot)),
        _ => None,
    }
}

impl PendingClaim {
    fn answer(self, reply: AdmissionReply, stored: Option<Store>) {
        // Sending fails if the client hung up. Its retry gets the same answer.
        let _ = self.reply.send(Ok((reply, stored)));
    }

    fn claimant(&self) -> Claimant<'_> {
        let group = match (&self.coupon.coupon.allow, self.is_member) {
            (Some(Allow::Group(group)), Some(is_member)) => Some((group, is_member)),
            // If a user's groups are unknown, never answer `not_allowed`.
            _ => None,
        };
        Claimant {
            user: &self.user,
            group,
        }
    }
}

fn refuse(claims: Vec<PendingClaim>, error: AdmissionError) {
    let error = Arc::new(error);
    for pending in claims {
        let _ = pending.reply.send(Err(Arc::clone(&error)));
    }
}

/// Identifies the claims that may share calls: those with the same candidates.
type QueueId = (DropId, Option<DropId>);

/// This many claims are worth a separate call: more would not make a claim cheaper.
const ENOUGH: usize = 64;

/// Maximum wait for the acknowledgement of the last message.
const ACKNOWLEDGED: Duration = Duration::from_millis(3);

/// Time in which users who were just answered may claim again.
const ANSWERED: Duration = Duration::from_micros(500);

/// Makes calls until the queue is empty. A call that admitted users returns the task that stores
/// their claims.
async fn make_calls<T, Called: Future<Output = Option<JoinHandle<()>>>>(
    mut caller: Caller<'_, T>,
    call: impl Fn(Vec<T>) -> Called,
) {
    while let Some(batch) = caller.next() {
        if let Some(storing) = call(batch).await {
            wait_for_claims(storing, &caller).await;
        }
    }
}

/// Group commit: while the admissions of the last call are being stored, claims gather for the next
/// one. Waiting only for the acknowledgement would split a crowd into two halves that wait for each
/// other, so the users who were just answered get a moment to return (docs/PERFORMANCE.md).
async fn wait_for_claims<T>(storing: JoinHandle<()>, caller: &Caller<'_, T>) {
    let gather = async {
        if timeout(ACKNOWLEDGED, storing).await.is_ok() {
            sleep(ANSWERED).await;
        }
    };
    tokio::select! {
        () = gather => {}
        () = caller.enough() => {}
    }
}

/// Claims that wait for the next call, by candidates. An entry exists exactly while a task calls
/// Redis for these candidates.
pub(super) struct Queues<T> {
    waiting: Mutex<HashMap<QueueId, Vec<T>>>,
    /// Notified when a queue has enough claims for a call.
    enough: Notify,
}

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            enough: Notify::new(),
        }
    }
}

impl<T> Queues<T> {
    /// Adds a claim to a queue. Returns `true` if the queue was idle, so that this task must make
    /// the calls as its [`Caller`].
    #[must_use]
    fn join(&self, id: QueueId, claim: T) -> bool {
        match self.waiting.lock().entry(id) {
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().push(claim);
                if waiting.get().len() == ENOUGH {
                    self.enough.notify_waiters();
                }
                false
            }
            Entry::Vacant(first) => {
                first.insert(vec![claim]);
                true
            }
        }
    }

    /// Takes the claims that wait for the next call.
    fn take_all(&self, id: QueueId) -> Vec<T> {
        let mut all = self.waiting.lock();
        all.get_mut(&id).map(std::mem::take).unwrap_or_default()
    }

    fn caller(&self, id: QueueId) -> Caller<'_, T> {
        Caller {
            queues: self,
            id,
            ended: false,
        }
    }
}

/// The task that makes the calls of a queue. Dropping it drops the waiting claims and makes the
/// queue idle again.
struct Caller<'a, T> {
    queues: &'a Queues<T>,
    id: QueueId,
    ended: bool,
}

impl<T> Caller<'_, T> {
    /// Returns the claims of the next call, in order of arrival. `None` means that the queue is
    /// empty and now idle.
    fn next(&mut self) -> Option<Vec<T>> {
        let mut all = self.queues.waiting.lock();
        let waiting = all.get_mut(&self.id)?;
        if waiting.is_empty() {
            all.remove(&self.id);
            self.ended = true;
            return None;
        }
        let later = waiting.split_off(waiting.len().min(MAX_BATCH));
        Some(std::mem::replace(waiting, later))
    }

    /// Waits until enough claims for a call wait.
    async fn enough(&self) {
        loop {
            // Registered before the check, so that no notification is missed.
            let notified = self.queues.enough.notified();
            let waiting = self.queues.waiting.lock().get(&self.id).map_or(0, Vec::len);
            if waiting >= ENOUGH {
                return;
            }
            notified.await;
        }
    }
}

impl<T> Drop for Caller<'_, T> {
    fn drop(&mut self) {
        if !self.ended {
            // After a panic: drop the claims outside the lock. Their requests then fail.
            let left = self.queues.waiting.lock().remove(&self.id);
            drop(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::ready;

    use futures_util::FutureExt as _;

    use super::*;

    const QUEUE: QueueId = (DropId(1), None);

    #[test]
    fn claims_that_arrive_during_a_call_share_the_next_call_in_order() {
        let queues = Queues::default();
        assert!(queues.join(QUEUE, 1));
        let mut caller = queues.caller(QUEUE);
        assert_eq!(caller.next(), Some(vec![1]));
        assert!(!queues.join(QUEUE, 2));
        assert!(!queues.join(QUEUE, 3));
        assert!(
            queues.join((DropId(1), Some(DropId(2))), 9),
            "other candidates have separate calls"
        );
        assert_eq!(caller.next(), Some(vec![2, 3]));
        assert_eq!(caller.next(), None);
        assert!(queues.join(QUEUE, 4), "the queue is idle again");
    }

    /// Makes calls that return immediately, and notes their claims. `storing` gets the number of a
    /// call and returns the task that stores its admissions.
    async fn calls(
        queues: &Queues<u32>,
        made: &RefCell<Vec<Vec<u32>>>,
        storing: impl Fn(usize) -> Option<JoinHandle<()>>,
    ) {
        make_calls(queues.caller(QUEUE), |batch| {
            made.borrow_mut().push(batch);
            ready(storing(made.borrow().len()))
        })
        .await;
    }

    #[test]
    fn claims_on_an_idle_drop_and_after_calls_without_admissions_are_not_delayed() {
        let queues = Queues::default();
        let made = RefCell::default();
        assert!(queues.join(QUEUE, 1));
        let join_next = |call| {
            if call < 4 {
                assert!(!queues.join(QUEUE, 1));
            }
            None
        };
        // Nothing waits, so all calls are made in one go.
        assert_eq!(calls(&queues, &made, join_next).now_or_never(), Some(()));
        assert_eq!(made.take(), vec![vec![1]; 4]);
    }

    #[tokio::test]
    async fn call_after_admissions_waits_a_moment_or_until_enough_claims_wait() {
        for is_stored in [false, true] {
            for others in [1, 64] {
                let queues = Queues::default();
                let made = RefCell::default();
                assert!(queues.join(QUEUE, 0));
                let (store, stored) = oneshot::channel::<()>();
                let stored = Cell::new(Some(stored));
                let storing = |_| {
                    let stored = stored.take()?;
                    Some(tokio::spawn(async { drop(stored.await) }))
                };
                let mut calling = Box::pin(calls(&queues, &made, storing));
                assert!((&mut calling).now_or_never().is_none());
                if is_stored {
                    store.send(()).unwrap();
                    tokio::task::yield_now().await;
                    assert!((&mut calling).now_or_never().is_none());
                }
                let others: Vec<u32> = (1..=others).collect();
                for user in &others {
                    assert!(!queues.join(QUEUE, *user));
                }
                let at_once = (&mut calling).now_or_never();
                if others.len() == ENOUGH {
                    assert_eq!(at_once, Some(()));
                } else {
                    assert_eq!(at_once, None);
                    // The wait ends even if nothing was stored.
                    calling.await;
                }
                assert_eq!(made.take(), [vec![0], others]);
            }
        }
    }

    #[test]
    fn call_is_limited_to_one_batch() {
        let queues = Queues::default();
        for number in 0..=MAX_BATCH {
            assert_eq!(queues.join(QUEUE, number), number == 0);
        }
        let mut caller = queues.caller(QUEUE);
        let batches = [(0..MAX_BATCH).collect(), vec![MAX_BATCH]];
        assert_eq!(batches.map(Some), [caller.next(), caller.next()]);
        assert_eq!(caller.next(), None);
    }

    #[test]
    fn queue_is_idle_again_after_a_panic() {
        let queues = Queues::default();
        assert!(queues.join(QUEUE, 1));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _caller = queues.caller(QUEUE);
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert!(queues.join(QUEUE, 2));
    }
}
