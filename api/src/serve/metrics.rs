//! The metrics of `serve`. Counters of failures start at zero, so that an alert sees the first.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};

pub(super) fn describe() {
    describe_counter!("firstcome_claims_total", "Claims worked, by outcome");
    describe_counter!("firstcome_claims_shed_total", "Claims refused because too many were in hand");
    describe_counter!("firstcome_claims_not_queued_total", "Admissions that Kafka had not acknowledged in time");
    describe_counter!("firstcome_claims_backed_up_total", "Admissions kept in the backup table instead of the topic");
    describe_counter!(
        "firstcome_claims_not_held_total",
        "Admissions answered 503, because neither Kafka nor the backup table took them in time"
    );
    describe_counter!(
        "firstcome_producer_renewals_total",
        "Times the Kafka producer had failed for good and was replaced"
    );
    describe_counter!("firstcome_drop_making_failures_total", "Times daily drops could not be made ahead");
    describe_counter!("firstcome_http_requests_total", "Requests, by method, route and status");
    describe_histogram!("firstcome_http_request_seconds", Unit::Seconds, "Time to answer, by method and route");
    describe_histogram!(
        "firstcome_admission_seconds",
        Unit::Seconds,
        "Time of one call to Redis that admits or refuses"
    );
    describe_histogram!("firstcome_admission_batch_claims", "Claims that one call to Redis admitted or refused");
    describe_histogram!("firstcome_publish_seconds", Unit::Seconds, "Time until Kafka acknowledges an admission");
    describe_gauge!(
        "firstcome_claims_in_hand",
        "Claims, and questions about claims, worked on at the last look, one a second"
    );
    describe_gauge!("firstcome_admission_open", "1 while Redis answers and the gate is open");
    describe_gauge!("firstcome_redis_up", "1 while Redis answers");
    describe_gauge!("firstcome_mysql_up", "1 while the last reading of coupons succeeded");
    describe_gauge!("firstcome_catalogue_age_seconds", Unit::Seconds, "Age of the coupons in memory");
    let silence = "Time since the reconciler last ended a pass well; infinite where it never has";
    describe_gauge!("reconciler_last_success_age_seconds", Unit::Seconds, silence);
    for name in [
        "firstcome_claims_shed_total",
        "firstcome_claims_not_queued_total",
        "firstcome_claims_backed_up_total",
        "firstcome_claims_not_held_total",
        "firstcome_producer_renewals_total",
        "firstcome_drop_making_failures_total",
    ] {
        counter!(name).absolute(0);
    }
}
