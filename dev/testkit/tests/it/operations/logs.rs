//! Log contents: request IDs, the reason of a 503, and every request if a setting enables it.

use firstcome_testkit::{Http, HttpReply, LIMIT, eventually, open_world};
use reqwest::Method;

fn id_of(reply: &HttpReply) -> String {
    reply
        .headers
        .get("x-request-id")
        .expect("a request id")
        .to_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn the_reason_for_a_503_is_logged_with_a_request_id() {
    let (world, api) = open_world("why-503").await;
    let coupon = api.open_coupon(5).await;
    // Simulates a loss of Redis. No reconciler runs that could verify the coupon.
    let gate = world.redis.gate(coupon.id);
    world.redis.command::<i64>(&["DEL", &gate]).await;
    let request = api
        .claim_request(coupon.id, "u-whole-id")
        .header("x-request-id", "asked-0");
    let reply = Http::send(request).await;
    assert_eq!(reply.status, 503, "{reply:?}");
    let words = [
        "WARN",
        "a claim was answered 503",
        "admission is closed until the reconciler has verified Redis",
        "gate_closed",
        "left_out=0",
        "request_id=asked-0",
    ];
    eventually("the reason is logged", LIMIT, async || {
        let log = api.process.log();
        log.lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
    })
    .await;
    let log = api.process.log();
    assert!(!log.contains("u-whole-id"), "{log}");
}

#[tokio::test]
async fn each_request_is_logged_if_enabled_and_users_are_not_named() {
    let (world, quiet) = open_world("access").await;
    let coupon = quiet.open_coupon(5).await;
    let (api, daemon) = tokio::join!(
        world.serve_with(&[("RUST_LOG", "info,firstcome::access=debug")]),
        world.daemon_with(&[("RUST_LOG", "info,firstcome::access=debug")])
    );
    let requests = [
        (
            &api.process,
            Http::send(api.claim_request(coupon.id, "u-whole-id")).await,
            "path=\"/v1/coupons/{id}/claims\"".to_owned(),
            202,
        ),
        (
            &api.process,
            Http::send(api.http().ops(
                Method::GET,
                &format!(
                    "/v1/coupons/{}/allow-list/people/u-whole-id?a=u-whole-id",
                    coupon.id
                ),
            ))
            .await,
            "path=\"/v1/coupons/{id}/allow-list/people/{user_id}\"".to_owned(),
            200,
        ),
        (
            &daemon.process,
            Http::send(daemon.http().ops(
                Method::GET,
                &format!("/v1/coupons/{}/people/u-whole-id", coupon.id),
            ))
            .await,
            "path=\"/v1/coupons/{id}/people/{user_id}\"".to_owned(),
            200,
        ),
    ];
    for (process, reply, path, status) in requests {
        assert_eq!(reply.status, status, "{reply:?}");
        let words = [
            "DEBUG firstcome::access: request",
            &path,
            &format!("status={status}"),
            "peer=127.0.0.1:",
            &id_of(&reply),
        ];
        eventually("the request is logged", LIMIT, async || {
            process
                .log()
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
        })
        .await;
        assert!(!process.log().contains("u-whole-id"), "{}", process.log());
    }
    Http::send(quiet.claim_request(coupon.id, "u-2")).await;
    assert!(
        !quiet.process.log().contains("firstcome::access"),
        "{}",
        quiet.process.log()
    );
}
