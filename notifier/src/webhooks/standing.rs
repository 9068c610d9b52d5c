//! How it is with an Alertmanager, for the operations page. In memory, not in a table: each process
//! tells it by itself, and its last answer says all, as the whole list is sent each time.

use chrono::{DateTime, Utc};

/// How it is with one Alertmanager, as this process tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertmanagerStanding {
    /// Host and fingerprint of its address.
    pub target: String,
    /// Alerts in the last list.
    pub alerts: usize,
    /// When it last took a list.
    pub told_at: Option<DateTime<Utc>>,
    /// It took none since then.
    pub refused: Option<RefusedList>,
}

/// Lists that were not taken, without a break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedList {
    pub since: DateTime<Utc>,
    pub last_at: DateTime<Utc>,
    pub attempts: u64,
    /// What came back last.
    pub answer: String,
}

impl AlertmanagerStanding {
    pub(super) fn of(target: &str) -> Self {
        Self {
            target: target.to_owned(),
            alerts: 0,
            told_at: None,
            refused: None,
        }
    }

    /// Where there was nothing to tell, nobody was asked.
    pub(super) fn note(&mut self, alerts: usize, told: &Result<(), String>, now: DateTime<Utc>) {
        self.alerts = alerts;
        match told {
            Ok(()) if alerts == 0 => {}
            Ok(()) => (self.told_at, self.refused) = (Some(now), None),
            Err(answer) => {
                let (since, attempts) = self
                    .refused
                    .as_ref()
                    .map_or((now, 0), |one| (one.since, one.attempts));
                self.refused = Some(RefusedList {
                    since,
                    last_at: now,
                    attempts: attempts + 1,
                    answer: answer.clone(),
                });
            }
        }
    }
}
