//! The number of users of each drop when a pass last compared it, or before Redis lost it.

use std::collections::HashMap;

use chrono::NaiveDateTime;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Datetime, Unsigned};
use diesel_async::RunQueryDsl;

use super::schema::known_admissions;
use super::{Db, DbError};
use crate::domain::DropId;

/// A pass's last observation of a drop's users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Queryable)]
pub struct KnownAdmissions {
    /// Users in Redis, plus users whose claims were revoked earlier.
    pub users: u64,
    pub seen_at: NaiveDateTime,
    /// When Redis was found to have lost the drop; set until all users are restored.
    pub lost_at: Option<NaiveDateTime>,
}

/// Drops per statement.
const AT_ONCE: usize = 500;

impl Db {
    /// Reads the last observations of these drops.
    pub async fn known_admissions(
        &self,
        drops: Vec<DropId>,
    ) -> Result<HashMap<DropId, KnownAdmissions>, DbError> {
        self.run("known admissions", async move |conn| {
            let mut known = HashMap::new();
            for some in drops.chunks(AT_ONCE) {
                let rows: Vec<(i64, KnownAdmissions)> = known_admissions::table
                    .filter(known_admissions::drop_id.eq_any(some.iter().map(|drop| drop.0)))
                    .select((
                        known_admissions::drop_id,
                        (
                            known_admissions::users,
                            known_admissions::seen_at,
                            known_admissions::lost_at,
                        ),
                    ))
                    .load(conn)
                    .await?;
                known.extend(rows.into_iter().map(|(drop, seen)| (DropId(drop), seen)));
            }
            Ok(known)
        })
        .await
    }

    /// Records that Redis has lost a drop. The number is kept until its users are restored.
    pub async fn note_loss(&self, drop: DropId) -> Result<(), DbError> {
        self.run("note a loss", async move |conn| {
            diesel::sql_query(
                "UPDATE known_admissions SET lost_at = UTC_TIMESTAMP(3) WHERE drop_id = ? AND lost_at IS NULL",
            )
            .bind::<BigInt, _>(drop.0)
            .execute(conn)
            .await
            .map(|_| ())
        })
        .await
    }

    /// Records the current number of users of these drops.
    pub async fn note_admissions(
        &self,
        seen: Vec<(DropId, u64)>,
        at: NaiveDateTime,
    ) -> Result<(), DbError> {
        self.run("note admissions", async move |conn| {
            for some in seen.chunks(AT_ONCE) {
                let row = |(drop, users): &(DropId, u64)| {
                    (
                        known_admissions::drop_id.eq(drop.0),
                        known_admissions::users.eq(*users),
                        known_admissions::seen_at.eq(at),
                    )
                };
                diesel::insert_into(known_admissions::table)
                    .values(some.iter().map(row).collect::<Vec<_>>())
                    .on_conflict(diesel::dsl::DuplicatedKeys)
                    .do_update()
                    .set((
                        known_admissions::users.eq(sql::<Unsigned<BigInt>>("VALUES(users)")),
                        known_admissions::seen_at.eq(sql::<Datetime>("VALUES(seen_at)")),
                        known_admissions::lost_at.eq(None::<NaiveDateTime>),
                    ))
                    .execute(conn)
                    .await?;
            }
            Ok(())
        })
        .await
    }
}
