//! Eras of coupons (docs/decisions/0003-admission-gate.md).

use std::collections::{BTreeMap, HashMap};

use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};

use super::schema::{coupons, drops};
use super::{Conn, Db, DbError, MOST_VALUES};
use crate::domain::CouponId;

/// A coupon's era as read from Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenEra {
    pub coupon: CouponId,
    /// The highest era in its gate. A new era is higher.
    pub era: u64,
    /// Whether the era began on the current server. Such an era is kept unless MySQL has a later
    /// one. If MySQL has an earlier one because it lost data, it adopts this era.
    pub is_kept: bool,
}

/// The highest era that is taken over from Redis. Higher numbers were written manually, and later
/// eras would soon exceed those that programs parse.
const HIGHEST_SEEN: u64 = 1_000_000_000_000;

impl Db {
    /// Gives each coupon an era above those in MySQL and Redis, unless its era in Redis is kept.
    /// Skips coupons that another transaction is changing, because waiting for one would delay all
    /// others.
    pub async fn take_eras(&self, seen: Vec<SeenEra>) -> Result<HashMap<CouponId, u64>, DbError> {
        let mut taken = HashMap::new();
        for some in seen.chunks(MOST_VALUES) {
            let some = some.to_vec();
            let free = self.run("take eras", async move |conn| {
                conn.transaction(async |conn| take(conn, &some).await).await
            });
            taken.extend(free.await?);
        }
        for one in &seen {
            if !taken.contains_key(&one.coupon) {
                let coupon_id = one.coupon.0;
                tracing::warn!(
                    coupon_id,
                    "skipped a coupon that is being changed; it opens later"
                );
            }
        }
        Ok(taken)
    }

    /// Reads the coupons with an unsealed drop that has opened, or opens within a minute.
    pub async fn open_coupons_now(&self) -> Result<Vec<CouponId>, DbError> {
        self.run("read open coupons", async |conn| {
            let soon = diesel::dsl::sql::<diesel::sql_types::Datetime>(
                "UTC_TIMESTAMP(3) + INTERVAL 1 MINUTE",
            );
            let open = drops::table
                .filter(drops::sealed_at.is_null().and(drops::opens_at.le(soon)))
                .select(drops::coupon_id)
                .distinct();
            let open: Vec<i64> = open.load(conn).await?;
            Ok(open.into_iter().map(CouponId).collect())
        })
        .await
    }

    /// Reads the era of a coupon from the primary.
    pub async fn era(&self, coupon: CouponId) -> Result<Option<u64>, DbError> {
        self.run("read era", async move |conn| {
            coupons::table
                .find(coupon.0)
                .select(coupons::era)
                .first(conn)
                .await
                .optional()
        })
        .await
    }
}

async fn take(conn: &mut Conn, seen: &[SeenEra]) -> QueryResult<Vec<(CouponId, u64)>> {
    let ids = seen.iter().map(|one| one.coupon.0);
    let found: Vec<(i64, u64)> = coupons::table
        .filter(coupons::id.eq_any(ids))
        .select((coupons::id, coupons::era))
        .for_update()
        .skip_locked()
        .load(conn)
        .await?;
    let free: HashMap<i64, u64> = found.into_iter().collect();
    let mut taken = Vec::new();
    let mut raised = BTreeMap::<u64, Vec<i64>>::new();
    for one in seen {
        let Some(era) = free.get(&one.coupon.0).copied() else {
            continue;
        };
        let seen = if one.era <= HIGHEST_SEEN { one.era } else { 0 };
        let now = if one.is_kept && seen >= era {
            seen
        } else {
            era.max(seen) + 1
        };
        if now != era {
            raised.entry(now).or_default().push(one.coupon.0);
        }
        taken.push((one.coupon, now));
    }
    for (era, ids) in raised {
        diesel::update(coupons::table.filter(coupons::id.eq_any(ids)))
            .set(coupons::era.eq(era))
            .execute(conn)
            .await?;
    }
    Ok(taken)
}
