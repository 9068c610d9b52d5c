//! Coupons and drops: reading, creating and changing them.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::QueryResult;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::ids::{draw_id, drop_id};
use super::ops_actions::{Operator, OperatorAct};
use super::slot_limits::follow_quantity;
use super::sql::{read_as, row};
use super::{Conn, Db, DbResult, Refusal, Sql, json, list, refusal};
use crate::coupon::{Allow, AllowList, Coupon, CouponSettings, Drop, DropWindow};
use crate::domain::{CouponId, DropId, OncePer, Slot};
use crate::schedule::{PlannedDrop, Schedule};
use crate::sql;

row! {
    pub struct CouponRow {
        pub id: CouponId,
        pub name: String,
        pub quantity: u32,
        pub once_per: OncePer,
        pub waiting_list: u32,
        pub paused: bool,
        pub schedule: Option<String>,
        pub valid_until: Option<DateTime<Utc>>,
        pub valid_days: Option<u32>,
        pub allow_rule: Option<String>,
        pub revision: u64,
        pub era: u64,
        pub allow_list_revision: u64,
        pub allow_list_people: u32,
    }
}

read_as!(Drop {
    id: DropId,
    coupon_id: CouponId,
    local_date: Option<NaiveDate>,
    opens_at: DateTime<Utc>,
    closes_at: Option<DateTime<Utc>>,
    quantity: u32,
    closed_early: bool,
    sealed_at: Option<DateTime<Utc>>,
    sealed_rows: Option<u32>,
});

/// Returns the assignments that write a coupon's settings.
pub(super) fn settings(of: &CouponSettings) -> Sql {
    let CouponSettings {
        name,
        quantity,
        once_per,
        waiting_list,
        paused,
        valid_until,
        valid_days,
        schedule,
        allow,
    } = of;
    sql!(
        "name = ?, quantity = ?, once_per = ?, waiting_list = ?, paused = ?, schedule = ?, \
        valid_until = ?, valid_days = ?, allow_rule = ?",
        name,
        *quantity,
        once_per.as_str(),
        *waiting_list,
        *paused,
        schedule.as_ref().map(json),
        *valid_until,
        *valid_days,
        allow.clone().map(String::from),
    )
}

