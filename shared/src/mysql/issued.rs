//! Rows people hold.

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::schema::issued_coupons;
use super::{Conn, Db, DbError};
use crate::code::new_code;
use crate::domain::{CouponId, DropId, Slot, UserId};

/// Who wrote a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssuedBy {
    /// The consumer, from the topic.
    Consumer,
    /// The reconciler, as a repair.
    Reconciler,
}

impl IssuedBy {
    /// The word in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Reconciler => "reconciler",
        }
    }
}

/// A claim that is to become a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The coupon.
    pub coupon_id: CouponId,
    /// The drop.
    pub drop_id: DropId,
    /// The slot in that drop.
    pub slot: Slot,
    /// Who holds it.
    pub user_id: UserId,
    /// When they were admitted, if that is known; else the row says now.
    pub claimed_at: Option<DateTime<Utc>>,
}

/// A row as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = issued_coupons)]
pub struct IssuedRow {
    /// The drop's number.
    pub drop_id: i64,
    /// The slot.
    pub slot: u32,
    /// The coupon's number.
    pub coupon_id: i64,
    /// The person, in full.
    pub user_id: String,
    /// What they redeem.
    pub code: String,
    /// When they were admitted (UTC).
    pub claimed_at: NaiveDateTime,
    /// When the row was written (UTC).
    pub issued_at: NaiveDateTime,
    /// `consumer` or `reconciler`.
    pub issued_by: String,
}

/// Inserts claims as one multi-row statement: all of them, or none.
///
/// # Errors
/// Of the first row that the schema refuses ([`super::refusal`]), or of the connection.
pub async fn insert(conn: &mut Conn, claims: &[Claim], by: IssuedBy) -> QueryResult<usize> {
    if claims.is_empty() {
        return Ok(0);
    }
    let now = Utc::now().naive_utc();
    let rows: Vec<_> = claims
        .iter()
        .map(|claim| {
            (
                issued_coupons::drop_id.eq(claim.drop_id.0),
                issued_coupons::slot.eq(claim.slot),
                issued_coupons::coupon_id.eq(claim.coupon_id.0),
                issued_coupons::user_id.eq(claim.user_id.as_str()),
                issued_coupons::code.eq(new_code()),
                issued_coupons::claimed_at.eq(claim.claimed_at.map_or(now, |at| at.naive_utc())),
                issued_coupons::issued_at.eq(now),
                issued_coupons::issued_by.eq(by.as_str()),
            )
        })
        .collect();
    diesel::insert_into(issued_coupons::table).values(rows).execute(conn).await
}

/// The rows on these slots of one drop.
///
/// # Errors
/// Of the connection.
pub async fn on_slots(conn: &mut Conn, drop: DropId, slots: &[Slot]) -> QueryResult<Vec<IssuedRow>> {
    issued_coupons::table
        .filter(issued_coupons::drop_id.eq(drop.0).and(issued_coupons::slot.eq_any(slots)))
        .select(IssuedRow::as_select())
        .load(conn)
        .await
}

/// The rows these people hold of one coupon, in any of its drops.
///
/// # Errors
/// Of the connection.
pub async fn of_people(conn: &mut Conn, coupon: CouponId, users: &[&str]) -> QueryResult<Vec<IssuedRow>> {
    issued_coupons::table
        .filter(issued_coupons::coupon_id.eq(coupon.0).and(issued_coupons::user_id.eq_any(users)))
        .order((issued_coupons::drop_id, issued_coupons::slot))
        .select(IssuedRow::as_select())
        .load(conn)
        .await
}

impl Db {
    /// The rows one person holds of a coupon, oldest drop first.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn rows_of_person(&self, coupon: CouponId, user: &UserId) -> Result<Vec<IssuedRow>, DbError> {
        let user = user.clone();
        self.run("rows of a person", async move |conn| of_people(conn, coupon, &[user.as_str()]).await).await
    }

    /// How many rows a drop has.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn count_rows(&self, drop: DropId) -> Result<i64, DbError> {
        self.run("count rows", async move |conn| {
            issued_coupons::table.filter(issued_coupons::drop_id.eq(drop.0)).count().get_result(conn).await
        })
        .await
    }
}
