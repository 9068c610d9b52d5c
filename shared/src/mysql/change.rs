//! Revisions of a coupon, and an operator's changes to it, each in one transaction.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use serde_json::{Map, Value, json};

use super::catalogue::{DropRow, coupon_with_drops};
use super::ops_actions::{Operator, OperatorAct};
use super::schema::{coupons, drops, failed_claims, issued_coupons, revoked_coupons};
use super::{Conn, Db, DbError};
use crate::coupon::{Allow, Coupon, Drop};
use crate::domain::{CouponId, DropId, Slot};
use crate::schedule::Schedule;

/// A change to a coupon; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CouponChange {
    pub name: Option<String>,
    pub paused: Option<bool>,
    /// Quantity of every drop that is not closed, and of future drops.
    pub quantity: Option<Slot>,
    pub waiting_list: Option<u32>,
    pub schedule: Option<Schedule>,
    /// Who may claim; `Some(None)` means everybody.
    #[allow(clippy::option_option)]
    pub allow: Option<Option<Allow>>,
    pub drops: Vec<DropChange>,
}

/// A change to a drop's window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropChange {
    pub id: DropId,
    /// The new window; `None` deletes the drop.
    pub to: Option<Window>,
    /// Leaves the drop unchanged if it has claims, which may have been inserted manually.
    pub unless_claimed: bool,
}

/// The period in which a drop is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub opens_at: DateTime<Utc>,
    pub closes_at: Option<DateTime<Utc>>,
    pub closed_early: bool,
}

/// The outcome of [`Db::take_revision_if`].
#[derive(Debug)]
pub enum Revision {
    /// The coupon with the new revision, and its drops.
    Taken(Coupon, Vec<Drop>),
    /// The coupon has another revision, given here; nothing was changed.
    Another(u64),
    /// MySQL has lost revisions (docs/decisions/0026-mysql-gone-back.md); nothing was changed.
    Behind,
    NoCoupon,
}

impl Db {
    /// Takes the coupon's next revision, unless Redis has `seen` a later one, and returns the
    /// coupon and its drops at that revision. A revision is a fencing token: its owner may write
    /// the coupon's settings to Redis, or commit a change ([`Db::change_coupon`]), until another
    /// process takes a later revision.
    pub async fn take_revision(
        &self,
        id: CouponId,
        seen: u64,
    ) -> Result<Option<(Coupon, Vec<Drop>)>, DbError> {
        Ok(match self.take_revision_if(id, seen, None).await? {
            Revision::Taken(coupon, drops) => Some((coupon, drops)),
            Revision::Another(_) | Revision::Behind | Revision::NoCoupon => None,
        })
    }

    /// Like [`Db::take_revision`], but only if the coupon has revision `only`.
    pub async fn take_revision_if(
        &self,
        id: CouponId,
        seen: u64,
        only: Option<u64>,
    ) -> Result<Revision, DbError> {
        self.run("take revision", async move |conn| {
            conn.transaction(async |conn| {
                let locked = coupons::table
                    .find(id.0)
                    .select(coupons::revision)
                    .for_update();
                let Some(found) = locked.first::<u64>(conn).await.optional()? else {
                    return Ok(Revision::NoCoupon);
                };
                if found < seen {
                    return Ok(Revision::Behind);
                }
                if only.is_some_and(|only| only != found) {
                    return Ok(Revision::Another(found));
                }
                diesel::update(coupons::table.find(id.0))
                    .set(coupons::revision.eq(found + 1))
                    .execute(conn)
                    .await?;
                let taken = coupon_with_drops(conn, id).await?;
                Ok(taken.map_or(Revision::NoCoupon, |(coupon, drops)| {
                    Revision::Taken(coupon, drops)
                }))
            })
            .await
        })
        .await
    }

    /// Changes a coupon and its drops that are not closed at `now`. Returns their new state with
    /// the new revision. `revision` comes from [`Db::take_revision`]; `expected` holds these drops
    /// in order of id. If the state has changed since (another operator or a repair took a later
    /// revision, or a drop was created), nothing changes and the result is `None`.
    ///
    /// # Errors
    /// [`DbError`]. [`super::Refusal::BadData`] means that a slot above the new quantity is issued;
    /// then nothing was changed. After any other error, the change may have taken effect.
    pub async fn change_coupon(
        &self,
        id: CouponId,
        revision: u64,
        change: CouponChange,
        expected: Vec<Drop>,
        now: DateTime<Utc>,
        by: Operator,
    ) -> Result<Option<(Coupon, Vec<Drop>)>, DbError> {
        self.run("change coupon", async move |conn| {
            conn.transaction(async |conn| {
                let locked: Option<u64> = coupons::table
                    .find(id.0)
                    .select(coupons::revision)
                    .for_update()
                    .first(conn)
                    .await
                    .optional()?;
                let found: Vec<DropRow> = drops::table
                    .filter(drops::coupon_id.eq(id.0).and(drops::sealed_at.is_null()))
                    .filter(
                        drops::closes_at
                            .is_null()
                            .or(drops::closes_at.gt(now.naive_utc())),
                    )
                    .order(drops::id)
                    .select(DropRow::as_select())
                    .for_update()
                    .load(conn)
                    .await?;
                if locked != Some(revision)
                    || !found
                        .into_iter()
                        .map(Drop::from)
                        .eq(expected.iter().cloned())
                {
                    return Ok(None);
                }
                let before = coupon_with_drops(conn, id).await?;
                let schedule = change.schedule.as_ref().map(super::json).transpose()?;
                let allow = change.allow.as_ref();
                let allow = allow.map(|allow| allow.as_ref().map(ToString::to_string));
                let fields = (
                    coupons::revision.eq(revision + 1),
                    change.name.as_ref().map(|name| coupons::name.eq(name)),
                    change.paused.map(|paused| coupons::paused.eq(paused)),
                    change.quantity.map(|most| coupons::quantity.eq(most)),
                    change
                        .waiting_list
                        .map(|most| coupons::waiting_list.eq(most)),
                    schedule.map(|schedule| coupons::schedule.eq(schedule)),
                    allow.map(|allow| coupons::allow_rule.eq(allow)),
                );
                diesel::update(coupons::table.find(id.0))
                    .set(fields)
                    .execute(conn)
                    .await?;
                if let Some(quantity) = change.quantity {
                    diesel::update(
                        drops::table
                            .filter(drops::id.eq_any(expected.iter().map(|drop| drop.id.0))),
                    )
                    .set(drops::quantity.eq(quantity))
                    .execute(conn)
                    .await?;
                }
                for one in &change.drops {
                    change_drop(conn, one).await?;
                }
                let after = coupon_with_drops(conn, id).await?;
                let detail = difference(before.as_ref(), after.as_ref());
                by.did(
                    conn,
                    OperatorAct {
                        action: "change_coupon",
                        coupon: Some(id),
                        detail,
                        ..OperatorAct::default()
                    },
                )
                .await?;
                Ok(after)
            })
            .await
        })
        .await
    }
}

