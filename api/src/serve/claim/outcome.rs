//! Outcomes of claims: the response to the user, and the label of the metric.

use firstcome_shared::domain::{DropId, Slot};
use metrics::{Counter, describe_counter};
use serde::Serialize;
use utoipa::ToSchema;

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

impl ClaimAnswer {
    fn label(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::AlreadyClaimed { .. } => "already_claimed",
            Self::Waiting { .. } => "waiting",
        }
    }
}

/// The values of the label `outcome`.
const LABELS: [&str; 18] = [
    "accepted",
    "already_claimed",
    "waiting",
    "sold_out",
    "paused",
    "revoked",
    "not_allowed",
    "not_open",
    "closed",
    "unloaded",
    "unverified",
    "gate_closed",
    "redis_slow",
    "redis_error",
    "mysql_error",
    "not_held",
    "shed",
    "unexpected",
];

/// Returns the label `outcome` of a processed claim.
pub(super) fn label(answer: &Result<ClaimAnswer, ClaimRefusal>) -> &'static str {
    match answer {
        Ok(answer) => answer.label(),
        Err(refusal) => refusal.label(),
    }
}

pub(super) fn counter(outcome: &'static str) -> Counter {
    metrics::counter!("firstcome_claims_total", "outcome" => outcome)
}

/// Starts every outcome at 0, because a counter that first appears at 1 hides its first increase.
pub(in crate::serve) fn describe() {
    describe_counter!("firstcome_claims_total", "Claims processed, by outcome");
    for outcome in LABELS {
        counter(outcome).absolute(0);
    }
}
