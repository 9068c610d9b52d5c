//! Addresses of operators in the audit record, with and without a proxy.

use firstcome_testkit::{Http, MadeCoupon, OPS_TOKEN, World, coupon_body, open_world};
use reqwest::Method;

use super::visitor::{Login, Visitor};

/// Creates alert 77 of the coupon's drop.
pub(super) async fn firing_alert(world: &World, coupon: &MadeCoupon) {
    let alert = format!(
        "INSERT INTO alerts (id, name, kind, coupon_id, drop_id, status, summary, size, content, first_seen_at, \
         last_seen_at) VALUES (77, REPEAT('a', 64), 'unfilled', {}, {}, 'firing', 'x', 1, 0, \
         UTC_TIMESTAMP(3), UTC_TIMESTAMP(3))",
        coupon.id, coupon.drop
    );
    world.sql.query(&alert).await;
}

#[tokio::test]
async fn forwarded_client_addresses_are_recorded_only_from_a_trusted_proxy() {
    let (world, _api) = open_world("ops-from").await;
    let trusting = [("OPS_TRUSTED_PROXIES", "1")];
    let api = world.serve_with(&trusting).await;
    let daemon = world.daemon_with(&trusting).await;
    let plain = world.serve().await;
    let body = coupon_body("Winter coupon", 3, 0);
    for (http, forwarded) in [
        (api.http(), Some("127.0.0.9, 203.0.113.7")),
        (api.http(), None),
        (plain.http(), Some("203.0.113.7")),
    ] {
        let request = http.ops(Method::POST, "/v1/coupons").json(&body);
        let request = forwarded.into_iter().fold(request, |request, list| {
            request.header("x-forwarded-for", list)
        });
        assert_eq!(Http::send(request).await.status, 201);
    }
    let from = "SELECT from_addr FROM ops_actions WHERE action = 'create_coupon' ORDER BY id";
    assert_eq!(
        world.sql.query(from).await,
        [["203.0.113.7"], ["127.0.0.1"], ["127.0.0.1"]]
    );

    // The operations page records the address from which the operator logged in.
    world
        .sql
        .query("INSERT INTO failed_claims (id, reason) VALUES (701, 'by_hand_probe')")
        .await;
    let kim = Visitor::by(Login {
        base: daemon.http().base(),
        name: "Kim",
        token: OPS_TOKEN,
        forwarded_for: "127.0.0.9, 203.0.113.8",
    })
    .await;
    assert_eq!(
        kim.post("/dead-letters/701/reveal", &kim.base, &kim.csrf().await)
            .await,
        200
    );
    let from = "SELECT operator, from_addr FROM ops_actions WHERE action = 'reveal'";
    assert_eq!(world.sql.query(from).await, [["Kim", "203.0.113.8"]]);
}
