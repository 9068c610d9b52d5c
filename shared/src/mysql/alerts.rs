//! The table `alerts`: reported problems, one row per problem, kept across restarts; and `repairs`,
//! what passes repaired, until it is mailed.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::dsl::count_star;
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use serde::{Deserialize, Serialize};
use serde_json::json;
use strum::{EnumString, IntoStaticStr};
use utoipa::ToSchema;

use super::ops_actions::{Operator, OperatorAct};
use super::runs::set_state;
use super::schema::{alerts, broken_promises, coupons, issued_coupons, repairs};
use super::{Conn, Db, DbError, MOST_VALUES};
use crate::domain::{CouponId, DropId};

/// The status of an alert.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[derive(IntoStaticStr, EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum AlertState {
    /// The last pass that examined it saw the problem.
    #[default]
    Firing,
    /// A pass saw that the problem is gone.
    Resolved,
}

impl AlertState {
    /// Returns the value stored in the table.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// An alert. User ids in it are masked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// The identity of the problem: its kind, and its coupon, drop or cause.
    #[serde(skip)]
    pub name: String,
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
    /// The number of cases that its last mail named.
    #[serde(skip)]
    pub size: u64,
    /// A checksum of these cases.
    #[serde(skip)]
    pub content: i64,
    /// Since when it has been firing.
    pub first_seen_at: DateTime<Utc>,
    /// When a pass last saw it.
    pub last_seen_at: DateTime<Utc>,
    /// When its last mail was queued; null if nobody could get that mail.
    pub last_mailed_at: Option<DateTime<Utc>>,
    /// Number of mails since it was last quiet for a whole cooldown.
    pub mails: u32,
    /// When a pass saw that it was over.
    pub resolved_at: Option<DateTime<Utc>>,
    /// When it was acknowledged.
    pub acknowledged_at: Option<DateTime<Utc>>,
    #[schema(example = "Kim")]
    pub acknowledged_by: Option<String>,
}

impl Alert {
    /// Whether a mail was sent since it last started firing.
    pub fn was_mailed(&self) -> bool {
        self.last_mailed_at
            .is_some_and(|at| at >= self.first_seen_at)
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
}

/// Alerts, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertPage {
    pub alerts: Vec<ListedAlert>,
    /// `before` of the next page.
    pub next_before: Option<i64>,
}

#[derive(Debug, Clone, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = alerts, treat_none_as_null = true)]
pub(super) struct AlertRow {
    name: String,
    kind: String,
    coupon_id: Option<i64>,
    drop_id: Option<i64>,
    status: String,
    summary: String,
    size: u64,
    content: i64,
    first_seen_at: NaiveDateTime,
    last_seen_at: NaiveDateTime,
    last_mailed_at: Option<NaiveDateTime>,
    mails: u32,
    resolved_at: Option<NaiveDateTime>,
    acknowledged_at: Option<NaiveDateTime>,
    acknowledged_by: Option<String>,
}

impl From<AlertRow> for Alert {
    fn from(row: AlertRow) -> Self {
        let utc = |at: Option<NaiveDateTime>| at.map(|at| at.and_utc());
        Self {
            state: row.status.parse().unwrap_or(AlertState::Resolved),
            name: row.name,
            kind: row.kind,
            coupon_id: row.coupon_id.map(CouponId),
            drop_id: row.drop_id.map(DropId),
            summary: row.summary,
            size: row.size,
            content: row.content,
            first_seen_at: row.first_seen_at.and_utc(),
            last_seen_at: row.last_seen_at.and_utc(),
            last_mailed_at: utc(row.last_mailed_at),
            mails: row.mails,
            resolved_at: utc(row.resolved_at),
            acknowledged_at: utc(row.acknowledged_at),
            acknowledged_by: row.acknowledged_by,
        }
    }
}

impl From<&Alert> for AlertRow {
    fn from(alert: &Alert) -> Self {
        let naive = |at: Option<DateTime<Utc>>| at.map(|at| at.naive_utc());
        Self {
            name: alert.name.clone(),
            kind: alert.kind.clone(),
            coupon_id: alert.coupon_id.map(|id| id.0),
            drop_id: alert.drop_id.map(|id| id.0),
            status: alert.state.as_str().to_owned(),
            summary: alert.summary.clone(),
            size: alert.size,
            content: alert.content,
            first_seen_at: alert.first_seen_at.naive_utc(),
            last_seen_at: alert.last_seen_at.naive_utc(),
            last_mailed_at: naive(alert.last_mailed_at),
            mails: alert.mails,
            resolved_at: naive(alert.resolved_at),
            acknowledged_at: naive(alert.acknowledged_at),
            acknowledged_by: alert.acknowledged_by.clone(),
        }
    }
}

