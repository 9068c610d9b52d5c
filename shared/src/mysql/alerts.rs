//! The table `alerts`: reported problems, one row per drift, kept across restarts.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::dsl::count_star;
use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use serde::{Deserialize, Serialize};
use serde_json::json;
use strum::{EnumString, IntoStaticStr};
use utoipa::ToSchema;

use super::ops_actions::{Operator, OperatorAct};
use super::runs::set_state;
use super::schema::{alerts, broken_promises, coupons, drops, issued_coupons, slot_limits};
use super::{Conn, Db, DbError, MOST_VALUES};
use crate::domain::{CouponId, DropId};

/// The status of an alert.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, EnumString, Serialize, Deserialize, ToSchema,
)]
#[strum(serialize_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum AlertState {
    /// The last pass that examined it saw the drift.
    Firing,
    /// A pass saw that the drift is gone.
    Resolved,
    /// Information that is mailed only once.
    #[strum(serialize = "told")]
    #[serde(rename = "told")]
    Information,
}

impl AlertState {
    /// Returns the value stored in the table.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// An alert. User ids in it are masked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// The identity of the drift: hexadecimal SHA-256.
    #[serde(skip)]
    pub fingerprint: String,
    /// Its kind: a section of docs/OPERATIONS.md.
    #[schema(example = "unissued")]
    pub kind: String,
    pub coupon_id: Option<CouponId>,
    pub drop_id: Option<DropId>,
    #[serde(rename = "status")]
    pub state: AlertState,
    /// One human-readable line.
    #[schema(example = "3 people hold a slot and have no row")]
    pub summary: String,
    /// A hash of the last mail's content.
    #[serde(skip)]
    pub content_hash: String,
    /// Since when it has been firing.
    pub first_seen_at: DateTime<Utc>,
    /// When a pass last saw it.
    pub last_seen_at: DateTime<Utc>,
    /// When its last mail was queued; null if nobody could get that mail.
    pub last_mailed_at: Option<DateTime<Utc>>,
    /// Number of mails since it was last quiet for a whole cooldown.
    pub mails: u32,
    /// The id that its mails refer to, so that they form one thread.
    #[serde(skip)]
    pub thread: String,
    /// When a pass saw that it was over.
    pub resolved_at: Option<DateTime<Utc>>,
    /// When it was acknowledged.
    pub acknowledged_at: Option<DateTime<Utc>>,
    #[schema(example = "Kim")]
    pub acknowledged_by: Option<String>,
    /// Number of repairs that wait for the next mail.
    #[serde(skip)]
    pub unmailed_repairs: u32,
}

impl Alert {
    /// Whether a mail was sent since it last started firing.
    pub fn was_mailed(&self) -> bool {
        self.last_mailed_at
            .is_some_and(|at| at >= self.first_seen_at)
    }

    /// Whether a mail has reported the alert but no mail has reported its resolution, because mails
    /// were silenced. [`open_or_seen`] implements the same rule in SQL.
    pub fn owes_notice(&self) -> bool {
        self.state == AlertState::Resolved
            && self.was_mailed()
            && self.last_mailed_at < self.resolved_at
    }
}

/// A promise that could not be kept and is unresolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenPromise {
    pub coupon_id: CouponId,
    pub drop_id: DropId,
    /// The user id in full.
    pub user_id: String,
    /// The user's slot, if known.
    pub slot: Option<i64>,
    /// Why the promise could not be kept.
    pub reason: String,
}

/// An alert as shown to operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListedAlert {
    pub id: i64,
    #[serde(flatten)]
    pub alert: Alert,
    /// The name of its coupon; null if it has none.
    #[schema(example = "Winter coupon")]
    pub coupon_name: Option<String>,
    /// When the silence for mails about this drop ends or ended; null if there never was one.
    pub silenced_until: Option<DateTime<Utc>>,
    #[schema(example = "Kim")]
    pub silenced_by: Option<String>,
}

/// The kind of a row that counts a drop's repairs and their mails. Rows of this kind never fire.
pub const REPAIRED: &str = "repaired";

