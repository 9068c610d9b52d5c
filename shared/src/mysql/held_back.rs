//! The repairs of a drop that the repair limit held back. An operator confirms exactly these.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::schema::held_back;
use super::{Db, DbError};
use crate::domain::DropId;

/// Repairs of a drop that an operator was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Queryable)]
pub struct ShownRepairs {
    pub number: u32,
    /// A hash of the repairs, or `None` if an earlier release recorded them.
    pub fingerprint: Option<u64>,
}

impl Db {
    /// Records the repairs that are held back. `looked` means that an operator sees them;
    /// otherwise, an earlier record stays, because no operator may have seen the new repairs.
    pub async fn hold_back(
        &self,
        drop: DropId,
        repairs: ShownRepairs,
        run_id: &str,
        looked: bool,
    ) -> Result<(), DbError> {
        let run_id = run_id.to_owned();
        self.run("note repairs held back", async move |conn| {
            let row = (
                held_back::drop_id.eq(drop.0),
                held_back::repairs.eq(repairs.number),
                held_back::fingerprint.eq(repairs.fingerprint),
                held_back::run_id.eq(run_id),
            );
            if looked {
                return diesel::replace_into(held_back::table)
                    .values(row)
                    .execute(conn)
                    .await
                    .map(|_| ());
            }
            diesel::insert_or_ignore_into(held_back::table)
                .values(row)
                .execute(conn)
                .await
                .map(|_| ())
        })
        .await
    }

    /// Reads the repairs that were recorded last.
    pub async fn shown_repairs(&self, drop: DropId) -> Result<Option<ShownRepairs>, DbError> {
        self.run("repairs held back", async move |conn| {
            held_back::table
                .find(drop.0)
                .select((held_back::repairs, held_back::fingerprint))
                .first(conn)
                .await
                .optional()
        })
        .await
    }

    /// Deletes the record of a drop whose repairs no longer exceed the limit. Any confirmation
    /// becomes void.
    pub async fn forget_held_back(&self, drop: DropId) -> Result<(), DbError> {
        self.run("forget repairs held back", async move |conn| {
            diesel::delete(held_back::table.find(drop.0))
                .execute(conn)
                .await
                .map(|_| ())
        })
        .await
    }
}
