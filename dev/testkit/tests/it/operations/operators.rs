//! The reconciler's routes: authorisation, and the audit record.

use firstcome_testkit::{Http, MadeCoupon, OPS_TOKEN, World, coupon_body, open_world};
use reqwest::Method;
use serde_json::json;

use super::page::{Login, Visitor};

const VIEW_TOKEN: &str = "only-reads-0123456789abcdef0123456789abc";

/// Creates alert 77 of the coupon's drop.
pub(super) async fn firing_alert(world: &World, coupon: &MadeCoupon) {
    let alert = format!(
        "INSERT INTO alerts (id, fingerprint, kind, coupon_id, drop_id, status, summary, content_hash, first_seen_at, \
         last_seen_at) VALUES (77, REPEAT('a', 64), 'unfilled', {}, {}, 'firing', 'x', REPEAT('b', 64), \
         UTC_TIMESTAMP(3), UTC_TIMESTAMP(3))",
        coupon.id, coupon.drop
    );
    world.sql.query(&alert).await;
}

#[tokio::test]
async fn passes_acknowledgements_and_silences_are_recorded_and_need_the_ops_token() {
    let (world, api) = open_world("ops-actions").await;
    let coupon = api.open_coupon(3).await;
    let daemon = world.daemon_with(&[("OPS_VIEW_TOKEN", VIEW_TOKEN)]).await;
    let http = daemon.http();
    firing_alert(&world, &coupon).await;
    let changes = [
        ("/v1/alerts/77/acknowledge", json!({"by": "Kim"})),
        (
            "/v1/alerts/77/silence",
            json!({"by": "Kim", "until": "2020-01-01T00:00:00Z"}),
        ),
        (
            "/v1/reconcile",
            json!({"coupon_id": coupon.id, "confirm": true}),
        ),
    ];
    for (path, body) in &changes {
        let refused = Http::send(
            http.request(Method::POST, path)
                .bearer_auth(VIEW_TOKEN)
                .json(body),
        )
        .await;
        assert_eq!(
            (refused.status, refused.body["code"].as_str()),
            (403, Some("read_only")),
            "{path}"
        );
    }
    for path in ["/v1/runs", "/v1/alerts"] {
        assert_eq!(
            Http::send(http.request(Method::GET, path).bearer_auth(VIEW_TOKEN))
                .await
                .status,
            200,
            "{path}"
        );
    }
    assert_eq!(
        world
            .sql
            .number("SELECT COUNT(*) FROM ops_actions WHERE action <> 'create_coupon'")
            .await,
        0
    );
    for (path, body) in &changes {
        firstcome_testkit::eventually(path, firstcome_testkit::LIMIT, async || {
            // No pass sees its drift, and the daemon's first one resolves it.
            world
                .sql
                .query("UPDATE alerts SET status = 'firing' WHERE id = 77")
                .await;
            let request = http
                .ops(Method::POST, path)
                .header("x-operator", "Lee")
                .json(body);
            let answer = Http::send(request).await;
            // One of the daemon's own passes may be running.
            assert!(matches!(answer.status, 200 | 409), "{answer:?}");
            answer.status == 200
        })
        .await;
    }
    let acts = "SELECT action, operator, LENGTH(token), from_addr, COALESCE(detail->>'$.run_id', detail->>'$.by') \
                FROM ops_actions WHERE action <> 'create_coupon' ORDER BY id";
    let found = world.sql.query(acts).await;
    let run = &world
        .sql
        .query("SELECT id FROM reconcile_runs WHERE confirmed")
        .await[0][0];
    let said = |action: &str, detail: &str| {
        ["Lee", "8", "127.0.0.1", detail]
            .map(str::to_owned)
            .into_iter()
            .fold(vec![action.to_owned()], |mut row, next| {
                row.push(next);
                row
            })
    };
    assert_eq!(
        found,
        [
            said("acknowledge", "Kim"),
            said("silence", "Kim"),
            said("reconcile", run)
        ]
    );
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_client_address_is_recorded_and_not_a_forged_one() {
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

    // At the page it is the address of the log-in.
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