#[derive(Debug, Clone, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = alerts, treat_none_as_null = true)]
pub(super) struct AlertRow {
    fingerprint: String,
    kind: String,
    coupon_id: Option<i64>,
    drop_id: Option<i64>,
    status: String,
    summary: String,
    content_hash: String,
    first_seen_at: NaiveDateTime,
    last_seen_at: NaiveDateTime,
    last_mailed_at: Option<NaiveDateTime>,
    mails: u32,
    thread_id: Option<String>,
    resolved_at: Option<NaiveDateTime>,
    acknowledged_at: Option<NaiveDateTime>,
    acknowledged_by: Option<String>,
    unmailed_repairs: u32,
}

impl From<AlertRow> for Alert {
    fn from(row: AlertRow) -> Self {
        let utc = |at: Option<NaiveDateTime>| at.map(|at| at.and_utc());
        Self {
            state: row.status.parse().unwrap_or(AlertState::Resolved),
            fingerprint: row.fingerprint,
            kind: row.kind,
            coupon_id: row.coupon_id.map(CouponId),
            drop_id: row.drop_id.map(DropId),
            summary: row.summary,
            content_hash: row.content_hash,
            first_seen_at: row.first_seen_at.and_utc(),
            last_seen_at: row.last_seen_at.and_utc(),
            last_mailed_at: utc(row.last_mailed_at),
            mails: row.mails,
            thread: row.thread_id.unwrap_or_default(),
            resolved_at: utc(row.resolved_at),
            acknowledged_at: utc(row.acknowledged_at),
            acknowledged_by: row.acknowledged_by,
            unmailed_repairs: row.unmailed_repairs,
        }
    }
}

impl From<&Alert> for AlertRow {
    fn from(alert: &Alert) -> Self {
        let naive = |at: Option<DateTime<Utc>>| at.map(|at| at.naive_utc());
        Self {
            fingerprint: alert.fingerprint.clone(),
            kind: alert.kind.clone(),
            coupon_id: alert.coupon_id.map(|id| id.0),
            drop_id: alert.drop_id.map(|id| id.0),
            status: alert.state.as_str().to_owned(),
            summary: alert.summary.clone(),
            content_hash: alert.content_hash.clone(),
            first_seen_at: alert.first_seen_at.naive_utc(),
            last_seen_at: alert.last_seen_at.naive_utc(),
            last_mailed_at: naive(alert.last_mailed_at),
            mails: alert.mails,
            thread_id: Some(alert.thread.clone()),
            resolved_at: naive(alert.resolved_at),
            acknowledged_at: naive(alert.acknowledged_at),
            acknowledged_by: alert.acknowledged_by.clone(),
            unmailed_repairs: alert.unmailed_repairs,
        }
    }
}

/// Takes a lock until the end of the transaction, so that two processes do not make decisions from
/// the same rows.
pub async fn lock(conn: &mut Conn) -> QueryResult<()> {
    // INSERT IGNORE would take a shared lock, which two transactions could hold and then deadlock.
    set_state(conn, "notify", "").await
}

/// Inserts an alert, or replaces the one with the same fingerprint.
pub async fn keep(conn: &mut Conn, alert: &Alert) -> QueryResult<()> {
    let row = AlertRow::from(alert);
    diesel::insert_into(alerts::table)
        .values(&row)
        .on_conflict(diesel::dsl::DuplicatedKeys)
        .do_update()
        .set(&row)
        .execute(conn)
        .await
        .map(|_| ())
}

/// Reads the alerts that are firing, whose resolution must still be mailed, or that have one of
/// these fingerprints.
pub async fn open_or_seen(conn: &mut Conn, fingerprints: &[String]) -> QueryResult<Vec<Alert>> {
    let owes_notice = alerts::status
        .eq(AlertState::Resolved.as_str())
        .and(alerts::last_mailed_at.lt(alerts::resolved_at))
        .and(alerts::last_mailed_at.ge(alerts::first_seen_at.nullable()));
    let is_open = alerts::status
        .eq(AlertState::Firing.as_str())
        .or(owes_notice);
    let rows = alerts::table.select(AlertRow::as_select());
    let mut found: HashMap<String, Alert> = HashMap::new();
    let mut keep = |some: Vec<AlertRow>| {
        found.extend(
            some.into_iter()
                .map(Alert::from)
                .map(|alert| (alert.fingerprint.clone(), alert)),
        );
    };
    keep(rows.filter(is_open).load(conn).await?);
    for some in fingerprints.chunks(MOST_VALUES) {
        keep(
            rows.filter(alerts::fingerprint.eq_any(some))
                .load(conn)
                .await?,
        );
    }
    Ok(found.into_values().collect())
}

