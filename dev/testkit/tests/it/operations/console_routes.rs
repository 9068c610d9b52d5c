//! The reconciler's routes that its console uses, called as by other programs.

use firstcome_testkit::{Fixture, Http, HttpReply, OPS_TOKEN, open_world};
use reqwest::Method;
use serde_json::{Value, json};

const VIEW_TOKEN: &str = "only-reads-0123456789abcdef0123456789abc";

async fn ask(http: &Http, token: &str, method: Method, path: &str, body: &Value) -> HttpReply {
    let request = http
        .request(method, path)
        .bearer_auth(token)
        .header("x-operator", "Kim");
    let request = if body.is_null() {
        request
    } else {
        request.json(body)
    };
    Http::send(request).await
}

fn code(reply: &HttpReply) -> &str {
    reply.body["code"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn routes_refuse_wrong_queries_unknown_objects_and_missing_tokens() {
    let (world, api) = open_world("route-overview").await;
    let coupon = api.open_coupon(20).await;
    world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    let daemon = world.daemon().await;
    let http = daemon.http();
    let read = async |path: &str| ask(http, VIEW_TOKEN, Method::GET, path, &Value::Null).await;
    assert_eq!(read("/v1/overview").await.status, 200);
    for (path, status) in [
        ("/v1/overview?page=0", 400),
        ("/v1/overview?size=9", 400),
        ("/v1/coupons/4711/drops", 404),
        ("/v1/coupons/01/drops", 404),
        (&format!("/v1/coupons/{}/drops/4711", coupon.id), 404),
        ("/v1/failed-claims/4711", 404),
        ("/v1/people", 400),
        ("/v1/people?user_id=u-1&slot=1", 400),
    ] {
        assert_eq!(read(path).await.status, status, "{path}");
        assert_eq!(http.get(path).await.status, 401, "{path}: without a token");
    }
}

#[tokio::test]
async fn only_the_operators_token_can_correct_and_discard_failed_claims() {
    let f = Fixture::new("route-failed").await;
    let (coupon, _) = f.held("Winter coupon", 20, 1).await;
    f.world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    let daemon = f.world.daemon().await;
    let http = daemon.http();
    let id = coupon.id;
    let drop = coupon.drop;
    let insert =
        "INSERT INTO failed_claims (id, coupon_id, drop_id, slot, user_id, payload, reason) VALUES";
    let rows = [
        format!("(801, {id}, {drop}, 412, 'u-lost', '{{\"v\":2}}', 'slot_out_of_range')"),
        format!("(802, NULL, {drop}, 7, NULL, NULL, 'junk')"),
        format!("(803, NULL, {drop}, 8, NULL, NULL, 'junk')"),
    ];
    f.world
        .sql
        .query(&format!("{insert} {}", rows.join(",")))
        .await;
    let list = "/v1/failed-claims?reason=junk";
    let found = ask(http, VIEW_TOKEN, Method::GET, list, &Value::Null).await;
    let listed = &found.body["failed_claims"];
    let ids = (&listed[0]["id"], &listed[1]["id"], &listed[2]);
    assert_eq!(ids, (&json!(802), &json!(803), &Value::Null), "{listed}");
    let one = "/v1/failed-claims/801?reveal=true";
    let one = ask(http, VIEW_TOKEN, Method::GET, one, &Value::Null).await;
    assert_eq!(
        (
            &one.body["user_id"],
            &one.body["message"],
            &one.body["drop_exists"]
        ),
        (&json!("u-lost"), &json!("{\"v\":2}"), &json!(true)),
        "{}",
        one.text
    );

    let claim = json!({"coupon_id": id, "drop_id": drop, "slot": 9, "user_id": "u-lost"});
    let off = json!({"coupon_id": id, "drop_id": drop, "slot": 21, "user_id": "u-lost"});
    let why = json!({"why": "a script"});
    let post = async |token: &str, path: &str, body: &Value| {
        let reply = ask(http, token, Method::POST, path, body).await;
        (reply.status, code(&reply).to_owned())
    };
    for (path, body) in [
        ("/v1/failed-claims/801/correct", &claim),
        ("/v1/failed-claims/801/discard", &why),
        ("/v1/people/u-lost/erase", &Value::Null),
        ("/v1/alerts/77/acknowledge", &json!({"by": "Lee"})),
        ("/v1/reconcile", &json!({})),
    ] {
        let refused = post(VIEW_TOKEN, path, body).await;
        assert_eq!(refused, (403, "read_only".to_owned()), "{path}");
    }
    for (path, body, status, word) in [
        ("/v1/failed-claims/801/correct", &off, 400, "invalid"),
        ("/v1/failed-claims/4711/correct", &claim, 404, "not_found"),
        ("/v1/failed-claims/801/correct", &claim, 200, ""),
        (
            "/v1/failed-claims/801/discard",
            &json!({"why": " "}),
            400,
            "invalid",
        ),
        ("/v1/failed-claims/801/discard", &why, 200, ""),
        (
            "/v1/failed-claims/801/discard",
            &why,
            409,
            "already_resolved",
        ),
        (
            "/v1/failed-claims/801/correct",
            &claim,
            409,
            "already_resolved",
        ),
        ("/v1/failed-claims/4711/discard", &why, 404, "not_found"),
        ("/v1/failed-claims/802/discard", &why, 200, ""),
        ("/v1/people/u-1/erase", &Value::Null, 409, "still_needed"),
    ] {
        let done = post(OPS_TOKEN, path, body).await;
        assert_eq!(done, (status, word.to_owned()), "{path} {body}");
    }
    let give_up = format!("/v1/coupons/{id}/people/u-1/give-up");
    let given_up = post(OPS_TOKEN, &give_up, &json!({"drop_id": drop})).await;
    assert_eq!(given_up, (409, "nothing_broken".to_owned()));
    let open = "SELECT GROUP_CONCAT(id) FROM failed_claims WHERE resolved_at IS NULL";
    assert_eq!(
        f.world.sql.query(open).await,
        [["803"]],
        "only the requested ones were discarded"
    );
    let acts = "SELECT action, operator FROM ops_actions WHERE operator IS NOT NULL ORDER BY id";
    let acts = f.world.sql.query(acts).await;
    let said: Vec<&str> = acts.iter().map(|act| act[0].as_str()).collect();
    assert_eq!(
        said,
        [
            "reveal",
            "correct_dead_letter",
            "discard_dead_letter",
            "discard_dead_letter"
        ]
    );
}
