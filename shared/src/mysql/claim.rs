//! A claim to be stored as a row, and by whom.

use chrono::{DateTime, Utc};
use strum::IntoStaticStr;

use crate::domain::{CouponId, DropId, Slot, UserId};
use crate::event::ClaimEvent;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub coupon_id: CouponId,
    pub drop_id: DropId,
    pub slot: Slot,
    pub user_id: UserId,
    /// When the user was admitted, if known; otherwise the row gets the current time.
    pub claimed_at: Option<DateTime<Utc>>,
}

/// Who wrote the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum IssuedBy {
    Consumer,
    /// The API, while Kafka does not acknowledge claims.
    Api,
    Reconciler,
}

impl From<&ClaimEvent> for Claim {
    fn from(event: &ClaimEvent) -> Self {
        Self {
            coupon_id: event.coupon_id,
            drop_id: event.drop_id,
            slot: event.slot,
            user_id: event.user_id.clone(),
            claimed_at: Some(event.claimed_at),
        }
    }
}
