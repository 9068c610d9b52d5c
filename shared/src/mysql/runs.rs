//! Small facts that outlive a restart, by name.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::schema::reconciler_state;
use super::{Db, DbError};

/// Name of the instant (RFC 3339) at which a pass of the reconciler last ended well.
pub const LAST_SUCCESS_AT: &str = "last_success_at";

impl Db {
    /// The fact of this name, where there is one.
    pub async fn state(&self, name: &'static str) -> Result<Option<String>, DbError> {
        self.run("read state", async move |conn| {
            reconciler_state::table.find(name).select(reconciler_state::value).first(conn).await.optional()
        })
        .await
    }
}
