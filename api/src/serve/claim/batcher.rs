//! Micro-batches of admission: claims with the same candidate drops that arrive during a call to
//! Redis go together in the next call.
//!
//! The first claim on an idle drop is sent immediately. A busy drop has one call in progress, and
//! the claims of the next call share its costs: the round trip, the script's reads of the drop, one
//! write of each key, one entry in the append-only file, one message. After a call that admitted
//! users, the next one waits for a moment, so that calls are larger ([`gather`]); a call
//! without admissions never delays the next one. Redis computes every answer after its
//! claim arrived, so answers are linearizable: after one process has acknowledged a claim, the next
//! claim at any process sees it (docs/decisions/0010-micro-batches.md).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::coupon::{Allow, Group};
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{DropId, Slot, UserId};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::redis::admission::{
    Admission, AdmissionError, AdmissionReply, Admissions, Candidates, Claimant, MAX_BATCH,
};
use firstcome_shared::trace;
use metrics::histogram;
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::outcome::ClaimRefusal;
use super::second_store::{Admitted, Call, Store};
use crate::serve::auth::Requester;
use crate::serve::catalogue::coupon_with_drops::{
    CandidateIds, CouponWithDrops, DropCandidates, instant,
};
use crate::serve::catalogue::losers::{LeaseCall, Losers};
use crate::serve::state::App;

/// The script's reply to one claim. If the claim got a slot, also the second store that holds it;
/// `None` if no second store took it in time.
pub(super) type ClaimReply = (AdmissionReply, Option<Store>);

/// A claim that waits for its call and then for the second store, even after its client hung up.
pub(crate) struct PendingClaim {
    /// The era of the coupon as this process knows it.
    era: u64,
    user: UserId,
    /// The coupon's group, if it has one, and whether the user is in it, if that is known. If a
    /// user's groups are unknown, never answer `not_allowed`.
    group: Option<(Group, bool)>,
    arrived: Instant,
    /// Those of its first candidate.
    losers: Arc<Losers>,
    /// The `traceparent` of its request, if it has a trace.
    trace: Option<String>,
    reply: oneshot::Sender<Result<ClaimReply, Arc<AdmissionError>>>,
    /// Released when the reply is sent.
    _place: OwnedSemaphorePermit,
}

/// Puts one claim into the next call with these candidates and waits for its reply.
pub(super) async fn join_call(
    app: &App,
    coupon: &CouponWithDrops,
    candidates: DropCandidates<'_>,
    requester: &Requester,
) -> Result<ClaimReply, ClaimRefusal> {
    let place = app.in_flight.enter()?;
    let (reply, replied) = oneshot::channel();
    let member = |group: &Group| Some((group.clone(), requester.groups.have(group)?));
    let pending = PendingClaim {
        era: coupon.coupon.era,
        user: requester.user.clone(),
        group: match &coupon.coupon.allow {
            Some(Allow::Group(group)) => member(group),
            Some(Allow::List) | None => None,
        },
        arrived: Instant::now(),
        losers: Arc::clone(candidates.first.losers),
        trace: trace::current(),
        reply,
        _place: place,
    };
    let keys = candidates.keys();
    let queue = candidates.ids();
    if let Some(waiting) = app.queues.join(queue, pending) {
        let this = App::clone(app);
        let first = keys.first.clone();
        let second = keys.second.cloned();
        app.in_flight.spawn(async move {
            let candidates = Candidates {
                first: &first,
                second: second.as_ref(),
            };
            this.queues
                .make_calls(
                    queue,
                    waiting,
                    |batch| call(&this, candidates, batch),
                    |left| refuse(left, AdmissionError::Unanswered),
                )
                .await;
        });
    }
    let Ok(reply) = replied.await else {
        tracing::error!(drop = %queue.0, "a claim was dropped before it was answered");
        return Err(ClaimRefusal::Panicked);
    };
    reply.map_err(ClaimRefusal::NotAnswered)
}

/// Makes one call.
async fn call(app: &App, candidates: Candidates<'_>, mut batch: Vec<PendingClaim>) -> Called {
    let asked_at = Instant::now();
    let is_late =
        |pending: &mut PendingClaim| asked_at.duration_since(pending.arrived) > app.max_wait;
    let late = batch.extract_if(.., is_late).collect();
    refuse(late, AdmissionError::Unanswered);
    // The claims of one call may have copies of the coupon from several eras. Use the newest.
    let Some(newest) = batch.iter().max_by_key(|pending| pending.era) else {
        return Called::Answered;
    };
    let era = newest.era;
    let losers = Arc::clone(&newest.losers);
    let people: Vec<Claimant<'_>> = batch.iter().map(PendingClaim::claimant).collect();
    crash_point(Point::ClaimAsked);
    let called = app
        .redis
        .claim_all(candidates, era, &people, losers.want_lease())
        .await;
    histogram!("firstcome_admission_seconds").record(asked_at.elapsed());
    #[allow(clippy::cast_precision_loss, reason = "at most MAX_BATCH")]
    histogram!("firstcome_admission_batch_claims").record(people.len() as f64);
    match called {
        Ok(Admissions { replies, lease }) => {
            losers.count(&replies, Instant::now());
            if let Some(lease) = lease {
                let keys = candidates.first;
                let candidates = (keys.drop, candidates.second.map(|keys| keys.drop));
                let call = LeaseCall {
                    candidates,
                    era,
                    asked_at,
                };
                if losers.begin(call, lease, Instant::now()) {
                    let redis = app.redis.clone();
                    let keys = keys.clone();
                    tokio::spawn(async move { losers.read_holders(&redis, &keys, era).await });
                }
            }
            let call = Call {
                coupon: candidates.first.coupon,
                era,
                asked_at,
            };
            let storing = deliver(app, call, batch.into_iter().zip(replies));
            // Let requests that wait on their sockets join the next call.
            tokio::task::yield_now().await;
            storing.map_or(Called::Answered, Called::Admitted)
        }
        Err(error) => {
            tracing::debug!(%error, claims = batch.len(), "claims were not answered");
            let is_failed = matches!(error, AdmissionError::Redis(_));
            refuse(batch, error);
            if is_failed {
                Called::Failed
            } else {
                Called::Answered
            }
        }
    }
}