impl From<CouponRow> for Coupon {
    fn from(row: CouponRow) -> Self {
        let schedule = row.schedule.as_deref();
        // A manually written schedule that cannot be parsed creates no drops. An unreadable
        // restriction admits only users on the list.
        Self {
            id: row.id,
            settings: CouponSettings {
                name: row.name,
                quantity: row.quantity,
                once_per: row.once_per,
                waiting_list: row.waiting_list,
                paused: row.paused,
                valid_until: row.valid_until,
                valid_days: row.valid_days,
                schedule: schedule.and_then(|json| serde_json::from_str(json).ok()),
                allow: row
                    .allow_rule
                    .map(|rule| rule.try_into().unwrap_or(Allow::List)),
            },
            revision: row.revision,
            era: row.era,
            allow_list: AllowList {
                revision: row.allow_list_revision,
                people: row.allow_list_people,
            },
        }
    }
}

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

    /// Reads one drop of a coupon. Returns `None` if the coupon has no such drop.
    pub async fn drop_of(&self, coupon: CouponId, drop: DropId) -> DbResult<Option<Drop>> {
        let own = "SELECT {columns} FROM drops WHERE id = ? AND coupon_id = ?";
        self.first("read drop", sql!(own, drop, coupon)).await
    }

    /// Reads the live coupons in order of id: daily coupons that have not ended, and coupons with
    /// an unsealed drop. Each comes with its unsealed drops and the last sealed one, in order of
    /// opening. The cost depends only on the number of live coupons.
    pub async fn catalogue(&self) -> DbResult<Vec<WithDrops>> {
        // One day less allows for all time zones.
        let live = "SELECT coupon_id AS id FROM drops WHERE sealed_at IS NULL UNION SELECT id \
            FROM coupons WHERE daily_until >= CAST(UTC_DATE() - INTERVAL 1 DAY AS CHAR)";
        self.select_coupons(sql!(live)).await
    }

    /// Reads the existing coupons among `ids`, in the format of [`Db::catalogue`].
    pub async fn coupons_by_id(&self, ids: Vec<CouponId>) -> DbResult<Vec<WithDrops>> {
        self.select_coupons(listed(&ids)).await
    }

    /// Reads at most `limit` coupons with ids above `after`, in order of id.
    pub async fn coupons_after(&self, after: CouponId, limit: i64) -> DbResult<Vec<WithDrops>> {
        let page = sql!(
            "SELECT id FROM coupons WHERE id > ? ORDER BY id LIMIT ?",
            after,
            limit
        );
        self.coupons_by_id(self.all("page of coupons", page).await?)
            .await
    }

    /// Finds the newest coupons, at most `limit`, whose names contain this text. If any name equals
    /// the text, returns only exact matches.
    pub async fn coupons_named(&self, text: &str, limit: usize) -> DbResult<Vec<CouponId>> {
        let named = "SELECT id, name = ? FROM coupons WHERE LOCATE(?, name) > 0 \
            ORDER BY 2 DESC, id DESC LIMIT ?";
        let named = sql!(named, text, text, limit as u64);
        let mut found: Vec<(CouponId, bool)> = self.all("coupons by name", named).await?;
        if found.first().is_some_and(|(_, is_exact)| *is_exact) {
            found.retain(|(_, is_exact)| *is_exact);
        }
        Ok(found.into_iter().map(|(id, _)| id).collect())
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
            let lock = sql!("SELECT id FROM coupons WHERE id = ? FOR SHARE", id);
            lock.first::<i64>(conn).await?;
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

    /// Reads the coupons with an unsealed drop that has opened at `now`, or opens within a minute.
    pub async fn open_coupons(&self, now: DateTime<Utc>) -> DbResult<Vec<CouponId>> {
        let open = "SELECT DISTINCT coupon_id FROM drops \
                    WHERE sealed_at IS NULL AND opens_at <= ? + INTERVAL 1 MINUTE";
        self.all("read open coupons", sql!(open, now)).await
    }

    /// Reads the era of a coupon. Returns `None` if the coupon does not exist.
    pub async fn era(&self, coupon: CouponId) -> DbResult<Option<u64>> {
        let era = sql!("SELECT era FROM coupons WHERE id = ?", coupon);
        self.first("read era", era).await
    }

    /// Reads the coupons with a schedule but without any drop. MySQL has lost their drops, because
    /// a coupon is created together with its first one. Costs one lookup per coupon.
    pub async fn coupons_without_drops(&self) -> DbResult<Vec<WithDrops>> {
        let bare = "SELECT id FROM coupons c WHERE schedule IS NOT NULL \
                    AND NOT EXISTS (SELECT 1 FROM drops WHERE coupon_id = c.id)";
        self.select_coupons(sql!(bare)).await
    }

    pub async fn has_drop(&self, id: DropId) -> DbResult<bool> {
        let drop = sql!("SELECT id FROM drops WHERE id = ?", id);
        Ok(self.first::<i64>("find drop", drop).await?.is_some())
    }

    /// Reads coupons with their unsealed drops and the last sealed one; `which` selects the coupons'
    /// ids. No clock is used, so that the drop that opened last is always included. With a clock
    /// that is ahead, a drop that has not opened yet would count as the last one, and the sealed
    /// drop before it, with its holders, would be left out.
    async fn select_coupons(&self, which: Sql) -> DbResult<Vec<WithDrops>> {
        // Without STRAIGHT_JOIN and without statistics, the optimizer might begin with all existing
        // coupons.
        let joined = sql!(") w STRAIGHT_JOIN coupons c ON c.id = w.id ORDER BY c.id");
        let coupons = sql!("SELECT {c.columns} FROM (").and(which).and(joined);
        let found: Vec<CouponRow> = self.all("read coupons", coupons).await?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<CouponId> = found.iter().map(|coupon| coupon.id).collect();
        let unsealed_and_last = sql!(
            ") SELECT {d.columns} FROM w \
            STRAIGHT_JOIN drops d ON d.coupon_id = w.id AND d.sealed_at IS NULL \
            UNION SELECT {d.columns} FROM w \
            STRAIGHT_JOIN LATERAL (\
            SELECT * FROM drops FORCE INDEX (drops_opened) \
            WHERE coupon_id = w.id AND sealed_at IS NOT NULL \
            ORDER BY opens_at DESC LIMIT 1) d ON TRUE \
            ORDER BY coupon_id, opens_at, id"
        );
        let query = sql!("WITH w AS (").and(listed(&ids)).and(unsealed_and_last);
        let rows: Vec<Drop> = self.all("read drops", query).await?;
        let mut drops = rows.into_iter().peekable();
        Ok(found
            .into_iter()
            .map(|row: CouponRow| {
                let coupon = Coupon::from(row);
                let own = std::iter::from_fn(|| drops.next_if(|drop| drop.coupon_id == coupon.id))
                    .collect();
                (coupon, own)
            })
            .collect())
    }
}

