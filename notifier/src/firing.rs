//! Updates two gauges from MySQL. `firstcome_alerts` counts the open alerts that were mailed, by kind
//! and state. `firstcome_drift` counts what the last looks found and did not repair, by kind. The
//! rules in deploy/prometheus/rules.yml turn both into alerts of Alertmanager.

use std::collections::BTreeMap;
use std::time::Duration;

use firstcome_shared::mysql::{Db, DbResult};
use firstcome_shared::report::AlertKind;
use metrics::gauge;
use tokio_util::sync::CancellationToken;

use crate::queries::alerts::{STATES, alerts_by_kind, drift_by_kind};

/// Interval of updates. Prometheus scrapes about as often.
const PAUSE: Duration = Duration::from_secs(15);

/// The numbers of both gauges.
struct Shown {
    /// By kind and state.
    alerts: BTreeMap<(String, &'static str), i64>,
    /// By kind of finding.
    drift: BTreeMap<String, i64>,
}

/// Updates the gauges until `shutdown`. Every reconciler does this, so that all report the same
/// values, no matter which of them runs the passes. While MySQL is unavailable, the last values
/// stay.
pub(crate) async fn watch(db: &Db, shutdown: &CancellationToken) {
    let mut shown = Shown::new();
    loop {
        if let Err(error) = update(db, &mut shown).await {
            tracing::debug!(%error, "alerts can't be counted");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn update(db: &Db, shown: &mut Shown) -> DbResult<()> {
    let alerts = alerts_by_kind(db).await?;
    shown.count(alerts, drift_by_kind(db).await?);
    shown.export();
    Ok(())
}

impl Shown {
    /// Starts every series at 0, since a rule can only compare one that exists.
    fn new() -> Self {
        let mut alerts = BTreeMap::new();
        let mut drift = BTreeMap::new();
        for kind in AlertKind::all() {
            let word = kind.word();
            alerts.extend(STATES.map(|state| ((word.to_owned(), state), 0)));
            if let AlertKind::Left(_) = kind {
                drift.insert(word.to_owned(), 0);
            }
        }
        Self { alerts, drift }
    }

    /// Replaces the numbers. A kind without alerts stays as 0.
    fn count(&mut self, alerts: Vec<(String, &'static str)>, drift: Vec<(String, i64)>) {
        self.alerts.values_mut().for_each(|number| *number = 0);
        self.drift.values_mut().for_each(|number| *number = 0);
        for (kind, state) in alerts {
            *self.alerts.entry((kind, state)).or_default() += 1;
        }
        // Other levels are no findings, such as repairs that are to be mailed.
        for (kind, number) in drift {
            self.drift.entry(kind).and_modify(|shown| *shown = number);
        }
    }

    #[allow(clippy::cast_precision_loss)] // a gauge is a float; no table has 2^52 alerts
    fn export(&self) {
        for ((kind, state), number) in &self.alerts {
            gauge!("firstcome_alerts", "kind" => kind.clone(), "state" => *state)
                .set(*number as f64);
        }
        for (kind, number) in &self.drift {
            gauge!("firstcome_drift", "kind" => kind.clone()).set(*number as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_whose_alerts_have_ended_stays_in_the_gauges_as_zero() {
        let mut shown = Shown::new();
        for kind in ["unissued", "stalled", "repaired"] {
            let alert = (kind.to_owned(), "firing");
            let drift = (kind.to_owned(), 3);
            shown.count(vec![alert.clone(), alert], vec![drift]);
            let firing = |kind: &str| shown.alerts[&(kind.to_owned(), "firing")];
            assert_eq!(firing("unissued"), if kind == "unissued" { 2 } else { 0 });
            let left: i64 = shown.drift.values().sum();
            assert_eq!(left, if kind == "repaired" { 0 } else { 3 }, "{kind}");
        }
    }
}
