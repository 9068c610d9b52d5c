//! The alerts about stores that answer with refusals, as other processes and the reconciler's jobs
//! report them, even between two passes that are far apart.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;

use crate::alerts::Problem;
use crate::clock::elapsed;
use crate::record::Seen;
use crate::report::StoreRefusal;

/// How long a refusal must last before it is mailed. A restart of a broker causes one for seconds.
const PATIENCE: TimeDelta = TimeDelta::seconds(20);

/// How often a refusal that lasts is recorded, so that passes do not end its alert.
const CHECK_EVERY: TimeDelta = TimeDelta::seconds(20);

/// The refusals that last, by the names of their alerts.
#[derive(Debug, Default)]
pub(crate) struct RefusalWatch(Mutex<BTreeMap<String, Lasting>>);

#[derive(Debug, Clone)]
struct Lasting {
    problem: Problem,
    since: DateTime<Utc>,
    recorded_at: Option<DateTime<Utc>>,
    is_over: bool,
}

impl RefusalWatch {
    /// Returns what to record now, with the name of the alert.
    pub(crate) fn news(
        &self,
        seen: Vec<(StoreRefusal, String)>,
        now: DateTime<Utc>,
    ) -> Vec<(Seen, String)> {
        let mut lasting = self.0.lock();
        for one in lasting.values_mut() {
            one.is_over = true;
        }
        for (refusal, text) in seen {
            let problem = Problem::refusal(refusal, &text);
            let known = lasting
                .entry(problem.name.clone())
                .or_insert_with(|| Lasting {
                    problem: problem.clone(),
                    since: now,
                    recorded_at: None,
                    is_over: false,
                });
            known.problem = problem;
            known.is_over = false;
        }
        lasting.retain(|_, one| !one.is_over || one.recorded_at.is_some());
        let mut news = Vec::new();
        for (name, one) in lasting.iter() {
            if one.is_over {
                // Passes may have seen since that the store does not answer at all.
                let over = Seen::Over {
                    name: name.clone(),
                    kinds: vec![one.problem.kind],
                };
                news.push((over, name.clone()));
            } else if elapsed(one.since, now) >= PATIENCE
                && one
                    .recorded_at
                    .is_none_or(|at: DateTime<Utc>| elapsed(at, now) >= CHECK_EVERY)
            {
                let outage = Seen::Outage(one.problem.clone(), one.since);
                news.push((outage, name.clone()));
            }
        }
        news
    }

    /// Whether a refusal with this alert was reported last time.
    pub(crate) fn lasts(&self, name: &str) -> bool {
        self.0.lock().get(name).is_some_and(|one| !one.is_over)
    }

    /// Notes that the news of an alert is recorded.
    pub(crate) fn is_recorded(&self, name: &str, now: DateTime<Utc>) {
        let mut lasting = self.0.lock();
        if let Some(one) = lasting.get_mut(name) {
            one.recorded_at = Some(now);
        }
        lasting.retain(|of, one| of != name || !one.is_over);
    }
}
