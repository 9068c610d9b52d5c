//! Users who were promised a slot that somebody else has.

use diesel::prelude::*;

use crate::domain::UserId;
use crate::schema::broken_promises;

/// A user who is owed a slot.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = broken_promises)]
pub struct OwedUser {
    #[diesel(column_name = user_id)]
    pub user: UserId,
    /// The slot that was promised, or `None` if it is unknown.
    pub slot: Option<i64>,
}
