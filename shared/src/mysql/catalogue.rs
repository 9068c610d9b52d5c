//! Coupons and drops: reading, creating and changing them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::dsl::{max, sql};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;
use sha2::{Digest as _, Sha256};

use super::ids::{draw_id, drop_id};
use super::ops_actions::{Operator, OperatorAct};
use super::slot_limits::follow_quantity;
use super::{Conn, DataRefusal, Db, DbResult, Prepared, json, refusal};
use crate::columns::At;
use crate::coupon::{Coupon, CouponSettings, Drop, DropWindow};
use crate::domain::{CouponId, DropId, OncePer, Slot};
use crate::schedule::{PlannedDrop, Schedule};
use crate::schema::{coupons, drops, issued_coupons};

/// An `Idempotency-Key` with the hash of its request's body.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    key: String,
    body_hash: Vec<u8>,
}

impl IdempotencyKey {
    pub fn new(key: String, body: &[u8]) -> Self {
        let body_hash = Sha256::digest(body).to_vec();
        Self { key, body_hash }
    }
}

/// The effect of an earlier request with the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierRequest {
    /// The request had the same body and created this coupon.
    Made(CouponId),
    OtherBody,
}

/// A coupon with some of its drops, in order of opening.
type WithDrops = (Coupon, Vec<Drop>);

impl Db {
    /// Creates a coupon and the drops that its schedule requires from `now` on, in one transaction,
    /// unless an earlier request with this key created one.
    ///
    /// # Errors
    /// `DbError`. The coupon may have been created nevertheless, for example after a time-out.
    pub async fn create_coupon(
        &self,
        new: CouponSettings,
        key: Option<IdempotencyKey>,
        now: DateTime<Utc>,
        by: Operator,
    ) -> DbResult<Result<WithDrops, EarlierRequest>> {
        self.transaction("create coupon", async move |conn| {
            insert_coupon(conn, &new, key.as_ref(), now, &by).await
        })
        .await
    }

    /// Returns the effect of an earlier request with this key, if there was one.
    pub async fn earlier_request(
        &self,
        key: Option<IdempotencyKey>,
    ) -> DbResult<Option<EarlierRequest>> {
        let what = "find an earlier request";
        let Some(key) = key else { return Ok(None) };
        self.run(what, async move |conn| earlier(conn, &key).await)
            .await
    }

    /// Reads one coupon with its drops in order of opening. Returns `None` if it does not exist.
    pub async fn coupon(&self, id: CouponId) -> DbResult<Option<WithDrops>> {
        let what = "read coupon";
        self.run(what, async move |conn| coupon_with_drops(conn, id).await)
            .await
    }

    /// Reads the live coupons in order of id: daily coupons that have not ended, and coupons with
    /// an unsealed drop. Each comes with its unsealed drops and the last sealed one, in order of
    /// opening. The cost depends only on the number of live coupons.
    pub async fn catalogue(&self) -> DbResult<Vec<WithDrops>> {
        // One day less allows for all time zones.
        let yesterday = sql::<Text>("CAST(UTC_DATE() - INTERVAL 1 DAY AS CHAR)");
        let live = drops::table
            .filter(drops::sealed_at.is_null())
            .select(drops::coupon_id)
            .union(
                coupons::table
                    .filter(coupons::daily_until.ge(yesterday.nullable()))
                    .select(coupons::id),
            );
        self.coupons_by_id(self.rows("live coupons", live).await?)
            .await
    }

    /// Reads at most `limit` coupons with ids above `after`, in order of id.
    pub async fn coupons_after(&self, after: CouponId, limit: i64) -> DbResult<Vec<WithDrops>> {
        let page = coupons::table
            .filter(coupons::id.gt(after))
            .order(coupons::id)
            .limit(limit)
            .select(coupons::id);
        self.coupons_by_id(self.rows("page of coupons", page).await?)
            .await
    }

    /// Creates those of the planned drops that a coupon's schedule still requires and that are
    /// missing. Returns the coupon as read in that transaction, with the new drops only, or `None`
    /// if the coupon does not exist. Concurrent calls are safe, because the schema permits one drop
    /// per local date.
    pub async fn make_drops(
        &self,
        id: CouponId,
        planned: Vec<PlannedDrop>,
    ) -> DbResult<Option<WithDrops>> {
        self.transaction("make drops", async move |conn| {
            // Lock the current settings, because an operator may be changing them.
            let lock = coupons::table.find(id).select(coupons::id).for_share();
            lock.get_result::<CouponId>(conn).await.optional()?;
            let Some((coupon, before)) = coupon_with_drops(conn, id).await? else {
                return Ok(None);
            };
            if let Some(schedule) = &coupon.schedule {
                // Check the days again, because the caller may have read the coupon before a change
                // and its drops after it.
                let mut planned = planned;
                planned.retain(|drop| schedule.drop_on(drop.local_date) == Some(*drop));
                insert_drops(conn, id, coupon.quantity, schedule, &planned).await?;
            }
            let mut made = drops_of(conn, id).await?;
            made.retain(|drop| before.iter().all(|old| old.id != drop.id));
            Ok(Some((coupon, made)))
        })
        .await
    }

