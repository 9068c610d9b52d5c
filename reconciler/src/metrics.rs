//! The reconciler's metrics, for Prometheus.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::report::{Outcome, Run};

/// Describes all metrics, those of mails too. Counters of failures start at zero, so that an alert
/// sees the first.
pub(crate) fn describe() {
    for (name, meaning) in [
        ("firstcome_passes_total", "Passes that ended, by trigger and status"),
        ("firstcome_findings_total", "Drift that passes found, by kind"),
        ("firstcome_repairs_total", "Findings by kind and result: applied, planned, skipped, failed"),
        ("firstcome_mails_total", "Attempts to send a mail, by result: sent, retried, given_up"),
    ] {
        describe_counter!(name, meaning);
    }
    for result in ["sent", "retried", "given_up"] {
        counter!("firstcome_mails_total", "result" => result).absolute(0);
    }
    for trigger in ["cron", "endpoint", "startup"] {
        counter!("firstcome_passes_total", "trigger" => trigger, "status" => "failed").absolute(0);
    }
    describe_histogram!("firstcome_pass_seconds", Unit::Seconds, "Length of passes");
    describe_histogram!("firstcome_pass_stage_seconds", Unit::Seconds, "Length of the stages of passes, by stage");
    describe_gauge!(
        "firstcome_pass_age_seconds",
        Unit::Seconds,
        "For how long the pass that runs now has been running"
    );
    describe_gauge!("firstcome_drift", "Findings that the last pass left, by coupon and drop");
    describe_gauge!("firstcome_mails_waiting", "Mails in the outbox that are not sent yet");
    let success = "When a pass over everything last ended well, in Unix time";
    describe_gauge!("reconciler_last_success_timestamp_seconds", Unit::Seconds, success);
    describe_gauge!("firstcome_build_info", "Always 1; the version is a label");
    gauge!("firstcome_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

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
