//! Micro-batches of admission: claims with the same candidate drops that arrive during a call to
//! Redis go together in the next call.
//!
//! The first claim on an idle drop is sent immediately. A busy drop has one call in progress, and
//! the claims of the next call share its costs: the round trip, the script's reads of the drop, one
//! write of each key, one entry in the append-only file, one message. After a call that admitted
//! users, the next one waits for a moment, so that calls are larger ([`super::queue`]); a call
//! without admissions never delays the next one. Redis computes every answer after its
//! claim arrived, so answers are linearizable: after one process has acknowledged a claim, the next
//! claim at any process sees it (docs/decisions/0010-micro-batches.md).

use std::collections::HashMap;
use std::sync::Arc;

use firstcome_shared::claim::Claim;
use firstcome_shared::coupon::Allow;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::DropId;
use firstcome_shared::redis::admission::{
    Admission, AdmissionError, Admissions, Candidates, Claimant,
};
use metrics::histogram;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::outcome::{ClaimAnswer, ClaimRefusal};
use super::pending::{PendingClaim, refuse};
use super::queue::Called;
use super::second_store::Call;
use crate::serve::auth::Requester;
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, DropCandidates};
use crate::serve::catalogue::losers::LeaseCall;
use crate::serve::state::App;

/// Puts one claim into the next call with these candidates and waits for its answer.
pub(super) async fn join_call(
    app: &App,
    coupon: &CouponWithDrops,
    candidates: DropCandidates<'_>,
    requester: &Requester,
) -> Result<ClaimAnswer, ClaimRefusal> {
    let place = app.in_flight.enter()?;
    let (answer, answered) = oneshot::channel();

    let pending = PendingClaim {
        era: coupon.coupon.era,
        claimant: Claimant {
            user: requester.user.clone(),
            group: match &coupon.coupon.allow {
                Some(Allow::Group(group)) => requester
                    .groups
                    .have(group)
                    .map(|is_member| (group.clone(), is_member)),
                Some(Allow::List) | None => None,
            },
        },
        arrived: Instant::now(),
        losers: Arc::clone(candidates.first.losers),
        answer,
        _place: place,
    };
    let keys = candidates.keys();
    let queue = keys.ids();
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
    answered.await.unwrap_or_else(|_| {
        tracing::error!(drop = %queue.0, "a claim was dropped before it was answered");
        Err(ClaimRefusal::Panicked)
    })
}

async fn call(app: &App, candidates: Candidates<'_>, mut batch: Vec<PendingClaim>) -> Called {
    let asked_at = Instant::now();
    let late = batch.extract_if(.., |pending| {
        asked_at.duration_since(pending.arrived) > app.max_wait
    });
    refuse(late.collect(), AdmissionError::Unanswered);
    // The claims of one call may have copies of the coupon from several eras. Use the newest.
    let Some(newest) = batch.iter().max_by_key(|pending| pending.era) else {
        return Called::Answered;
    };
    let era = newest.era;
    let losers = Arc::clone(&newest.losers);
    let people: Vec<&Claimant> = batch.iter().map(|pending| &pending.claimant).collect();
    let now = app.clock.now(candidates.first.coupon);
    crash_point(Point::ClaimAsked);
    let called = app
        .redis
        .claim_all(candidates, era, &people, losers.want_lease(asked_at))
        .await;
    histogram!("firstcome_admission_seconds").record(asked_at.elapsed());
    #[allow(clippy::cast_precision_loss, reason = "at most MAX_BATCH")]
    histogram!("firstcome_admission_batch_claims").record(people.len() as f64);
    match called {
        Ok(Admissions { replies, lease }) => {
            losers.count(&replies, Instant::now());
            if let Some(lease) = lease {
                let call = LeaseCall {
                    candidates: candidates.ids(),
                    era,
                    asked_at,
                };
                if losers.begin(call, lease, Instant::now()) {
                    let redis = app.redis.clone();
                    let keys = candidates.first.clone();
                    tokio::spawn(async move { losers.read_holders(&redis, &keys, era).await });
                }
            }
            let call = Call {
                coupon: candidates.first.coupon,
                era,
                asked_at,
                now,
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
    replies: impl Iterator<Item = (PendingClaim, Option<Admission>)>,
) -> Option<JoinHandle<()>> {
    let mut holders: HashMap<DropId, (Vec<_>, Vec<Claim>)> = HashMap::new();
    let mut admitting = None;
    for (pending, reply) in replies {
        // A damaged entry of one user in Redis must not affect the claims of other users.
        let Some(admission) = reply else {
            tracing::error!(
                coupon = %call.coupon,
                "the admission script's reply to one claim could not be parsed"
            );
            refuse(vec![pending], AdmissionError::Unexpected);
            continue;
        };
        let (Admission::Accepted(held) | Admission::Already(held)) = admission else {
            pending.acknowledge(admission, None);
            continue;
        };
        if let Admission::Accepted(_) = admission {
            crash_point(Point::ClaimAdmitted);
            admitting = Some(held.drop);
        }
        let (waiting, claims) = holders.entry(held.drop).or_default();
        claims.push(Claim {
            coupon_id: call.coupon,
            drop_id: held.drop,
            slot: held.slot,
            user_id: pending.claimant.user.clone(),
            claimed_at: held.claimed_at,
        });
        waiting.push((pending, admission));
    }
    let mut storing = None;
    for (drop_id, (waiting, claims)) in holders {
        let this = App::clone(app);
        let task = app.in_flight.spawn(async move {
            let stored = this.second_store.ensure(call, &claims).await;
            for ((pending, admission), stored) in waiting.into_iter().zip(stored) {
                pending.acknowledge(admission, stored);
            }
        });
        if admitting == Some(drop_id) {
            storing = Some(task);
        }
    }
    storing
}
