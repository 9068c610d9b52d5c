//! Revisions of a coupon, and an operator's changes to it, each in one transaction.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Integer, Unsigned};
use diesel_async::RunQueryDsl;
use serde_json::{Map, Value, json};

use super::catalogue::{coupon_with_drops, coupon_with_unsealed_drops};
use super::ops_actions::{Operator, OperatorAct};
use super::slot_limits::follow_quantity;
use super::{Conn, Db, DbResult};
use crate::columns::At;
use crate::coupon::{Coupon, CouponPatch, Drop};
use crate::domain::{CouponId, DropId};
use crate::model::is_one_lost;
use crate::schema::{coupons, drops};

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

/// A coupon at its new revision, with its drops and the ids of the drops that were removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedCoupon {
    pub coupon: Coupon,
    pub drops: Vec<Drop>,
    pub removed: Vec<DropId>,
}

/// Time limit of one attempt to make a change: a lower quantity rewrites the rows of one of the
/// drop's parts, or all rows if the limits in between were lost.
const LONG: Duration = Duration::from_secs(60);

/// Maximum number of attempts to change a coupon while rows of its drops are being written.
const ATTEMPTS: u32 = 20;

impl Db {
    /// Takes the coupon's next revision, and returns the coupon and its unsealed drops at that
    /// revision. Returns `None` and changes nothing if the coupon does not exist, if its revision
    /// is below `seen`, the one in Redis, or if `only` is another revision. A revision is a fencing
    /// token: its owner may write the coupon's settings to Redis until another process takes a
    /// later revision. If MySQL's is below `seen`, MySQL has lost revisions
    /// (docs/decisions/0026-mysql-gone-back.md).
    pub async fn take_revision(
        &self,
        id: CouponId,
        seen: u64,
        only: Option<u64>,
    ) -> DbResult<Option<(Coupon, Vec<Drop>)>> {
        self.transaction("take revision", async move |conn| {
            let found = locked(conn, id).await?;
            let fits = found >= Some(seen) && only.is_none_or(|_| only == found);
            let Some(found) = found.filter(|_| fits) else {
                return Ok(None);
            };
            diesel::update(coupons::table.find(id))
                .set(coupons::revision.eq(found.saturating_add(1)))
                .execute(conn)
                .await?;
            coupon_with_unsealed_drops(conn, id).await
        })
        .await
    }

    /// Changes a coupon and its drops at a new revision, if it has the revision `only` or if `only`
    /// is `None`. `now` must not be ahead of Redis's clock.
    ///
    /// # Errors
    /// `DbError`. After a refusal (`DbError::refusal`) nothing was changed: for example, there are
    /// rows above the new quantity, or rows or revocations of a removed drop. After any other
    /// error, the change may have taken effect.
    pub async fn change_coupon(
        &self,
        id: CouponId,
        only: Option<u64>,
        patch: CouponPatch,
        now: DateTime<Utc>,
        by: Operator,
    ) -> DbResult<CouponChanged> {
        let db = self.within(LONG);
        let mut attempts = 0;
        loop {
            let own = patch.clone();
            let by = by.clone();
            let changed = db.transaction("change coupon", async move |conn| {
                change(conn, id, only, &own, now, &by).await
            });
            attempts += 1;
            match changed.await {
                // Usually, the other transaction is a batch of rows that name several of the limits
                // that the change locks and removes.
                Err(error) if error.is_deadlock() && attempts < ATTEMPTS => {}
                changed => return changed,
            }
        }
    }

    /// Restores settings that MySQL has lost, with their revision. Returns `false` if MySQL has
    /// that revision or a later one, or does not have the coupon.
    ///
    /// # Errors
    /// `DbError`. The settings may have been restored nevertheless, for example after a time-out.
    pub async fn recover_settings(&self, coupon: Coupon, drops: Vec<Drop>) -> DbResult<bool> {
        self.transaction("recover settings", async move |conn| {
            let found = locked(conn, coupon.id).await?;
            if found.is_none_or(|revision| revision >= coupon.revision) {
                return Ok(false);
            }
            write(conn, &coupon, &drops).await.map(|()| true)
        })
        .await
    }
}

