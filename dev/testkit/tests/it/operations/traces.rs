//! The traces that a collector receives, from a claim's answer to its row or dead letter.

use firstcome_stack::{OtlpReceiver, ReceivedSpan};
use firstcome_testkit::{
    ApiClient, Http, HttpReply, LIMIT, MadeCoupon, Running, World, all_issued, eventually,
    given_out,
};

use crate::drift::support::explained;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.42.0";

/// Creates a world that exports the spans of sampled requests immediately.
async fn traced(name: &str) -> (World, OtlpReceiver, Running<ApiClient>) {
    let world = World::new(name).await;
    let collector = OtlpReceiver::start().await.unwrap();
    world.set("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url());
    world.set("OTEL_TRACES_SAMPLER_ARG", "0");
    world.set("OTEL_BSP_SCHEDULE_DELAY", "50");
    let (api, ()) = tokio::join!(world.serve(), world.open());
    (world, collector, api)
}

/// Sends a claim with this `traceparent`.
async fn claim(api: &ApiClient, user: &str, coupon: &MadeCoupon, traceparent: &str) -> HttpReply {
    let reply = Http::send(
        api.claim_request(coupon.id, user)
            .header("traceparent", traceparent),
    )
    .await;
    assert_eq!(reply.status, 202, "{reply:?}");
    reply
}

/// Returns the `traceparent` of a new trace, and its trace ID.
fn new_trace(sampled: bool) -> (String, String) {
    let trace = format!("{:032x}", rand::random::<u128>() | 1);
    (
        format!("00-{trace}-{PARENT}-{:02x}", u8::from(sampled)),
        trace,
    )
}

fn header<'r>(reply: &'r HttpReply, name: &str) -> &'r str {
    reply
        .headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// Returns the `traceparent` in a user's row.
async fn of_row(world: &World, coupon: &MadeCoupon, user: &str) -> String {
    let sql = format!(
        "SELECT COALESCE(traceparent, '') FROM issued_coupons WHERE drop_id = {} AND user_id = '{user}'",
        coupon.drop
    );
    world.sql.query(&sql).await[0][0].clone()
}

/// Returns the span with this name in a trace.
async fn span(collector: &OtlpReceiver, trace: &str, name: &str) -> ReceivedSpan {
    collector
        .span(&format!("{name} in {trace}"), LIMIT, |span| {
            span.trace == trace && span.name == name
        })
        .await
}

fn assert_has(span: &ReceivedSpan, attributes: &[(&str, &str)]) {
    for (name, value) in attributes {
        assert_eq!(span.attribute(name), *value, "{name} of {span:#?}");
    }
}

#[tokio::test]
async fn a_trace_follows_a_claim_from_its_answer_to_its_row() {
    let (world, collector, api) = traced("traced").await;
    let _consumer = world.consume().await;
    let coupon = api.open_coupon(5).await;
    let reply = claim(
        &api,
        "u-secret-1",
        &coupon,
        &format!("00-{TRACE}-{PARENT}-01"),
    )
    .await;
    all_issued(&world, coupon.drop, 1).await;
    let topic = world.setting("KAFKA_TOPIC");

    let request = span(&collector, TRACE, "POST /v1/coupons/{id}/claims").await;
    assert_eq!(
        header(&reply, "traceparent"),
        format!("00-{TRACE}-{}-01", request.id),
        "the answer names its span"
    );
    assert_eq!(
        (
            request.parent.as_str(),
            request.kind,
            request.service.as_str()
        ),
        (PARENT, 2, "firstcome-api")
    );
    let id = header(&reply, "x-request-id").to_owned();
    let route = "/v1/coupons/{id}/claims";
    let http = [
        ("http.request.method", "POST"),
        ("http.route", route),
        ("http.response.status_code", "202"),
    ];
    assert_has(&request, &http);
    assert_has(
        &request,
        &[("firstcome.request_id", &id), ("url.scheme", "http")],
    );

    let send = span(&collector, TRACE, &format!("send {topic}")).await;
    assert_eq!((&send.parent, send.kind), (&request.id, 4));
    let messaging = |operation| {
        [
            ("messaging.system", "kafka"),
            ("messaging.destination.name", topic.as_str()),
            ("messaging.operation.name", operation),
            ("messaging.operation.type", operation),
        ]
    };
    assert_has(&send, &messaging("send"));
    assert_has(
        &send,
        &[
            ("messaging.kafka.message.key", &format!("{}:1", coupon.id)),
            ("messaging.kafka.offset", "0"),
        ],
    );

    assert_eq!(
        of_row(&world, &coupon, "u-secret-1").await,
        format!("00-{TRACE}-{}-01", send.id)
    );
    let story = explained(&world, &coupon, "u-secret-1").await;
    assert_eq!(story["trace_ids"], serde_json::json!([TRACE]), "{story:#}");
    for span in collector.spans() {
        assert!(
            !format!("{span:?}").contains("u-secret"),
            "a user is named: {span:#?}"
        );
        assert_eq!(span.schema, SCHEMA);
        assert!(
            span.began_ns > 0 && span.began_ns <= span.ended_ns,
            "{span:#?}"
        );
    }
}