/// Replies immediately to claims without a slot. Claims with a slot are stored first, even if their
/// clients hung up: those of one drop together, whether new or retries. If users were admitted,
/// returns the task that does this for their drop.
fn deliver(
    app: &App,
    call: Call,
    replies: impl Iterator<Item = (PendingClaim, Option<AdmissionReply>)>,
) -> Option<JoinHandle<()>> {
    let mut holders: HashMap<DropId, (Vec<_>, Vec<Admitted>)> = HashMap::new();
    let mut admitting = None;
    for (pending, reply) in replies {
        // A damaged entry of one user in Redis must not affect the claims of other users.
        let Some(reply) = reply else {
            tracing::error!(
                coupon = %call.coupon,
                "the admission script's reply to one claim could not be parsed"
            );
            refuse(vec![pending], AdmissionError::Unexpected);
            continue;
        };
        let Some((drop_id, slot)) = slot(&reply) else {
            pending.answer(reply, None);
            continue;
        };
        if let Admission::Accepted(_) = reply.admission {
            crash_point(Point::ClaimAdmitted);
            admitting = Some(drop_id);
        }
        let (waiting, claims) = holders.entry(drop_id).or_default();
        let claim = ClaimEvent {
            coupon_id: call.coupon,
            drop_id,
            slot,
            user_id: pending.user.clone(),
            claimed_at: instant(reply.admitted_at_ms.unwrap_or(reply.now_ms)),
        };
        claims.push(Admitted {
            claim,
            admitted_at_ms: reply.admitted_at_ms,
            trace: pending.trace.clone(),
        });
        waiting.push((pending, reply));
    }
    let mut storing = None;
    for (drop_id, (waiting, claims)) in holders {
        let this = App::clone(app);
        let task = app.in_flight.spawn(async move {
            let stored = this.second_store.ensure(call, &claims).await;
            for ((pending, reply), stored) in waiting.into_iter().zip(stored) {
                pending.answer(reply, stored);
            }
        });
        if admitting == Some(drop_id) {
            storing = Some(task);
        }
    }
    storing
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
    fn claimant(&self) -> Claimant<'_> {
        Claimant {
            user: &self.user,
            group: self.group.as_ref().map(|(group, is)| (group, *is)),
        }
    }

    fn answer(self, reply: AdmissionReply, stored: Option<Store>) {
        // Sending fails if the client hung up. Its retry gets the same answer.
        let _ = self.reply.send(Ok((reply, stored)));
    }
}

fn refuse(claims: Vec<PendingClaim>, error: AdmissionError) {
    let error = Arc::new(error);
    for pending in claims {
        let _ = pending.reply.send(Err(Arc::clone(&error)));
    }
}

/// Identifies the claims that may share calls: those with the same candidates.
type QueueId = CandidateIds;

/// This many claims are worth a separate call: more would not make a claim cheaper.
const ENOUGH: usize = 64;

/// Maximum wait for the acknowledgement of the last message.
const ACKNOWLEDGED: Duration = Duration::from_millis(3);

/// Time in which users who were just answered may claim again.
const ANSWERED: Duration = Duration::from_micros(500);

/// What a call means for the claims that wait for the next one.
enum Called {
    /// No user was admitted: the next call follows at once.
    Answered,
    /// This task stores the admissions.
    Admitted(JoinHandle<()>),
    /// Redis did not answer.
    Failed,
}

/// Claims that wait for the next call, by candidates. An entry exists exactly while a task calls
/// Redis for these candidates.
pub(crate) struct Queues<T>(Mutex<HashMap<QueueId, UnboundedSender<T>>>);

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Queues<T> {
    /// Adds a claim to a queue. If the queue was idle, or its task has panicked, returns its claims:
    /// this task must make the calls.
    fn join(&self, id: QueueId, claim: T) -> Option<UnboundedReceiver<T>> {
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
    async fn make_calls<Calling: Future<Output = Called>>(
        &self,
        id: QueueId,
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

    use futures_util::FutureExt as _;

    use super::*;

    const QUEUE: QueueId = (DropId(1), None);

    /// Puts claims into the queue, makes calls until it is empty, and returns the claims of each.
    /// `then` gets the number of the call; what it joins is in the next call.
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
    fn call_is_limited_to_one_batch() {
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
