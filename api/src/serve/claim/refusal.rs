//! Why a claim, or a read of its status, was refused. `routes/refusals.rs` maps refusals to
//! responses.

use std::sync::Arc;

use firstcome_shared::redis::admission::{Admission, AdmissionError};

use super::in_flight::WorkError;
use crate::serve::catalogue::LookupError;

#[derive(Debug)]
pub(crate) enum ClaimRefusal {
    Coupon(LookupError),
    /// Admission gave neither a slot nor a position in the waiting list.
    Refused(Admission),
    /// Redis did not answer. The claim may have been admitted.
    NotAnswered(Arc<AdmissionError>),
    /// Redis holds the claim, but no second store does yet.
    NotDurable,
    /// MySQL, which alone knows the holders of a sealed drop, did not answer.
    SealedUnknown,
    /// There is nothing to give back or revoke.
    NothingHeld,
    /// MySQL has the revocation, but Redis may not have freed the slot yet.
    HalfRevoked,
    /// The stores that answered cannot determine the status of the claim. For example, a coupon
    /// without any drop: each coupon is created with one, so MySQL has lost it.
    StandingUnknown,
    Work(WorkError),
}

impl ClaimRefusal {
    /// Returns the label `outcome` of `firstcome_claims_total`.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Refused(admission) => admission.word(),
            Self::NotAnswered(error) => error.word(),
            Self::NotDurable => "not_held",
            Self::SealedUnknown => "mysql_error",
            Self::Work(WorkError::TooMany) => "shed",
            Self::Work(WorkError::Panicked)
            | Self::Coupon(_)
            | Self::NothingHeld
            | Self::HalfRevoked
            | Self::StandingUnknown => "unexpected",
        }
    }

    /// Returns, for the log, why a claim gets 503, or `None` if it gets another response.
    pub(super) fn why_unavailable(&self) -> Option<String> {
        Some(match self {
            Self::Coupon(LookupError::Unavailable) => {
                "MySQL did not answer whether the coupon exists".into()
            }
            Self::Refused(Admission::Unloaded(_)) => "Redis does not have the drop".into(),
            Self::Refused(Admission::Unverified) => {
                "the drop's numbers in Redis do not add up".into()
            }
            Self::Refused(Admission::ForGroup) => {
                "the coupon's group changed twice during the claim".into()
            }
            Self::NotAnswered(error) => error.to_string(),
            Self::NotDurable => "neither Kafka nor MySQL took the claim in time".into(),
            Self::SealedUnknown => "MySQL did not answer about a claim on a sealed drop".into(),
            Self::Work(WorkError::TooMany) => "too many claims are in progress".into(),
            Self::HalfRevoked | Self::StandingUnknown => {
                "the stores cannot determine the status of the claim".into()
            }
            Self::Coupon(LookupError::NoSuchCoupon(_))
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
