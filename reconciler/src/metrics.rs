//! The reconciler's metrics, for Prometheus.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use crate::report::{Outcome, Run};

pub(crate) fn pass(run: &Run, took: Duration) {
    counter!("firstcome_passes_total", "trigger" => run.trigger.as_str(), "status" => run.status.as_str()).increment(1);
    histogram!("firstcome_pass_seconds").record(took.as_secs_f64());
    for finding in run.all_findings() {
        counter!("firstcome_findings_total", "kind" => finding.kind.as_str()).increment(1);
        counter!("firstcome_repairs_total", "kind" => finding.kind.as_str(), "result" => finding.result.as_str())
            .increment(1);
    }
    for drop in &run.drops {
        let left = drop.findings.iter().filter(|f| f.result != Outcome::Applied).count();
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        gauge!("firstcome_drift", "coupon" => drop.coupon_id.to_string(), "drop" => drop.drop_id.to_string())
            .set(left as f64);
    }
    if run.ended_well() {
        #[allow(clippy::cast_precision_loss)]
        gauge!("reconciler_last_success_timestamp_seconds")
            .set(run.finished_at.unwrap_or(run.started_at).timestamp() as f64);
    }
}

/// For how long the pass that runs now has been running.
pub(crate) fn pass_age(age: Duration) {
    gauge!("firstcome_pass_age_seconds").set(age.as_secs_f64());
}

/// One stage of a pass took so long.
pub(crate) fn stage(name: &'static str, took: Duration) {
    histogram!("firstcome_pass_stage_seconds", "stage" => name).record(took.as_secs_f64());
}
