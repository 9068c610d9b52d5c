//! Promises to users: the rows that fulfil them, and the promises that could not be kept yet
//! (`broken_promises`).

use std::collections::HashSet;

use chrono::{NaiveDateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use serde_json::json;

use super::issued::{IssuedRow, of_people};
use super::ops_actions::{Operator, OperatorAct};
use super::revoked::{self, Revocation};
use super::schema::broken_promises;
use super::{Db, DbError};
use crate::domain::{CouponId, DropId, NamedDrop, UserId};

/// A user's rows, and the promises to that user that could not be kept yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PersonRecord {
    /// The user's rows, oldest drop first.
    pub rows: Vec<IssuedRow>,
    /// Drops with an unresolved broken promise to the user, oldest first, with the promised slot.
    pub broken: Vec<(DropId, Option<i64>)>,
    /// The user's revocations, oldest first.
    pub revoked: Vec<Revocation>,
}

/// A promise that could not be kept when it was due.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = broken_promises)]
pub struct BrokenPromiseRow {
    pub drop_id: i64,
    pub reason: String,
    pub run_id: String,
    pub created_at: NaiveDateTime,
    pub mended_at: Option<NaiveDateTime>,
}

impl Db {
    /// Marks these users' broken promises as resolved, because the users now have rows.
    pub async fn mend_broken_promises(
        &self,
        drop: DropId,
        people: &[UserId],
    ) -> Result<(), DbError> {
        for some in people.chunks(Self::PROMISES_AT_ONCE) {
            let users: Vec<String> = some.iter().map(ToString::to_string).collect();
            let mended = self.run("mend broken promises", async move |conn| {
                let of_people = broken_promises::drop_id
                    .eq(drop.0)
                    .and(broken_promises::user_id.eq_any(users));
                diesel::update(
                    broken_promises::table
                        .filter(of_people.and(broken_promises::mended_at.is_null())),
                )
                .set(broken_promises::mended_at.eq(Utc::now().naive_utc()))
                .execute(conn)
                .await
            });
            mended.await?;
        }
        Ok(())
    }

    /// Closes all broken promises of a drop, because an operator confirms that users were informed.
    /// Returns how many there were.
    pub async fn give_up_promises(
        &self,
        NamedDrop { coupon, drop }: NamedDrop,
        user: &UserId,
        by: Operator,
    ) -> Result<usize, DbError> {
        let user = user.as_str().to_owned();
        self.run("give up broken promises", async move |conn| {
            conn.transaction(async |conn| {
                let to_them = broken_promises::drop_id
                    .eq(drop.0)
                    .and(broken_promises::user_id.eq(&user));
                let open = broken_promises::table
                    .filter(to_them.and(broken_promises::mended_at.is_null()));
                let now = Utc::now().naive_utc();
                let given_up = diesel::update(open)
                    .set(broken_promises::mended_at.eq(now))
                    .execute(conn)
                    .await?;
                if given_up > 0 {
                    let detail = json!({"user_id": user, "promises": given_up});
                    let act = OperatorAct {
                        action: "give_up_promise",
                        coupon: Some(coupon),
                        drop: Some(drop),
                        detail,
                    };
                    by.did(conn, act).await?;
                }
                Ok(given_up)
            })
            .await
        })
        .await
    }

    /// Broken promises read or changed per statement.
    pub const PROMISES_AT_ONCE: usize = 1_000;

    /// Reads the drops with unresolved broken promises.
    pub async fn drops_with_broken_promises(&self) -> Result<HashSet<DropId>, DbError> {
        self.run("drops with broken promises", async move |conn| {
            let open = broken_promises::table.filter(broken_promises::mended_at.is_null());
            let ids: Vec<i64> = open
                .select(broken_promises::drop_id)
                .distinct()
                .load(conn)
                .await?;
            Ok(ids.into_iter().map(DropId).collect())
        })
        .await
    }

    /// Reads a page of a drop's unresolved broken promises: users with ids above `after`, in order
    /// of id. An unknown slot sorts last.
    pub async fn open_promises(
        &self,
        drop: DropId,
        after: String,
    ) -> Result<Vec<(UserId, i64)>, DbError> {
        self.run("read broken promises", async move |conn| {
            let page: Vec<(String, Option<i64>)> = broken_promises::table
                .filter(
                    broken_promises::mended_at
                        .is_null()
                        .and(broken_promises::drop_id.eq(drop.0)),
                )
                .filter(broken_promises::user_id.gt(after))
                .order(broken_promises::user_id)
                .limit(1_000)
                .select((broken_promises::user_id, broken_promises::slot))
                .load(conn)
                .await?;
            Ok(page
                .into_iter()
                .map(|(user, slot)| (UserId::from_store(user), slot.unwrap_or(i64::MAX)))
                .collect())
        })
        .await
    }

    /// Reads a user's broken promises in a coupon, including resolved ones.
    pub async fn broken_promises_of(
        &self,
        coupon: CouponId,
        user: &UserId,
    ) -> Result<Vec<BrokenPromiseRow>, DbError> {
        let user = user.as_str().to_owned();
        self.run("broken promises to a person", async move |conn| {
            broken_promises::table
                .filter(
                    broken_promises::coupon_id
                        .eq(coupon.0)
                        .and(broken_promises::user_id.eq(user)),
                )
                .select(BrokenPromiseRow::as_select())
                .load(conn)
                .await
        })
        .await
    }

    /// Reads everything recorded about `user` in any drop of `coupon`.
    pub async fn person(&self, coupon: CouponId, user: &UserId) -> Result<PersonRecord, DbError> {
        let user = user.clone();
        self.run("read a person", async move |conn| {
            let rows = of_people(conn, coupon, &[user.as_str()]).await?;
            let broken: Vec<(i64, Option<i64>)> = broken_promises::table
                .filter(broken_promises::coupon_id.eq(coupon.0))
                .filter(broken_promises::user_id.eq(user.as_str()))
                .filter(broken_promises::mended_at.is_null())
                .order(broken_promises::created_at)
                .select((broken_promises::drop_id, broken_promises::slot))
                .load(conn)
                .await?;
            let broken = broken
                .into_iter()
                .map(|(drop, slot)| (DropId(drop), slot))
                .collect();
            let revoked = revoked::of_people(conn, coupon, &[user]).await?;
            Ok(PersonRecord {
                rows,
                broken,
                revoked,
            })
        })
        .await
    }
}
