//! Authorization of operators, and the audit record.

use firstcome_shared::domain::DropId;
use reqwest::Method;
use serde_json::{Value, json};

use super::table::VIEW_TOKEN;
use super::world::{OPS_TOKEN, ServeWorld, open};

#[tokio::test]
async fn view_token_can_read_but_not_change() {
    let world = ServeWorld::new().await;
    let api = world.with("ops-view-token", VIEW_TOKEN).api().await;
    let (id, drop) = api.make(open(5)).await;
    world.issue(id, DropId(drop), 1, "u-1").await;
    let before = world.dump().await;
    let table = r#"
        view GET $id/issued => 200 issued.0.user_id=u-1
        view POST /v1/coupons $body => 403 read_only
        view PATCH $id {"paused": true} => 403 read_only
        view POST $id/allow-list/add ["u-2"] => 403 read_only
        view POST $id/allow-list/remove ["u-1"] => 403 read_only
        view POST $id/people/u-1/revoke {"reason": "x", "by": "y"} => 403 read_only"#;
    api.play(&[("$id", &id), ("$body", &open(9))], table).await;
    assert_eq!(world.dump().await, before);
    let coupons = world.sql("SELECT COUNT(*), MAX(revision) FROM {db}.coupons");
    assert_eq!(coupons.await, [["1", "1"]]);
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
    let first = "ops POST /v1/coupons $body ; x-operator: Kim K. ; idempotency-key: k => 201";
    let made = api.play(&[("$body", &open(5))], first).await;
    let id = made.json["id"].as_i64().unwrap();
    let table = r#"
        ops POST /v1/coupons $body ; x-operator: Kim K. ; idempotency-key: k => 422
        u-1 claims $id => 202
        ops PATCH $id {"quantity": 0} ; x-operator: Lee => 400
        ops PATCH $id {"opens": "15:00"} ; x-operator: Lee => 422
        ops PATCH $id {"quantity": 7, "name": "Other"} ; x-operator: Lee => 200
        ops PATCH $id {"close_now": true} => 200"#;
    api.play(&[("$body", &open(6)), ("$id", &id)], table).await;
    let nobody = [
        ("authorization", &*format!("Bearer {OPS_TOKEN}")),
        ("x-operator", ""),
    ];
    let path = format!("/v1/coupons/{id}");
    let unnamed = api.ask(Method::PATCH, &path, &nobody, r#"{"paused": true}"#);
    unnamed.await.is(400, "invalid");
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
