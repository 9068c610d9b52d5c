//! The trace of a claim, from its answer to its row.

use firstcome_stack::OtlpReceiver;
use firstcome_testkit::{Http, LIMIT, World, all_issued};
use serde_json::json;

use crate::drift::support::explained;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

#[tokio::test]
async fn a_trace_follows_a_claim_from_its_answer_to_its_row() {
    let world = World::new("traced").await;
    let collector = OtlpReceiver::start().await.unwrap();
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url().as_str()),
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ] {
        world.set(name, value);
    }
    let (api, _consumer, ()) = tokio::join!(world.serve(), world.consume(), world.open());
    let coupon = api.open_coupon(5).await;
    let request = api.claim_request(coupon.id, "u-secret-1");
    let request = request.header("traceparent", format!("00-{TRACE}-{PARENT}-01"));
    let reply = Http::send(request).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    all_issued(&world, coupon.drop, 1).await;

    let name = "POST /v1/coupons/{id}/claims";
    let is_it = |span: &firstcome_stack::ReceivedSpan| span.trace == TRACE && span.name == name;
    let span = collector.span(name, LIMIT, is_it).await;
    let found = (span.parent.as_str(), span.service.as_str());
    assert_eq!(found, (PARENT, "firstcome-api"));
    for (attribute, value) in [
        ("http.route", "/v1/coupons/{id}/claims"),
        ("http.response.status_code", "202"),
        (
            "firstcome.request_id",
            reply.headers["x-request-id"].to_str().unwrap(),
        ),
    ] {
        assert_eq!(span.attribute(attribute), value, "{attribute} of {span:#?}");
    }
    let own = format!("00-{TRACE}-{}-01", span.id);
    assert_eq!(
        reply.headers["traceparent"], own,
        "the answer names its span"
    );
    let row = "SELECT traceparent FROM issued_coupons";
    let row = world.sql.query(row).await.concat().concat();
    assert!(row.contains(TRACE), "{row}");
    let story = explained(&world, &coupon, "u-secret-1").await;
    assert_eq!(story["trace_ids"], json!([TRACE]), "{story:#}");
    let spans = format!("{:?}", collector.spans());
    assert!(!spans.contains("u-secret"), "a user is named: {spans}");
}
