//! Promises to users: the rows that fulfil them, and the promises that could not be kept yet
//! (`broken_promises`).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::dsl::{exists, not};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;
use serde_json::json;

use super::issued::{IssuedRow, of_people};
use super::ops_actions::{Operator, OperatorAct};
use super::revoked;
use super::{Conn, Db, DbResult};
use crate::columns::now;
use crate::domain::{CouponId, DropId, NamedDrop, UserId};
use crate::model::Revocation;
use crate::schema::{broken_promises, coupon_uses, coupons, issued_coupons, revoked_coupons};

/// A user's rows, revocations and promises that could not be kept when they were due.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PersonRecord {
    /// The user's rows, oldest claim first.
    pub rows: Vec<IssuedRow>,
    /// When a shop used the code of the user's row, by drop. Empty if the record was read as
    /// [`Db::person`] reads it.
    pub used_at: HashMap<i64, DateTime<Utc>>,
    /// The user's broken promises, including resolved ones, oldest first.
    pub broken: Vec<BrokenPromiseRow>,
    /// The user's revocations, oldest first.
    pub revoked: Vec<Revocation>,
}

/// A promise that could not be kept when it was due.
#[derive(Debug, Clone, Default, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = broken_promises)]
pub struct BrokenPromiseRow {
    pub drop_id: DropId,
    /// The promised slot, if known.
    pub slot: Option<i64>,
    pub reason: String,
    pub run_id: String,
    pub created_at: DateTime<Utc>,
    pub mended_at: Option<DateTime<Utc>>,
}

/// An unresolved broken promise.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = broken_promises)]
pub struct OpenPromise {
    #[diesel(column_name = user_id)]
    pub user: UserId,
    pub slot: Option<i64>,
}

/// Time limit of a look-up in every coupon.
const LONG: Duration = Duration::from_secs(120);

/// Marks broken promises to these users as resolved. Returns how many.
async fn mend(conn: &mut Conn, drop: DropId, users: &[UserId]) -> QueryResult<usize> {
    let open = broken_promises::table
        .filter(broken_promises::drop_id.eq(drop))
        .filter(broken_promises::user_id.eq_any(users))
        .filter(broken_promises::mended_at.is_null());
    diesel::update(open)
        .set(broken_promises::mended_at.eq(now().nullable()))
        .execute(conn)
        .await
}

impl Db {
    /// Marks these users' broken promises as resolved, because the users now have rows.
    pub async fn mend_broken_promises(&self, drop: DropId, people: &[UserId]) -> DbResult<()> {
        for some in people.chunks(Self::PROMISES_AT_ONCE) {
            let some = some.to_vec();
            let mend = async move |conn: &mut Conn| mend(conn, drop, &some).await;
            self.run("mend broken promises", mend).await?;
        }
        Ok(())
    }

    /// Marks a drop's broken promise to a user as resolved, because an operator confirms that the
    /// user was informed. Returns 1, or 0 if there is no unresolved one. The user stays at the head
    /// of the drop's waiting list: if passes removed everybody there without an open promise, they
    /// would also remove users whose promise MySQL has lost in a failover.
    pub async fn give_up_promises(
        &self,
        NamedDrop { coupon, drop }: NamedDrop,
        user: &UserId,
        by: Operator,
    ) -> DbResult<usize> {
        let user = user.clone();
        self.transaction("give up broken promises", async move |conn| {
            let given_up = mend(conn, drop, std::slice::from_ref(&user)).await?;
            if given_up > 0 {
                let detail = json!({"user_id": user, "promises": given_up});
                let act = OperatorAct::new("give_up_promise", Some(coupon), Some(drop), detail);
                by.did(conn, act).await?;
            }
            Ok(given_up)
        })
        .await
    }

    /// Maximum number of broken promises that one statement reads or changes.
    pub const PROMISES_AT_ONCE: usize = 1_000;

    /// Reads the drops with unresolved broken promises.
    pub async fn drops_with_broken_promises(&self) -> DbResult<HashSet<DropId>> {
        let drops = broken_promises::table
            .filter(broken_promises::mended_at.is_null())
            .select(broken_promises::drop_id)
            .distinct();
        let drops = self.rows("drops with broken promises", drops).await?;
        Ok(drops.into_iter().collect())
    }

    /// Reads a page of a drop's unresolved broken promises: users with ids above `after`, in order
    /// of id.
    pub async fn open_promises(&self, drop: DropId, after: String) -> DbResult<Vec<OpenPromise>> {
        let page = broken_promises::table
            .filter(broken_promises::mended_at.is_null())
            .filter(broken_promises::drop_id.eq(drop))
            .filter(broken_promises::user_id.gt(after))
            .order(broken_promises::user_id)
            .limit(1_000)
            .select(OpenPromise::as_select());
        self.rows("read broken promises", page).await
    }

