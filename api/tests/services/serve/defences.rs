//! Limits on requests and connections, new coupons at another process, and metrics.

use std::time::Duration;

use firstcome_stack::ProxyFault;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::stores_away::behind_redis;
use super::world::{InProcessApi, LIMIT, OPS_TOKEN, ServeWorld, open, until, with};

async fn connect(api: &InProcessApi) -> TcpStream {
    TcpStream::connect(api.base.trim_start_matches("http://"))
        .await
        .unwrap()
}

#[tokio::test]
async fn claims_above_the_limit_are_refused_immediately() {
    let world = ServeWorld::new().await;
    let (proxied, proxy) = behind_redis(&world).await;
    let api = proxied
        .with("store-timeout-ms", 2_000)
        .with("max-claims-in-hand", 1)
        .api()
        .await;
    let (id, _) = api.make(open(5)).await;
    proxy.set(ProxyFault::BlackHole).await.unwrap();
    let first = api.claim(id, "u-1");
    let second = api.claim(id, "u-2");
    tokio::pin!(first, second);
    let refused = tokio::select! { answer = &mut first => answer, answer = &mut second => answer };
    refused.is(503, "unavailable");
    refused.says("too many");
    assert!(refused.headers.contains_key("retry-after"));
    // Operators have no limit, and a new name needs no answer of Redis.
    api.patch(id, json!({"name": "Still here"}))
        .await
        .has_status(200);
    proxy.set(ProxyFault::Pass).await.unwrap();
}

#[tokio::test]
async fn client_that_never_finishes_its_request_is_disconnected() {
    let world = ServeWorld::new().await;
    let api = world
        .with("header-read-timeout-ms", 300)
        .with("request-timeout-ms", 300)
        .api()
        .await;
    let mut slow = connect(&api).await;
    slow.write_all(b"POST /v1/coupons/1/claims HTTP/1.1\r\nhost: x\r\nx-user")
        .await
        .unwrap();
    let mut rest = Vec::new();
    timeout(LIMIT, slow.read_to_end(&mut rest))
        .await
        .expect("the connection is closed")
        .ok();

    let mut no_body = connect(&api).await;
    let head = format!(
        "POST /v1/coupons HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {OPS_TOKEN}\r\ncontent-length: 100\r\n\r\n{{"
    );
    no_body.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(LIMIT, no_body.read_to_end(&mut answer))
        .await
        .expect("the connection is closed")
        .ok();
    assert!(
        String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 503"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test]
async fn size_of_heads_and_bodies_is_limited() {
    let (_, api) = ServeWorld::with_api().await;
    let long = "x".repeat(20_000);
    let token = format!("Bearer {OPS_TOKEN}");
    let body = with(open(1), "name", long.clone()).to_string();
    let refused = api
        .ask(
            Method::POST,
            "/v1/coupons",
            &[("authorization", &token)],
            body,
        )
        .await;
    refused.is(413, "too_large");
    let refused = api
        .ask(Method::GET, "/v1/coupons", &[("x-filler", &long)], "")
        .await;
    assert_eq!(refused.status, 431);

    // A chunked body declares no length.
    let mut chunked = connect(&api).await;
    let head = format!(
        "POST /v1/coupons HTTP/1.1\r\nhost: x\r\nauthorization: {token}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    );
    chunked.write_all(head.as_bytes()).await.unwrap();
    let sending = async {
        for _ in 0..20 {
            if chunked
                .write_all(format!("400\r\n{}\r\n", "x".repeat(0x400)).as_bytes())
                .await
                .is_err()
            {
                break;
            }
        }
        let mut answer = [0; 12];
        chunked.read_exact(&mut answer).await.unwrap();
        answer
    };
    assert_eq!(&timeout(LIMIT, sending).await.unwrap(), b"HTTP/1.1 413");
}

#[tokio::test]
async fn coupon_created_at_one_process_is_visible_at_another_immediately() {
    let world = ServeWorld::new().await;
    let one = world.api().await;
    let other = world.with("catalogue-refresh-ms", 60_000).api().await;
    for _ in 0..20 {
        let (id, _) = one.make(open(1)).await;
        other.claim(id, "u-1").await.is(202, "accepted");
    }
}

#[tokio::test]
async fn metrics_have_route_outcome_and_the_age_of_the_last_successful_pass() {
    let world = ServeWorld::new().await;
    let api = world.with("catalogue-refresh-ms", 50).api().await;
    let (id, _) = api.make(open(5)).await;
    api.claim(id, "u-1").await.has_status(202);
    assert!(
        api.metric("firstcome_claims_total{outcome=\"accepted\"}")
            .await
            >= 1.0
    );
    let series = "firstcome_http_requests_total{method=\"POST\",path=\"/v1/coupons/{id}/claims\",status=\"202\"}";
    assert!(api.metric(series).await >= 1.0);
    world
        .sql("INSERT INTO {db}.reconciler_state (name, value) VALUES ('last_success_at', '2026-01-01T00:00:00Z')")
        .await;
    until("the age of the last success grows", async || {
        let age = api.metric("reconciler_last_success_age_seconds").await;
        age.is_finite() && age > Duration::from_secs(60).as_secs_f64()
    })
    .await;
}

#[tokio::test]
async fn metrics_addr_alone_serves_metrics_and_openapi_document() {
    let world = ServeWorld::new().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let api = world.with("metrics-addr", port).api().await;
    let apart = async |path: &str| reqwest::get(format!("http://{port}{path}")).await.unwrap();
    for path in ["/metrics", "/openapi.json"] {
        assert_eq!(api.get(path).await.code(), (404, "not_found"), "{path}");
        assert_eq!(apart(path).await.status(), 200, "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(
            (
                api.get(path).await.status,
                apart(path).await.status().as_u16()
            ),
            (200, 200),
            "{path}"
        );
    }
    assert_eq!(apart("/v1/coupons").await.status(), 404);
    assert!(
        apart("/metrics")
            .await
            .text()
            .await
            .unwrap()
            .contains("firstcome_build_info")
    );
}
