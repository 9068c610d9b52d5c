//! The repairs of a drop that the repair limit held back. An operator confirms exactly these.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Text, Unsigned};
use diesel_async::RunQueryDsl;

use super::schema::held_back;
use super::{Db, DbError};
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
        let verb = if looked { "REPLACE" } else { "INSERT IGNORE" };
        self.run("note repairs held back", async move |conn| {
            let columns = "(drop_id, repairs, fingerprint, run_id) VALUES (?, ?, ?, ?)";
            diesel::sql_query(format!("{verb} INTO held_back {columns}"))
                .bind::<BigInt, _>(drop.0)
                .bind::<Unsigned<Integer>, _>(repairs.number)
                .bind::<Unsigned<BigInt>, _>(repairs.fingerprint)
                .bind::<Text, _>(run_id)
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

    /// Deletes the records of these drops, whose repairs are made or no longer needed. Any
    /// confirmation becomes void.
    pub async fn forget_held_back(&self, drops: HashSet<DropId>) -> Result<(), DbError> {
        self.run("forget repairs held back", async move |conn| {
            let held: Vec<i64> = held_back::table
                .select(held_back::drop_id)
                .load(conn)
                .await?;
            let over = held
                .into_iter()
                .filter(|drop| drops.contains(&DropId(*drop)));
            let over: Vec<i64> = over.collect();
            if over.is_empty() {
                return Ok(());
            }
            diesel::delete(held_back::table.filter(held_back::drop_id.eq_any(over)))
                .execute(conn)
                .await
                .map(|_| ())
        })
        .await
    }
}
