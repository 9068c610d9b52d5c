//! Coupons and drops: reading, creating and changing them.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use diesel::dsl::sql;
use diesel::mysql::Mysql;
use diesel::prelude::*;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::sql_types::{Datetime, Text};
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::ids::{draw_id, drop_id};
use super::ops_actions::{Operator, OperatorAct};
use super::schema::{coupons, drops, issued_coupons};
use super::{Conn, Db, DbError, Refusal, json, refusal};
use crate::coupon::{Allow, AllowList, Coupon, CouponSettings, Drop, DropWindow};
use crate::domain::{CouponId, DropId, OncePer, Slot};
use crate::schedule::{PlannedDrop, Schedule};

#[derive(Queryable, QueryableByName, Selectable)]
#[diesel(table_name = coupons)]
struct CouponRow {
    id: i64,
    #[diesel(embed)]
    settings: SettingsRow,
    revision: u64,
    era: u64,
    allow_list_revision: u64,
    allow_list_people: u32,
}

/// The columns of [`CouponSettings`].
#[derive(Queryable, QueryableByName, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = coupons, treat_none_as_null = true)]
pub(super) struct SettingsRow {
    name: String,
    quantity: u32,
    once_per: String,
    waiting_list: u32,
    paused: bool,
    schedule: Option<String>,
    allow_rule: Option<String>,
}

impl SettingsRow {
    pub(super) fn new(settings: &CouponSettings) -> QueryResult<Self> {
        Ok(Self {
            name: settings.name.clone(),
            quantity: settings.quantity,
            once_per: settings.once_per.as_str().to_owned(),
            waiting_list: settings.waiting_list,
            paused: settings.paused,
            schedule: settings.schedule.as_ref().map(json).transpose()?,
            allow_rule: settings.allow.as_ref().map(ToString::to_string),
        })
    }
}

