//! Metrics of the reconciler in Prometheus format.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use parking_lot::Mutex;
use strum::VariantArray as _;

use crate::report::{Finding, Kind, Outcome, Run, Status, Trigger};

/// The type of a metric.
enum Type {
    Counter,
    Gauge,
    Histogram,
}

/// All metrics, including those of mails, and their meaning.
#[rustfmt::skip]
const METRICS: [(Type, &str, &str); 14] = [
    (Type::Counter, "firstcome_passes_total", "Passes that ended, by trigger and status"),
    (Type::Counter, "firstcome_findings_total", "Drift that passes found, by kind"),
    (Type::Counter, "firstcome_repairs_total", "Findings by kind and result: applied, planned, skipped, failed"),
    (Type::Counter, "firstcome_mails_total", "Attempts to send a mail, by result: sent, retried, given_up"),
    (Type::Counter, "firstcome_webhooks_total", "Attempts to post an event, by result: sent, retried, given_up"),
    (Type::Counter, "firstcome_page_looks_total", "Reads of the stores for GET /v1/overview, which the operations page shows"),
    (Type::Histogram, "firstcome_pass_seconds", "Length of passes"),
    (Type::Histogram, "firstcome_pass_stage_seconds", "Length of the stages of passes, by stage"),
    (Type::Gauge, PASS_STARTED, "When the pass that runs now began, in Unix time; 0 if none runs"),
    (Type::Gauge, LAST_SUCCESS, "When a pass over everything of this process last ended well, in Unix time; 0 if none did"),
    (Type::Gauge, "firstcome_mails_waiting", "Mails in the outbox that are not sent yet"),
    (Type::Gauge, "firstcome_webhooks_waiting", "Events in the outbox that are not posted yet, all targets together"),
    (Type::Gauge, "firstcome_alerts", "Problems that were mailed and are not over, by kind; a silenced one is not counted"),
    (Type::Gauge, "firstcome_redis_managed", "1 if nothing checks that Redis is durable (REDIS_DURABILITY=managed)"),
];

const PASS_STARTED: &str = "firstcome_pass_start_timestamp_seconds";
const LAST_SUCCESS: &str = "firstcome_pass_last_success_timestamp_seconds";

/// Describes all metrics. Counters of failures start at zero, so that an alert notices the first
/// failure.
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
    pass_under_way(None);
    gauge!(LAST_SUCCESS).set(0.0);
}

pub(crate) fn pass(run: &Run, took: Duration) {
    counter!("firstcome_passes_total", "trigger" => run.trigger.as_str(), "status" => run.status.as_str()).increment(1);
    histogram!("firstcome_pass_seconds").record(took.as_secs_f64());
    for finding in run.all_findings() {
        counter!("firstcome_findings_total", "kind" => finding.kind.as_str())
            .increment(finding.case.number());
        counter!("firstcome_repairs_total", "kind" => finding.kind.as_str(), "result" => finding.result.as_str())
            .increment(finding.case.number());
    }
    if run.ended_well() {
        #[allow(clippy::cast_precision_loss)]
        gauge!(LAST_SUCCESS).set(run.finished_at.unwrap_or(run.started_at).timestamp() as f64);
    }
}

/// Records that a pass began or ended.
#[allow(clippy::cast_precision_loss)] // until the year 287,000
pub(crate) fn pass_under_way(since: Option<DateTime<Utc>>) {
    gauge!(PASS_STARTED).set(since.map_or(0.0, |at| at.timestamp_millis() as f64 / 1e3));
}

/// The drift that passes left in drops, exported as the series `firstcome_drift`. A gauge of the
/// recorder would keep the series of every drop forever; here a series ends when its drop has no
/// drift.
#[derive(Debug, Default)]
pub(crate) struct DriftSeries(Mutex<BTreeMap<(CouponId, DropId), Left>>);

#[derive(Debug)]
struct Left {
    findings: usize,
    /// Only deep passes examine the drop.
    sealed: bool,
    seen_at: DateTime<Utc>,
}

impl DriftSeries {
    pub(crate) fn after(&self, run: &Run) {
        // A dry run leaves drift that the next pass repairs, so it does not show the remaining
        // drift.
        if run.status == Status::Failed || run.dry_run {
            return;
        }
        let mut known = self.0.lock();
        if !run.partial {
            known.retain(|_, left| left.sealed && !run.deep);
        }
        for drop in &run.drops {
            let is_left = |it: &&Finding| it.result != Outcome::Applied;
            let left = Left {
                findings: drop.findings.iter().filter(is_left).count(),
                sealed: drop.sealed,
                seen_at: run.started_at,
            };
            let place = (drop.coupon_id, drop.drop_id);
            if left.findings == 0 || (drop.sealed && drop.exact) {
                known.remove(&place);
            } else {
                known.insert(place, left);
            }
        }
    }