/// Reads the ids of alerts by fingerprint.
pub async fn ids(conn: &mut Conn, fingerprints: &[&str]) -> QueryResult<HashMap<String, i64>> {
    let mut found = HashMap::new();
    for some in fingerprints.chunks(MOST_VALUES) {
        let query = alerts::table
            .filter(alerts::fingerprint.eq_any(some))
            .select((alerts::fingerprint, alerts::id));
        found.extend(query.load::<(String, i64)>(conn).await?);
    }
    Ok(found)
}

/// Reads when the mail silence of each drop ends or ended.
pub async fn silences(conn: &mut Conn, of: &[i64]) -> QueryResult<HashMap<DropId, DateTime<Utc>>> {
    let mut found = HashMap::new();
    for some in of.chunks(MOST_VALUES) {
        let silenced = drops::id
            .eq_any(some)
            .and(drops::silenced_until.is_not_null());
        let query = drops::table
            .filter(silenced)
            .select((drops::id, drops::silenced_until));
        let rows: Vec<(i64, Option<NaiveDateTime>)> = query.load(conn).await?;
        found.extend(
            rows.into_iter()
                .filter_map(|(id, at)| Some((DropId(id), at?.and_utc()))),
        );
    }
    Ok(found)
}

/// Finds which of these drops were deleted, alone or with their coupon, so that no pass examines
/// them again. A drop that other tables still name is lost, not deleted.
pub async fn gone(conn: &mut Conn, of: &[i64]) -> QueryResult<HashSet<DropId>> {
    let mut gone: HashSet<DropId> = of.iter().copied().map(DropId).collect();
    for some in of.chunks(MOST_VALUES) {
        let there = drops::table.inner_join(coupons::table.on(coupons::id.eq(drops::coupon_id)));
        let there: Vec<i64> = there
            .filter(drops::id.eq_any(some))
            .select(drops::id)
            .load(conn)
            .await?;
        gone.retain(|drop| !there.contains(&drop.0));
    }
    let absent: Vec<i64> = gone.iter().map(|drop| drop.0).collect();
    for some in absent.chunks(MOST_VALUES) {
        let limits = slot_limits::table.filter(slot_limits::drop_id.eq_any(some));
        let limits: Vec<i64> = limits.select(slot_limits::drop_id).load(conn).await?;
        let rows = issued_coupons::table.filter(issued_coupons::drop_id.eq_any(some));
        let rows = rows.select(issued_coupons::drop_id).distinct();
        let rows: Vec<i64> = rows.load(conn).await?;
        gone.retain(|drop| !limits.contains(&drop.0) && !rows.contains(&drop.0));
    }
    Ok(gone)
}

/// Reads the unresolved broken promises of these drops.
pub async fn broken_promises(conn: &mut Conn, of: &[i64]) -> QueryResult<Vec<BrokenPromise>> {
    let mut rows: Vec<(i64, i64, String, Option<i64>, String)> = Vec::new();
    for some in of.chunks(MOST_VALUES) {
        let listed = broken_promises::table
            .filter(
                broken_promises::drop_id
                    .eq_any(some)
                    .and(broken_promises::mended_at.is_null()),
            )
            .order((broken_promises::drop_id, broken_promises::user_id))
            .select((
                broken_promises::coupon_id,
                broken_promises::drop_id,
                broken_promises::user_id,
                broken_promises::slot,
                broken_promises::reason,
            ));
        rows.extend(
            listed
                .load::<(i64, i64, String, Option<i64>, String)>(conn)
                .await?,
        );
    }
    let promise = |(coupon, drop, user_id, slot, reason)| BrokenPromise {
        coupon_id: CouponId(coupon),
        drop_id: DropId(drop),
        user_id,
        slot,
        reason,
    };
    Ok(rows.into_iter().map(promise).collect())
}

#[derive(Queryable)]
struct ListedRow {
    id: i64,
    alert: AlertRow,
    silenced_until: Option<NaiveDateTime>,
    silenced_by: Option<String>,
    coupon_name: Option<String>,
}

