//! Sealed drops: closed, verified exact, and skipped by later passes. Also counts revocations,
//! which can prevent sealing.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};

use super::schema::{drops, issued_coupons, revoked_coupons};
use super::{Db, DbError, MOST_VALUES};
use crate::domain::{CouponId, DropId, Slot};

#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = drops)]
pub struct SealedDrop {
    pub id: i64,
    pub coupon_id: i64,
    pub quantity: u32,
    pub sealed_rows: Option<u32>,
}

/// Time limit for counting the rows of one drop.
const LONG: Duration = Duration::from_secs(120);

impl Db {
    /// Counts the rows in sealed drops of these coupons. Omits coupons without such rows.
    pub async fn sealed_rows_of(
        &self,
        coupons: Vec<CouponId>,
    ) -> Result<HashMap<CouponId, u64>, DbError> {
        self.run("rows of sealed drops", async move |conn| {
            let ids: Vec<i64> = coupons.iter().map(|coupon| coupon.0).collect();
            let mut rows = HashMap::new();
            for some in ids.chunks(MOST_VALUES) {
                let found: Vec<(i64, Option<u32>)> = drops::table
                    .filter(drops::coupon_id.eq_any(some))
                    .filter(drops::sealed_at.is_not_null())
                    .select((drops::coupon_id, drops::sealed_rows))
                    .load(conn)
                    .await?;
                for (coupon, sealed) in found {
                    if let Some(sealed) = sealed.filter(|sealed| *sealed > 0) {
                        *rows.entry(CouponId(coupon)).or_default() += u64::from(sealed);
                    }
                }
            }
            Ok(rows)
        })
        .await
    }

    /// Seals a drop with the verified number of rows. Returns `false` if an operator has changed
    /// its closing time or quantity since the caller read it, if its rows or revocations differ
    /// from those verified, or if it is already sealed.
    ///
    /// A revocation locks its drop after inserting its row. Therefore, either it is committed
    /// before this lock and gets counted, or it unseals the drop afterwards. A consumer locks a
    /// closed drop after inserting rows. Therefore, either the rows are counted, or the consumer
    /// finds the drop sealed.
    pub async fn seal_drop(
        &self,
        id: DropId,
        closes_at: Option<DateTime<Utc>>,
        quantity: Slot,
        rows: u32,
        revocations: u64,
    ) -> Result<bool, DbError> {
        self.run_within(LONG, "seal drop", async move |conn| {
            conn.transaction(async |conn| {
                let closing = drops::closes_at.eq(closes_at.map(|at| at.naive_utc()));
                let drop = drops::table
                    .find(id.0)
                    .filter(drops::sealed_at.is_null().and(closing))
                    .filter(drops::quantity.eq(quantity));
                let own = revoked_coupons::table
                    .filter(revoked_coupons::drop_id.eq(id.0))
                    .count();
                let locked = drop
                    .select(drops::id)
                    .for_update()
                    .load::<i64>(conn)
                    .await?;
                if locked.is_empty()
                    || u64::try_from(own.get_result::<i64>(conn).await?) != Ok(revocations)
                {
                    return Ok(false);
                }
                let written = issued_coupons::table
                    .filter(issued_coupons::drop_id.eq(id.0))
                    .count();
                if written.get_result::<i64>(conn).await? != i64::from(rows) {
                    return Ok(false);
                }
                // A drop that was unsealed in between may contain user ids again.
                let named = drops::codes_erased_at.eq(None::<NaiveDateTime>);
                let sealed = (
                    drops::sealed_at.eq(Utc::now().naive_utc()),
                    drops::sealed_rows.eq(rows),
                    named,
                );
                diesel::update(drops::table.find(id.0))
                    .set(sealed)
                    .execute(conn)
                    .await
                    .map(|_| true)
            })
            .await
        })
        .await
    }

    /// Counts the revocations of each drop. Omits drops without revocations.
    pub async fn count_revocations(
        &self,
        drops: Vec<DropId>,
    ) -> Result<HashMap<DropId, u64>, DbError> {
        self.run("count revocations", async move |conn| {
            let mut counts = HashMap::new();
            for some in drops.chunks(MOST_VALUES) {
                let found: Vec<(i64, i64)> = revoked_coupons::table
                    .filter(revoked_coupons::drop_id.eq_any(some.iter().map(|drop| drop.0)))
                    .group_by(revoked_coupons::drop_id)
                    .select((revoked_coupons::drop_id, diesel::dsl::count_star()))
                    .load(conn)
                    .await?;
                counts.extend(
                    found
                        .into_iter()
                        .map(|(drop, n)| (DropId(drop), u64::try_from(n).unwrap_or(0))),
                );
            }
            Ok(counts)
        })
        .await
    }

    /// Reads at most `limit` sealed drops with ids above `after`.
    pub async fn sealed_drops(&self, after: i64, limit: i64) -> Result<Vec<SealedDrop>, DbError> {
        self.run("sealed drops", async move |conn| {
            drops::table
                .filter(drops::sealed_at.is_not_null().and(drops::id.gt(after)))
                .order(drops::id)
                .limit(limit)
                .select(SealedDrop::as_select())
                .load(conn)
                .await
        })
        .await
    }

    /// Reads the number of rows that each of these drops had when it was sealed.
    pub async fn sealed_rows(&self, ids: Vec<DropId>) -> Result<HashMap<DropId, u32>, DbError> {
        self.run("read sealed drops", async move |conn| {
            let mut found: Vec<(i64, Option<u32>)> = Vec::new();
            for some in ids.chunks(MOST_VALUES) {
                let sealed = drops::table
                    .filter(
                        drops::id
                            .eq_any(some.iter().map(|d| d.0))
                            .and(drops::sealed_at.is_not_null()),
                    )
                    .select((drops::id, drops::sealed_rows));
                found.extend(sealed.load::<(i64, Option<u32>)>(conn).await?);
            }
            Ok(found
                .into_iter()
                .filter_map(|(id, rows)| Some((DropId(id), rows?)))
                .collect())
        })
        .await
    }
}
