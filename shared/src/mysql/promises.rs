//! Promises to users: the rows that fulfil them, and the promises that could not be kept yet
//! (`broken_promises`).

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::dsl::{exists, not};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::issued::{IssuedRow, of_users};
use super::revoked;
use super::{Conn, Db, DbResult};
use crate::domain::{CouponId, DropId, UserId};
use crate::model::Revocation;
use crate::schema::{broken_promises, coupon_uses, issued_coupons, revoked_coupons};

/// A user's rows, revocations and promises that could not be kept when they were due.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserRecord {
    /// The user's rows, oldest claim first.
    pub rows: Vec<IssuedRow>,
    /// When a shop used the code of the user's row, by drop. Empty if the record was read as
    /// [`Db::user_record`] reads it.
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

impl Db {
    /// Reads everything recorded about `user` in any drop of `coupon`.
    pub async fn user_record(&self, coupon: CouponId, user: &UserId) -> DbResult<UserRecord> {
        let user = user.clone();
        self.run("read a person", async move |conn| {
            read_user(conn, coupon, user).await
        })
        .await
    }

    /// Reads what determines the status of a user's claim: the rows that no open revocation voids,
    /// with one statement, if one of them belongs to the drop `only` (`None`: to any drop);
    /// otherwise everything, as [`Db::user_record`] does. After a rush, all winners ask for their codes
    /// at about the same time.
    pub async fn user_with_row(
        &self,
        coupon: CouponId,
        only: Option<DropId>,
        user: &UserId,
    ) -> DbResult<UserRecord> {
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
            let mut record = UserRecord::default();
            for (row, used_at) in found {
                record.used_at.extend(used_at.map(|at| (row.drop_id, at)));
                record.rows.push(row);
            }
            if !record
                .rows
                .iter()
                .any(|row| only.is_none_or(|only| only.0 == row.drop_id))
            {
                return read_user(conn, coupon, user).await;
            }
            Ok(record)
        })
        .await
    }
}

async fn read_user(conn: &mut Conn, coupon: CouponId, user: UserId) -> QueryResult<UserRecord> {
    let broken = broken_promises::table
        .filter(broken_promises::coupon_id.eq(coupon))
        .filter(broken_promises::user_id.eq(&user))
        .order(broken_promises::created_at)
        .select(BrokenPromiseRow::as_select());
    Ok(UserRecord {
        broken: broken.load(conn).await?,
        rows: of_users(conn, coupon, &[user.as_str()]).await?,
        revoked: revoked::of_users(conn, coupon, &[user]).await?,
        used_at: HashMap::new(),
    })
}
