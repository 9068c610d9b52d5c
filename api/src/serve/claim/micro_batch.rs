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

mod traces;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::coupon::{Allow, Group};
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{DropId, OncePer, UserId};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::{
    Admission, AdmissionError, AdmissionReply, Candidates, Claimant, MAX_BATCH,
};
use firstcome_shared::trace::{self, TraceContext};
use futures_util::future::join_all;
use metrics::{Histogram, histogram};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::durability::{AdmittedClaim, Durability, SecondStore};
use super::in_flight::{InFlightLimit, WorkError};
use super::refusal::ClaimRefusal;
use crate::serve::auth::Requester;
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, DropCandidates};

/// Sends claims to Redis, and stores those that got a slot in a second store.
pub(super) struct MicroBatches {
    redis: Redis,
    durability: Arc<Durability>,
    in_flight: Arc<InFlightLimit>,
    /// Maximum wait for the next call.
    max_wait: Duration,
    queues: Queues<PendingClaim>,
    call_seconds: Histogram,
    batch_size: Histogram,
}

/// A claim that waits for its call and then for the second store, even after its client hung up.
struct PendingClaim {
    coupon: Arc<CouponWithDrops>,
    user: UserId,
    /// The coupon's group according to the catalogue, and whether the user is in it.
    group: Option<(Group, bool)>,
    arrived: Instant,
    /// The span of its request, if it has a trace.
    trace: Option<TraceContext>,
    reply: oneshot::Sender<Result<ClaimReply, Arc<AdmissionError>>>,
    /// Released when the reply is sent.
    _place: OwnedSemaphorePermit,
}

pub(super) struct ClaimReply {
    pub(super) admission: Admission,
    pub(super) now_ms: i64,
    /// The candidate that was open at that time.
    pub(super) open_drop: Option<DropId>,
    /// If the claim got a slot, the second store that holds it. `None` if no second store took it
    /// in time.
    pub(super) stored: Option<SecondStore>,
    /// The coupon's group according to Redis.
    group: Option<Group>,
}

impl MicroBatches {
    pub(super) fn new(
        redis: Redis,
        durability: Arc<Durability>,
        in_flight: Arc<InFlightLimit>,
        max_wait: Duration,
    ) -> Self {
        Self {
            redis,
            durability,
            in_flight,
            max_wait,
            queues: Queues::default(),
            call_seconds: histogram!("firstcome_admission_seconds"),
            batch_size: histogram!("firstcome_admission_batch_claims"),
        }
    }

    /// Puts one claim into the next call with these candidates and waits for its reply.
    pub(super) async fn ask(
        self: &Arc<Self>,
        coupon: &Arc<CouponWithDrops>,
        candidates: DropCandidates<'_>,
        requester: &Requester,
    ) -> Result<ClaimReply, ClaimRefusal> {
        let known = match &coupon.coupon.allow {
            Some(Allow::Group(group)) => Some(group.clone()),
            _ => None,
        };
        let reply = self.ask_once(coupon, candidates, requester, known).await?;
        match reply.group {
            // An operator has just changed the restriction, and the catalogue does not have the
            // change yet.
            Some(group) => {
                self.ask_once(coupon, candidates, requester, Some(group))
                    .await
            }
            None => Ok(reply),
        }
    }