/// Selects these ids. The list is one value, so that the statement has few parameters.
pub(super) fn listed(ids: &[CouponId]) -> Sql {
    let listed = "SELECT id FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) j";
    sql!(listed, json(&ids))
}

/// The rules that decide whether a claim of a drop can become a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropRules {
    pub coupon_id: CouponId,
    pub quantity: Slot,
    /// The scope in which a user may hold one coupon.
    pub once_per: OncePer,
    pub window: DropWindow,
}

read_as!(DropRules {
    coupon_id: CouponId,
    quantity: Slot,
    once_per: OncePer,
    window: DropWindow,
});

read_as!(DropWindow {
    opens_at: DateTime<Utc>,
    closes_at: Option<DateTime<Utc>>,
    is_sealed: bool,
});

/// Reads the rules of the existing drops among `ids`.
pub async fn rules_of_drops(
    conn: &mut Conn,
    ids: &[DropId],
) -> QueryResult<HashMap<DropId, DropRules>> {
    let rules = "SELECT d.id, d.coupon_id, d.quantity, c.once_per, d.opens_at, d.closes_at, \
        d.sealed_at IS NOT NULL FROM drops d JOIN coupons c ON c.id = d.coupon_id \
        WHERE d.id IN (?)";
    sql!(rules, list(ids.iter().copied())).all(conn).await
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
        let own = sql!(
            ", id = ?, idempotency_key = ?, body_hash = ?",
            id,
            text,
            hash
        );
        let insert = sql!("INSERT INTO coupons SET ").and(settings(new)).and(own);
        // A concurrent request with the same key waits here until this one commits.
        match insert.run(conn).await {
            Err(error) if refusal(&error) == Some(Refusal::Duplicate) => {
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
    let act = OperatorAct::new("create_coupon", Some(id), None, json!(new));
    by.did(conn, act).await?;
    let made = coupon_with_drops(conn, id).await?;
    Ok(Ok(made.ok_or(diesel::result::Error::NotFound)?))
}

async fn earlier(conn: &mut Conn, key: &IdempotencyKey) -> QueryResult<Option<EarlierRequest>> {
    let query = "SELECT id, body_hash <=> ? FROM coupons WHERE idempotency_key = ?";
    let found: Option<(i64, bool)> = sql!(query, &*key.body_hash, &key.key).first(conn).await?;
    Ok(found.map(|(id, is_same)| {
        if is_same {
            EarlierRequest::Made(CouponId(id))
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
    let highest: Option<Slot> = sql!(
        "SELECT MAX(slot) FROM issued_coupons WHERE drop_id = ? AND coupon_id = ?",
        id,
        coupon
    )
    .one(conn)
    .await?;
    let quantity = quantity.max(highest.unwrap_or(0));
    let insert = "INSERT INTO drops (id, coupon_id, local_date, opens_at, closes_at, quantity) \
        VALUES (?, ?, ?, ?, ?, ?)";
    let day = drop.local_date;
    let opens_at = drop.opens_at;
    let closes_at = drop.closes_at;
    let insert = sql!(insert, id, coupon, day, opens_at, closes_at, quantity);
    match insert.run(conn).await {
        Ok(_) => follow_quantity(conn, id).await.map(|()| true),
        Err(error) if refusal(&error) == Some(Refusal::Duplicate) => {
            // A locking read sees the other row even if it is newer than this transaction.
            let owner: Option<CouponId> =
                sql!("SELECT coupon_id FROM drops WHERE id = ? FOR SHARE", id)
                    .first(conn)
                    .await?;
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
    let own =
        "SELECT {columns} FROM drops WHERE coupon_id = ? AND sealed_at IS NULL ORDER BY opens_at";
    Ok(Some((coupon, sql!(own, id).all(conn).await?)))
}

async fn coupon_alone(conn: &mut Conn, id: CouponId) -> QueryResult<Option<Coupon>> {
    let query = "SELECT {columns} FROM coupons WHERE id = ?";
    let row: Option<CouponRow> = sql!(query, id).first(conn).await?;
    Ok(row.map(Coupon::from))
}

async fn drops_of(conn: &mut Conn, coupon: CouponId) -> QueryResult<Vec<Drop>> {
    let own = "SELECT {columns} FROM drops WHERE coupon_id = ? ORDER BY opens_at";
    sql!(own, coupon).all(conn).await
}
