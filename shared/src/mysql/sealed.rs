//! Sealed drops: closed, verified exact, and skipped by later passes. Also counts revocations,
//! which can prevent sealing.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_async::{AsyncConnection as _, RunQueryDsl};

use super::schema::{drops, issued_coupons, revoked_coupons};
use super::{Conn, Db, DbError, MOST_VALUES};
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
    /// Returns a coupon's sealed drops that have rows, with the number of rows.
    pub async fn sealed_rows_of(&self, coupon: CouponId) -> Result<HashMap<DropId, u64>, DbError> {
        self.run("rows of sealed drops", async move |conn| {
            let sealed: Vec<(i64, Option<u32>)> = drops::table
                .filter(drops::coupon_id.eq(coupon.0))
                .filter(drops::sealed_at.is_not_null().and(drops::sealed_rows.gt(0)))
                .select((drops::id, drops::sealed_rows))
                .load(conn)
                .await?;
            let rows = |(drop, rows): (i64, Option<u32>)| (DropId(drop), rows.unwrap_or(0).into());
            Ok(sealed.into_iter().map(rows).collect())
        })
        .await
    }

    /// Seals a drop with the verified number of rows. Returns `false` if an operator has changed
    /// its closing time or quantity since the caller read it, if its rows or revocations differ
    /// from those verified, or if it is already sealed.
    ///
    /// Whoever moves or inserts a row locks the drop afterwards ([`rows_changed`]). Therefore,
    /// either the change is committed before this lock and gets counted, or it changes the number
    /// of a sealed drop. A consumer does so with a closed drop. Therefore, either its rows are
    /// counted, or it finds the drop sealed.
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
                let sealed = (
                    drops::sealed_at.eq(Utc::now().naive_utc()),
                    drops::sealed_rows.eq(rows),
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

    /// Reads at most `limit` sealed drops with ids above `after`, optionally of one coupon or drop.
    pub async fn sealed_drops(
        &self,
        after: i64,
        coupon: Option<CouponId>,
        drop: Option<DropId>,
        limit: i64,
    ) -> Result<Vec<SealedDrop>, DbError> {
        self.run("sealed drops", async move |conn| {
            let mut query = drops::table
                .filter(drops::sealed_at.is_not_null().and(drops::id.gt(after)))
                .order(drops::id)
                .limit(limit)
                .select(SealedDrop::as_select())
                .into_boxed();
            if let Some(coupon) = coupon {
                query = query.filter(drops::coupon_id.eq(coupon.0));
            }
            if let Some(drop) = drop {
                query = query.filter(drops::id.eq(drop.0));
            }
            query.load(conn).await
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

/// Keeps the number of rows of a sealed drop right if a row comes or goes after the sealing, and
/// makes the drop one that may name users again. Must be called in the transaction of the rows,
/// after them. The lock on the drop lasts until its end, so sealing waits for it.
pub(super) async fn rows_changed(conn: &mut Conn, drop: i64, by: i64) -> QueryResult<()> {
    let locked = drops::table.find(drop).select(drops::sealed_at).for_share();
    let sealed_at: Option<Option<NaiveDateTime>> = locked.first(conn).await.optional()?;
    if sealed_at.flatten().is_none() {
        return Ok(());
    }
    diesel::sql_query(
        "UPDATE drops SET sealed_rows = GREATEST(CAST(sealed_rows AS SIGNED) + ?, 0), codes_erased_at = NULL \
         WHERE id = ?",
    )
    .bind::<BigInt, _>(by)
    .bind::<BigInt, _>(drop)
    .execute(conn)
    .await
    .map(|_| ())
}
