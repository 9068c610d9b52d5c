//! Alerts: what was told about conditions, and when.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId};

use crate::condition::Cases;
use crate::report::AlertKind;

/// What was told about a condition: one episode from its begin to its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alert {
    /// `None`: not stored yet.
    pub id: Option<i64>,
    pub name: String,
    /// The word of the kind that was told last, which a later version may have written.
    pub kind: String,
    pub coupon: Option<CouponId>,
    pub drop: Option<DropId>,
    pub began_at: DateTime<Utc>,
    /// Since when it is unexplained; `None` while it is explained.
    pub waits_from: Option<DateTime<Utc>>,
    /// What explains it.
    pub explained_by: Option<AlertKind>,
    /// Since when it is gone.
    pub gone_at: Option<DateTime<Utc>>,
    /// How often it came back.
    pub returns: u32,
    pub told_at: Option<DateTime<Utc>>,
    /// The number of mails about it.
    pub tells: u32,
    /// The cases that were told and are still there.
    pub told: Cases,
    pub ended_at: Option<DateTime<Utc>>,
    pub acknowledged_at: Option<DateTime<Utc>>,
    /// Its last mail is still in the outbox.
    pub is_unsent: bool,
}

/// What is known about earlier episodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alerts {
    open: HashMap<String, Alert>,
    /// The last episode of each name that ended within four hours.
    ended: HashMap<String, Alert>,
}

impl Alerts {
    /// Times ahead of `now` come from a server whose clock was ahead: they count as now.
    pub fn new(all: impl IntoIterator<Item = Alert>, now: DateTime<Utc>) -> Self {
        let mut alerts = Self::default();
        for mut alert in all {
            alert.clamp(now);
            alerts.put(alert);
        }
        alerts
    }

    /// Stores an alert as a verdict has it.
    pub fn put(&mut self, alert: Alert) {
        let name = alert.name.clone();
        if alert.ended_at.is_none() {
            self.open.insert(name, alert);
            return;
        }
        // An episode that began since is another one.
        let is_same = |open: &Alert| open.began_at == alert.began_at;
        if self.open.get(&name).is_some_and(is_same) {
            self.open.remove(&name);
        }
        let is_later = (self.ended.get(&name)).is_none_or(|it| it.ended_at <= alert.ended_at);
        if is_later {
            self.ended.insert(name, alert);
        }
    }

    pub fn open(&self, name: &str) -> Option<&Alert> {
        self.open.get(name)
    }

    /// The last episode of this name that ended.
    pub(crate) fn ended(&self, name: &str) -> Option<&Alert> {
        self.ended.get(name)
    }

    pub fn all_open(&self) -> impl Iterator<Item = &Alert> {
        self.open.values()
    }

    /// Open alerts, and those that have ended.
    pub fn all(&self) -> impl Iterator<Item = &Alert> {
        self.open.values().chain(self.ended.values())
    }
}

impl Alert {
    /// Times ahead of `now` count as now.
    fn clamp(&mut self, now: DateTime<Utc>) {
        self.began_at = self.began_at.min(now);
        for at in [
            &mut self.waits_from,
            &mut self.gone_at,
            &mut self.told_at,
            &mut self.ended_at,
            &mut self.acknowledged_at,
        ] {
            *at = at.map(|at| at.min(now));
        }
    }
}
