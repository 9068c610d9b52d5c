//! Actions of operators on alerts: list, acknowledge, silence.

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::mysql::alerts::{self, ListedAlert};
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::{Db, DbError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::alerts::AlertState;
use crate::report::{AlertKind, Severity};
use crate::wording;

/// Maximum length of an operator's name, in characters.
const NAME: usize = 100;

/// Maximum number of alerts per page.
const PAGE: i64 = 500;

/// Alerts, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertPage {
    pub alerts: Vec<ListedAlert>,
    /// `before` of the next page.
    pub next_before: Option<i64>,
}

/// Why an operator's request is rejected.
#[derive(Debug, thiserror::Error)]
pub enum AlertError {
    #[error("there is no alert {0}")]
    NotFound(i64),
    /// The alert is not firing.
    #[error("alert {0} no longer fires, so there is nothing to acknowledge")]
    NotFiring(i64),
    /// Silences apply to drops, and hide no critical problem.
    #[error("alert {0} concerns no drop, or is too important; acknowledge it instead")]
    NoSilence(i64),
    /// `by` is empty or unreadable.
    #[error("`by` must say who you are, in 1 to 100 characters")]
    NoName,
    /// `until` is too far in the future.
    #[error("`until` must be at most 30 days ahead; a time that is past ends the silence")]
    TooLong,
    /// MySQL failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

/// Lists alerts with this status (`firing`, `resolved`), newest first: at most `limit`,
/// with an ID below `before`.
pub async fn list(
    db: &Db,
    status: Option<String>,
    before: Option<i64>,
    limit: u32,
) -> Result<AlertPage, DbError> {
    let limit = i64::from(limit).clamp(1, PAGE);
    let mut alerts = alerts::list(db, status, before, limit + 1).await?;
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = alerts.len() > wanted;
    alerts.truncate(wanted);
    let next_before = alerts.last().filter(|_| has_more).map(|last| last.id);
    Ok(AlertPage {
        alerts,
        next_before,
    })
}

pub async fn alert(db: &Db, id: i64) -> Result<ListedAlert, AlertError> {
    alerts::find(db, id).await?.ok_or(AlertError::NotFound(id))
}

/// Acknowledges an alert, so that it is not mailed again until it changes or is over. Returns the
/// updated alert.
pub async fn acknowledge(
    db: &Db,
    id: i64,
    by: &str,
    now: DateTime<Utc>,
    operator: Operator,
) -> Result<ListedAlert, AlertError> {
    alerts::acknowledge(db, id, name(by)?, now, operator).await?;
    let now = alert(db, id).await?;
    if now.alert.state == AlertState::Firing {
        Ok(now)
    } else {
        Err(AlertError::NotFiring(id))
    }
}

/// Silences mails about the alert's drop until the given time, except those about critical
/// problems. A time in the past ends the silence. Alerts are still recorded. Returns the updated
/// alert.
pub async fn silence(
    db: &Db,
    id: i64,
    until: DateTime<Utc>,
    by: &str,
    now: DateTime<Utc>,
    operator: Operator,
) -> Result<ListedAlert, AlertError> {
    let by = name(by)?;
    if until > now + TimeDelta::days(30) {
        return Err(AlertError::TooLong);
    }
    let silenced = alert(db, id).await?.alert;
    let is_critical = AlertKind::from_word(&silenced.kind)
        .is_some_and(|kind| kind.facts().severity == Severity::Critical);
    let drop_id = silenced.drop_id.filter(|_| !is_critical);
    let drop_id = drop_id.ok_or(AlertError::NoSilence(id))?;
    alerts::silence(db, drop_id, until, by, operator).await?;
    alert(db, id).await
}

fn name(by: &str) -> Result<String, AlertError> {
    let name = wording::line(by, NAME);
    if name.is_empty() {
        Err(AlertError::NoName)
    } else {
        Ok(name)
    }
}