impl Db {
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
                let row = coupons::table.find(coupon.id.0);
                let locked: Option<u64> = row
                    .select(coupons::revision)
                    .for_update()
                    .first(conn)
                    .await
                    .optional()?;
                if locked.is_none_or(|revision| revision >= coupon.revision) {
                    return Ok(false);
                }
                let allow = coupon.allow.as_ref().map(ToString::to_string);
                let fields = (
                    coupons::revision.eq(coupon.revision),
                    coupons::quantity.eq(coupon.quantity),
                    coupons::paused.eq(coupon.paused),
                    coupons::waiting_list.eq(coupon.waiting_list),
                    coupons::schedule.eq(coupon.schedule.as_ref().map(super::json).transpose()?),
                    coupons::allow_rule.eq(allow),
                );
                diesel::update(row).set(fields).execute(conn).await?;
                for drop in &drops {
                    let fields = (
                        drops::quantity.eq(drop.quantity),
                        drops::opens_at.eq(drop.opens_at.naive_utc()),
                        drops::closes_at.eq(drop.closes_at.map(|at| at.naive_utc())),
                        drops::closed_early.eq(drop.closed_early),
                    );
                    diesel::update(drops::table.find(drop.id.0))
                        .set(fields)
                        .execute(conn)
                        .await?;
                }
                Ok(true)
            })
            .await
        })
        .await
    }
}

async fn change_drop(conn: &mut Conn, change: &DropChange) -> QueryResult<()> {
    if change.unless_claimed && has_claims(conn, change.id).await? {
        return Ok(());
    }
    let drop = drops::table.find(change.id.0);
    let Some(to) = change.to else {
        return diesel::delete(drop).execute(conn).await.map(|_| ());
    };
    diesel::update(drop)
        .set((
            drops::opens_at.eq(to.opens_at.naive_utc()),
            drops::closes_at.eq(to.closes_at.map(|at| at.naive_utc())),
            drops::closed_early.eq(to.closed_early),
        ))
        .execute(conn)
        .await
        .map(|_| ())
}

async fn has_claims(conn: &mut Conn, drop: DropId) -> QueryResult<bool> {
    let rows = issued_coupons::table.filter(issued_coupons::drop_id.eq(drop.0));
    let letters = failed_claims::table.filter(
        failed_claims::resolved_at
            .is_null()
            .and(failed_claims::drop_id.eq(drop.0)),
    );
    let rows: Option<i64> = rows
        .select(issued_coupons::drop_id)
        .first(conn)
        .await
        .optional()?;
    let letters: Option<i64> = letters
        .select(failed_claims::id)
        .first(conn)
        .await
        .optional()?;
    let revoked = revoked_coupons::table
        .filter(revoked_coupons::drop_id.eq(drop.0))
        .select(revoked_coupons::id);
    let revoked: Option<i64> = revoked.first(conn).await.optional()?;
    Ok(rows.is_some() || letters.is_some() || revoked.is_some())
}

/// Lists the fields that differ, each with its old and new value.
pub(crate) fn difference(
    before: Option<&(Coupon, Vec<Drop>)>,
    after: Option<&(Coupon, Vec<Drop>)>,
) -> Value {
    let fields_of = |all: &(Coupon, Vec<Drop>)| fields(&all.0, &all.1);
    let before = before.map(fields_of).unwrap_or_default();
    let after = after.map(fields_of).unwrap_or_default();
    let names = before
        .keys()
        .chain(after.keys().filter(|name| !before.contains_key(*name)));
    let changed = names.filter(|name| before.get(*name) != after.get(*name));
    changed
        .map(|name| {
            (
                name.clone(),
                json!({"from": before.get(name), "to": after.get(name)}),
            )
        })
        .collect()
}

fn fields(coupon: &Coupon, drops: &[Drop]) -> Map<String, Value> {
    let drop = |d: &Drop| {
        let window =
            json!({"opens_at": d.opens_at, "closes_at": d.closes_at, "quantity": d.quantity});
        (format!("drop {}", d.id), window)
    };
    let own = [
        ("name", json!(coupon.name)),
        ("quantity", json!(coupon.quantity)),
        ("paused", json!(coupon.paused)),
        ("waiting_list", json!(coupon.waiting_list)),
        ("schedule", json!(coupon.schedule)),
        ("allow", json!(coupon.allow)),
    ];
    own.into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .chain(drops.iter().map(drop))
        .collect()
}