    /// Ends this process's series after a scheduled pass of another process, which now exports the
    /// remaining drift. Otherwise the series would stay for as long as the other process runs the
    /// passes.
    pub(crate) fn made_elsewhere(&self, ended: DateTime<Utc>, is_deep: bool) {
        self.0
            .lock()
            .retain(|_, left| left.seen_at > ended || left.sealed && !is_deep);
    }

    pub(crate) fn render(&self) -> String {
        let mut text = "# HELP firstcome_drift Findings that the last pass left, by coupon and drop\n# TYPE firstcome_drift gauge\n".to_owned();
        for ((coupon, drop), left) in &*self.0.lock() {
            // Writing to a `String` does not fail.
            let _ = writeln!(
                text,
                "firstcome_drift{{coupon=\"{coupon}\",drop=\"{drop}\"}} {}",
                left.findings
            );
        }
        text
    }
}

/// Counts a read of the stores for `GET /v1/overview`.
pub(crate) fn overview_look() {
    counter!("firstcome_page_looks_total").increment(1);
}

/// Records the duration of one stage of a pass.
pub(crate) fn stage(name: &'static str, took: Duration) {
    histogram!("firstcome_pass_stage_seconds", "stage" => name).record(took.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::DropReport;

    fn run(partial: bool, drops: &[(i64, usize, bool, bool)], deep: bool) -> Run {
        let finding = Finding::report(Kind::Unfilled, String::new());
        let report = |&(drop, left, exact, sealed): &(i64, usize, bool, bool)| DropReport {
            exact,
            sealed,
            findings: vec![finding.clone(); left],
            ..DropReport::begun(CouponId(1), DropId(drop), 9)
        };
        Run {
            deep,
            partial,
            status: Status::Drift,
            drops: drops.iter().map(report).collect(),
            ..Run::begun("", Trigger::Cron, chrono::Utc::now())
        }
    }

    fn series(drift: &DriftSeries) -> Vec<String> {
        let text = drift.render();
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("firstcome_drift{coupon=\"1\",drop="));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn drift_series_ends_when_its_drop_has_no_drift_left() {
        let drift = DriftSeries::default();
        let seen = |partial, deep, drops: &[_]| {
            drift.after(&run(partial, drops, deep));
            series(&drift)
        };
        assert_eq!(
            seen(false, false, &[(7, 2, false, false), (8, 0, true, false)]),
            ["\"7\"} 2"]
        );
        assert_eq!(
            seen(true, false, &[(8, 1, true, false)]),
            ["\"7\"} 2", "\"8\"} 1"],
            "a pass over one drop"
        );
        assert_eq!(
            seen(false, false, &[(8, 1, true, true)]),
            [""; 0],
            "one is not examined, one closed below its quantity"
        );
        assert_eq!(
            seen(false, true, &[(9, 1, false, true)]),
            ["\"9\"} 1"],
            "a sealed drop with rows gone"
        );
        assert_eq!(
            seen(false, false, &[]),
            ["\"9\"} 1"],
            "only a deep pass looks at it again"
        );
        assert_eq!(seen(false, true, &[]), [""; 0]);
    }

    #[test]
    fn later_run_of_another_process_ends_a_drift_series_but_dry_run_does_not() {
        let drift = DriftSeries::default();
        let seen = run(false, &[(7, 1, false, false), (9, 1, false, true)], true);
        drift.after(&seen);
        drift.after(&Run {
            dry_run: true,
            ..run(false, &[(8, 1, false, false)], true)
        });
        assert_eq!(series(&drift), ["\"7\"} 1", "\"9\"} 1"]);
        drift.made_elsewhere(seen.started_at - chrono::TimeDelta::seconds(1), true);
        assert_eq!(series(&drift), ["\"7\"} 1", "\"9\"} 1"], "an earlier one");
        let later = seen.started_at + chrono::TimeDelta::seconds(1);
        drift.made_elsewhere(later, false);
        assert_eq!(
            series(&drift),
            ["\"9\"} 1"],
            "only a deep pass looks at a sealed drop"
        );
        drift.made_elsewhere(later, true);
        assert_eq!(series(&drift), [""; 0]);
    }
}
