//! What MySQL says of drops and people.

use std::collections::HashMap;

use chrono::NaiveDateTime;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot, UserId};
use firstcome_shared::mysql::schema::{failed_claims, issued_coupons};
use firstcome_shared::mysql::{Db, DbError, issued};

use crate::collect::snapshot::{Failed, Row};

/// An unresolved row of the backup table with what it names.
#[derive(Debug, Clone)]
pub struct Backup {
    /// The coupon it names.
    pub coupon: Option<CouponId>,
    /// The drop it names.
    pub drop: Option<DropId>,
    pub failed: Failed,
}

/// The highest slot with a row, by drop, in one statement.
pub(super) async fn highest_slots(db: &Db, drops: Vec<DropId>) -> Result<HashMap<DropId, Slot>, DbError> {
    if drops.is_empty() {
        return Ok(HashMap::new());
    }
    db.run("highest slots", async move |conn| {
        let ids: Vec<i64> = drops.iter().map(|d| d.0).collect();
        let rows: Vec<(i64, Option<u32>)> = issued_coupons::table
            .filter(issued_coupons::drop_id.eq_any(ids))
            .group_by(issued_coupons::drop_id)
            .select((issued_coupons::drop_id, diesel::dsl::max(issued_coupons::slot)))
            .load(conn)
            .await?;
        Ok(rows.into_iter().filter_map(|(id, slot)| Some((DropId(id), slot?))).collect())
    })
    .await
}

/// The rows of a range of slots, in order.
pub(super) async fn page(db: &Db, drop: DropId, from: i64, to: Option<i64>) -> Result<Vec<Row>, DbError> {
    let low = Slot::try_from(from.max(1)).unwrap_or(Slot::MAX);
    let high = to.map_or(Slot::MAX, |to| Slot::try_from(to.max(0)).unwrap_or(Slot::MAX));
    db.run("rows of a page", async move |conn| {
        let rows: Vec<(u32, String, NaiveDateTime)> = issued_coupons::table
            .filter(issued_coupons::drop_id.eq(drop.0).and(issued_coupons::slot.between(low, high)))
            .order(issued_coupons::slot)
            .select((issued_coupons::slot, issued_coupons::user_id, issued_coupons::claimed_at))
            .load(conn)
            .await?;
        Ok(rows
            .into_iter()
            .map(|(slot, user, at)| Row { slot, user: UserId::from_store(user), claimed_at: at.and_utc() })
            .collect())
    })
    .await
}

/// People asked for in one statement.
const PEOPLE_A_ROUND: usize = 1_000;

/// The row of each of these people: in the whole coupon, or in this drop alone where one each per drop is allowed.
pub(super) async fn rows_of(
    db: &Db,
    coupon: CouponId,
    drop: DropId,
    once_per: OncePer,
    people: &[UserId],
) -> Result<HashMap<UserId, (DropId, Slot)>, DbError> {
    let mut found = HashMap::new();
    for chunk in people.chunks(PEOPLE_A_ROUND) {
        let chunk = chunk.to_vec();
        let rows = db
            .run("rows of people", async move |conn| {
                let names: Vec<&str> = chunk.iter().map(UserId::as_str).collect();
                issued::of_people(conn, coupon, &names).await
            })
            .await?;
        for row in rows.into_iter().filter(|row| once_per == OncePer::Coupon || row.drop_id == drop.0) {
            found.insert(UserId::from_store(row.user_id), (DropId(row.drop_id), row.slot));
        }
    }
    Ok(found)
}

type BackupRow = (i64, Option<i64>, Option<i64>, Option<i64>, Option<String>, Option<NaiveDateTime>, String);

/// Everything in the backup table that is not dealt with, oldest first.
pub(super) async fn unresolved(db: &Db) -> Result<Vec<Backup>, DbError> {
    db.run("unresolved failed claims", async move |conn| {
        let rows: Vec<BackupRow> = failed_claims::table
            .filter(failed_claims::resolved_at.is_null())
            .order(failed_claims::id)
            .select((
                failed_claims::id,
                failed_claims::coupon_id,
                failed_claims::drop_id,
                failed_claims::slot,
                failed_claims::user_id,
                failed_claims::claimed_at,
                failed_claims::reason,
            ))
            .load(conn)
            .await?;
        Ok(rows
            .into_iter()
            .map(|(id, coupon, drop, slot, user, at, reason)| Backup {
                coupon: coupon.map(CouponId),
                drop: drop.map(DropId),
                failed: Failed {
                    id,
                    slot,
                    user: user.and_then(|text| text.parse().ok()),
                    claimed_at: at.map(|at| at.and_utc()),
                    reason,
                },
            })
            .collect())
    })
    .await
}
