//! Alerts: what was told about conditions, and when. Each is a row of `told`.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::condition::Cases;
use crate::queries::alerts::ToldRow;

/// What is known about earlier episodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alerts {
    open: HashMap<String, ToldRow>,
    /// The last episode of each name that ended within four hours.
    ended: HashMap<String, ToldRow>,
    /// When the oldest mail was queued that has reached nobody yet.
    pub unsent_since: Option<DateTime<Utc>>,
}

impl Alerts {
    /// Times ahead of `now` come from a server whose clock was ahead: they count as now.
    pub fn new(all: impl IntoIterator<Item = ToldRow>, now: DateTime<Utc>) -> Self {
        let mut alerts = Self::default();
        for alert in all {
            alerts.put(with_times(alert, |at| at.min(now)));
        }
        alerts
    }

    /// Stores an alert as a verdict has it.
    pub fn put(&mut self, alert: ToldRow) {
        let name = alert.name.clone();
        if alert.ended_at.is_none() {
            self.open.insert(name, alert);
            return;
        }
        // An episode that began since is another one.
        if self
            .open
            .get(&name)
            .is_some_and(|open| open.began_at == alert.began_at)
        {
            self.open.remove(&name);
        }
        let is_later = (self.ended.get(&name)).is_none_or(|it| it.ended_at <= alert.ended_at);
        if is_later {
            self.ended.insert(name, alert);
        }
    }

    pub fn open(&self, name: &str) -> Option<&ToldRow> {
        self.open.get(name)
    }

    /// The last episode of this name that ended.
    pub(crate) fn ended(&self, name: &str) -> Option<&ToldRow> {
        self.ended.get(name)
    }

    pub fn all_open(&self) -> impl Iterator<Item = &ToldRow> {
        self.open.values()
    }

    /// Open alerts, and those that have ended.
    pub fn all(&self) -> impl Iterator<Item = &ToldRow> {
        self.open.values().chain(self.ended.values())
    }

    /// Whether the last mail about an alert is still in the outbox.
    pub(crate) fn is_unsent(&self, alert: &ToldRow) -> bool {
        let since = self.unsent_since;
        since.is_some_and(|since| alert.told_at.is_some_and(|at| at >= since))
    }
}

/// The cases that were told and are still there.
pub(crate) fn told_cases(alert: &ToldRow) -> Cases {
    Cases::from_bytes(alert.told_number, alert.told_cases.as_deref())
}

pub(crate) fn set_told_cases(alert: &mut ToldRow, cases: &Cases) {
    alert.told_number = cases.number();
    alert.told_cases = cases.to_bytes();
}

/// Returns an alert by another clock.
pub(crate) fn moved(alert: &ToldRow, by: TimeDelta) -> ToldRow {
    with_times(alert.clone(), |at| at + by)
}

fn with_times(alert: ToldRow, change: impl Fn(DateTime<Utc>) -> DateTime<Utc>) -> ToldRow {
    ToldRow {
        began_at: change(alert.began_at),
        waits_from: alert.waits_from.map(&change),
        gone_at: alert.gone_at.map(&change),
        told_at: alert.told_at.map(&change),
        ended_at: alert.ended_at.map(&change),
        acknowledged_at: alert.acknowledged_at.map(&change),
        ..alert
    }
}
