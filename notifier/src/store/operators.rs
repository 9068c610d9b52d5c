//! What operators do with alerts: read them, take one on, silence its drop.

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use firstcome_shared::mysql::schema::{alerts, drops};
use firstcome_shared::mysql::{Conn, Db, DbError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::clean;

/// Longest name of an operator, in characters.
const NAME: usize = 100;

/// Most alerts on a page.
const PAGE: i64 = 500;

/// An alert as operators see it. No id of a person stands in it in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AlertView {
    /// Its number.
    pub id: i64,
    /// `run_failed`, `stalled`, `braked`, `broken_promise`, or the kind of the findings that are left.
    pub kind: String,
    /// `firing`, `resolved`, or `told` for what is only information.
    pub status: String,
    /// The coupon, where it concerns one.
    pub coupon_id: Option<i64>,
    /// The drop, where it concerns one.
    pub drop_id: Option<i64>,
    /// One line on it.
    pub summary: String,
    /// Since when it fires, this time.
    pub first_seen_at: DateTime<Utc>,
    /// When a pass last saw it.
    pub last_seen_at: DateTime<Utc>,
    /// When it was last mailed.
    pub last_mailed_at: Option<DateTime<Utc>>,
    /// Mails so far, this time.
    pub mails: u32,
    /// When it was seen to be gone.
    pub resolved_at: Option<DateTime<Utc>>,
    /// When somebody took it on.
    pub acknowledged_at: Option<DateTime<Utc>>,
    /// Who.
    pub acknowledged_by: Option<String>,
    /// Until when its drop's mails are silenced, if they are or were.
    pub silenced_until: Option<DateTime<Utc>>,
    /// Who silenced them.
    pub silenced_by: Option<String>,
}

/// Some alerts, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AlertPage {
    /// The alerts.
    pub alerts: Vec<AlertView>,
    /// Give this as `before` for the next page; `None` on the last.
    pub next_before: Option<i64>,
}

