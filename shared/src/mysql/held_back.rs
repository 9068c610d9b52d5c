//! The repairs of a drop that the repair limit held back. An operator confirms exactly these.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::schema::held_back;
use super::{Db, DbError, MOST_VALUES};
use crate::domain::DropId;

/// Repairs of a drop that an operator was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Queryable)]
pub struct ShownRepairs {
    pub number: u32,
    /// A hash of the repairs.
    pub fingerprint: u64,
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
            let table = held_back::table;
            let noted = if looked {
                diesel::replace_into(table).values(row).execute(conn).await
            } else {
                let insert = diesel::insert_or_ignore_into(table).values(row);
                insert.execute(conn).await
            };
            noted.map(|_| ())
        })
        .await
    }

    /// Reads the repairs that were recorded last.
    pub async fn shown_repairs(&self, drop: DropId) -> Result<Option<ShownRepairs>, DbError> {
        self.run("repairs held back", async move |conn| {
            let row = held_back::table.find(drop.0);
            let shown = row.select((held_back::repairs, held_back::fingerprint));
            shown.first(conn).await.optional()
        })
        .await
    }

    /// Deletes the records of these drops, whose repairs are made or no longer needed. Any
    /// confirmation becomes void.
    pub async fn forget_held_back(&self, drops: HashSet<DropId>) -> Result<(), DbError> {
        let over: Vec<i64> = drops.into_iter().map(|drop| drop.0).collect();
        self.run("forget repairs held back", async move |conn| {
            for some in over.chunks(MOST_VALUES) {
                let over = held_back::table.filter(held_back::drop_id.eq_any(some));
                diesel::delete(over).execute(conn).await?;
            }
            Ok(())
        })
        .await
    }
}
