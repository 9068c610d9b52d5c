//! The history of one user, as the API returns it.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId, UserId};
use firstcome_shared::redis::RedisError;
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Happening {
    /// Null if unknown.
    pub at: Option<DateTime<Utc>>,
    /// Its source: `redis`, `kafka`, `mysql`, `backup` or `reconciler`.
    #[schema(example = "mysql")]
    pub source: &'static str,
    #[schema(example = "the row was written by the consumer")]
    pub what: String,
}

/// The current state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// The row exists, so the user holds a coupon.
    Issued,
    /// The user is admitted, but the row does not exist yet.
    Accepted,
    /// The user is on the waiting list.
    Waiting,
    /// The user was promised a coupon, but the promise could not be kept.
    Broken,
    /// The coupon was given back or revoked.
    Revoked,
    /// A claim of the user is a dead letter and needs an operator.
    Failed,
    /// No claim is known.
    None,
    /// A store could not be read, so the state is uncertain.
    Unknown,
}

/// A user's history with a coupon.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Story {
    pub coupon_id: CouponId,
    #[schema(example = "Winter coupon")]
    pub coupon_name: String,
    /// In full.
    #[schema(example = "u-37")]
    pub user_id: String,
    pub holds: Holds,
    /// The state in one sentence, with what to do.
    #[schema(example = "they hold slot 37 of drop 7; the row was written by the consumer")]
    pub conclusion: String,
    pub drop_id: Option<DropId>,
    pub slot: Option<i64>,
    /// All known events, oldest first. Events without a time come last.
    pub happenings: Vec<Happening>,
    /// Facts that are no longer known or could not be read.
    pub no_longer_known: Vec<String>,
    /// Traces of the user's claims.
    pub trace_ids: Vec<String>,
}

/// All users known on a slot.
pub(crate) struct OnSlot {
    pub(crate) drop: DropId,
    pub(crate) people: BTreeSet<UserId>,
    /// Why Redis could not be read.
    pub(crate) not_asked: Option<RedisError>,
}