    async fn ask_once(
        self: &Arc<Self>,
        coupon: &Arc<CouponWithDrops>,
        candidates: DropCandidates<'_>,
        requester: &Requester,
        group: Option<Group>,
    ) -> Result<ClaimReply, ClaimRefusal> {
        let place = self.in_flight.enter()?;
        let (reply, replied) = oneshot::channel();
        let coupon = Arc::clone(coupon);
        let user = requester.user.clone();
        // If a user's groups are unknown, never answer `not_allowed`.
        let group = group.and_then(|group| {
            requester
                .groups
                .have(&group)
                .map(|is_member| (group, is_member))
        });
        let arrived = Instant::now();
        let trace = trace::current();
        let pending = PendingClaim {
            coupon,
            user,
            group,
            arrived,
            trace,
            reply,
            _place: place,
        };
        let queue = QueueId::of(candidates.keys());
        if self.queues.join(queue, pending) {
            let batches = Arc::clone(self);
            let first = candidates.first.keys.clone();
            let second = candidates.second.map(|one| one.keys.clone());
            self.in_flight.spawn(async move {
                let candidates = Candidates {
                    first: &first,
                    second: second.as_ref(),
                };
                batches.call_until_queue_is_empty(candidates).await;
            });
        }
        let Ok(reply) = replied.await else {
            tracing::error!(drop = %queue.first, "a claim was dropped before it was answered");
            return Err(WorkError::Panicked.into());
        };
        reply.map_err(ClaimRefusal::NotAnswered)
    }

    async fn call_until_queue_is_empty(self: Arc<Self>, candidates: Candidates<'_>) {
        let caller = self.queues.caller(QueueId::of(candidates));
        let this = &self;
        make_calls(caller, |batch| this.call_and_deliver(candidates, batch)).await;
    }

    /// Makes one call. If it admitted users, returns the task that stores the admissions and
    /// answers.
    async fn call_and_deliver(
        self: &Arc<Self>,
        candidates: Candidates<'_>,
        mut batch: Vec<PendingClaim>,
    ) -> Option<JoinHandle<()>> {
        let asked_at = Instant::now();
        let late = batch.extract_if(.., |pending| {
            asked_at.duration_since(pending.arrived) > self.max_wait
        });
        refuse(late.collect(), &Arc::new(AdmissionError::Unanswered));
        if batch.is_empty() {
            return None;
        }
        // The claims of one call may have copies of the coupon from several eras. Use the newest.
        let eras = batch.iter().map(|pending| pending.coupon.coupon.era);
        let era = eras.max().unwrap_or(0);
        let called = self.call(candidates, era, &batch).await;
        traces::admissions(candidates.first.drop, &batch, &called);
        match called {
            Ok(replies) => {
                let replies = batch.into_iter().zip(replies);
                let stored = self.deliver(candidates, era, asked_at, replies);
                // Let requests that wait on their sockets join the next call.
                tokio::task::yield_now().await;
                stored
            }
            Err(error) => {
                // Redis did not answer, so refuse the queued claims as well instead of letting
                // each of them wait for another timeout.
                if matches!(error, AdmissionError::Redis(_)) {
                    batch.extend(self.queues.take_all(QueueId::of(candidates)));
                }
                refuse(batch, &Arc::new(error));
                None
            }
        }
    }

    async fn call(
        &self,
        candidates: Candidates<'_>,
        era: u64,
        batch: &[PendingClaim],
    ) -> Result<Vec<Option<AdmissionReply>>, AdmissionError> {
        let people: Vec<Claimant<'_>> = batch.iter().map(PendingClaim::claimant).collect();
        let begun = Instant::now();
        crash_point(Point::ClaimAsked);
        let replies = self.redis.claim_all(candidates, era, &people).await;
        self.call_seconds.record(begun.elapsed().as_secs_f64());
        #[allow(clippy::cast_precision_loss, reason = "at most MAX_BATCH")]
        self.batch_size.record(people.len() as f64);
        match &replies {
            Err(AdmissionError::Redis(cause)) => {
                tracing::debug!(%cause, claims = people.len(), "claims were not answered");
            }
            Err(AdmissionError::Unexpected) => {
                let drop = candidates.first.drop;
                tracing::error!(%drop, "the reply of the admission script could not be parsed");
            }
            Ok(_) | Err(_) => {}
        }
        replies
    }

