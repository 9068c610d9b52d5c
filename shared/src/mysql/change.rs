//! Revisions of a coupon, and an operator's changes to it, each in one transaction.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use serde_json::{Map, Value, json};

use super::catalogue::{SettingsRow, coupon_with_drops};
use super::ops_actions::{Operator, OperatorAct};
use super::schema::{coupons, drops};
use super::{Conn, Db, DbError, Refusal, refusal};
use crate::coupon::{Coupon, CouponPatch, Drop};
use crate::domain::{CouponId, DropId};
use crate::drops::is_one_lost;

/// The outcome of [`Db::change_coupon`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CouponChanged {
    Yes(ChangedCoupon),
    /// The coupon has another revision, given here; nothing was changed.
    Another(u64),
    /// Why the change is not possible, for the operator; nothing was changed.
    NotPossible(String),
    /// MySQL has lost the drop that should be open, so its holders are unknown; nothing was
    /// changed.
    LostDrop,
    NoCoupon,
}

/// A coupon with its new revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedCoupon {
    pub coupon: Coupon,
    pub drops: Vec<Drop>,
    pub removed: Vec<DropId>,
}

/// Attempts of a change while rows of its drops are being written.
const ATTEMPTS: u32 = 20;

impl Db {
    /// Takes the coupon's next revision, unless Redis has `seen` a later one or the coupon has
    /// another one than `only`, and returns the coupon and its drops at that revision. A revision
    /// is a fencing token: its owner may write the coupon's settings to Redis until another process
    /// takes a later revision. If MySQL's is below `seen`, MySQL has lost revisions
    /// (docs/decisions/0026-mysql-gone-back.md).
    pub async fn take_revision(
        &self,
        id: CouponId,
        seen: u64,
        only: Option<u64>,
    ) -> Result<Option<(Coupon, Vec<Drop>)>, DbError> {
        self.run("take revision", async move |conn| {
            conn.transaction(async |conn| {
                let Some(found) = locked(conn, id).await? else {
                    return Ok(None);
                };
                if found < seen || only.is_some_and(|only| only != found) {
                    return Ok(None);
                }
                diesel::update(coupons::table.find(id.0))
                    .set(coupons::revision.eq(found.saturating_add(1)))
                    .execute(conn)
                    .await?;
                coupon_with_drops(conn, id).await
            })
            .await
        })
        .await
    }

    /// Changes a coupon and its drops at a new revision, if it has the revision `only` or if `only`
    /// is `None`. `now` must not be ahead of Redis's clock.
    ///
    /// # Errors
    /// [`DbError`]. After a refusal ([`DbError::is_refusal`]) nothing was changed: rows above the
    /// new quantity are issued, or rows of a removed drop. After any other error, the change may
    /// have taken effect.
    pub async fn change_coupon(
        &self,
        id: CouponId,
        only: Option<u64>,
        patch: CouponPatch,
        now: DateTime<Utc>,
        by: Operator,
    ) -> Result<CouponChanged, DbError> {
        self.run("change coupon", async move |conn| {
            let mut attempts = 0;
            loop {
                let changed = conn
                    .transaction(async |conn| {
                        let Some(revision) = locked(conn, id).await? else {
                            return Ok(CouponChanged::NoCoupon);
                        };
                        if only.is_some_and(|only| only != revision) {
                            return Ok(CouponChanged::Another(revision));
                        }
                        // A reconciler seals drops without the lock of their coupon.
                        let unsealed = drops::table
                            .filter(drops::coupon_id.eq(id.0).and(drops::sealed_at.is_null()))
                            .select(drops::id)
                            .for_update();
                        unsealed.load::<i64>(conn).await?;
                        let Some(before) = coupon_with_drops(conn, id).await? else {
                            return Ok(CouponChanged::NoCoupon);
                        };
                        let (mut coupon, mut own) = before.clone();
                        if patch.concerns_drops() && is_one_lost(&coupon, &own, now) {
                            return Ok(CouponChanged::LostDrop);
                        }
                        if let Err(why) = patch.apply(&mut coupon, &mut own, now) {
                            return Ok(CouponChanged::NotPossible(why));
                        }
                        coupon.revision = revision.saturating_add(1);
                        write(conn, &before.1, &coupon, &own).await?;
                        let mut removed: Vec<DropId> =
                            before.1.iter().map(|drop| drop.id).collect();
                        removed.retain(|id| own.iter().all(|drop| drop.id != *id));
                        for id in &removed {
                            diesel::delete(drops::table.find(id.0))
                                .execute(conn)
                                .await?;
                        }
                        let after = (coupon, own);
                        let act = OperatorAct {
                            action: "change_coupon",
                            coupon: Some(id),
                            detail: difference(&before, &after),
                            ..OperatorAct::default()
                        };
                        by.did(conn, act).await?;
                        let (coupon, drops) = after;
                        Ok(CouponChanged::Yes(ChangedCoupon {
                            coupon,
                            drops,
                            removed,
                        }))
                    })
                    .await;
                attempts += 1;
                match changed {
                    // A row that was being written refers to a limit that the change removes.
                    Err(error)
                        if patch.last_day.is_none()
                            && refusal(&error) == Some(Refusal::UnknownDrop)
                            && attempts < ATTEMPTS => {}
                    changed => return changed,
                }
            }
        })
        .await
    }

