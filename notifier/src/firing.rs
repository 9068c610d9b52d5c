//! Updates the gauge `firstcome_alerts`: the number of firing alerts of each kind for which a mail
//! was due, read from MySQL. Prometheus rules turn it into alerts for Alertmanager
//! (deploy/prometheus/rules.yml).

use std::collections::BTreeMap;
use std::time::Duration;

use firstcome_shared::mysql::Db;
use firstcome_shared::report::AlertKind;
use metrics::gauge;
use tokio_util::sync::CancellationToken;

/// Interval of updates. Prometheus scrapes about as often.
const PAUSE: Duration = Duration::from_secs(15);

/// Updates the gauge until `shutdown`. Every reconciler does this, so that all report the same
/// values, no matter which of them runs the passes. While MySQL is unavailable, the last values
/// stay.
pub(crate) async fn watch(db: &Db, shutdown: &CancellationToken) {
    // Start every kind at 0, since a rule can only compare a series that exists.
    let kinds = AlertKind::all().map(|kind| (kind.word().to_owned(), 0));
    let mut shown: BTreeMap<String, i64> = kinds.collect();
    loop {
        match db.firing_by_kind().await {
            Ok(firing) => show(&mut shown, firing),
            Err(error) => tracing::debug!(%error, "firing alerts can't be counted"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Sets the gauge. A kind without firing alerts stays in it as 0.
fn show(shown: &mut BTreeMap<String, i64>, firing: Vec<(String, i64)>) {
    for count in shown.values_mut() {
        *count = 0;
    }
    shown.extend(firing);
    for (kind, count) in shown {
        #[allow(clippy::cast_precision_loss)] // a gauge is a float; no table has 2^52 alerts
        gauge!("firstcome_alerts", "kind" => kind.clone()).set(*count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_whose_alerts_have_ended_stays_in_the_gauge_as_zero() {
        let mut shown = BTreeMap::new();
        show(&mut shown, vec![("braked".to_owned(), 2)]);
        show(&mut shown, vec![("stalled".to_owned(), 1)]);
        let expected = [("braked".to_owned(), 0), ("stalled".to_owned(), 1)];
        assert_eq!(shown, expected.into());
    }
}
