//! One claim: [`admit`] decides by Redis, in a [`micro_batch`] with the claims of the same moment;
//! [`durability`] makes sure that a second store holds it before the answer. [`in_flight`] limits
//! how many are worked on, and [`my_claim`] says later where one stands.

pub(crate) mod admit;
pub(crate) mod durability;
pub(crate) mod fallback;
pub(crate) mod in_flight;
mod issued;
mod micro_batch;
pub(crate) mod my_claim;
pub(crate) mod publisher;
pub(crate) mod revoke;

use std::sync::Arc;

use firstcome_shared::domain::{DropId, Slot};
use firstcome_shared::redis::admission::{Admission, AdmissionError};
use serde::Serialize;
use utoipa::ToSchema;

use self::in_flight::WorkError;
use crate::serve::catalogue::LookupError;

/// A claim that got a slot or a place on the waiting list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
#[schema(as = Claim)]
pub(crate) enum ClaimAnswer {
    /// A slot, just now.
    Accepted {
        /// In which drop.
        drop_id: DropId,
        /// Which slot.
        slot: Slot,
        /// Whether the message is certain to be on the topic. If not, the dead-letter table holds it,
        /// and the coupon comes all the same, a little later.
        queued: bool,
    },
    /// This person holds a slot already.
    AlreadyClaimed {
        /// In which drop.
        drop_id: DropId,
        /// Which slot.
        slot: Slot,
    },
    /// A place on the waiting list.
    Waiting {
        /// 1 is next.
        position: u32,
    },
}

/// Why a question about a claim, or the claim itself, was refused. `routes/refusals.rs` has the
/// answers.
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
