//! How many repairs of a drop the repair limit held back.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{Integer, Unsigned};
use diesel_async::RunQueryDsl;

use super::schema::held_back;
use super::{Db, DbError};
use crate::domain::DropId;

impl Db {
    /// Notes how many repairs are held back. Unless a person looked, a larger number than the one
    /// noted before is not: nobody may have read it.
    pub async fn hold_back(
        &self,
        drop: DropId,
        repairs: u32,
        run_id: &str,
        looked: bool,
    ) -> Result<(), DbError> {
        let run_id = run_id.to_owned();
        self.run("note repairs held back", async move |conn| {
            let row = (
                held_back::drop_id.eq(drop.0),
                held_back::repairs.eq(repairs),
                held_back::run_id.eq(run_id),
            );
            let values = diesel::insert_into(held_back::table)
                .values(row)
                .on_conflict(diesel::dsl::DuplicatedKeys);
            let kept = if looked {
                "VALUES(repairs)"
            } else {
                "LEAST(repairs, VALUES(repairs))"
            };
            values
                .do_update()
                .set(held_back::repairs.eq(sql::<Unsigned<Integer>>(kept)))
                .execute(conn)
                .await
                .map(|_| ())
        })
        .await
    }

    /// How many were noted last: what a person confirms is bound to it.
    pub async fn held_back(&self, drop: DropId) -> Result<Option<u32>, DbError> {
        self.run("repairs held back", async move |conn| {
            held_back::table
                .find(drop.0)
                .select(held_back::repairs)
                .first(conn)
                .await
                .optional()
        })
        .await
    }
}
