//! Claims that wait for their answer.

use std::sync::Arc;

use firstcome_shared::redis::admission::{Admission, AdmissionError, Claimant};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::outcome::{ClaimAnswer, ClaimRefusal};
use super::second_store::StoredIn;
use crate::serve::catalogue::losers::Losers;

/// A claim that waits for its call and then for the second store, even after its client hung up.
pub(crate) struct PendingClaim {
    /// The era of the coupon as this process knows it.
    pub(super) era: u64,
    /// If a user's groups are unknown, never answer `not_allowed`.
    pub(super) claimant: Claimant,
    pub(super) arrived: Instant,
    /// The losers of its first candidate.
    pub(super) losers: Arc<Losers>,
    pub(super) answer: oneshot::Sender<Result<ClaimAnswer, ClaimRefusal>>,
    /// Released when the claim is answered.
    pub(super) _place: OwnedSemaphorePermit,
}

impl PendingClaim {
    /// Answers with the result of admission. A slot is acknowledged only if a second store holds
    /// the claim.
    pub(super) fn acknowledge(self, admission: Admission, store: Option<StoredIn>) {
        self.answer(match (admission, store) {
            (Admission::Accepted(_) | Admission::Already(_), None) => Err(ClaimRefusal::NotDurable),
            (Admission::Accepted(held), Some(store)) => Ok(ClaimAnswer::Accepted {
                drop_id: held.drop,
                slot: held.slot,
                queued: store == StoredIn::Kafka,
            }),
            (Admission::Already(held), Some(_)) => Ok(ClaimAnswer::AlreadyClaimed {
                drop_id: held.drop,
                slot: held.slot,
            }),
            (Admission::Waiting(position), _) => Ok(ClaimAnswer::Waiting { position }),
            (refused, _) => Err(ClaimRefusal::Refused(refused)),
        });
    }

    fn answer(self, answer: Result<ClaimAnswer, ClaimRefusal>) {
        // Sending fails if nobody waits for the answer any more. The client can retry.
        let _ = self.answer.send(answer);
    }
}

pub(super) fn refuse(claims: Vec<PendingClaim>, error: AdmissionError) {
    let error = Arc::new(error);
    for pending in claims {
        pending.answer(Err(ClaimRefusal::NotAnswered(Arc::clone(&error))));
    }
}
