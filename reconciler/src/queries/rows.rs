//! Rows of issued coupons, as passes compare them.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::domain::{ClaimOfSlot, CouponId, DropId, Slot, UserId};
use firstcome_shared::mysql::issued::{IssuedRow, has_later_era, of_users};
use firstcome_shared::mysql::{Conn, Db, DbResult};
use firstcome_shared::schema::issued_coupons;

/// A row, as passes compare it.
#[derive(Queryable, Selectable)]
#[diesel(table_name = issued_coupons)]
struct ClaimRow {
    slot: Slot,
    user_id: UserId,
    claimed_at: DateTime<Utc>,
}

impl From<ClaimRow> for ClaimOfSlot {
    fn from(row: ClaimRow) -> Self {
        Self {
            slot: row.slot,
            user: row.user_id,
            at_ms: Some(row.claimed_at.timestamp_millis()),
        }
    }
}

/// Reads slot, user and time of admission of the rows in a range of slots, in order.
pub(crate) async fn rows_on_slots(
    db: &Db,
    drop: DropId,
    slots: RangeInclusive<Slot>,
) -> DbResult<Vec<ClaimOfSlot>> {
    db.run("rows on slots", async move |conn| {
        rows_between(conn, drop, &slots).await
    })
    .await
}

/// Reads all rows of these drops, in order.
pub(crate) async fn rows_of_drops(
    db: &Db,
    drops: &[DropId],
) -> DbResult<HashMap<DropId, Vec<ClaimOfSlot>>> {
    let rows = issued_coupons::table
        .filter(issued_coupons::drop_id.eq_any(drops.to_vec()))
        .order((issued_coupons::drop_id, issued_coupons::slot))
        .select((issued_coupons::drop_id, ClaimRow::as_select()));
    let mut of_drops: HashMap<DropId, Vec<ClaimOfSlot>> = HashMap::new();
    let rows: Vec<(DropId, ClaimRow)> = db.rows("rows of drops", rows).await?;
    for (drop, row) in rows {
        of_drops.entry(drop).or_default().push(row.into());
    }
    Ok(of_drops)
}

pub(crate) async fn rows_of_users(
    db: &Db,
    coupon: CouponId,
    people: &[UserId],
) -> DbResult<Vec<IssuedRow>> {
    let people = people.to_vec();
    db.run("rows of people", async move |conn| {
        let names: Vec<&str> = people.iter().map(UserId::as_str).collect();
        of_users(conn, coupon, &names).await
    })
    .await
}

/// Reads slot, user and time of admission of the rows in a range of slots, in order, unless the
/// coupon has begun an era above `era`.
pub(crate) async fn rows_in_era(
    db: &Db,
    (coupon, era): (CouponId, u64),
    drop: DropId,
    slots: RangeInclusive<Slot>,
) -> DbResult<Option<Vec<ClaimOfSlot>>> {
    let db = db.of_primary();
    db.transaction("rows in an era", async move |conn| {
        if has_later_era(conn, coupon, era).await? {
            return Ok(None);
        }
        rows_between(conn, drop, &slots).await.map(Some)
    })
    .await
}

async fn rows_between(
    conn: &mut Conn,
    drop: DropId,
    slots: &RangeInclusive<Slot>,
) -> QueryResult<Vec<ClaimOfSlot>> {
    let rows: Vec<ClaimRow> = issued_coupons::table
        .filter(issued_coupons::drop_id.eq(drop))
        .filter(issued_coupons::slot.between(*slots.start(), *slots.end()))
        .order(issued_coupons::slot)
        .select(ClaimRow::as_select())
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(ClaimOfSlot::from).collect())
}
