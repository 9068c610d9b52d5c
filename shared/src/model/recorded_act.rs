//! The record of operators' actions, as it is read.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::schema::ops_actions;

/// What an operator did.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema, Queryable, Selectable)]
#[diesel(table_name = ops_actions)]
pub struct RecordedAct {
    pub at: DateTime<Utc>,
    /// Null if the operator sent no name.
    #[schema(example = "Kim")]
    #[diesel(column_name = operator)]
    pub by: Option<String>,
    #[schema(example = "change_coupon")]
    pub action: String,
    /// What was done or changed. Its fields depend on the action.
    #[schema(value_type = Object, example = json!({"quantity": 200}))]
    pub detail: Value,
}
