//! Why a question about a claim, or the claim itself, was refused. `routes/refusals.rs` has the
//! answers.

use std::sync::Arc;

use firstcome_shared::redis::admission::{Admission, AdmissionError};

use super::in_flight::WorkError;
use crate::serve::catalogue::LookupError;

#[derive(Debug)]
pub(crate) enum ClaimRefusal {
    Coupon(LookupError),
    /// The coupon has no drop.
    NoDrop,
    /// Admission gave neither a slot nor a place.
    Refused(Admission),
    /// Redis did not answer. The claim may have been admitted.
    NotAnswered(Arc<AdmissionError>),
    /// Redis holds the claim and no second store does yet.
    NotDurable,
    /// MySQL did not say who holds a slot of a sealed drop.
    SealedUnknown,
    /// There is nothing to give back or revoke.
    NothingHeld,
    /// MySQL has the revocation; its slot may not be free yet.
    HalfRevoked,
    /// The stores that answered do not know enough to say where a claim stands.
    StandingUnknown,
    Work(WorkError),
}

impl From<LookupError> for ClaimRefusal {
    fn from(error: LookupError) -> Self {
        Self::Coupon(error)
    }
}

impl From<WorkError> for ClaimRefusal {
    fn from(error: WorkError) -> Self {
        Self::Work(error)
    }
}
