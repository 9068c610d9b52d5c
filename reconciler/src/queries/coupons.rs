//! Coupons that a pass or an operator looks for, and the actions on them.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::dsl::{exists, not};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;
use firstcome_shared::columns::{At, locate};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, UserId};
use firstcome_shared::model::RecordedAct;
use firstcome_shared::mysql::{Db, DbResult};
use firstcome_shared::schema::{coupons, drops, ops_actions};

/// Finds at most `limit` coupons whose names contain this text: first those with this name, each
/// newest first.
pub(crate) async fn coupons_named(db: &Db, text: &str, limit: usize) -> DbResult<Vec<CouponId>> {
    let text = text.to_owned();
    let named = coupons::table
        .filter(locate(text.clone(), coupons::name).gt(0))
        .order((coupons::name.eq(text).desc(), coupons::id.desc()))
        .limit(i64::try_from(limit).unwrap_or(i64::MAX))
        .select(coupons::id);
    db.rows("coupons by name", named).await
}

/// Reads the coupons with an unsealed drop that has opened at `now`, or opens within a minute.
pub(crate) async fn open_coupons(db: &Db, now: DateTime<Utc>) -> DbResult<Vec<CouponId>> {
    let open = drops::table
        .filter(drops::sealed_at.is_null())
        .filter(drops::opens_at.le(At(now + TimeDelta::minutes(1))))
        .select(drops::coupon_id)
        .distinct();
    db.rows("read open coupons", open).await
}

/// Reads the coupons with a schedule but without any drop. MySQL has lost their drops, because
/// a coupon is created together with its first one. Costs one lookup per coupon.
pub(crate) async fn coupons_without_drops(db: &Db) -> DbResult<Vec<(Coupon, Vec<Drop>)>> {
    let own = drops::table.filter(drops::coupon_id.eq(coupons::id));
    let bare = coupons::table
        .filter(coupons::schedule.is_not_null())
        .filter(not(exists(own)))
        .select(coupons::id);
    db.coupons_by_id(db.rows("coupons without drops", bare).await?)
        .await
}

/// Finds the coupons in which a user has a row, a revocation, or a broken promise.
pub(crate) async fn coupons_of_user(db: &Db, user: &UserId) -> DbResult<Vec<CouponId>> {
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
    let found: Vec<FoundCoupon> = db.within(LONG).rows("coupons of a person", all).await?;
    Ok(found.into_iter().map(|found| found.id).collect())
}

/// A coupon in which a user was found.
#[derive(QueryableByName)]
#[diesel(table_name = coupons)]
struct FoundCoupon {
    id: CouponId,
}

/// Time limit of a look-up in every coupon.
const LONG: Duration = Duration::from_secs(120);

/// Reads the last actions on a coupon, newest first.
pub(crate) async fn acts_on(db: &Db, coupon: CouponId) -> DbResult<Vec<RecordedAct>> {
    let last = ops_actions::table
        .filter(ops_actions::coupon_id.eq(coupon))
        .order((ops_actions::at.desc(), ops_actions::id.desc()))
        .limit(20)
        .select(RecordedAct::as_select());
    db.rows("acts on a coupon", last).await
}
