//! What operators do with alerts: list, acknowledge, silence.

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::alerts::{self, ListedAlert};
use firstcome_shared::mysql::{Db, DbError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::alerts::State;
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
    /// `run_failed`, `stalled`, `braked`, `broken_promise`, or the kind of the findings that are
    /// left.
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
    /// When a pass saw that it is gone.
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

/// Why an operator's request is refused.
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

impl From<ListedAlert> for AlertView {
    fn from(listed: ListedAlert) -> Self {
        let ListedAlert { id, alert, silenced_until, silenced_by } = listed;
        Self {
            id,
            kind: alert.kind,
            status: alert.state.as_str().to_owned(),
            coupon_id: alert.coupon_id.map(|id| id.0),
            drop_id: alert.drop_id.map(|id| id.0),
            summary: alert.summary,
            first_seen_at: alert.first_seen_at,
            last_seen_at: alert.last_seen_at,
            last_mailed_at: alert.last_mailed_at,
            mails: alert.mails,
            resolved_at: alert.resolved_at,
            acknowledged_at: alert.acknowledged_at,
            acknowledged_by: alert.acknowledged_by,
            silenced_until,
            silenced_by,
        }
    }
}

/// Alerts, newest first: at most `limit`, with a number below `before`, of that status (`firing`,
/// `resolved`, `told`).
pub async fn list(db: &Db, status: Option<String>, before: Option<i64>, limit: u32) -> Result<AlertPage, DbError> {
    let limit = i64::from(limit).clamp(1, PAGE);
    let mut alerts: Vec<AlertView> =
        alerts::list(db, status, before, limit + 1).await?.into_iter().map(AlertView::from).collect();
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = alerts.len() > wanted;
    alerts.truncate(wanted);
    let next_before = alerts.last().filter(|_| has_more).map(|last| last.id);
    Ok(AlertPage { alerts, next_before })
}

/// One alert.
pub async fn alert(db: &Db, id: i64) -> Result<AlertView, AlertError> {
    alerts::find(db, id).await?.map(AlertView::from).ok_or(AlertError::NotFound(id))
}

/// Takes an alert on: it is not mailed again until it changes or is over. Gives the alert as it is
/// now.
pub async fn acknowledge(db: &Db, id: i64, by: &str, now: DateTime<Utc>) -> Result<AlertView, AlertError> {
    alerts::acknowledge(db, id, name(by)?, now).await?;
    let now = alerts::find(db, id).await?.ok_or(AlertError::NotFound(id))?;
    if now.alert.state == State::Firing { Ok(now.into()) } else { Err(AlertError::NotFiring(id)) }
}

/// Silences the mails of an alert's drop until then; a time that is past ends a silence. Alerts go
/// on being kept. Gives the alert as it is now.
pub async fn silence(
    db: &Db,
    id: i64,
    until: DateTime<Utc>,
    by: &str,
    now: DateTime<Utc>,
) -> Result<AlertView, AlertError> {
    let by = name(by)?;
    if until > now + TimeDelta::days(30) {
        return Err(AlertError::TooLong);
    }
    let before = alert(db, id).await?;
    let drop_id = before.drop_id.ok_or(AlertError::NoDrop(id))?;
    alerts::silence(db, DropId(drop_id), until, by).await?;
    alert(db, id).await
}

fn name(by: &str) -> Result<String, AlertError> {
    let name = clean::line(by, NAME);
    if name.is_empty() { Err(AlertError::NoName) } else { Ok(name) }
}