    /// Finds the coupons in which a user has a row, a revocation, or a broken promise.
    pub async fn coupons_of_person(&self, user: &UserId) -> DbResult<Vec<CouponId>> {
        // Each table has an index that begins with coupon and user: one lookup per coupon.
        let all = sql_query(
            "SELECT t.coupon_id AS id FROM coupons c STRAIGHT_JOIN issued_coupons t \
                 ON t.coupon_id = c.id AND t.user_id = ? \
             UNION SELECT t.coupon_id FROM coupons c STRAIGHT_JOIN revoked_coupons t \
                 ON t.coupon_id = c.id AND t.user_id = ? \
             UNION SELECT t.coupon_id FROM coupons c STRAIGHT_JOIN broken_promises t \
                 ON t.coupon_id = c.id AND t.user_id = ? ORDER BY id",
        )
        .bind::<Text, _>(user.clone())
        .bind::<Text, _>(user.clone())
        .bind::<Text, _>(user.clone());
        let found: Vec<FoundCoupon> = self.within(LONG).rows("coupons of a person", all).await?;
        Ok(found.into_iter().map(|found| found.id).collect())
    }

    /// Reads everything recorded about `user` in any drop of `coupon`.
    pub async fn person(&self, coupon: CouponId, user: &UserId) -> DbResult<PersonRecord> {
        let user = user.clone();
        self.run("read a person", async move |conn| {
            read_person(conn, coupon, user).await
        })
        .await
    }

    /// Reads what determines the status of a user's claim: the rows that no open revocation voids,
    /// with one statement, if one of them belongs to the drop `only` (`None`: to any drop);
    /// otherwise everything, as [`Db::person`] does. After a rush, all winners ask for their codes
    /// at about the same time.
    pub async fn person_with_row(
        &self,
        coupon: CouponId,
        only: Option<DropId>,
        user: &UserId,
    ) -> DbResult<PersonRecord> {
        let user = user.clone();
        self.run("read a user's rows", async move |conn| {
            let is_void = revoked_coupons::table
                .filter(revoked_coupons::coupon_id.eq(issued_coupons::coupon_id))
                .filter(revoked_coupons::user_id.eq(issued_coupons::user_id))
                .filter(revoked_coupons::open_scope.eq(issued_coupons::person_scope.nullable()));
            let its_use = coupon_uses::drop_id
                .eq(issued_coupons::drop_id)
                .and(coupon_uses::slot.eq(issued_coupons::slot))
                .and(coupon_uses::claimed_at.eq(issued_coupons::claimed_at))
                .and(coupon_uses::in_use.eq(Some(1)));
            let found: Vec<(IssuedRow, Option<DateTime<Utc>>)> = issued_coupons::table
                .left_join(coupon_uses::table.on(its_use))
                .filter(issued_coupons::coupon_id.eq(coupon))
                .filter(issued_coupons::user_id.eq(&user))
                .filter(not(exists(is_void)))
                .order((issued_coupons::claimed_at, issued_coupons::slot))
                .select((IssuedRow::as_select(), coupon_uses::used_at.nullable()))
                .load(conn)
                .await?;
            let mut record = PersonRecord::default();
            for (row, used_at) in found {
                record.used_at.extend(used_at.map(|at| (row.drop_id, at)));
                record.rows.push(row);
            }
            if !record
                .rows
                .iter()
                .any(|row: &IssuedRow| only.is_none_or(|only| only.0 == row.drop_id))
            {
                return read_person(conn, coupon, user).await;
            }
            Ok(record)
        })
        .await
    }
}

async fn read_person(conn: &mut Conn, coupon: CouponId, user: UserId) -> QueryResult<PersonRecord> {
    let broken = broken_promises::table
        .filter(broken_promises::coupon_id.eq(coupon))
        .filter(broken_promises::user_id.eq(&user))
        .order(broken_promises::created_at)
        .select(BrokenPromiseRow::as_select());
    Ok(PersonRecord {
        broken: broken.load(conn).await?,
        rows: of_people(conn, coupon, &[user.as_str()]).await?,
        revoked: revoked::of_people(conn, coupon, &[user]).await?,
        used_at: HashMap::new(),
    })
}

/// A coupon in which a user was found.
#[derive(QueryableByName)]
#[diesel(table_name = coupons)]
struct FoundCoupon {
    id: CouponId,
}
