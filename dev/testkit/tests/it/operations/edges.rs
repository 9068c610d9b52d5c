//! Input validation of both services, and its error messages.

use firstcome_testkit::{Http, HttpReply, coupon_body, open_world};
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::operators::firing_alert;

async fn refused(request: RequestBuilder, code: &str, status: u16, says: &str) {
    let reply: HttpReply = Http::send(request).await;
    let found = (
        reply.status,
        reply.content_type.as_str(),
        reply.body["code"].as_str(),
    );
    assert_eq!(
        found,
        (status, "application/problem+json", Some(code)),
        "{says}: {}",
        reply.text
    );
    assert!(
        reply.body["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains(says)),
        "{says}: {}",
        reply.text
    );
}

#[tokio::test]
async fn both_services_validate_bodies_queries_paths_and_names_alike() {
    let (world, api) = open_world("edges").await;
    let coupon = api.open_coupon(3).await;
    let daemon = world.daemon().await;
    firing_alert(&world, &coupon).await;
    let runs = world
        .sql
        .number("SELECT COUNT(*) FROM reconcile_runs")
        .await;
    let acts = world.sql.number("SELECT COUNT(*) FROM ops_actions").await;
    let own = format!("/v1/coupons/{}", coupon.id);
    for (http, post, page) in [
        (api.http(), "/v1/coupons", "/v1/coupons"),
        (daemon.http(), "/v1/reconcile", "/v1/runs"),
    ] {
        let send = |body: &str| http.ops(Method::POST, post).body(body.to_owned());
        for body in ["[null,null]", "\t", " \n"] {
            refused(send(body), "invalid", 400, "the body must be a JSON object").await;
        }
        refused(
            send("{\"quantitiy\": 1}"),
            "invalid",
            400,
            "there is no field quantitiy, there are",
        )
        .await;
        refused(
            send(&"x".repeat(17_000)),
            "too_large",
            413,
            "a body may have at most 16384 bytes",
        )
        .await;
        let get = |path: &str| http.ops(Method::GET, path);
        refused(
            get(&format!("{page}?limit=many")),
            "invalid",
            400,
            "limit must be a whole number",
        )
        .await;
        refused(
            get(&format!("{page}?most=3")),
            "invalid",
            400,
            "there is no field most, there ",
        )
        .await;
        refused(get(&format!("{page}/%FF")), "not_found", 404, "").await;
        refused(
            get(&format!("{page}/%F0%9F%98%80")),
            "not_found",
            404,
            "there is no",
        )
        .await;
        for name in ["Kim\u{202e}", "K\u{200b}im", " "] {
            let request = http
                .request(Method::POST, post)
                .bearer_auth(firstcome_testkit::OPS_TOKEN);
            refused(
                request.header("x-operator", name.as_bytes()).body("{}"),
                "invalid",
                400,
                "X-Operator",
            )
            .await;
        }
        let twice = http
            .ops(Method::POST, post)
            .header("authorization", "Bearer another")
            .body("{}");
        refused(twice, "invalid", 400, "one Authorization header").await;
        let twice = http
            .ops(Method::POST, post)
            .header("x-operator", "Kim")
            .header("x-operator", "Lee")
            .body("{}");
        refused(twice, "invalid", 400, "one X-Operator header").await;
        refused(
            http.request(Method::POST, post),
            "unauthorized",
            401,
            "OPS_TOKEN",
        )
        .await;
    }
    let ops = |method, path: &str| daemon.http().ops(method, path);
    for id in ["077", "+77", "%2B77"] {
        let path = format!("/v1/alerts/{id}/acknowledge");
        refused(
            ops(Method::POST, &path).json(&json!({"by": "Kim"})),
            "not_found",
            404,
            "there is no alert",
        )
        .await;
    }
    let coded = coupon
        .id
        .to_string()
        .bytes()
        .map(|digit| format!("%{digit:02X}"))
        .collect::<Vec<_>>()
        .concat();
    for id in [format!("0{}", coupon.id), format!("+{}", coupon.id), coded] {
        refused(
            ops(Method::GET, &format!("/v1/coupons/{id}/people/u-1")),
            "not_found",
            404,
            "there is no coupon",
        )
        .await;
        refused(
            api.http().ops(Method::GET, &format!("/v1/coupons/{id}")),
            "not_found",
            404,
            "there is no coupon",
        )
        .await;
    }
    refused(
        ops(Method::GET, &format!("{own}/people/u%201")),
        "invalid",
        400,
        "user_id: a user id has",
    )
    .await;
    refused(
        ops(Method::GET, &format!("{own}/people/u-1?drop=1")),
        "invalid",
        400,
        "there is no field drop",
    )
    .await;
    refused(
        ops(Method::POST, "/v1/reconcile").json(&json!({"confirm": true})),
        "invalid",
        400,
        "confirm needs",
    )
    .await;
    let mut without = coupon_body("x", 1, 0);
    without["schedule"] = json!(null);
    let says = "schedule must be an object, not null";
    refused(
        api.http().ops(Method::POST, "/v1/coupons").json(&without),
        "invalid",
        400,
        says,
    )
    .await;
    for name in ["a\u{202e}b", "a\u{200f}b", "a\u{200b}b"] {
        let body = coupon_body(name, 1, 0);
        refused(
            api.http().ops(Method::POST, "/v1/coupons").json(&body),
            "invalid",
            400,
            "name must not hold",
        )
        .await;
    }
    assert_eq!(
        world
            .sql
            .number("SELECT COUNT(*) FROM reconcile_runs")
            .await,
        runs
    );
    assert_eq!(
        world.sql.number("SELECT COUNT(*) FROM ops_actions").await,
        acts
    );
}