    /// Reads the era of a coupon. Returns `None` if the coupon does not exist.
    pub async fn era(&self, coupon: CouponId) -> DbResult<Option<u64>> {
        let era = coupons::table.find(coupon).select(coupons::era);
        self.row("read era", era).await
    }

    /// Reads the existing coupons among `ids`, in the format of [`Db::catalogue`]. No clock is used,
    /// so that the drop that opened last is always included. With a clock that is ahead, a drop that
    /// has not opened yet would count as the last one, and the sealed drop before it, with its
    /// holders, would be left out.
    pub async fn coupons_by_id(&self, mut ids: Vec<CouponId>) -> DbResult<Vec<WithDrops>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        ids.sort_unstable();
        ids.dedup();
        // Without STRAIGHT_JOIN and without statistics, the optimizer might begin with all existing
        // coupons.
        let coupons = sql_query(
            "SELECT c.* FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) w \
             STRAIGHT_JOIN coupons c ON c.id = w.id ORDER BY c.id",
        )
        .bind::<Text, _>(json(&ids));
        let found: Vec<Coupon> = self.rows("read coupons", Prepared(coupons)).await?;
        let drops = sql_query(
            "WITH w AS (SELECT id FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) j) \
             SELECT d.* FROM w STRAIGHT_JOIN drops d ON d.coupon_id = w.id AND d.sealed_at IS NULL \
             UNION SELECT d.* FROM w STRAIGHT_JOIN LATERAL (\
                 SELECT * FROM drops FORCE INDEX (drops_opened) \
                 WHERE coupon_id = w.id AND sealed_at IS NOT NULL \
                 ORDER BY opens_at DESC LIMIT 1) d ON TRUE \
             ORDER BY coupon_id, opens_at, id",
        )
        .bind::<Text, _>(json(&ids));
        let rows: Vec<Drop> = self.rows("read drops", Prepared(drops)).await?;
        let mut drops = rows.into_iter().peekable();
        Ok(found
            .into_iter()
            .map(|coupon| {
                let own = std::iter::from_fn(|| drops.next_if(|drop| drop.coupon_id == coupon.id))
                    .collect();
                (coupon, own)
            })
            .collect())
    }
}

/// The rules that decide whether a claim of a drop can become a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = drops)]
pub struct DropRules {
    pub coupon_id: CouponId,
    pub quantity: Slot,
    /// The scope in which a user may hold one coupon.
    #[diesel(select_expression = coupons::once_per)]
    pub once_per: OncePer,
    #[diesel(embed)]
    pub window: DropWindow,
}

/// Reads the rules of the existing drops among `ids`.
pub async fn rules_of_drops(
    conn: &mut Conn,
    ids: &[DropId],
) -> QueryResult<HashMap<DropId, DropRules>> {
    let rules: Vec<(DropId, DropRules)> = drops::table
        .inner_join(coupons::table)
        .filter(drops::id.eq_any(ids))
        .select((drops::id, DropRules::as_select()))
        .load(conn)
        .await?;
    Ok(rules.into_iter().collect())
}

/// Inserts a coupon and its first drops; must be called in a transaction.
async fn insert_coupon(
    conn: &mut Conn,
    new: &CouponSettings,
    key: Option<&IdempotencyKey>,
    now: DateTime<Utc>,
    by: &Operator,
) -> QueryResult<Result<WithDrops, EarlierRequest>> {
    let id = loop {
        let id = CouponId(draw_id(Utc::now()));
        let (text, hash) = key.map(|key| (&key.key, &*key.body_hash)).unzip();
        let insert = diesel::insert_into(coupons::table).values((
            new,
            coupons::id.eq(id),
            coupons::idempotency_key.eq(text),
            coupons::body_hash.eq(hash),
        ));
        // A concurrent request with the same key waits here until this one commits.
        match insert.execute(conn).await {
            Err(error) if refusal(&error) == Some(DataRefusal::Duplicate) => {
                if let Some(key) = key
                    && let Some(earlier) = earlier(conn, key).await?
                {
                    return Ok(Err(earlier));
                }
            }
            other => break other.map(|_| id)?,
        }
    };
    if let Some(schedule) = &new.schedule {
        let planned = schedule.drops_from(now);
        insert_drops(conn, id, new.quantity, schedule, &planned).await?;
    }
    let act = OperatorAct::new("create_coupon", Some(id), None, serde_json::json!(new));
    by.did(conn, act).await?;
    let made = coupon_with_drops(conn, id).await?;
    Ok(Ok(made.ok_or(diesel::result::Error::NotFound)?))
}

