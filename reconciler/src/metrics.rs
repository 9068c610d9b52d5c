//! Metrics of the reconciler in Prometheus format.

use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use strum::VariantArray as _;

use crate::report::{DropReport, Finding, Kind, Outcome, Run, Status, Trigger};

/// The type of a metric.
enum Type {
    Counter,
    Gauge,
    Histogram,
}

/// All metrics, including those of mails, and their meaning.
#[rustfmt::skip]
const METRICS: [(Type, &str, &str); 13] = [
    (Type::Counter, "firstcome_passes_total", "Passes that ended, by trigger and status"),
    (Type::Counter, "firstcome_findings_total", "Drift that passes found, by kind"),
    (Type::Counter, "firstcome_repairs_total", "Findings by kind and result: applied, planned, skipped, failed"),
    (Type::Counter, "firstcome_mails_total", "Attempts to send a mail, by result: sent, retried, given_up"),
    (Type::Counter, "firstcome_webhooks_total", "Attempts to post an event, by result: sent, retried, given_up"),
    (Type::Histogram, "firstcome_pass_seconds", "Length of passes"),
    (Type::Gauge, "firstcome_drift", "Findings that the last pass over everything left, by kind; apart for sealed drops, which only deep passes see"),
    (Type::Gauge, PASS_STARTED, "When the pass that runs now began, in Unix time; 0 if none runs"),
    (Type::Gauge, LAST_SUCCESS, "When a pass over everything of this process last ended well, in \
        Unix time; 0 if none did"),
    (Type::Gauge, "firstcome_mails_waiting", "Mails in the outbox that are not sent yet"),
    (Type::Gauge, "firstcome_webhooks_waiting", "Events in the outbox that are not posted yet, all targets together"),
    (Type::Gauge, "firstcome_alerts", "Problems that were mailed and are not over, by kind and state: firing, quiet, explained, acknowledged"),
    (Type::Gauge, "firstcome_redis_managed", "1 if nothing checks that Redis is durable (REDIS_DURABILITY=managed)"),
];

const PASS_STARTED: &str = "firstcome_pass_start_timestamp_seconds";
const LAST_SUCCESS: &str = "firstcome_pass_last_success_timestamp_seconds";

/// Describes all metrics. Counters start at zero, so that an alert notices the first failure.
pub(crate) fn describe() {
    for (kind, name, meaning) in METRICS {
        match kind {
            Type::Counter => describe_counter!(name, meaning),
            Type::Gauge => describe_gauge!(name, meaning),
            Type::Histogram => describe_histogram!(name, meaning),
        }
    }
    for result in ["sent", "retried", "given_up"] {
        counter!("firstcome_mails_total", "result" => result).absolute(0);
        counter!("firstcome_webhooks_total", "result" => result).absolute(0);
    }
    for trigger in [Trigger::Cron, Trigger::Endpoint, Trigger::Startup] {
        for status in Status::VARIANTS.iter().filter(|it| **it != Status::Running) {
            counter!("firstcome_passes_total", "trigger" => trigger.as_str(), "status" => status.as_str()).absolute(0);
        }
    }
    for kind in Kind::VARIANTS {
        counter!("firstcome_findings_total", "kind" => kind.as_str()).absolute(0);
        for result in Outcome::VARIANTS {
            counter!("firstcome_repairs_total", "kind" => kind.as_str(), "result" => result.as_str()).absolute(0);
        }
    }
    drift(None, true);
    pass_under_way(None);
    gauge!(LAST_SUCCESS).set(0.0);
}

pub(crate) fn pass(run: &Run, took: Duration) {
    counter!("firstcome_passes_total", "trigger" => run.trigger.as_str(), "status" => run.status.as_str()).increment(1);
    histogram!("firstcome_pass_seconds").record(took.as_secs_f64());
    for finding in run.all_findings() {
        let kind = finding.kind.as_str();
        let result = finding.result.as_str();
        let number = finding.cause.number();
        counter!("firstcome_findings_total", "kind" => kind).increment(number);
        counter!("firstcome_repairs_total", "kind" => kind, "result" => result).increment(number);
    }
    if exports_drift(run) {
        drift(Some(run), run.deep);
    }
    if run.ended_well() {
        #[allow(clippy::cast_precision_loss)]
        gauge!(LAST_SUCCESS).set(run.finished_at.unwrap_or(run.started_at).timestamp() as f64);
    }
}

/// Whether the drift that a run left is exported. A dry run leaves drift that the next pass
/// repairs.
pub(crate) fn exports_drift(run: &Run) -> bool {
    run.status != Status::Failed && !run.dry_run && !run.partial
}

/// Records that a pass began or ended.
#[allow(clippy::cast_precision_loss)] // until the year 287,000
pub(crate) fn pass_under_way(since: Option<DateTime<Utc>>) {
    gauge!(PASS_STARTED).set(since.map_or(0.0, |at| at.timestamp_millis() as f64 / 1e3));
}

/// Exports the drift that a pass over everything left, by kind. Without a run, exports zero: no
/// pass has ended yet, or another process has made it and exports its drift.
#[allow(clippy::cast_precision_loss)] // counts
pub(crate) fn drift(run: Option<&Run>, is_deep: bool) {
    for kind in Kind::VARIANTS {
        // Only deep passes see sealed drops.
        for sealed in [false, true].into_iter().filter(|it| is_deep || !it) {
            let left = run.map_or(0, |run| left(run, *kind, sealed));
            gauge!("firstcome_drift", "kind" => kind.as_str(), "sealed" => sealed.to_string())
                .set(left as f64);
        }
    }
}

/// Counts the findings of a kind that a run left in drops. Those of a sealed drop that is exact do
/// not count: they say, for example, that it was closed below its quantity.
fn left(run: &Run, kind: Kind, sealed: bool) -> usize {
    let findings = run
        .drops
        .iter()
        .filter(|it: &&DropReport| it.sealed == sealed && !(sealed && it.exact))
        .flat_map(|drop| &drop.findings);
    findings
        .filter(|it: &&Finding| it.kind == kind && it.result != Outcome::Applied)
        .count()
}

#[cfg(test)]
mod tests {
    use firstcome_shared::domain::{CouponId, DropId};

    use super::*;

    #[test]
    fn drift_excludes_repaired_findings_and_sealed_drops_that_are_exact() {
        let drops = [
            (Kind::Unissued, Outcome::Failed, false, false),
            (Kind::Unissued, Outcome::Applied, false, false),
            (Kind::Unissued, Outcome::Failed, true, false),
            (Kind::Unfilled, Outcome::Skipped, true, true),
            (Kind::Unfilled, Outcome::Skipped, false, true),
        ];
        let drops = drops.map(|(kind, result, sealed, exact)| {
            let finding = Finding::report(kind, String::new());
            DropReport {
                exact,
                sealed,
                findings: vec![Finding { result, ..finding }],
                ..DropReport::begun(CouponId(1), DropId(7), 9)
            }
        });
        let run = Run {
            drops: drops.into(),
            ..Run::begun("", Trigger::Cron, Utc::now())
        };
        let left = |kind| [false, true].map(|sealed| left(&run, kind, sealed));
        assert_eq!(left(Kind::Unissued), [1, 1]);
        assert_eq!(left(Kind::Unfilled), [1, 0]);
    }
}
