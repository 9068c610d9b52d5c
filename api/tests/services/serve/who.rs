//! Authorization of operators, and the audit record.

use firstcome_shared::domain::DropId;
use reqwest::Method;
use serde_json::{Value, json};

use super::world::{HttpAnswer, InProcessApi, OPS_TOKEN, ServeWorld, open};

const VIEW_TOKEN: &str = "a-token-that-only-reads-of-38-characters";

async fn with_token(
    token: &str,
    api: &InProcessApi,
    path: &str,
    method: Method,
    body: &str,
) -> HttpAnswer {
    api.ask(
        method,
        path,
        &[("authorization", &*format!("Bearer {token}"))],
        body,
    )
    .await
}

#[tokio::test]
async fn view_token_can_read_but_not_change() {
    let world = ServeWorld::new().await;
    let api = world.with("ops-view-token", VIEW_TOKEN).api().await;
    let (id, drop) = api.make(open(5)).await;
    world.issue(id, DropId(drop), 1, "u-1").await;
    let issued = with_token(
        VIEW_TOKEN,
        &api,
        &format!("/v1/coupons/{id}/issued"),
        Method::GET,
        "",
    )
    .await;
    assert_eq!(issued.json["issued"][0]["user_id"], "u-1");
    let before = world.dump().await;
    let path = format!("/v1/coupons/{id}");
    let add = format!("{path}/allow-list/add");
    let remove = format!("{path}/allow-list/remove");
    let revoke = format!("{path}/people/u-1/revoke");
    for (method, path, body) in [
        (Method::POST, "/v1/coupons", open(9)),
        (Method::PATCH, path.as_str(), json!({"paused": true})),
        (Method::POST, add.as_str(), json!(["u-2"])),
        (Method::POST, remove.as_str(), json!(["u-1"])),
        (
            Method::POST,
            revoke.as_str(),
            json!({"reason": "x", "by": "y"}),
        ),
    ] {
        let refused = with_token(VIEW_TOKEN, &api, path, method, &body.to_string()).await;
        assert_eq!(refused.code(), (403, "read_only"), "{path}");
    }
    assert_eq!(world.dump().await, before);
    assert_eq!(
        world
            .sql("SELECT COUNT(*), MAX(revision) FROM {db}.coupons")
            .await,
        [["1", "1"]]
    );
    let same_token = world.with("ops-view-token", OPS_TOKEN);
    assert!(same_token.try_api().await.is_err());
}

async fn acts(world: &ServeWorld) -> Vec<(Vec<String>, Value)> {
    let columns = "action, coupon_id, IFNULL(operator, '-'), LENGTH(token), from_addr";
    let recent = "ABS(TIMESTAMPDIFF(SECOND, at, UTC_TIMESTAMP())) < 100";
    let sql = format!("SELECT {columns}, {recent}, detail FROM {{db}}.ops_actions ORDER BY id");
    let rows = world.sql(&sql).await.into_iter();
    rows.map(|mut row| (row.split_off(6).remove(0), row))
        .map(|(d, row)| (row, serde_json::from_str(&d).unwrap()))
        .collect()
}

#[tokio::test]
async fn changes_of_operators_are_recorded() {
    let (world, api) = ServeWorld::with_api().await;
    let token = format!("Bearer {OPS_TOKEN}");
    let ask = async |method: Method, path: &str, name: &str, key: &str, body: &Value| {
        let headers = [
            ("authorization", token.as_str()),
            ("x-operator", name),
            ("idempotency-key", key),
        ];
        api.ask(method, path, &headers, body.to_string()).await
    };
    let made = ask(Method::POST, "/v1/coupons", "Kim K.", "k", &open(5)).await;
    let id = made.json["id"].as_i64().unwrap();
    let path = format!("/v1/coupons/{id}");
    ask(Method::POST, "/v1/coupons", "Kim K.", "k", &open(6))
        .await
        .has_status(422);
    api.claim(id, "u-1").await.has_status(202);
    for refused in [json!({"quantity": 0}), json!({"opens": "15:00"})] {
        assert!(ask(Method::PATCH, &path, "Lee", "-", &refused).await.status >= 400);
    }
    ask(
        Method::PATCH,
        &path,
        "Lee",
        "-",
        &json!({"quantity": 7, "name": "Other"}),
    )
    .await
    .has_status(200);
    api.patch(id, json!({"close_now": true}))
        .await
        .has_status(200);
    ask(Method::PATCH, &path, "", "-", &json!({"paused": true}))
        .await
        .is(400, "invalid");

    let acts = acts(&world).await;
    let said = |action: &str, name: &str| {
        vec![
            action.to_owned(),
            id.to_string(),
            name.into(),
            "8".into(),
            "127.0.0.1".into(),
            "1".into(),
        ]
    };
    let who: Vec<_> = acts.iter().map(|(row, _)| row.clone()).collect();
    assert_eq!(
        who,
        [
            said("create_coupon", "Kim K."),
            said("change_coupon", "Lee"),
            said("change_coupon", "-")
        ]
    );
    assert_eq!(acts[0].1["quantity"], 5);
    let changed = acts[1].1.as_object().unwrap();
    assert_eq!(changed["quantity"], json!({"from": 5, "to": 7}));
    assert_eq!(
        changed["name"],
        json!({"from": "Winter coupon", "to": "Other"})
    );
    assert_eq!(
        changed.len(),
        3,
        "quantity, name and the change of the drop: {changed:?}"
    );
    let closed = acts[2].1.as_object().unwrap();
    let drop = closed
        .iter()
        .find(|(name, _)| name.starts_with("drop "))
        .unwrap()
        .1;
    assert!(
        drop["to"]["closes_at"].as_str() < drop["from"]["closes_at"].as_str(),
        "{drop}"
    );
    assert!(!format!("{acts:?}").contains(OPS_TOKEN));
}
