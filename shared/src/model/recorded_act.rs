//! The record of operators' actions, as it is read.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an operator did.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RecordedAct {
    pub at: DateTime<Utc>,
    /// Null if the operator sent no name.
    #[schema(example = "Kim")]
    pub by: Option<String>,
    #[schema(example = "change_coupon")]
    pub action: String,
    /// What was done or changed, as JSON in a string. Its fields depend on the action.
    #[schema(example = "{\"quantity\":200}")]
    pub detail: String,
}
