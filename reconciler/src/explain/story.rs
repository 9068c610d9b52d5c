//! What is told.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId, UserId};
use firstcome_shared::redis::RedisError;
use serde::Serialize;
use utoipa::ToSchema;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Happening {
    /// When; `None` where that is not known.
    pub at: Option<DateTime<Utc>>,
    /// Where it is written: `redis`, `kafka`, `mysql`, `backup`, `reconciler`.
    #[schema(example = "mysql")]
    pub source: &'static str,
    /// What happened.
    #[schema(example = "the row was written by the consumer")]
    pub what: String,
}

/// What holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// A row: they have it.
    Issued,
    /// Admitted, the row is still to come.
    Accepted,
    /// On the waiting list.
    Waiting,
    /// They were promised one, and it could not be kept.
    Broken,
    /// It was given back or revoked.
    Revoked,
    /// A claim of theirs is a dead letter and needs a person.
    Failed,
    /// No claim is known.
    None,
    /// Something could not be asked, so nothing can be said for sure.
    Unknown,
}

/// One person's story with one coupon.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Story {
    /// The coupon.
    pub coupon_id: CouponId,
    /// Its name.
    #[schema(example = "Winter coupon")]
    pub coupon_name: String,
    /// The person, in full: only operators see this.
    #[schema(example = "u-37")]
    pub user_id: String,
    /// What holds now.
    pub holds: Holds,
    /// The same in a sentence, with what to do where something is to be done.
    #[schema(example = "they hold slot 37 of drop 7; the row was written by the consumer")]
    pub conclusion: String,
    /// The drop it is about, where there is one.
    pub drop_id: Option<DropId>,
    /// The slot, where there is one.
    pub slot: Option<i64>,
    /// Everything known, oldest first; what has no time comes last.
    pub happenings: Vec<Happening>,
    /// What is no longer known, or could not be asked.
    pub no_longer_known: Vec<String>,
    /// Traces of their claims, where they were traced: the collector's pages have the rest.
    pub trace_ids: Vec<String>,
}

/// Who is known on a slot.
pub(crate) struct OnSlot {
    pub(crate) drop: DropId,
    pub(crate) people: BTreeSet<UserId>,
    /// Why Redis could not be asked.
    pub(crate) not_asked: Option<RedisError>,
}
