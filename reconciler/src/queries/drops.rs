//! Drops, sealed ones, and counts by drop.

use std::collections::HashMap;
use std::time::Duration;

use diesel::dsl::{count_star, max};
use diesel::prelude::*;
use firstcome_shared::coupon::Drop;
use firstcome_shared::domain::{CouponId, DropId, Slot};
use firstcome_shared::mysql::{Db, DbResult};
use firstcome_shared::schema::{drops, failed_claims, issued_coupons, revoked_coupons};

use super::Scope;

/// What is counted by drop.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DropCount {
    Rows,
    Revocations,
    /// Unresolved ones, except those that name another coupon.
    DeadLetters,
}

/// Counts what these drops have. Omits drops that have none.
pub(crate) async fn count(
    db: &Db,
    what: DropCount,
    drops: &[DropId],
) -> DbResult<HashMap<DropId, u64>> {
    let ids = drops.to_vec();
    let db = db.within(LONG);
    let counts: Vec<(DropId, i64)> = match what {
        DropCount::Rows => {
            let rows = issued_coupons::table
                .filter(issued_coupons::drop_id.eq_any(ids))
                .group_by(issued_coupons::drop_id)
                .select((issued_coupons::drop_id, count_star()));
            db.rows("count rows by drop", rows).await?
        }
        DropCount::Revocations => {
            let revocations = revoked_coupons::table
                .filter(revoked_coupons::drop_id.eq_any(ids))
                .group_by(revoked_coupons::drop_id)
                .select((revoked_coupons::drop_id, count_star()));
            db.rows("count revocations by drop", revocations).await?
        }
        DropCount::DeadLetters => {
            let names_it = failed_claims::coupon_id
                .is_null()
                .or(failed_claims::coupon_id.eq(drops::coupon_id.nullable()));
            let letters = failed_claims::table
                .inner_join(drops::table.on(failed_claims::drop_id.eq(drops::id.nullable())))
                .filter(failed_claims::resolved_at.is_null())
                .filter(drops::id.eq_any(ids))
                .filter(names_it)
                .group_by(drops::id)
                .select((drops::id, count_star()));
            db.rows("count dead letters by drop", letters).await?
        }
    };
    Ok(counts
        .into_iter()
        .map(|(drop, count)| (drop, count.cast_unsigned()))
        .collect())
}

pub(crate) async fn highest_slots(db: &Db, drops: &[DropId]) -> DbResult<HashMap<DropId, Slot>> {
    let highest = issued_coupons::table
        .filter(issued_coupons::drop_id.eq_any(drops.to_vec()))
        .group_by(issued_coupons::drop_id)
        .select((
            issued_coupons::drop_id,
            max(issued_coupons::slot).assume_not_null(),
        ));
    let highest = db.rows("highest slots", highest).await?;
    Ok(highest.into_iter().collect())
}

pub(crate) async fn last_sealed(db: &Db, coupon: CouponId) -> DbResult<Option<DropId>> {
    let last = drops::table
        .filter(drops::coupon_id.eq(coupon))
        .filter(drops::sealed_at.is_not_null())
        .order((drops::sealed_at.desc(), drops::id.desc()))
        .limit(1)
        .select(drops::id);
    db.row("last sealed drop", last).await
}

/// Reads at most `limit` sealed drops with ids above `after`.
pub(crate) async fn sealed_drops(
    db: &Db,
    after: DropId,
    scope: Scope,
    limit: i64,
) -> DbResult<Vec<Drop>> {
    let mut page = drops::table
        .filter(drops::sealed_at.is_not_null())
        .filter(drops::id.gt(after))
        .order(drops::id)
        .limit(limit)
        .select(Drop::as_select())
        .into_boxed();
    if let Some(coupon) = scope.coupon {
        page = page.filter(drops::coupon_id.eq(coupon));
    }
    if let Some(drop) = scope.drop {
        page = page.filter(drops::id.eq(drop));
    }
    db.rows("sealed drops", page).await
}

/// Reads one drop of a coupon. Returns `None` if the coupon has no such drop.
pub(crate) async fn drop_of(db: &Db, coupon: CouponId, drop: DropId) -> DbResult<Option<Drop>> {
    let own = drops::table
        .find(drop)
        .filter(drops::coupon_id.eq(coupon))
        .select(Drop::as_select());
    db.row("read drop", own).await
}

pub(crate) async fn coupon_of_drop(db: &Db, id: DropId) -> DbResult<Option<CouponId>> {
    let coupon = drops::table.find(id).select(drops::coupon_id);
    db.row("the coupon of a drop", coupon).await
}

/// Time limit of a count over some drops.
const LONG: Duration = Duration::from_secs(30);