/// Takes a lock until the end of the transaction, so that two processes do not make decisions from
/// the same rows.
pub async fn lock(conn: &mut Conn) -> QueryResult<()> {
    // INSERT IGNORE would take a shared lock, which two transactions could hold and then deadlock.
    set_state(conn, "notify", "").await
}

/// Inserts an alert, or replaces the one with the same name.
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

/// Reads the alerts that are firing or that have one of these names, by name.
pub async fn firing_or_named(
    conn: &mut Conn,
    names: &[String],
) -> QueryResult<HashMap<String, Alert>> {
    let rows = alerts::table.select(AlertRow::as_select());
    let firing = alerts::status.eq(AlertState::Firing.as_str());
    let mut found: Vec<AlertRow> = rows.filter(firing).load(conn).await?;
    for some in names.chunks(MOST_VALUES) {
        found.extend(rows.filter(alerts::name.eq_any(some)).load(conn).await?);
    }
    let named = |row| {
        let alert = Alert::from(row);
        (alert.name.clone(), alert)
    };
    Ok(found.into_iter().map(named).collect())
}

/// Reads the ids of alerts by name.
pub async fn ids(conn: &mut Conn, names: &[&str]) -> QueryResult<HashMap<String, i64>> {
    let mut found = HashMap::new();
    for some in names.chunks(MOST_VALUES) {
        let query = alerts::table
            .filter(alerts::name.eq_any(some))
            .select((alerts::name, alerts::id));
        found.extend(query.load::<(String, i64)>(conn).await?);
    }
    Ok(found)
}

/// Counts the users whose broken promises in a drop ended since this time: those who have a row of
/// the coupon, and the others, whom an operator has told.
pub async fn mended(conn: &mut Conn, drop: DropId, since: DateTime<Utc>) -> QueryResult<[i64; 2]> {
    let ended = broken_promises::drop_id
        .eq(drop.0)
        .and(broken_promises::mended_at.ge(since.naive_utc()));
    let ended = broken_promises::table.filter(ended);
    let all: i64 = ended.count().get_result(conn).await?;
    let of_user = issued_coupons::coupon_id
        .eq(broken_promises::coupon_id)
        .and(issued_coupons::user_id.eq(broken_promises::user_id));
    let has_row = diesel::dsl::exists(issued_coupons::table.filter(of_user));
    let kept: i64 = ended.filter(has_row).count().get_result(conn).await?;
    Ok([kept, all - kept])
}

/// What a pass repaired of one kind in one drop.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = repairs)]
pub struct RepairsRow {
    pub run_id: String,
    /// 0 if no drop is concerned.
    pub drop_id: i64,
    pub kind: String,
    pub number: u32,
    pub repaired_at: NaiveDateTime,
}

