//! A claim on its way into a row.

use chrono::{DateTime, Utc};

use crate::domain::{CouponId, DropId, Slot, UserId};
use crate::trace::TraceContext;

/// A claim that is to become a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub coupon_id: CouponId,
    pub drop_id: DropId,
    pub slot: Slot,
    pub user_id: UserId,
    /// When they were admitted, if that is known; else the row says now.
    pub claimed_at: Option<DateTime<Utc>>,
    /// The span that it came from, where it has a trace.
    pub trace: Option<TraceContext>,
}
