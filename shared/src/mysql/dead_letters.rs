//! The dead-letter table `failed_claims`: claims that did not become a row. The reconciler or an
//! operator resolves them.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::DeadLetterReason;
use crate::schema::failed_claims;

mod keep;

pub use keep::{FailedClaim, KEPT_OF_MESSAGE, MessageOrigin, keep};

/// A claim that the consumer could not turn into a row, a message that it could not read, or a
/// claim that was inserted by hand.
#[derive(
    Debug, Clone, Serialize, Deserialize, ToSchema, Queryable, Selectable, QueryableByName,
)]
#[diesel(table_name = failed_claims)]
#[schema(as = ListedFailedClaim)]
pub struct DeadLetterRow {
    pub id: i64,
    pub coupon_id: Option<i64>,
    pub drop_id: Option<i64>,
    /// The slot, even if invalid.
    pub slot: Option<i64>,
    /// The user id in full, if known.
    #[schema(example = "u-37")]
    pub user_id: Option<String>,
    /// When the user was admitted, if known.
    pub claimed_at: Option<DateTime<Utc>>,
    #[schema(example = "slot_taken")]
    pub reason: String,
    #[schema(example = "another user holds the slot")]
    pub error: Option<String>,
    pub failed_at: DateTime<Utc>,
    pub resolved_at: Option<DateTime<Utc>>,
    #[schema(example = "issued")]
    pub resolution: Option<String>,
    #[schema(example = "its user holds slot 12")]
    pub resolution_detail: Option<String>,
    /// Partition of its message; null if it did not come from a message.
    #[diesel(column_name = source_partition)]
    pub partition: Option<i32>,
    #[diesel(column_name = source_offset)]
    pub offset: Option<i64>,
}

impl DeadLetterRow {
    /// Whether its only evidence is a message, which any client with write access to the topic can
    /// send. All other dead letters were written or confirmed (`corrected`) by an operator.
    pub fn is_of_message(&self) -> bool {
        self.partition.is_some() && self.reason != DeadLetterReason::Corrected.as_str()
    }

    /// Whether its message has no valid signature of this installation.
    pub fn is_forged(&self) -> bool {
        self.reason == DeadLetterReason::Forged.as_str()
    }
}
