//! Outcomes of claims: the response to the user, and the label of the metric.

use firstcome_shared::domain::{DropId, Slot};
use firstcome_shared::redis::admission::{Admission, AdmissionError};
use metrics::{Counter, counter, describe_counter};
use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use super::in_flight::WorkError;
use super::refusal::ClaimRefusal;

/// A claim that got a slot or a position in the waiting list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
#[schema(as = Claim)]
pub(crate) enum ClaimAnswer {
    /// A new slot.
    Accepted {
        drop_id: DropId,
        slot: Slot,
        /// True: the message is on the topic, and the coupon comes a moment later. False: Kafka did
        /// not take it, so the API has issued the coupon itself.
        queued: bool,
    },
    /// The slot that the user already holds.
    AlreadyClaimed { drop_id: DropId, slot: Slot },
    /// A position in the waiting list.
    Waiting {
        /// 1 is next.
        position: u32,
    },
}

/// The label `outcome` of `firstcome_claims_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(super) enum ClaimOutcome {
    Accepted,
    AlreadyClaimed,
    Waiting,
    SoldOut,
    Paused,
    Revoked,
    NotAllowed,
    NotOpen,
    Closed,
    Unloaded,
    Unverified,
    #[strum(serialize = "no_licence")]
    GateClosed,
    RedisSlow,
    RedisError,
    MysqlError,
    NotHeld,
    Shed,
    Unexpected,
}

impl ClaimOutcome {
    pub(super) fn counter(self) -> Counter {
        counter!("firstcome_claims_total", "outcome" => <&'static str>::from(self))
    }

    pub(super) fn of(answer: &Result<ClaimAnswer, ClaimRefusal>) -> Self {
        match answer {
            Ok(ClaimAnswer::Accepted { .. }) => Self::Accepted,
            Ok(ClaimAnswer::AlreadyClaimed { .. }) => Self::AlreadyClaimed,
            Ok(ClaimAnswer::Waiting { .. }) => Self::Waiting,
            Err(ClaimRefusal::Refused(refused)) => match refused {
                Admission::SoldOut => Self::SoldOut,
                Admission::Paused => Self::Paused,
                Admission::Revoked => Self::Revoked,
                Admission::NotAllowed => Self::NotAllowed,
                Admission::NotOpen(_) => Self::NotOpen,
                Admission::Closed(_) => Self::Closed,
                Admission::Unloaded(_) => Self::Unloaded,
                _ => Self::Unverified,
            },
            Err(ClaimRefusal::NotAnswered(error)) => match **error {
                AdmissionError::Closed | AdmissionError::AnotherEra => Self::GateClosed,
                AdmissionError::Unanswered => Self::RedisSlow,
                AdmissionError::Redis(_) => Self::RedisError,
                AdmissionError::Unexpected => Self::Unexpected,
            },
            Err(ClaimRefusal::NotDurable) => Self::NotHeld,
            Err(ClaimRefusal::SealedUnknown) => Self::MysqlError,
            Err(ClaimRefusal::Work(WorkError::TooMany)) => Self::Shed,
            Err(
                ClaimRefusal::Work(WorkError::Panicked)
                | ClaimRefusal::Coupon(_)
                | ClaimRefusal::NothingHeld
                | ClaimRefusal::HalfRevoked
                | ClaimRefusal::StandingUnknown,
            ) => Self::Unexpected,
        }
    }
}

/// Starts every outcome at 0, because a counter that first appears at 1 hides its first increase.
pub(in crate::serve) fn describe() {
    describe_counter!("firstcome_claims_total", "Claims processed, by outcome");
    for outcome in ClaimOutcome::VARIANTS {
        outcome.counter().absolute(0);
    }
}
