//! Sealed drops: closed, verified exact, and skipped by later passes. Also counts revocations,
//! which can prevent sealing.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Datetime, Nullable, Text};
use diesel_async::{AsyncConnection as _, RunQueryDsl};

use super::catalogue::LISTED;
use super::dead_letters::{CORRECTED, list};
use super::schema::{drops, failed_claims, issued_coupons, revoked_coupons};
use super::{Conn, Db, DbError, MOST_VALUES, json};
use crate::domain::{CouponId, DropId, Slot};

#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = drops)]
pub struct SealedDrop {
    pub id: i64,
    pub coupon_id: i64,
    pub quantity: u32,
    pub sealed_rows: Option<u32>,
}

/// The extent of the data that Redis may need for a coupon in addition to the drops that a pass
/// compares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, QueryableByName)]
pub struct CouponHistory {
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// Number of drops that have opened or will open within the hour, sealed or not.
    #[diesel(sql_type = BigInt)]
    pub opened: i64,
    #[diesel(sql_type = BigInt)]
    pub revocations: i64,
    /// The drop sealed last, and the time, by the reconciler's clock.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub last_sealed: Option<i64>,
    #[diesel(sql_type = Nullable<Datetime>)]
    pub last_sealed_at: Option<NaiveDateTime>,
}

impl CouponHistory {
    /// Returns the drop sealed last, and when.
    pub fn last_sealing(&self) -> Option<(DropId, DateTime<Utc>)> {
        Some((DropId(self.last_sealed?), self.last_sealed_at?.and_utc()))
    }
}

/// Time limit for counting the rows of one drop.
const LONG: Duration = Duration::from_secs(120);

/// Coupons per statement. Each requires counts from two indexes, which may have thousands of
/// entries.
const HISTORIES_AT_ONCE: usize = 200;

impl Db {
    /// Reads the history of coupons that are closed because Redis lost data: the extent of the data
    /// that Redis may need in addition to the drops that are compared.
    pub async fn histories(
        &self,
        coupons: Vec<CouponId>,
    ) -> Result<HashMap<CouponId, CouponHistory>, DbError> {
        let mut histories = HashMap::new();
        for some in coupons.chunks(HISTORIES_AT_ONCE) {
            let ids: Vec<i64> = some.iter().map(|coupon| coupon.0).collect();
            let found = self.run("histories of coupons", async move |conn| {
                diesel::sql_query(format!(
                    "SELECT w.id, (SELECT COUNT(*) FROM drops d FORCE INDEX (drops_opened) \
                         WHERE d.coupon_id = w.id AND d.opens_at <= UTC_TIMESTAMP(3) + INTERVAL 1 HOUR) opened, \
                         (SELECT COUNT(*) FROM revoked_coupons r WHERE r.coupon_id = w.id) revocations, \
                         s.id last_sealed, s.sealed_at last_sealed_at FROM ({LISTED}) w LEFT JOIN LATERAL \
                         (SELECT d.id, d.sealed_at FROM drops d FORCE INDEX (drops_sealed) WHERE d.coupon_id = w.id \
                             AND d.sealed_at IS NOT NULL ORDER BY d.sealed_at DESC LIMIT 1) s ON TRUE"
                ))
                .bind::<Text, _>(json(&ids)?)
                .load::<CouponHistory>(conn)
                .await
            });
            histories.extend(found.await?.into_iter().map(|one| (CouponId(one.id), one)));
        }
        Ok(histories)
    }

    /// Counts the rows in sealed drops of these coupons. Omits coupons without such rows.
    pub async fn sealed_rows_of(
        &self,
        coupons: Vec<CouponId>,
    ) -> Result<HashMap<CouponId, u64>, DbError> {
        self.run("rows of sealed drops", async move |conn| {
            let ids: Vec<i64> = coupons.iter().map(|coupon| coupon.0).collect();
            let mut rows = HashMap::new();
            for some in ids.chunks(HISTORIES_AT_ONCE) {
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

    /// Whether a coupon has any revocation.
    pub async fn has_revocations(&self, coupon: CouponId) -> Result<bool, DbError> {
        self.run("look for revocations", async move |conn| {
            let any = revoked_coupons::table
                .filter(revoked_coupons::coupon_id.eq(coupon.0))
                .limit(1);
            Ok(!any
                .select(revoked_coupons::id)
                .load::<i64>(conn)
                .await?
                .is_empty())
        })
        .await
    }

    /// Unseals the drops in which an unresolved dead letter could still be issued, because a
    /// promise may be open. Returns their number.
    pub async fn unseal_drops_of_dead_letters(&self) -> Result<usize, DbError> {
        const AT_ONCE: usize = 5_000;
        let mut unsealed = 0;
        let mut after = i64::MIN;
        loop {
            let (last, some) = self
                .run("unseal drops", async move |conn| {
                    let named: Vec<Option<i64>> = failed_claims::table
                        .filter(
                            failed_claims::resolved_at
                                .is_null()
                                .and(failed_claims::drop_id.gt(after)),
                        )
                        .group_by(failed_claims::drop_id)
                        .order(failed_claims::drop_id)
                        .limit(i64::try_from(AT_ONCE).unwrap_or(i64::MAX))
                        .select(failed_claims::drop_id)
                        .load(conn)
                        .await?;
                    let named: Vec<i64> = named.into_iter().flatten().collect();
                    let Some(last) = named.last() else {
                        return Ok((None, 0));
                    };
                    let last = (named.len() == AT_ONCE).then_some(*last);
                    Ok((last, unseal(conn, &named).await?))
                })
                .await?;
            unsealed += some;
            match last {
                Some(last) => after = last,
                None => return Ok(unsealed),
            }
        }
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

/// Unseals drops in which a dead letter with a user, and without a slot or on one of the drop's
/// slots, could still be issued: the drop was sealed with slots left, or has lost the row on that
/// slot. Dead letters of messages do not unseal a drop, because every user with a promised coupon
/// had a row when it was sealed.
async fn unseal(conn: &mut Conn, named: &[i64]) -> QueryResult<usize> {
    diesel::sql_query(format!(
        "UPDATE drops d SET d.sealed_at = NULL, d.sealed_rows = NULL WHERE d.id IN ({}) AND d.sealed_at IS NOT NULL \
         AND EXISTS (SELECT 1 FROM failed_claims f WHERE f.resolved_at IS NULL AND f.drop_id = d.id \
             AND (f.coupon_id IS NULL OR f.coupon_id = d.coupon_id) AND f.user_id IS NOT NULL \
             AND (f.source_partition IS NULL OR f.reason = '{CORRECTED}') \
             AND (f.slot IS NULL OR f.slot BETWEEN 1 AND d.quantity) \
             AND (COALESCE(d.sealed_rows, 0) < d.quantity OR f.slot IS NOT NULL AND NOT EXISTS \
                 (SELECT 1 FROM issued_coupons i WHERE i.drop_id = f.drop_id AND i.slot = f.slot)))",
        list(named.iter().copied())
    ))
    .execute(conn)
    .await
}
