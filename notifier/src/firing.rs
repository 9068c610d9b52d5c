//! Updates the gauge `firstcome_alerts`: the number of open alerts of each kind and state for which a
//! mail was due, read from MySQL. Prometheus rules turn it into alerts for Alertmanager
//! (deploy/prometheus/rules.yml).

use std::collections::BTreeMap;
use std::time::Duration;

use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::alerts::{CountedAlerts, STATES};
use firstcome_shared::report::AlertKind;
use metrics::gauge;
use tokio_util::sync::CancellationToken;

/// Interval of updates. Prometheus scrapes about as often.
const PAUSE: Duration = Duration::from_secs(15);

/// Updates the gauge until `shutdown`. Every reconciler does this, so that all report the same
/// values, no matter which of them runs the passes. While MySQL is unavailable, the last values
/// stay.
pub(crate) async fn watch(db: &Db, shutdown: &CancellationToken) {
    // Start every series at 0, since a rule can only compare one that exists.
    let mut shown: BTreeMap<(String, String), i64> = BTreeMap::new();
    for kind in AlertKind::all() {
        shown.extend(STATES.map(|state| ((kind.word().to_owned(), state.to_owned()), 0)));
    }
    loop {
        match db.alerts_by_kind().await {
            Ok(counted) => show(&mut shown, counted),
            Err(error) => tracing::debug!(%error, "alerts can't be counted"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Sets the gauge. A kind without alerts stays in it as 0.
fn show(shown: &mut BTreeMap<(String, String), i64>, counted: Vec<CountedAlerts>) {
    for number in shown.values_mut() {
        *number = 0;
    }
    let counted = counted.into_iter();
    shown.extend(counted.map(|it| ((it.kind, it.state), it.number)));
    for ((kind, state), number) in shown {
        #[allow(clippy::cast_precision_loss)] // a gauge is a float; no table has 2^52 alerts
        gauge!("firstcome_alerts", "kind" => kind.clone(), "state" => state.clone())
            .set(*number as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_whose_alerts_have_ended_stays_in_the_gauge_as_zero() {
        let counted = |kind: &str, number| CountedAlerts {
            kind: kind.to_owned(),
            state: "firing".to_owned(),
            number,
        };
        let mut shown = BTreeMap::new();
        show(&mut shown, vec![counted("braked", 2)]);
        show(&mut shown, vec![counted("stalled", 1)]);
        let expected = [("braked", 0), ("stalled", 1)];
        let expected =
            expected.map(|(kind, number)| ((kind.to_owned(), "firing".to_owned()), number));
        assert_eq!(shown, expected.into());
    }
}
