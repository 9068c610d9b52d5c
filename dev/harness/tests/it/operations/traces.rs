//! The trace of a claim, in its answer and at the collector.

use crate::prelude::*;
use crate::receiver::Receiver;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test]
async fn a_trace_follows_a_claim_to_its_answer_and_the_collector_and_names_no_user() {
    let world = World::new("traced").await;
    let collector = Receiver::start().await;
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url().as_str()),
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ] {
        world.set(name, value);
    }
    let (api, _consumer) = tokio::join!(world.serve(), world.consume());
    let coupon = api.open_coupon(5).await;
    let request = api.claim_request(coupon.id, "u-secret-1");
    let request = request.header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
    let reply = Http::send(request).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    all_issued(&world, coupon.drop, 1).await;

    // The answer names its span. The collector gets both ids as bytes.
    let own = reply.headers["traceparent"].to_str().unwrap();
    let span = own.split('-').nth(2).unwrap();
    let bytes = |hex: &str| -> Vec<u8> {
        let at = (0..hex.len()).step_by(2);
        at.map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    };
    let id = reply.headers["x-request-id"].as_bytes().to_vec();
    let name = b"POST /v1/coupons/{id}/claims".to_vec();
    let parts = [
        bytes(TRACE),
        bytes(span),
        id,
        name,
        b"firstcome-api".to_vec(),
    ];
    let has = |request: &[u8], part: &[u8]| request.windows(part.len()).any(|it| it == part);
    eventually("the span of the claim is exported", LIMIT, async || {
        let requests = collector.requests();
        requests
            .iter()
            .any(|request| parts.iter().all(|part| has(request, part)))
    })
    .await;
    let is_named = collector
        .requests()
        .iter()
        .any(|request| has(request, b"u-secret"));
    assert!(!is_named, "a span names a user");
}
