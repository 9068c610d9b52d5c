//! The metrics of `serve`. Each thread keeps the series that it has looked up by their labels: a
//! look-up takes a tenth of the time that the answer to a loser takes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use axum::http::StatusCode;
use firstcome_shared::trace::Route;
use metrics::{Counter, Histogram, counter, histogram};

use crate::metrics::describe_all;

const METRICS: &str = "\
counter firstcome_claims_shed_total Claims refused because too many were in flight
counter firstcome_publish_failures_total Admissions that could not be sent to Kafka, or that it had not acknowledged in time
counter firstcome_claims_fallback_total Claims that the API wrote to MySQL itself, because Kafka did not acknowledge them
counter firstcome_claims_not_durable_total Admissions answered 503: neither Kafka nor MySQL took them in time
counter firstcome_claims_from_memory_total Claims answered sold_out without Redis, which leased the drop
labelled firstcome_claims_total Claims processed, by outcome
counter firstcome_wrong_codes_total Requests with a code that no coupon has
counter firstcome_uses_of_other_shops_total Repeated uses of a code by another shop, whose order has the same number
labelled firstcome_tokens_refused_total Requests refused because of their token, by reason
labelled firstcome_http_requests_total Requests, by method, route and status
histogram firstcome_http_request_seconds Time to answer, by method and route
histogram firstcome_admission_seconds Time of one call to Redis that admits or refuses
histogram firstcome_publish_seconds Time until Kafka acknowledges an admission
histogram firstcome_admission_batch_claims Claims that one call to Redis admitted or refused
gauge firstcome_claims_in_flight Claims in flight; read once a second
gauge firstcome_admission_open 1 while the gate of every open coupon is open
gauge firstcome_redis_up 1 while Redis takes writes
gauge firstcome_redis_managed 1 if nothing checks that Redis is durable (REDIS_DURABILITY=managed)
gauge firstcome_kafka_up 1 if Kafka accepted the last claim, or answered the last check of the topic
gauge firstcome_jwt_keys_up 1 if the last read of the JWK Set succeeded
gauge firstcome_mysql_up 1 if MySQL took writes when coupons were last read
gauge firstcome_catalogue_coupons Live coupons in memory
gauge firstcome_catalogue_read_timestamp_seconds When the coupons in memory were last read from MySQL, in Unix time
gauge firstcome_catalogue_refresh_seconds Time of the last refresh of coupons
gauge firstcome_pass_last_success_timestamp_seconds When a full pass last succeeded, in Unix time; 0 if none ever did
gauge reconciler_last_success_age_seconds Time since the last successful full pass; infinite if there was none. Obsolete: use the timestamp";

pub(super) fn describe() {
    describe_all(METRICS);
    // Begin at 0, because a counter that first appears at 1 hides its first increase.
    claims_counter("accepted").absolute(0);
}

/// The series of the responses with one method and status.
struct ResponseSeries {
    method: &'static str,
    status: StatusCode,
    seconds: Histogram,
    responses: Counter,
}

thread_local! {
    static RESPONSES: RefCell<HashMap<String, Vec<ResponseSeries>>> = RefCell::default();
    static CLAIMS: RefCell<Vec<(&'static str, Counter)>> = const { RefCell::new(Vec::new()) };
}

/// Counts a response by route and status, and records how long it took.
pub(super) fn record_response(route: Route<'_>, status: StatusCode, took: Duration) {
    let Route { method, path } = route;
    RESPONSES.with_borrow_mut(|by_path| {
        let known = by_path.get(path).and_then(|of_path| {
            let mut of_path = of_path.iter();
            of_path.find(|series| series.status == status && series.method == method)
        });
        if let Some(series) = known {
            series.record(took);
            return;
        }
        let series = ResponseSeries::find(route, status);
        series.record(took);
        by_path.entry(path.to_owned()).or_default().push(series);
    });
}

impl ResponseSeries {
    fn find(route: Route<'_>, status: StatusCode) -> Self {
        let Route { method, path } = route;
        let path = path.to_owned();
        let code = status.as_str().to_owned();
        let labels = [("method", method.to_owned()), ("path", path.clone())];
        Self {
            method,
            status,
            seconds: histogram!("firstcome_http_request_seconds", &labels),
            responses: counter!(
                "firstcome_http_requests_total",
                "method" => method, "path" => path, "status" => code
            ),
        }
    }

    fn record(&self, took: Duration) {
        self.seconds.record(took);
        self.responses.increment(1);
    }
}

fn claims_counter(outcome: &'static str) -> Counter {
    counter!("firstcome_claims_total", "outcome" => outcome)
}

pub(super) fn record_claim(outcome: &'static str) {
    CLAIMS.with_borrow_mut(|known| {
        if let Some((_, counter)) = known.iter().find(|(of, _)| *of == outcome) {
            counter.increment(1);
            return;
        }
        let counter = claims_counter(outcome);
        counter.increment(1);
        known.push((outcome, counter));
    });
}
