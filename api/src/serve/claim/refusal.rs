//! Why a question about a claim, or the claim itself, was refused. `routes/refusals.rs` has the
//! responses.

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
    /// MySQL did not answer who holds a slot of a sealed drop.
    SealedUnknown,
    /// There is nothing to give back or revoke.
    NothingHeld,
    /// MySQL has the revocation; its slot may not be free yet.
    HalfRevoked,
    /// The stores that answered do not know enough to determine the status of a claim.
    StandingUnknown,
    Work(WorkError),
}

impl ClaimRefusal {
    /// Why a claim gets 503, for the log; `None`: it gets another response.
    pub(super) fn why_unavailable(&self) -> Option<String> {
        Some(match self {
            Self::Coupon(LookupError::Unavailable) => {
                "whether there is such a coupon is not known: see MySQL".into()
            }
            Self::Refused(Admission::Unloaded(_)) => "Redis does not have the drop".into(),
            Self::Refused(Admission::Unverified) => {
                "the drop's numbers in Redis do not add up".into()
            }
            Self::Refused(Admission::ForGroup) => {
                "the group that the coupon is for changed twice meanwhile".into()
            }
            Self::NotAnswered(error) => error.to_string(),
            Self::NotDurable => {
                "neither Kafka nor the dead-letter table took the claim in time".into()
            }
            Self::SealedUnknown => "MySQL did not say who holds a slot of a sealed drop".into(),
            Self::Work(WorkError::TooMany) => "too many claims are in progress".into(),
            Self::HalfRevoked | Self::StandingUnknown => {
                "what the stores know is not enough to say".into()
            }
            Self::Coupon(LookupError::NoSuchCoupon(_))
            | Self::NoDrop
            | Self::Refused(_)
            | Self::NothingHeld
            | Self::Work(WorkError::Panicked) => return None,
        })
    }
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