/// Stores repairs. A run that was stored before keeps its rows.
pub async fn keep_repairs(conn: &mut Conn, mut rows: Vec<RepairsRow>) -> QueryResult<()> {
    while !rows.is_empty() {
        let rest = rows.split_off(rows.len().min(1_000));
        diesel::insert_into(repairs::table)
            .values(std::mem::replace(&mut rows, rest))
            .on_conflict(diesel::dsl::DuplicatedKeys)
            .do_update()
            .set(repairs::run_id.eq(diesel::dsl::sql::<Text>("repairs.run_id")))
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Repairs that are not mailed yet, and the times of the last mails about repairs, newest first.
pub async fn unmailed_repairs(
    conn: &mut Conn,
    since: DateTime<Utc>,
) -> QueryResult<(Vec<RepairsRow>, Vec<DateTime<Utc>>)> {
    let unmailed = repairs::table
        .filter(repairs::mailed_at.is_null())
        .order((repairs::repaired_at, repairs::run_id, repairs::kind))
        .select(RepairsRow::as_select());
    let unmailed = unmailed.load(conn).await?;
    let mails: Vec<Option<NaiveDateTime>> = repairs::table
        .filter(repairs::mailed_at.ge(since.naive_utc()))
        .select(repairs::mailed_at)
        .distinct()
        .order(repairs::mailed_at.desc())
        .load(conn)
        .await?;
    let mails = mails.into_iter().flatten().map(|at| at.and_utc());
    Ok((unmailed, mails.collect()))
}

/// Marks repairs as mailed, if these were.
pub async fn repairs_are_mailed(
    conn: &mut Conn,
    mailed: &[RepairsRow],
    now: DateTime<Utc>,
) -> QueryResult<()> {
    if mailed.is_empty() {
        return Ok(());
    }
    diesel::update(repairs::table.filter(repairs::mailed_at.is_null()))
        .set(repairs::mailed_at.eq(now.naive_utc()))
        .execute(conn)
        .await
        .map(|_| ())
}

/// Coupon and drop, user and slot, and the reason.
type ListedPromise = ((i64, i64), (String, Option<i64>), String);

/// Reads the unresolved broken promises of these drops.
pub async fn broken_promises(conn: &mut Conn, of: &[i64]) -> QueryResult<Vec<BrokenPromise>> {
    let mut found = Vec::new();
    for some in of.chunks(MOST_VALUES) {
        let is_open = broken_promises::mended_at.is_null();
        let listed = broken_promises::table
            .filter(broken_promises::drop_id.eq_any(some).and(is_open))
            .order((broken_promises::drop_id, broken_promises::user_id))
            .select((
                (broken_promises::coupon_id, broken_promises::drop_id),
                (broken_promises::user_id, broken_promises::slot),
                broken_promises::reason,
            ));
        let rows: Vec<ListedPromise> = listed.load(conn).await?;
        let promise = |((coupon, drop), (user_id, slot), reason): ListedPromise| BrokenPromise {
            coupon_id: CouponId(coupon),
            drop_id: DropId(drop),
            user_id,
            slot,
            reason,
        };
        found.extend(rows.into_iter().map(promise));
    }
    Ok(found)
}

/// Lists alerts, newest first: at most `limit`, with an id below `before`, in the given state.
pub async fn list(
    db: &Db,
    state: Option<AlertState>,
    before: Option<i64>,
    limit: u32,
) -> Result<AlertPage, DbError> {
    db.run("list alerts", async move |conn| {
        let mut query = alerts::table
            .left_join(coupons::table.on(coupons::id.nullable().eq(alerts::coupon_id)))
            .select((alerts::id, AlertRow::as_select(), coupons::name.nullable()))
            .order(alerts::id.desc())
            .limit(i64::from(limit) + 1)
            .into_boxed();
        if let Some(state) = state {
            query = query.filter(alerts::status.eq(state.as_str()));
        }
        if let Some(before) = before {
            query = query.filter(alerts::id.lt(before));
        }
        let mut rows: Vec<(i64, AlertRow, Option<String>)> = query.load(conn).await?;
        let has_more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next_before = rows.last().filter(|_| has_more).map(|(id, ..)| *id);
        let listed = |(id, alert, coupon_name): (i64, AlertRow, Option<String>)| ListedAlert {
            id,
            alert: alert.into(),
            coupon_name,
        };
        Ok(AlertPage {
            alerts: rows.into_iter().map(listed).collect(),
            next_before,
        })
    })
    .await
}

pub async fn find(db: &Db, id: i64) -> Result<Option<ListedAlert>, DbError> {
    let newest = list(db, None, id.checked_add(1), 1).await?;
    Ok(newest.alerts.into_iter().find(|alert| alert.id == id))
}

impl Db {
    /// Counts firing alerts by kind. Only mailed alerts count.
    pub async fn firing_by_kind(&self) -> Result<Vec<(String, i64)>, DbError> {
        self.run("count firing alerts", async |conn| {
            let is_mailed = alerts::last_mailed_at.ge(alerts::first_seen_at.nullable());
            alerts::table
                .filter(alerts::status.eq(AlertState::Firing.as_str()))
                .filter(is_mailed)
                .group_by(alerts::kind)
                .select((alerts::kind, count_star()))
                .load(conn)
                .await
        })
        .await
    }
}

/// Acknowledges an alert that is firing, so that it is not mailed again until it changes or is over.
/// Returns the alert afterwards.
pub async fn acknowledge(
    db: &Db,
    id: i64,
    by: String,
    now: DateTime<Utc>,
    operator: Operator,
) -> Result<Option<ListedAlert>, DbError> {
    db.run("acknowledge an alert", async move |conn| {
        conn.transaction(async |conn| {
            let is_firing = alerts::status.eq(AlertState::Firing.as_str());
            let firing = alerts::table.filter(alerts::id.eq(id).and(is_firing));
            let changed = diesel::update(firing)
                .set((
                    alerts::acknowledged_at.eq(now.naive_utc()),
                    alerts::acknowledged_by.eq(&by),
                ))
                .execute(conn)
                .await?;
            if changed == 0 {
                return Ok(());
            }
            let act = OperatorAct {
                action: "acknowledge",
                detail: json!({"alert_id": id, "by": by}),
                ..OperatorAct::default()
            };
            operator.did(conn, act).await
        })
        .await
    })
    .await?;
    find(db, id).await
}
