//! Claims that wait for their answer.

use std::sync::Arc;

use firstcome_shared::coupon::Group;
use firstcome_shared::domain::UserId;
use firstcome_shared::redis::admission::{Admission, AdmissionError, Claimant};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::second_store::StoredIn;
use crate::serve::catalogue::losers::Losers;

/// Admission's answer to one claim, and the second store that holds the claim.
#[derive(Debug)]
pub(super) struct StoredReply {
    pub(super) admission: Admission,
    /// The second store that holds the claim if it got a slot; `None` if no store took it in time.
    pub(super) store: Option<StoredIn>,
}

/// A claim that waits for its call and then for the second store, even after its client hung up.
pub(crate) struct PendingClaim {
    /// The era of the coupon as this process knows it.
    pub(super) era: u64,
    pub(super) user: UserId,
    /// The coupon's group, if it has one, and whether the user is in it, if that is known. If a
    /// user's groups are unknown, never answer `not_allowed`.
    pub(super) group: Option<(Group, bool)>,
    pub(super) arrived: Instant,
    /// The losers of its first candidate.
    pub(super) losers: Arc<Losers>,
    pub(super) reply: oneshot::Sender<Result<StoredReply, Arc<AdmissionError>>>,
    /// Released when the reply is sent.
    pub(super) _place: OwnedSemaphorePermit,
}

impl PendingClaim {
    pub(super) fn claimant(&self) -> Claimant<'_> {
        Claimant {
            user: &self.user,
            group: self.group.as_ref().map(|(group, is)| (group, *is)),
        }
    }

    pub(super) fn answer(self, admission: Admission, store: Option<StoredIn>) {
        // Sending fails if nobody waits for the answer any more. The client can retry.
        let _ = self.reply.send(Ok(StoredReply { admission, store }));
    }
}

pub(super) fn refuse(claims: Vec<PendingClaim>, error: AdmissionError) {
    let error = Arc::new(error);
    for pending in claims {
        let _ = pending.reply.send(Err(Arc::clone(&error)));
    }
}