    /// Replies immediately to claims without a slot. Claims with a slot are made durable first,
    /// even if their clients hung up: those of one drop together, whether new or retries. If users
    /// were admitted, returns the task that does this for their drop.
    fn deliver(
        self: &Arc<Self>,
        candidates: Candidates<'_>,
        era: u64,
        asked_at: Instant,
        replies: impl Iterator<Item = (PendingClaim, Option<AdmissionReply>)>,
    ) -> Option<JoinHandle<()>> {
        let mut holders: HashMap<DropId, Vec<Holder>> = HashMap::new();
        let mut admitting = None;
        for (pending, reply) in replies {
            // A damaged entry of one user in Redis must not affect the claims of other users.
            let Some(reply) = reply else {
                let drop = candidates.first.drop;
                tracing::error!(%drop, "the admission script's reply to one claim could not be parsed");
                refuse(vec![pending], &Arc::new(AdmissionError::Unexpected));
                continue;
            };
            let (drop_id, slot, is_new) = match (reply.admission, reply.open_drop) {
                (Admission::Accepted(slot), Some(drop)) => {
                    crash_point(Point::ClaimAdmitted);
                    admitting = Some(drop);
                    (drop, slot, true)
                }
                (Admission::Already(held_in, slot), _) => (held_in, slot, false),
                _ => {
                    pending.answer(reply, None);
                    continue;
                }
            };
            let claim = AdmittedClaim {
                asked_at,
                drop_id,
                slot,
                user: pending.user.clone(),
                is_new,
                admitted_at_ms: reply.admitted_at_ms,
                is_in_users: true,
                now_ms: reply.now_ms,
                era,
                trace: pending.trace,
            };
            let holder = (claim, (pending, reply));
            holders.entry(drop_id).or_default().push(holder);
        }
        let mut storing = None;
        for (drop, holders) in holders {
            let Some((_, (first, _))) = holders.first() else {
                continue;
            };
            let coupon = Arc::clone(&first.coupon);
            let this = Arc::clone(self);
            let task = self
                .in_flight
                .spawn(async move { this.store(coupon, holders).await });
            if admitting == Some(drop) {
                storing = Some(task);
            }
        }
        storing
    }

    /// Makes claims of one drop durable and answers them.
    async fn store(&self, coupon: Arc<CouponWithDrops>, holders: Vec<Holder>) {
        let confirmed = holders
            .into_iter()
            .map(async |(claim, request)| (self.confirmed(&coupon, claim).await, request));
        let mut claims = Vec::new();
        let mut requests = Vec::new();
        for (claim, (pending, reply)) in join_all(confirmed).await {
            match claim {
                Some(claim) => {
                    claims.push(claim);
                    requests.push((pending, reply));
                }
                None => pending.answer(reply, None),
            }
        }
        let stored = self.durability.ensure(&coupon, &claims).await;
        for ((pending, reply), stored) in requests.into_iter().zip(stored) {
            pending.answer(reply, stored);
        }
    }
}

/// A claim that has a slot, and its request.
type Holder = (AdmittedClaim, (PendingClaim, AdmissionReply));

impl MicroBatches {
    /// Confirms a slot in another drop. The script has read only the coupon's claimants, one of
    /// whom may be wrong. Returns `None` if Redis does not confirm the slot.
    async fn confirmed(
        &self,
        coupon: &CouponWithDrops,
        claim: AdmittedClaim,
    ) -> Option<AdmittedClaim> {
        // The script returns a time of admission for users that it admitted or found in `users`.
        if coupon.coupon.once_per == OncePer::Drop || claim.admitted_at_ms.is_some() {
            return Some(claim);
        }
        let keys = self.redis.keys(coupon.coupon.id, claim.drop_id);
        match self.redis.held_slot(&keys, claim.slot, &claim.user).await {
            Ok(held) => held.map(|held| AdmittedClaim {
                admitted_at_ms: held.admitted_at_ms,
                is_in_users: held.is_in_users,
                ..claim
            }),
            Err(error) => {
                tracing::debug!(%error, "could not look up a slot in another drop");
                None
            }
        }
    }
}

