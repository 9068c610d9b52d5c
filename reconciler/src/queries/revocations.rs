//! Revocations, as passes compare them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Text, Unsigned};
use firstcome_shared::columns::{At, Datetime};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::model::Revocation;
use firstcome_shared::mysql::{Db, DbResult, json};
use firstcome_shared::schema::{drops, revoked_coupons};

/// The users whom revocations in force ban from a coupon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, QueryableByName)]
pub struct Banned {
    /// Without erased users, and without those of the last second, whose revocations an API may not
    /// have written to Redis yet.
    #[diesel(sql_type = Unsigned<BigInt>)]
    pub users: u64,
    /// The same with those of the last second.
    #[diesel(sql_type = Unsigned<BigInt>)]
    pub with_young: u64,
    /// Whether a ban has ended within the last hour.
    #[diesel(sql_type = Bool)]
    pub has_ended_lately: bool,
}

/// The banned users of a coupon, as counted.
#[derive(QueryableByName)]
struct BannedOfCoupon {
    #[diesel(sql_type = BigInt)]
    coupon_id: CouponId,
    #[diesel(embed)]
    banned: Banned,
}

/// Maximum duration of a count of all revocations of some coupons.
const LONGEST_COUNT: Duration = Duration::from_secs(60);

/// Counts the users named by revocations in force. Redis has a field for each of these users.
/// Revocations of unsealed drops are in force, and those of a whole coupon that have not ended:
/// no others concern a claim that Redis may have. Their number does not grow with the sealed
/// drops.
pub(crate) async fn count_banned(
    db: &Db,
    coupons: &[CouponId],
) -> DbResult<HashMap<CouponId, Banned>> {
    let ids = json(&coupons);
    let count = sql_query(
        "SELECT coupon_id, COUNT(DISTINCT IF(revoked_at < UTC_TIMESTAMP(3) - INTERVAL 1 SECOND, \
                 person_scope, NULL), user_id) AS users, \
             COUNT(DISTINCT person_scope, user_id) AS with_young, \
             COALESCE(MAX(again_from) >= UTC_TIMESTAMP(3) - INTERVAL 1 HOUR, 0) AS has_ended_lately \
         FROM (SELECT r.coupon_id, r.user_id, r.revoked_at, r.again_from, r.person_scope \
             FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) w \
             STRAIGHT_JOIN revoked_coupons r FORCE INDEX (revoked_coupons_in_force) \
                 ON r.coupon_id = w.id AND r.person_scope = 0 AND r.again_from <=> NULL \
             UNION ALL \
             SELECT r.coupon_id, r.user_id, r.revoked_at, r.again_from, r.person_scope \
             FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) w \
             STRAIGHT_JOIN drops d FORCE INDEX (drops_sealed) \
                 ON d.coupon_id = w.id AND d.sealed_at IS NULL \
             STRAIGHT_JOIN revoked_coupons r FORCE INDEX (revoked_coupons_drop) \
                 ON r.drop_id = d.id AND r.coupon_id = d.coupon_id) r \
         WHERE NOT (user_id LIKE 'erased-%' AND user_id REGEXP '^erased-[0-9a-f]{20}$') \
         GROUP BY coupon_id",
    )
    .bind::<Text, _>(ids.clone())
    .bind::<Text, _>(ids);
    let db = db.within(LONGEST_COUNT);
    let counted: Vec<BannedOfCoupon> = db.rows("count banned users", count).await?;
    Ok(counted
        .into_iter()
        .map(|counted| (counted.coupon_id, counted.banned))
        .collect())
}

/// Revocations read per statement.
pub(crate) const REVOCATIONS_AT_ONCE: i64 = 1_000;

/// Reads a page of the revocations of a drop with ids above `after`, or, without a drop, of
/// those of the whole coupon that have not ended at `now`.
pub(crate) async fn revocations_after(
    db: &Db,
    coupon: CouponId,
    drop: Option<DropId>,
    now: DateTime<Utc>,
    after: i64,
) -> DbResult<Vec<Revocation>> {
    let most = REVOCATIONS_AT_ONCE;
    let Some(drop) = drop else {
        let page = sql_query(
            "SELECT * FROM revoked_coupons FORCE INDEX (revoked_coupons_in_force) \
             WHERE coupon_id = ? AND person_scope = 0 \
             AND (again_from IS NULL OR again_from >= ?) AND id > ? ORDER BY id LIMIT ?",
        )
        .bind::<BigInt, _>(coupon)
        .bind::<Datetime, _>(At(now))
        .bind::<BigInt, _>(after)
        .bind::<BigInt, _>(most);
        return db.rows("read revocations of a coupon", page).await;
    };
    let page = sql_query(
        "SELECT * FROM revoked_coupons FORCE INDEX (revoked_coupons_drop) \
         WHERE drop_id = ? AND coupon_id = ? AND id > ? ORDER BY id LIMIT ?",
    )
    .bind::<BigInt, _>(drop)
    .bind::<BigInt, _>(coupon)
    .bind::<BigInt, _>(after)
    .bind::<BigInt, _>(most);
    db.rows("read revocations", page).await
}

/// Returns which of these revocations are over: those of sealed drops, except those that keep
/// their users out of the whole coupon, for good or until an end that is ahead at `now`.
pub(crate) async fn revocations_over(
    db: &Db,
    ids: Vec<i64>,
    now: DateTime<Utc>,
) -> DbResult<HashSet<i64>> {
    let is_over = revoked_coupons::person_scope
        .ne(0)
        .or(revoked_coupons::again_from.lt(Some(now)).assume_not_null());
    let over = revoked_coupons::table
        .inner_join(drops::table.on(drops::id.eq(revoked_coupons::drop_id)))
        .filter(revoked_coupons::id.eq_any(ids))
        .filter(drops::sealed_at.is_not_null())
        .filter(is_over)
        .select(revoked_coupons::id);
    let over = db.rows("revocations that are over", over).await?;
    Ok(over.into_iter().collect())
}
