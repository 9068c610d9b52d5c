//! An operator's changes to a coupon, in one transaction.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};

use super::schema::{coupons, drops};
use super::{Db, DbError};
use crate::domain::{CouponId, DropId, Slot};

/// What is to change; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CouponChange {
    pub name: Option<String>,
    pub paused: Option<bool>,
    /// Quantity of every drop that is not closed, and of those made from now on.
    pub quantity: Option<Slot>,
}

impl Db {
    /// Changes a coupon and its drops that are not closed at `now`, and gives the revision that
    /// this made. `revision` is the caller's, from [`Db::take_revision`], and `expected` says which
    /// drops there are and how large: where that is no longer so (another operator or a repair took
    /// a later one, or a drop was made meanwhile) nothing changes and `None` is given.
    ///
    /// # Errors
    /// [`DbError`]. A [`super::Refusal::BadData`] means that a slot above the quantity is issued,
    /// and nothing was changed; any other may have come after the change took effect.
    pub async fn change_coupon(
        &self,
        id: CouponId,
        revision: u64,
        change: CouponChange,
        mut expected: Vec<(DropId, Slot)>,
        now: DateTime<Utc>,
    ) -> Result<Option<u64>, DbError> {
        expected.sort_unstable();
        self.run("change coupon", async move |conn| {
            conn.transaction(async |conn| {
                let locked: Option<u64> =
                    coupons::table.find(id.0).select(coupons::revision).for_update().first(conn).await.optional()?;
                let found: Vec<(i64, Slot)> = drops::table
                    .filter(drops::coupon_id.eq(id.0).and(drops::sealed_at.is_null()))
                    .filter(drops::closes_at.is_null().or(drops::closes_at.gt(now.naive_utc())))
                    .order(drops::id)
                    .select((drops::id, drops::quantity))
                    .for_update()
                    .load(conn)
                    .await?;
                if locked != Some(revision) || !found.iter().copied().eq(expected.iter().map(|(d, q)| (d.0, *q))) {
                    return Ok(None);
                }
                let made = revision + 1;
                diesel::update(coupons::table.find(id.0)).set(coupons::revision.eq(made)).execute(conn).await?;
                if let Some(name) = &change.name {
                    diesel::update(coupons::table.find(id.0)).set(coupons::name.eq(name)).execute(conn).await?;
                }
                if let Some(paused) = change.paused {
                    diesel::update(coupons::table.find(id.0)).set(coupons::paused.eq(paused)).execute(conn).await?;
                }
                if let Some(quantity) = change.quantity {
                    diesel::update(coupons::table.find(id.0)).set(coupons::quantity.eq(quantity)).execute(conn).await?;
                    let ids: Vec<i64> = found.iter().map(|(drop, _)| *drop).collect();
                    diesel::update(drops::table.filter(drops::id.eq_any(ids)))
                        .set(drops::quantity.eq(quantity))
                        .execute(conn)
                        .await?;
                }
                Ok(Some(made))
            })
            .await
        })
        .await
    }
}
