//! Metrics of the reconciler in Prometheus format.

use chrono::{DateTime, Utc};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use strum::VariantArray as _;

use crate::report::{Kind, Outcome, Run, Status, Trigger};

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
    (Type::Gauge, "firstcome_drift", "What is wrong as passes saw it last, by kind"),
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
    pass_under_way(None);
    gauge!(LAST_SUCCESS).set(0.0);
}

pub(crate) fn pass(run: &Run) {
    let took = run.finished_at.unwrap_or(run.started_at) - run.started_at;
    counter!("firstcome_passes_total", "trigger" => run.trigger.as_str(), "status" => run.status.as_str()).increment(1);
    histogram!("firstcome_pass_seconds").record(took.to_std().unwrap_or_default().as_secs_f64());
    for finding in run.all_findings() {
        let kind = finding.kind.as_str();
        let result = finding.result.as_str();
        let number = finding.cause.number();
        counter!("firstcome_findings_total", "kind" => kind).increment(number);
        counter!("firstcome_repairs_total", "kind" => kind, "result" => result).increment(number);
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