impl From<ListedRow> for ListedAlert {
    fn from(row: ListedRow) -> Self {
        Self {
            id: row.id,
            alert: row.alert.into(),
            coupon_name: row.coupon_name,
            silenced_until: row.silenced_until.map(|at| at.and_utc()),
            silenced_by: row.silenced_by,
        }
    }
}

/// Lists alerts, newest first: at most `limit`, with an id below `before`, in the given state.
pub async fn list(
    db: &Db,
    state: Option<String>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<ListedAlert>, DbError> {
    db.run("list alerts", async move |conn| {
        let mut query = alerts::table
            .left_join(drops::table.on(drops::id.nullable().eq(alerts::drop_id)))
            .left_join(coupons::table.on(coupons::id.nullable().eq(alerts::coupon_id)))
            .select((
                alerts::id,
                AlertRow::as_select(),
                drops::silenced_until.nullable(),
                drops::silenced_by.nullable(),
                coupons::name.nullable(),
            ))
            .order(alerts::id.desc())
            .limit(limit)
            .into_boxed();
        if let Some(state) = state {
            query = query.filter(alerts::status.eq(state));
        }
        if let Some(before) = before {
            query = query.filter(alerts::id.lt(before));
        }
        let rows: Vec<ListedRow> = query.load(conn).await?;
        Ok(rows.into_iter().map(ListedAlert::from).collect())
    })
    .await
}

pub async fn find(db: &Db, id: i64) -> Result<Option<ListedAlert>, DbError> {
    let newest = list(db, None, id.checked_add(1), 1).await?;
    Ok(newest.into_iter().find(|alert| alert.id == id))
}

impl Db {
    /// Counts firing alerts by kind. Only mailed alerts count, so silenced ones are excluded.
    pub async fn firing_by_kind(&self) -> Result<Vec<(String, i64)>, DbError> {
        self.run("count firing alerts", async |conn| {
            let is_mailed = alerts::last_mailed_at.ge(alerts::first_seen_at.nullable());
            alerts::table
                .filter(alerts::status.eq(AlertState::Firing.as_str()))
                .filter(is_mailed.and(alerts::kind.ne(REPAIRED)))
                .group_by(alerts::kind)
                .select((alerts::kind, count_star()))
                .load(conn)
                .await
        })
        .await
    }
}

/// Acknowledges an alert that is firing.
pub async fn acknowledge(
    db: &Db,
    id: i64,
    by: String,
    now: DateTime<Utc>,
    operator: Operator,
) -> Result<(), DbError> {
    db.run("acknowledge an alert", async move |conn| {
        conn.transaction(async |conn| {
            let firing = alerts::id
                .eq(id)
                .and(alerts::status.eq(AlertState::Firing.as_str()));
            let changed = diesel::update(alerts::table.filter(firing))
                .set((
                    alerts::acknowledged_at.eq(now.naive_utc()),
                    alerts::acknowledged_by.eq(&by),
                ))
                .execute(conn)
                .await?;
            if changed > 0 {
                let detail = json!({"alert_id": id, "by": by});
                operator
                    .did(
                        conn,
                        OperatorAct {
                            action: "acknowledge",
                            detail,
                            ..OperatorAct::default()
                        },
                    )
                    .await?;
            }
            Ok(())
        })
        .await
    })
    .await
}

/// Silences the mails of a drop until the given time.
pub async fn silence(
    db: &Db,
    drop: DropId,
    until: DateTime<Utc>,
    by: String,
    operator: Operator,
) -> Result<(), DbError> {
    db.run("silence a drop", async move |conn| {
        conn.transaction(async |conn| {
            diesel::update(drops::table.filter(drops::id.eq(drop.0)))
                .set((
                    drops::silenced_until.eq(until.naive_utc()),
                    drops::silenced_by.eq(&by),
                ))
                .execute(conn)
                .await?;
            let detail = json!({"until": until, "by": by});
            operator
                .did(
                    conn,
                    OperatorAct {
                        action: "silence",
                        drop: Some(drop),
                        detail,
                        ..OperatorAct::default()
                    },
                )
                .await
        })
        .await
    })
    .await
}