impl From<CouponRow> for Coupon {
    fn from(row: CouponRow) -> Self {
        let settings = row.settings;
        let schedule = settings.schedule.as_deref();
        let rule = settings.allow_rule.as_deref();
        // The schema permits only these two words. A manually written schedule that cannot be
        // parsed creates no drops. An unreadable restriction admits only users on the list.
        Self {
            id: CouponId(row.id),
            settings: CouponSettings {
                name: settings.name,
                quantity: settings.quantity,
                once_per: settings.once_per.parse().unwrap_or(OncePer::Coupon),
                waiting_list: settings.waiting_list,
                paused: settings.paused,
                schedule: schedule.and_then(|json| serde_json::from_str(json).ok()),
                allow: rule.map(|rule| rule.parse().unwrap_or(Allow::List)),
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

#[derive(Queryable, QueryableByName, Selectable)]
#[diesel(table_name = drops)]
pub(super) struct DropRow {
    id: i64,
    coupon_id: i64,
    local_date: Option<NaiveDate>,
    opens_at: NaiveDateTime,
    closes_at: Option<NaiveDateTime>,
    quantity: u32,
    sealed_at: Option<NaiveDateTime>,
    closed_early: bool,
}

impl From<DropRow> for Drop {
    fn from(row: DropRow) -> Self {
        Self {
            id: DropId(row.id),
            coupon_id: CouponId(row.coupon_id),
            local_date: row.local_date,
            opens_at: row.opens_at.and_utc(),
            closes_at: row.closes_at.map(|at| at.and_utc()),
            quantity: row.quantity,
            closed_early: row.closed_early,
            sealed_at: row.sealed_at.map(|at| at.and_utc()),
        }
    }
}

/// An `Idempotency-Key` with the hash of its request's body.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    idempotency_key: String,
    body_hash: Vec<u8>,
}

impl IdempotencyKey {
    pub fn new(key: String, body: &[u8]) -> Self {
        Self {
            idempotency_key: key,
            body_hash: Sha256::digest(body).to_vec(),
        }
    }
}

/// The effect of an earlier request with the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierRequest {
    /// The request had the same body and created this coupon.
    Made(CouponId),
    OtherBody,
}

/// Maximum number of coupons found by a name.
const NAMED: i64 = 50;

impl Db {
    /// Creates a coupon and the drops that its schedule requires from `now` on, in one transaction,
    /// unless an earlier request with this key created one.
    ///
    /// # Errors
    /// [`DbError`]. After a time-out, the coupon may have been created.
    pub async fn create_coupon(
        &self,
        new: CouponSettings,
        key: Option<IdempotencyKey>,
        now: DateTime<Utc>,
        by: Operator,
    ) -> Result<Result<(Coupon, Vec<Drop>), EarlierRequest>, DbError> {
        self.run("create coupon", async move |conn| {
            conn.transaction(async |conn| insert_coupon(conn, &new, key.as_ref(), now, &by).await)
                .await
        })
        .await
    }

    /// Reads the effect of an earlier request with this key. Returns `None` if there was none.
    pub async fn earlier_request(
        &self,
        key: IdempotencyKey,
    ) -> Result<Option<EarlierRequest>, DbError> {
        self.run("find an idempotency key", async move |conn| {
            earlier(conn, &key).await
        })
        .await
    }

    /// Reads one coupon with its drops in order of opening. Returns `None` if it does not exist.
    pub async fn coupon(&self, id: CouponId) -> Result<Option<(Coupon, Vec<Drop>)>, DbError> {
        self.run("read coupon", async move |conn| {
            coupon_with_drops(conn, id).await
        })
        .await
    }

    /// Reads the live coupons in order of id: daily coupons that have not ended, and coupons with
    /// an unsealed drop. Each comes with its unsealed drops in order of opening, and with the last
    /// opened drop unless a drop has been open for a while. The cost depends only on the number of
    /// live coupons.
    pub async fn catalogue(&self) -> Result<Vec<(Coupon, Vec<Drop>)>, DbError> {
        self.run("read catalogue", async |conn| {
            select_coupons(conn, LIVE, None, UNSEALED).await
        })
        .await
    }

    /// Reads the existing coupons among `ids`, in the format of [`Db::catalogue`].
    pub async fn coupons_by_id(
        &self,
        ids: Vec<CouponId>,
    ) -> Result<Vec<(Coupon, Vec<Drop>)>, DbError> {
        self.run("read coupons", async move |conn| {
            select_listed(conn, json(&ids)?).await
        })
        .await
    }

    /// Reads at most `limit` coupons with ids above `after`, in order of id.
    pub async fn coupons_after(
        &self,
        after: CouponId,
        limit: i64,
    ) -> Result<Vec<(Coupon, Vec<Drop>)>, DbError> {
        let ids = self.run("page of coupons", async move |conn| {
            coupons::table
                .filter(coupons::id.gt(after.0))
                .order(coupons::id)
                .limit(limit)
                .select(coupons::id)
                .load::<i64>(conn)
                .await
        });
        self.coupons_by_id(ids.await?.into_iter().map(CouponId).collect())
            .await
    }

    /// Finds coupons whose names contain this text. If any name equals the text, returns only exact
    /// matches.
    pub async fn coupons_named(&self, text: &str) -> Result<Vec<CouponId>, DbError> {
        let text = text.to_owned();
        self.run("coupons by name", async move |conn| {
            let named: Vec<i64> = coupons::table
                .filter(coupons::name.eq(&text))
                .select(coupons::id)
                .limit(NAMED)
                .load(conn)
                .await?;
            if !named.is_empty() {
                return Ok(named.into_iter().map(CouponId).collect());
            }
            let has_text = sql::<diesel::sql_types::Bool>("LOCATE(")
                .bind::<Text, _>(&text)
                .sql(", name) > 0");
            let found: Vec<i64> = coupons::table
                .filter(has_text)
                .order(coupons::id)
                .select(coupons::id)
                .limit(NAMED)
                .load(conn)
                .await?;
            Ok(found.into_iter().map(CouponId).collect())
        })
        .await
    }

    /// Creates the missing drops that a coupon's schedule requires. Returns the coupon as read in
    /// that transaction, with the new drops. Concurrent calls are safe, because the schema permits
    /// one drop per local date.
    pub async fn make_drops(
        &self,
        id: CouponId,
        planned: Vec<PlannedDrop>,
    ) -> Result<Option<(Coupon, Vec<Drop>)>, DbError> {
        self.run("make drops", async move |conn| {
            conn.transaction(async |conn| {
                // Read the current settings and not the caller's, because an operator may be
                // changing them.
                let found: Option<CouponRow> = coupons::table
                    .find(id.0)
                    .select(CouponRow::as_select())
                    .for_share()
                    .first(conn)
                    .await
                    .optional()?;
                let Some(coupon) = found.map(Coupon::from) else {
                    return Ok(None);
                };
                // Check the days again, because the caller may have read the coupon before a change
                // and its drops after it.
                let is_planned = |drop: &&PlannedDrop| {
                    coupon
                        .schedule
                        .as_ref()
                        .is_some_and(|schedule| schedule.drop_on(drop.local_date) == Some(**drop))
                };
                let planned: Vec<PlannedDrop> =
                    planned.iter().filter(is_planned).copied().collect();
                let before: Vec<DropId> =
                    drops_of(conn, id.0).await?.iter().map(|d| d.id).collect();
                if let Some(schedule) = &coupon.schedule {
                    insert_drops(conn, id, coupon.quantity, schedule, &planned).await?;
                }
                let made = drops_of(conn, id.0)
                    .await?
                    .into_iter()
                    .filter(|d| !before.contains(&d.id))
                    .collect();
                Ok(Some((coupon, made)))
            })
            .await
        })
        .await
    }

    /// Reads the coupons with an unsealed drop that has opened, or opens within a minute.
    pub async fn open_coupons_now(&self) -> Result<Vec<CouponId>, DbError> {
        self.run("read open coupons", async |conn| {
            let soon = sql::<Datetime>("UTC_TIMESTAMP(3) + INTERVAL 1 MINUTE");
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

    /// Reads the coupons with a schedule but without any drop, which are the coupons of one drop
    /// whose row was lost. Costs one lookup per coupon.
    pub async fn coupons_without_drops(&self) -> Result<Vec<(Coupon, Vec<Drop>)>, DbError> {
        self.run("coupons without drops", async |conn| {
            let rows: Vec<CouponRow> = coupons::table
                .filter(coupons::schedule.is_not_null())
                .filter(diesel::dsl::not(diesel::dsl::exists(
                    drops::table.filter(drops::coupon_id.eq(coupons::id)),
                )))
                .select(CouponRow::as_select())
                .load(conn)
                .await?;
            let without_drops = |row| (Coupon::from(row), Vec::new());
            Ok(rows.into_iter().map(without_drops).collect())
        })
        .await
    }

    pub async fn has_drop(&self, id: DropId) -> Result<bool, DbError> {
        let count = self.run("find drop", async move |conn| {
            drops::table
                .find(id.0)
                .count()
                .get_result::<i64>(conn)
                .await
        });
        Ok(count.await? > 0)
    }
}

/// Selects the ids of live coupons. Subtracts one day to allow for all time zones.
const LIVE: &str = "SELECT coupon_id AS id FROM drops WHERE sealed_at IS NULL \
     UNION SELECT id FROM coupons WHERE daily_until >= CAST(UTC_DATE() - INTERVAL 1 DAY AS CHAR)";
/// Selects the ids in a JSON array of numbers, which is the parameter.
pub(super) const LISTED: &str =
    "SELECT id FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) j";
const UNSEALED: &str = "SELECT id, coupon_id, local_date, opens_at, closes_at, quantity, sealed_at, closed_early FROM drops WHERE sealed_at IS NULL";

/// Selects only the columns that are read, because MySQL would compute the virtual columns for each
/// row.
const COUPON: &str = "c.id, c.name, c.quantity, c.once_per, c.waiting_list, c.paused, c.schedule, c.revision, \
     c.era, c.allow_rule, c.allow_list_revision, c.allow_list_people";

async fn select_listed(conn: &mut Conn, ids: String) -> QueryResult<Vec<(Coupon, Vec<Drop>)>> {
    select_coupons(
        conn,
        LISTED,
        Some(&ids),
        &format!("{UNSEALED} AND coupon_id IN (SELECT id FROM ({LISTED}) l)"),
    )
    .await
}

/// Builds a query, and binds the ids if it takes any.
fn about(query: impl Into<String>, ids: Option<&str>) -> BoxedSqlQuery<'_, Mysql, SqlQuery> {
    let query = diesel::sql_query(query).into_boxed();
    match ids {
        Some(ids) => query.bind::<Text, _>(ids),
        None => query,
    }
}

/// Reads coupons with their drops. `which` selects the coupons' ids, `unsealed` their unsealed
/// drops. Coupons are read first, so a drop without its coupon belongs to a coupon that was created
/// in between.
async fn select_coupons(
    conn: &mut Conn,
    which: &str,
    ids: Option<&str>,
    unsealed: &str,
) -> QueryResult<Vec<(Coupon, Vec<Drop>)>> {
    // Without STRAIGHT_JOIN and without statistics, the optimizer might begin with all existing
    // coupons.
    let coupons = format!(
        "SELECT {COUPON} FROM ({which}) w STRAIGHT_JOIN coupons c ON c.id = w.id ORDER BY c.id"
    );
    let found: Vec<CouponRow> = about(coupons, ids).load(conn).await?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let mut drops: Vec<DropRow> = about(unsealed, ids).load(conn).await?;
    drops.extend(last_opened(conn, &found, &drops).await?);
    drops.sort_unstable_by_key(|drop| (drop.coupon_id, drop.opens_at, drop.id));
    drops.dedup_by_key(|drop| drop.id);
    Ok(put_together(found, drops))
}

/// Once a drop has been open for this long, users no longer need earlier drops.
const SETTLED: TimeDelta = TimeDelta::minutes(1);

/// Reads the last opened drop of each coupon whose drops all opened a while ago. It can be one of
/// `unsealed`, or one that was unsealed after those were read. Skips a drop that has just opened,
/// because a claim may be a retry of a claim in the previous drop.
async fn last_opened(
    conn: &mut Conn,
    coupons: &[CouponRow],
    unsealed: &[DropRow],
) -> QueryResult<Vec<DropRow>> {
    // Use MySQL's clock. If this host's clock were ahead, the last drop would be missed until the
    // next one opens.
    let now: NaiveDateTime = diesel::select(sql::<Datetime>("UTC_TIMESTAMP(3)"))
        .get_result(conn)
        .await?;
    let is_open =
        |drop: &&DropRow| drop.opens_at < now - SETTLED && drop.closes_at.is_none_or(|at| at > now);
    let open: HashSet<i64> = unsealed
        .iter()
        .filter(is_open)
        .map(|drop| drop.coupon_id)
        .collect();
    let ids: Vec<i64> = coupons
        .iter()
        .map(|coupon| coupon.id)
        .filter(|id| !open.contains(id))
        .collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    diesel::sql_query(format!(
        "SELECT d.* FROM ({LISTED}) w STRAIGHT_JOIN LATERAL (SELECT * FROM drops FORCE INDEX (drops_opened) \
         WHERE coupon_id = w.id AND (sealed_at IS NOT NULL OR opens_at < ?) ORDER BY opens_at DESC LIMIT 1) d ON TRUE"
    ))
    .bind::<Text, _>(json(&ids)?)
    .bind::<Datetime, _>(now - SETTLED)
    .load(conn)
    .await
}

fn put_together(coupons: Vec<CouponRow>, drops: Vec<DropRow>) -> Vec<(Coupon, Vec<Drop>)> {
    let mut drops = drops.into_iter().map(Drop::from).peekable();
    let with_drops = |coupon: Coupon| {
        let mut own = Vec::new();
        while let Some(drop) = drops.next_if(|d| d.coupon_id <= coupon.id) {
            if drop.coupon_id == coupon.id {
                own.push(drop);
            }
        }
        (coupon, own)
    };
    coupons
        .into_iter()
        .map(Coupon::from)
        .map(with_drops)
        .collect()
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

/// Reads the rules of the existing drops among `ids`.
pub async fn rules_of_drops(
    conn: &mut Conn,
    ids: &[DropId],
) -> QueryResult<HashMap<DropId, DropRules>> {
    let ids: Vec<i64> = ids.iter().map(|d| d.0).collect();
    let rows: Vec<(DropRow, String)> = drops::table
        .inner_join(coupons::table.on(coupons::id.eq(drops::coupon_id)))
        .filter(drops::id.eq_any(ids))
        .select((DropRow::as_select(), coupons::once_per))
        .load(conn)
        .await?;
    let rules = |(row, once_per): (DropRow, String)| {
        let drop = Drop::from(row);
        let once_per = once_per.parse().unwrap_or(OncePer::Coupon);
        let Drop {
            id,
            coupon_id,
            quantity,
            ..
        } = drop;
        (
            id,
            DropRules {
                coupon_id,
                quantity,
                once_per,
                window: drop.window(),
            },
        )
    };
    Ok(rows.into_iter().map(rules).collect())
}

/// Inserts a coupon and its first drops; must be called in a transaction.
async fn insert_coupon(
    conn: &mut Conn,
    new: &CouponSettings,
    key: Option<&IdempotencyKey>,
    now: DateTime<Utc>,
    by: &Operator,
) -> QueryResult<Result<(Coupon, Vec<Drop>), EarlierRequest>> {
    let id = loop {
        let id = draw_id(Utc::now());
        // A concurrent request with the same key waits here until this one commits.
        let inserted = diesel::insert_into(coupons::table)
            .values((
                coupons::id.eq(id),
                SettingsRow::new(new)?,
                key.map(|key| coupons::idempotency_key.eq(&key.idempotency_key)),
                key.map(|key| coupons::body_hash.eq(&key.body_hash)),
            ))
            .execute(conn)
            .await;
        match inserted {
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
        insert_drops(conn, CouponId(id), new.quantity, schedule, &planned).await?;
    }
    let act = OperatorAct {
        action: "create_coupon",
        coupon: Some(CouponId(id)),
        detail: json!(new),
        ..OperatorAct::default()
    };
    by.did(conn, act).await?;
    let made = coupon_with_drops(conn, CouponId(id)).await?;
    Ok(Ok(made.ok_or(diesel::result::Error::NotFound)?))
}

async fn earlier(conn: &mut Conn, key: &IdempotencyKey) -> QueryResult<Option<EarlierRequest>> {
    let found: Option<(Option<Vec<u8>>, i64)> = coupons::table
        .filter(coupons::idempotency_key.eq(&key.idempotency_key))
        .select((coupons::body_hash, coupons::id))
        .first(conn)
        .await
        .optional()?;
    Ok(found.map(|(hash, id)| {
        if hash.as_ref() == Some(&key.body_hash) {
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
    for drop in planned {
        let mut attempt = 0;
        while !insert_drop(conn, coupon, quantity, schedule, drop, attempt).await? {
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
    schedule: &Schedule,
    drop: &PlannedDrop,
    attempt: u32,
) -> QueryResult<bool> {
    let is_daily = matches!(schedule, Schedule::Daily { .. });
    let id = drop_id(coupon, is_daily.then_some(drop.local_date), attempt).0;
    // Rows of a drop that was lost may be above a quantity that was lowered since.
    let of_drop = issued_coupons::drop_id.eq(id);
    let of_drop = of_drop.and(issued_coupons::coupon_id.eq(coupon.0));
    let highest = issued_coupons::table.filter(of_drop);
    let highest: Option<Slot> = highest
        .select(diesel::dsl::max(issued_coupons::slot))
        .first(conn)
        .await?;
    let quantity = quantity.max(highest.unwrap_or(0));
    let inserted = diesel::insert_into(drops::table)
        .values((
            drops::id.eq(id),
            drops::coupon_id.eq(coupon.0),
            drops::local_date.eq(drop.local_date),
            drops::opens_at.eq(drop.opens_at.naive_utc()),
            drops::closes_at.eq(drop.closes_at.map(|at| at.naive_utc())),
            drops::quantity.eq(quantity),
        ))
        .execute(conn)
        .await;
    match inserted {
        Err(error) if refusal(&error) == Some(Refusal::Duplicate) => {
            // A locking read sees the other row even if it is newer than this transaction.
            let taken = drops::table.find(id).select(drops::coupon_id).for_share();
            let owner: Option<i64> = taken.first(conn).await.optional()?;
            Ok(owner.is_none_or(|owner| owner == coupon.0))
        }
        other => other.map(|_| true),
    }
}

pub(super) async fn coupon_with_drops(
    conn: &mut Conn,
    id: CouponId,
) -> QueryResult<Option<(Coupon, Vec<Drop>)>> {
    let Some(coupon) = coupon_row(conn, id.0).await? else {
        return Ok(None);
    };
    Ok(Some((coupon, drops_of(conn, id.0).await?)))
}

async fn coupon_row(conn: &mut Conn, id: i64) -> QueryResult<Option<Coupon>> {
    let row = coupons::table
        .find(id)
        .select(CouponRow::as_select())
        .first(conn)
        .await
        .optional()?;
    Ok(row.map(Coupon::from))
}

async fn drops_of(conn: &mut Conn, coupon: i64) -> QueryResult<Vec<Drop>> {
    let rows: Vec<DropRow> = drops::table
        .filter(drops::coupon_id.eq(coupon))
        .order(drops::opens_at)
        .select(DropRow::as_select())
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(Drop::from).collect())
}