#[tokio::test]
async fn the_trace_of_a_refused_claim_contains_its_dead_letter() {
    let (world, collector, api) = traced("refused").await;
    let coupon = api.open_coupon(5).await;
    let (traceparent, trace) = new_trace(true);
    // A row that was inserted manually has the slot of this claim.
    let row = format!(
        "INSERT INTO issued_coupons (drop_id, slot, coupon_id, user_id, issued_by, slot_limit, person_scope) \
         SELECT l.drop_id, 1, l.coupon_id, 'u-by-hand', 'consumer', l.slot_limit, l.person_scope FROM slot_limits l WHERE l.drop_id = {}",
        coupon.drop
    );
    claim(&api, "u-1", &coupon, &traceparent).await;
    world.sql.query(&row).await;
    let _consumer = world.consume().await;
    let letters = "SELECT traceparent FROM failed_claims WHERE reason = 'slot_taken'";
    eventually("it is a dead letter", LIMIT, async || {
        !world.sql.query(letters).await.is_empty()
    })
    .await;
    let topic = world.setting("KAFKA_TOPIC");
    let send = span(&collector, &trace, &format!("send {topic}")).await;
    assert_eq!(
        world.sql.query(letters).await[0][0],
        format!("00-{trace}-{}-01", send.id)
    );
}

#[tokio::test]
async fn without_a_collector_traces_are_propagated_but_not_started() {
    let world = World::new("untraced").await;
    let collector = OtlpReceiver::start().await.unwrap();
    let (api, _consumer, ()) = tokio::join!(world.serve(), world.consume(), world.open());
    let coupon = api.open_coupon(5).await;
    let (traceparent, trace) = new_trace(true);
    let reply = claim(&api, "u-1", &coupon, &traceparent).await;
    assert_eq!(
        header(&reply, "traceparent"),
        traceparent,
        "unchanged: no span is added"
    );
    for (user, given) in [("u-2", "00-zz"), ("u-3", "")] {
        let reply = Http::send(
            api.claim_request(coupon.id, user)
                .header("traceparent", given),
        )
        .await;
        assert_eq!(
            (reply.status, header(&reply, "traceparent")),
            (202, ""),
            "{reply:?}"
        );
    }
    all_issued(&world, coupon.drop, 3).await;
    assert_eq!(of_row(&world, &coupon, "u-1").await, traceparent);
    for user in ["u-2", "u-3"] {
        assert_eq!(of_row(&world, &coupon, user).await, "");
        assert_eq!(
            explained(&world, &coupon, user).await["trace_ids"],
            serde_json::json!([])
        );
    }
    assert_eq!(
        explained(&world, &coupon, "u-1").await["trace_ids"],
        serde_json::json!([trace])
    );
    assert_eq!(collector.spans(), []);
}

#[tokio::test]
async fn messages_without_traces_become_rows_and_a_missing_collector_delays_nothing() {
    let world = World::new("other-release").await;
    world.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    world.set("OTEL_TRACES_SAMPLER", "always_on");
    world.set("OTEL_BSP_SCHEDULE_DELAY", "50");
    let (api, ()) = tokio::join!(world.serve(), world.open());
    let (coupon, answers) = given_out(&world, &api).await;
    assert_eq!(answers.len(), 20);
    let of_rows = format!(
        "SELECT COUNT(DISTINCT traceparent) FROM issued_coupons WHERE drop_id = {}",
        coupon.drop
    );
    assert_eq!(
        world.sql.number(&of_rows).await,
        20,
        "each has its own trace"
    );
    // A message without a trace.
    let next = api.open_coupon(5).await;
    let payload = format!(
        r#"{{"v":2,"coupon_id":{},"drop_id":{},"claims":[{{"slot":3,"user_id":"u-untraced","claimed_at":"{}"}}]}}"#,
        next.id,
        next.drop,
        chrono::Utc::now().to_rfc3339()
    );
    let _consumer = world.consume().await;
    world
        .topic
        .produce(None, &format!("{}:3", next.id), payload.as_bytes())
        .await;
    all_issued(&world, next.drop, 1).await;
    assert_eq!(of_row(&world, &next, "u-untraced").await, "");
    assert_eq!(api.process.stop().await, 0, "{}", api.process.log());
}