impl PendingClaim {
    fn answer(self, reply: AdmissionReply, stored: Option<SecondStore>) {
        // Sending fails if the client hung up. Its retry gets the same answer.
        let AdmissionReply {
            admission,
            now_ms,
            open_drop,
            group,
            ..
        } = reply;
        let _ = self.reply.send(Ok(ClaimReply {
            admission,
            now_ms,
            open_drop,
            stored,
            group,
        }));
    }

    fn claimant(&self) -> Claimant<'_> {
        Claimant {
            user: &self.user,
            group: self
                .group
                .as_ref()
                .map(|(group, is_member)| (group, *is_member)),
        }
    }
}

fn refuse(claims: Vec<PendingClaim>, error: &Arc<AdmissionError>) {
    for pending in claims {
        let _ = pending.reply.send(Err(Arc::clone(error)));
    }
}

/// Identifies the claims that may share calls: those with the same candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct QueueId {
    first: DropId,
    second: Option<DropId>,
}

impl QueueId {
    fn of(candidates: Candidates<'_>) -> Self {
        Self {
            first: candidates.first.drop,
            second: candidates.second.map(|keys| keys.drop),
        }
    }
}

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
struct Queues<T> {
    waiting: Mutex<HashMap<QueueId, VecDeque<T>>>,
    /// Notified when a queue has enough claims for a call.
    enough: Notify,
}

/// The task that makes the calls of a queue. Dropping it drops the waiting claims and makes the
/// queue idle again.
struct Caller<'a, T> {
    queues: &'a Queues<T>,
    id: QueueId,
    ended: bool,
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
                waiting.get_mut().push_back(claim);
                if waiting.get().len() == ENOUGH {
                    self.enough.notify_waiters();
                }
                false
            }
            Entry::Vacant(first) => {
                first.insert(VecDeque::from([claim]));
                true
            }
        }
    }

    fn take_all(&self, id: QueueId) -> Vec<T> {
        let waiting = self.waiting.lock().get_mut(&id).map(std::mem::take);
        waiting.unwrap_or_default().into()
    }

    fn caller(&self, id: QueueId) -> Caller<'_, T> {
        Caller {
            queues: self,
            id,
            ended: false,
        }
    }
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
        let people = waiting.len().min(MAX_BATCH);
        Some(waiting.drain(..people).collect())
    }

    /// Waits until enough claims for a call wait.
    async fn enough(&self) {
        loop {
            // Registered before the check, so that no notification is missed.
            let notified = self.queues.enough.notified();
            let waiting = self
                .queues
                .waiting
                .lock()
                .get(&self.id)
                .map_or(0, VecDeque::len);
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

    const QUEUE: QueueId = QueueId {
        first: DropId(1),
        second: None,
    };

    #[test]
    fn claims_that_arrive_during_a_call_share_the_next_call_in_order() {
        let queues = Queues::default();
        assert!(queues.join(QUEUE, 1));
        let mut caller = queues.caller(QUEUE);
        assert_eq!(caller.next(), Some(vec![1]));
        assert!(!queues.join(QUEUE, 2));
        assert!(!queues.join(QUEUE, 3));
        assert!(
            queues.join(
                QueueId {
                    second: Some(DropId(2)),
                    ..QUEUE
                },
                9
            ),
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
    fn call_is_limited_to_one_batch_and_a_failure_drains_the_queue() {
        let queues = Queues::default();
        let people = MAX_BATCH * 2 + 1;
        for number in 0..people {
            assert_eq!(queues.join(QUEUE, number), number == 0);
        }
        let mut caller = queues.caller(QUEUE);
        assert_eq!(caller.next().unwrap().len(), MAX_BATCH);
        assert_eq!(
            queues.take_all(QUEUE),
            (MAX_BATCH..people).collect::<Vec<_>>()
        );
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