    /// Restores settings that MySQL has lost, with their revision. Returns `false` if MySQL has
    /// that revision or a later one.
    ///
    /// # Errors
    /// [`DbError`]; nothing was changed.
    pub async fn recover_settings(
        &self,
        coupon: Coupon,
        drops: Vec<Drop>,
    ) -> Result<bool, DbError> {
        self.run("recover settings", async move |conn| {
            conn.transaction(async |conn| {
                let found = locked(conn, coupon.id).await?;
                if found.is_none_or(|revision| revision >= coupon.revision) {
                    return Ok(false);
                }
                let before = coupon_with_drops(conn, coupon.id).await?;
                let before = before.map(|(_, drops)| drops).unwrap_or_default();
                write(conn, &before, &coupon, &drops).await?;
                Ok(true)
            })
            .await
        })
        .await
    }
}

/// Locks a coupon, and returns its revision.
async fn locked(conn: &mut Conn, id: CouponId) -> QueryResult<Option<u64>> {
    let revision = coupons::table.find(id.0).select(coupons::revision);
    revision.for_update().first(conn).await.optional()
}

/// Writes the settings of a coupon at its revision, and those of its drops that differ from
/// `before`.
async fn write(
    conn: &mut Conn,
    before: &[Drop],
    coupon: &Coupon,
    drops: &[Drop],
) -> QueryResult<()> {
    diesel::update(coupons::table.find(coupon.id.0))
        .set((
            coupons::revision.eq(coupon.revision),
            SettingsRow::new(&coupon.settings)?,
        ))
        .execute(conn)
        .await?;
    for drop in drops.iter().filter(|drop| !before.contains(drop)) {
        diesel::update(drops::table.find(drop.id.0))
            .set((
                drops::quantity.eq(drop.quantity),
                drops::opens_at.eq(drop.opens_at.naive_utc()),
                drops::closes_at.eq(drop.closes_at.map(|at| at.naive_utc())),
                drops::closed_early.eq(drop.closed_early),
            ))
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Lists the fields that differ, each with its old and new value.
pub(crate) fn difference(before: &(Coupon, Vec<Drop>), after: &(Coupon, Vec<Drop>)) -> Value {
    let before = fields(before);
    let mut after = fields(after);
    let mut changed = Map::new();
    for (name, from) in before {
        let to = after.remove(&name);
        if to.as_ref() != Some(&from) {
            changed.insert(name, json!({"from": from, "to": to}));
        }
    }
    changed.into()
}

fn fields((coupon, drops): &(Coupon, Vec<Drop>)) -> Map<String, Value> {
    let drop = |d: &Drop| {
        let window =
            json!({"opens_at": d.opens_at, "closes_at": d.closes_at, "quantity": d.quantity});
        (format!("drop {}", d.id), window)
    };
    let mut fields = match json!(coupon.settings) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    fields.extend(drops.iter().map(drop));
    fields
}