async fn earlier(conn: &mut Conn, key: &IdempotencyKey) -> QueryResult<Option<EarlierRequest>> {
    let found: Option<(CouponId, Option<Vec<u8>>)> = coupons::table
        .filter(coupons::idempotency_key.eq(&key.key))
        .select((coupons::id, coupons::body_hash))
        .get_result(conn)
        .await
        .optional()?;
    Ok(found.map(|(id, hash)| {
        if hash.as_ref() == Some(&key.body_hash) {
            EarlierRequest::Made(id)
        } else {
            EarlierRequest::OtherBody
        }
    }))
}

/// Inserts the drops that do not exist yet.
async fn insert_drops(
    conn: &mut Conn,
    coupon: CouponId,
    quantity: Slot,
    schedule: &Schedule,
    planned: &[PlannedDrop],
) -> QueryResult<()> {
    let is_daily = matches!(schedule, Schedule::Daily { .. });
    for drop in planned {
        let mut attempt = 0;
        let date = is_daily.then_some(drop.local_date);
        while !insert_drop(conn, coupon, quantity, drop, drop_id(coupon, date, attempt)).await? {
            attempt += 1;
        }
    }
    Ok(())
}

/// Inserts a drop, unless it exists. Returns `false` if its id belongs to a drop of another coupon.
async fn insert_drop(
    conn: &mut Conn,
    coupon: CouponId,
    quantity: Slot,
    drop: &PlannedDrop,
    id: DropId,
) -> QueryResult<bool> {
    // Rows of a drop that was lost may be above a quantity that was lowered since.
    let highest: Option<Slot> = issued_coupons::table
        .filter(issued_coupons::drop_id.eq(id))
        .filter(issued_coupons::coupon_id.eq(coupon))
        .select(max(issued_coupons::slot))
        .get_result(conn)
        .await?;
    let quantity = quantity.max(highest.unwrap_or(0));
    let insert = diesel::insert_into(drops::table).values((
        drops::id.eq(id),
        drops::coupon_id.eq(coupon),
        drops::local_date.eq(drop.local_date),
        drops::opens_at.eq(At(drop.opens_at)),
        drops::closes_at.eq(drop.closes_at),
        drops::quantity.eq(quantity),
    ));
    match insert.execute(conn).await {
        Ok(_) => follow_quantity(conn, id).await.map(|()| true),
        Err(error) if refusal(&error) == Some(DataRefusal::Duplicate) => {
            // A locking read sees the other row even if it is newer than this transaction.
            let owner: Option<CouponId> = drops::table
                .find(id)
                .select(drops::coupon_id)
                .for_share()
                .get_result(conn)
                .await
                .optional()?;
            Ok(owner.is_none_or(|owner| owner == coupon))
        }
        Err(error) => Err(error),
    }
}

pub(super) async fn coupon_with_drops(
    conn: &mut Conn,
    id: CouponId,
) -> QueryResult<Option<WithDrops>> {
    let Some(coupon) = coupon_alone(conn, id).await? else {
        return Ok(None);
    };
    Ok(Some((coupon, drops_of(conn, id).await?)))
}

/// Like [`coupon_with_drops`], without the sealed drops, of which there may be many.
pub(super) async fn coupon_with_unsealed_drops(
    conn: &mut Conn,
    id: CouponId,
) -> QueryResult<Option<WithDrops>> {
    let Some(coupon) = coupon_alone(conn, id).await? else {
        return Ok(None);
    };
    let own = drops::table
        .filter(drops::coupon_id.eq(id))
        .filter(drops::sealed_at.is_null())
        .order(drops::opens_at)
        .select(Drop::as_select());
    Ok(Some((coupon, own.load(conn).await?)))
}

async fn coupon_alone(conn: &mut Conn, id: CouponId) -> QueryResult<Option<Coupon>> {
    coupons::table
        .find(id)
        .select(Coupon::as_select())
        .get_result(conn)
        .await
        .optional()
}

async fn drops_of(conn: &mut Conn, coupon: CouponId) -> QueryResult<Vec<Drop>> {
    drops::table
        .filter(drops::coupon_id.eq(coupon))
        .order(drops::opens_at)
        .select(Drop::as_select())
        .load(conn)
        .await
}
