//! Claims that have a slot, on their way to the second store.

use firstcome_shared::claim::Claim;
use firstcome_shared::domain::CouponId;
use tokio::time::Instant;

/// The call to Redis that returned slots.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) coupon: CouponId,
    /// The era of the gate when Redis returned the slots, or an earlier one.
    pub(super) era: u64,
    /// The time before the call.
    pub(super) asked_at: Instant,
}

/// A claim that has a slot: from the script's reply to the message or the row.
pub(super) struct Admitted {
    pub(super) claim: Claim,
    /// In Unix milliseconds, or `None` if unknown. For example, if the user holds a slot of a drop
    /// that is no candidate, the script reads only the coupon's claimants.
    pub(super) admitted_at_ms: Option<i64>,
}