/// Why an operator's wish can't be met.
#[derive(Debug, thiserror::Error)]
pub enum AlertError {
    /// There is no such alert.
    #[error("there is no alert {0}")]
    NotFound(i64),
    /// It does not fire.
    #[error("alert {0} does not fire any more, so there is nothing to acknowledge")]
    NotFiring(i64),
    /// It concerns no drop, and silence is kept per drop.
    #[error("alert {0} concerns no drop; silence is kept per drop, so acknowledge it instead")]
    NoDrop(i64),
    /// `by` is empty or unreadable.
    #[error("`by` must say who you are, in 1 to 100 characters")]
    NoName,
    /// `until` is too far away.
    #[error("`until` must be at most 30 days ahead; a time that is past ends the silence")]
    TooLong,
    /// MySQL.
    #[error(transparent)]
    Database(#[from] DbError),
}

type Row = (
    (i64, String, String, Option<i64>, Option<i64>, String),
    (NaiveDateTime, NaiveDateTime, Option<NaiveDateTime>, u32),
    (Option<NaiveDateTime>, Option<NaiveDateTime>, Option<String>),
    (Option<NaiveDateTime>, Option<String>),
);

macro_rules! columns {
    () => {
        (
            (alerts::id, alerts::kind, alerts::status, alerts::coupon_id, alerts::drop_id, alerts::summary),
            (alerts::first_seen_at, alerts::last_seen_at, alerts::last_mailed_at, alerts::mails),
            (alerts::resolved_at, alerts::acknowledged_at, alerts::acknowledged_by),
            (drops::silenced_until.nullable(), drops::silenced_by.nullable()),
        )
    };
}

fn view(row: Row) -> AlertView {
    let ((id, kind, status, coupon_id, drop_id, summary), seen, ended, silence) = row;
    let utc = |at: Option<NaiveDateTime>| at.map(|at| at.and_utc());
    AlertView {
        id,
        kind,
        status,
        coupon_id,
        drop_id,
        summary,
        first_seen_at: seen.0.and_utc(),
        last_seen_at: seen.1.and_utc(),
        last_mailed_at: utc(seen.2),
        mails: seen.3,
        resolved_at: utc(ended.0),
        acknowledged_at: utc(ended.1),
        acknowledged_by: ended.2,
        silenced_until: utc(silence.0),
        silenced_by: silence.1,
    }
}

/// Alerts, newest first: at most `limit`, with a number below `before`, of that status (`firing`, `resolved`, `told`).
pub async fn list(db: &Db, status: Option<String>, before: Option<i64>, limit: u32) -> Result<AlertPage, DbError> {
    let limit = i64::from(limit).clamp(1, PAGE);
    db.run("list alerts", async move |conn| {
        let mut query = alerts::table
            .left_join(drops::table.on(drops::id.nullable().eq(alerts::drop_id)))
            .select(columns!())
            .order(alerts::id.desc())
            .limit(limit + 1)
            .into_boxed();
        if let Some(status) = status {
            query = query.filter(alerts::status.eq(status));
        }
        if let Some(before) = before {
            query = query.filter(alerts::id.lt(before));
        }
        let rows: Vec<Row> = query.load(conn).await?;
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > wanted;
        let alerts: Vec<AlertView> = rows.into_iter().take(wanted).map(view).collect();
        let next_before = alerts.last().filter(|_| has_more).map(|last| last.id);
        Ok(AlertPage { alerts, next_before })
    })
    .await
}

/// One alert.
pub async fn alert(db: &Db, id: i64) -> Result<AlertView, AlertError> {
    db.run("read an alert", async move |conn| find(conn, id).await).await?.ok_or(AlertError::NotFound(id))
}

async fn find(conn: &mut Conn, id: i64) -> QueryResult<Option<AlertView>> {
    let row: Option<Row> = alerts::table
        .left_join(drops::table.on(drops::id.nullable().eq(alerts::drop_id)))
        .filter(alerts::id.eq(id))
        .select(columns!())
        .first(conn)
        .await
        .optional()?;
    Ok(row.map(view))
}

/// Takes an alert on: it is not mailed again until it changes or is over. Gives the alert as it is now.
pub async fn acknowledge(db: &Db, id: i64, by: &str, now: DateTime<Utc>) -> Result<AlertView, AlertError> {
    let by = name(by)?;
    let done = db
        .run("acknowledge an alert", async move |conn| {
            conn.transaction(async |conn| {
                diesel::update(alerts::table.filter(alerts::id.eq(id).and(alerts::status.eq("firing"))))
                    .set((alerts::acknowledged_at.eq(now.naive_utc()), alerts::acknowledged_by.eq(by)))
                    .execute(conn)
                    .await?;
                find(conn, id).await
            })
            .await
        })
        .await?;
    match done {
        None => Err(AlertError::NotFound(id)),
        Some(alert) if alert.status != "firing" => Err(AlertError::NotFiring(id)),
        Some(alert) => Ok(alert),
    }
}

/// Silences the mails of an alert's drop until then; a time that is past ends a silence. Alerts go on being kept. Gives the
/// alert as it is now.
pub async fn silence(
    db: &Db,
    id: i64,
    until: DateTime<Utc>,
    by: &str,
    now: DateTime<Utc>,
) -> Result<AlertView, AlertError> {
    let by = name(by)?;
    if until > now + chrono::TimeDelta::days(30) {
        return Err(AlertError::TooLong);
    }
    let before = alert(db, id).await?;
    let drop_id = before.drop_id.ok_or(AlertError::NoDrop(id))?;
    db.run("silence a drop", async move |conn| {
        diesel::update(drops::table.filter(drops::id.eq(drop_id)))
            .set((drops::silenced_until.eq(until.naive_utc()), drops::silenced_by.eq(by)))
            .execute(conn)
            .await
    })
    .await?;
    alert(db, id).await
}

fn name(by: &str) -> Result<String, AlertError> {
    let name = clean::line(by, NAME);
    if name.is_empty() { Err(AlertError::NoName) } else { Ok(name) }
}