async fn change(
    conn: &mut Conn,
    id: CouponId,
    only: Option<u64>,
    patch: &CouponPatch,
    now: DateTime<Utc>,
    by: &Operator,
) -> QueryResult<CouponChanged> {
    let Some(revision) = locked(conn, id).await? else {
        return Ok(CouponChanged::NoCoupon);
    };
    if only.is_some_and(|only| only != revision) {
        return Ok(CouponChanged::Another(revision));
    }
    // A reconciler seals drops without locking their coupon.
    drops::table
        .filter(drops::coupon_id.eq(id))
        .filter(drops::sealed_at.is_null())
        .select(drops::id)
        .for_update()
        .load::<DropId>(conn)
        .await?;
    let Some(before) = coupon_with_drops(conn, id).await? else {
        return Ok(CouponChanged::NoCoupon);
    };
    let (mut coupon, mut drops) = before.clone();
    if patch.concerns_drops() && is_one_lost(&coupon, &drops, now) {
        return Ok(CouponChanged::LostDrop);
    }
    if let Err(why) = patch.apply(&mut coupon, &mut drops, now) {
        return Ok(CouponChanged::NotPossible(why));
    }
    coupon.revision = revision.saturating_add(1);
    let changed: Vec<Drop> = drops
        .iter()
        .filter(|drop| !before.1.contains(drop))
        .cloned()
        .collect();
    write(conn, &coupon, &changed).await?;
    let mut removed: Vec<DropId> = before.1.iter().map(|drop| drop.id).collect();
    removed.retain(|id| drops.iter().all(|drop| drop.id != *id));
    diesel::delete(drops::table.filter(drops::id.eq_any(&removed)))
        .execute(conn)
        .await?;
    let after = (coupon, drops);
    let detail = difference(&before, &after);
    let act = OperatorAct::new("change_coupon", Some(id), None, detail);
    by.did(conn, act).await?;
    let (coupon, drops) = after;
    Ok(CouponChanged::Yes(ChangedCoupon {
        coupon,
        drops,
        removed,
    }))
}

/// Locks a coupon, and returns its revision.
async fn locked(conn: &mut Conn, id: CouponId) -> QueryResult<Option<u64>> {
    coupons::table
        .find(id)
        .select(coupons::revision)
        .for_update()
        .get_result(conn)
        .await
        .optional()
}

/// Writes the settings of a coupon at its revision, and those of these drops.
async fn write(conn: &mut Conn, coupon: &Coupon, drops: &[Drop]) -> QueryResult<()> {
    diesel::update(coupons::table.find(coupon.id))
        .set((
            &coupon.settings,
            coupons::valid_until.eq(coupon.valid_until),
            coupons::revision.eq(coupon.revision),
        ))
        .execute(conn)
        .await?;
    for drop in drops {
        diesel::update(drops::table.find(drop.id))
            .set((
                drops::opens_at.eq(At(drop.opens_at)),
                drops::closes_at.eq(drop.closes_at),
                drops::closed_early.eq(drop.closed_early),
            ))
            .execute(conn)
            .await?;
        // The limits refer to the quantity, and both cannot change in one statement. So this one
        // does without that check, and the limits follow in this transaction.
        let changed = sql_query(
            "UPDATE /*+ SET_VAR(foreign_key_checks = 0) */ drops SET quantity = ? \
             WHERE id = ? AND quantity <> ?",
        )
        .bind::<Unsigned<Integer>, _>(drop.quantity)
        .bind::<BigInt, _>(drop.id)
        .bind::<Unsigned<Integer>, _>(drop.quantity)
        .execute(conn)
        .await?;
        if changed > 0 {
            follow_quantity(conn, drop.id).await?;
        }
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
    let mut fields = match json!(coupon.settings) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    fields.extend(drops.iter().map(|d| {
        let window =
            json!({"opens_at": d.opens_at, "closes_at": d.closes_at, "quantity": d.quantity});
        (format!("drop {}", d.id), window)
    }));
    fields
}
