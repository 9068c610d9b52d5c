//! The metrics of `serve`.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};

use super::auth::problem;
use super::claim::outcome;

/// Describes all metrics. Counters of failures start at zero, so that an alert sees the first.
#[allow(clippy::too_many_lines, reason = "one description a metric")]
pub(super) fn describe() {
    for (name, meaning) in [
        (
            "firstcome_claims_shed_total",
            "Claims refused because too many were in flight",
        ),
        (
            "firstcome_questions_shed_total",
            "Reads of claims refused because too many were in flight",
        ),
        (
            "firstcome_claims_not_queued_total",
            "Admissions that Kafka had not acknowledged in time",
        ),
        (
            "firstcome_claims_backed_up_total",
            "Coupons that the API issued itself, because Kafka did not acknowledge the claims",
        ),
        (
            "firstcome_claims_not_held_total",
            "Admissions answered 503: neither Kafka nor MySQL took them in time",
        ),
    ] {
        describe_counter!(name, meaning);
        counter!(name).absolute(0);
    }
    outcome::describe();
    problem::describe();
    describe_counter!(
        "firstcome_http_requests_total",
        "Requests, by method, route and status"
    );
    for (name, meaning) in [
        (
            "firstcome_http_request_seconds",
            "Time to answer, by method and route",
        ),
        (
            "firstcome_admission_seconds",
            "Time of one call to Redis that admits or refuses",
        ),
        (
            "firstcome_publish_seconds",
            "Time until Kafka acknowledges an admission",
        ),
    ] {
        describe_histogram!(name, Unit::Seconds, meaning);
    }
    describe_histogram!(
        "firstcome_admission_batch_claims",
        "Claims that one call to Redis admitted or refused"
    );
    for (name, meaning) in [
        (
            "firstcome_claims_in_hand",
            "Claims in flight; read once a second",
        ),
        (
            "firstcome_admission_open",
            "1 while Redis answers and the gate is open",
        ),
        ("firstcome_redis_up", "1 while Redis answers"),
        (
            "firstcome_redis_managed",
            "1 if nothing checks that Redis is durable (REDIS_DURABILITY=managed)",
        ),
        ("firstcome_catalogue_coupons", "Live coupons in memory"),
        ("firstcome_kafka_up", "1 if Kafka accepted the last claim"),
        (
            "firstcome_jwt_keys_up",
            "1 if the last read of the JWK Set succeeded",
        ),
        (
            "firstcome_mysql_up",
            "1 if MySQL answered when coupons were last read",
        ),
    ] {
        describe_gauge!(name, meaning);
    }
    // Updated only when it changes.
    gauge!("firstcome_kafka_up").set(1.0);
    let read_at = "When the coupons in memory were last read from MySQL, in Unix time";
    describe_gauge!(
        "firstcome_catalogue_read_timestamp_seconds",
        Unit::Seconds,
        read_at
    );
    describe_gauge!(
        "firstcome_catalogue_refresh_seconds",
        Unit::Seconds,
        "Time of the last refresh of coupons"
    );
    let success = "When a full pass last succeeded, in Unix time; 0 if none ever did";
    describe_gauge!(
        "firstcome_pass_last_success_timestamp_seconds",
        Unit::Seconds,
        success
    );
    let silence = "Time since the last successful full pass; infinite if there was none. Obsolete: use the timestamp";
    describe_gauge!(
        "reconciler_last_success_age_seconds",
        Unit::Seconds,
        silence
    );
}
