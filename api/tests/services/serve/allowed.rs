//! Coupons for certain users: allow lists and groups.

use std::fmt::Display;

use firstcome_shared::coupon::AllowList;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_stack::ProxyFault;
use reqwest::Method;
use serde_json::{Value, json};

use super::stores_away::behind_redis;
use super::world::{HttpAnswer, InProcessApi, OPS_TOKEN, ServeWorld, bearer, open, with};

async fn send(api: &InProcessApi, verb: &str, id: i64, body: &str) -> HttpAnswer {
    let token = format!("Bearer {OPS_TOKEN}");
    let path = format!("/v1/coupons/{id}/allow-list/{verb}");
    api.ask(
        Method::POST,
        &path,
        &[("authorization", &token), ("content-type", "text/plain")],
        body,
    )
    .await
}

async fn add(api: &InProcessApi, id: i64, body: &str) -> HttpAnswer {
    send(api, "add", id, body).await
}

/// Returns MySQL's list after asserting that Redis has the same.
async fn agreed(world: &ServeWorld, id: i64) -> Vec<String> {
    let sql = format!(
        "SELECT user_id FROM {{db}}.coupon_allow_list WHERE coupon_id = {id} ORDER BY user_id"
    );
    let rows: Vec<String> = world.sql(&sql).await.into_iter().flatten().collect();
    let sql = format!(
        "SELECT allow_list_revision, allow_list_people FROM {{db}}.coupons WHERE id = {id}"
    );
    let state = &world.sql(&sql).await[0];
    let list = AllowList {
        revision: state[0].parse().unwrap(),
        people: state[1].parse().unwrap(),
    };
    let seen = world.redis.coupon_state(CouponId(id)).await.unwrap().list;
    assert!(
        seen.is(list) && list.people as usize == rows.len(),
        "{list:?} {seen:?} {}",
        rows.len()
    );
    let mut members: Vec<String> = world
        .ask_redis(&["SMEMBERS", &world.keys(id, DropId(1)).allowed])
        .await;
    members.sort_unstable();
    assert_eq!(members, rows);
    rows
}

fn with_list(quantity: u32) -> Value {
    with(open(quantity), "allow", "list")
}

#[tokio::test]
async fn coupon_with_a_list_admits_only_listed_users() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, _) = api.make(with(with_list(2), "waiting_list", 1)).await;
    let table = "
        - GET $id => 200 allow=list
        u-1 claims $id => 403 not_allowed";
    api.play(&[("$id", &id)], table).await; // the list is still empty
    let added = add(&api, id, "\u{feff}u-1\r\n\nu-2\n u-1 \n").await;
    assert_eq!(added.status, 200, "{added:?}");
    let expected = json!({
        "changed": 2, "people": 2, "lines": 3, "repeated": 1, "revision": added.json["revision"]
    });
    assert_eq!(added.json, expected);
    for (body, says) in [
        ("1.07693E+20\n", "line 1: Excel has damaged this id"),
        ("email\nu-1", "line 1: it looks like a heading"),
    ] {
        let refused = add(&api, id, body).await;
        refused.is(400, "invalid");
        refused.says(says);
    }
    let added = add(&api, id, "u-2\na|b:c=d+e@f.g_h-1").await;
    assert_eq!(added.json["changed"], 1);
    let table = "
        u-1 claims $id => 202 accepted
        u-9 claims $id => 403 not_allowed
        u-2 claims $id => 202 accepted
        u-9 claims $id => 403 not_allowed
        a|b:c=d+e@f.g_h-1 claims $id => 202 waiting
        U-1 claims $id => 403 not_allowed";
    api.play(&[("$id", &id)], table).await;
    assert_eq!(
        agreed(&world, id).await,
        ["a|b:c=d+e@f.g_h-1", "u-1", "u-2"]
    );
    // Removed users keep their coupons and their positions in the waiting list.
    let removed = send(&api, "remove", id, "u-1\na|b:c=d+e@f.g_h-1\nnobody").await;
    let numbers = ["changed", "people"].map(|name| removed.json[name].clone());
    assert_eq!(numbers, [2, 1]);
    let table = "
        u-1 claims $id => 200 already_claimed
        a|b:c=d+e@f.g_h-1 claims $id => 202 waiting";
    api.play(&[("$id", &id)], table).await;
    agreed(&world, id).await;
    let acts = world
        .sql("SELECT detail FROM {db}.ops_actions WHERE action = 'allow_list' ORDER BY id")
        .await;
    assert_eq!(acts.len(), 3, "{acts:?}");
    let acts = format!("{acts:?}");
    let is_right = acts.contains("added") && acts.contains("removed") && !acts.contains("u-");
    assert!(is_right, "{acts}");
    let counted = api.metric("firstcome_claims_total{outcome=\"not_allowed\"}");
    assert!(counted.await >= 4.0);
}

#[tokio::test]
async fn restriction_of_a_coupon_can_be_changed_and_removed() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, drop) = api.make(open(9)).await;
    // The list has no effect until `allow` is `list`. Missing fields stay unchanged, and the pause
    // takes precedence.
    add(&api, id, "u-1").await;
    let table = r#"
        - GET $id => 200 allow=null
        u-2 claims $id => 202 accepted
        ops PATCH $id {"allow": "list"} => 200 allow=list
        u-3 claims $id => 403 not_allowed
        u-1 claims $id => 202 accepted
        u-2 claims $id => 200 already_claimed
        ops PATCH $id {"quantity": 10} => 200 allow=list
        ops PATCH $id {"paused": true} => 200
        u-3 claims $id => 409 paused
        ops PATCH $id {"paused": false, "allow": null} => 200 allow=null
        u-3 claims $id => 202 accepted
        ops PATCH $id {"allow": "group:vip"} => 400 invalid | USER_AUTH=jwt"#;
    api.play(&[("$id", &id)], table).await;
    let meta: Option<String> = world
        .ask_redis(&["HGET", &world.keys(id, DropId(drop)).meta, "allow"])
        .await;
    assert_eq!(meta.as_deref(), Some(""));
    for bad in ["", "vip", "List", "group:", "group:a b", "group:vip"] {
        let body = with(open(1), "allow", bad);
        let table = r#"
            ops PATCH $id {"allow": "$bad"} => 400 invalid | "detail":"allow: 
            ops POST /v1/coupons $body => 400 invalid"#;
        let words: [(&str, &dyn Display); 3] = [("$id", &id), ("$bad", &bad), ("$body", &body)];
        api.play(&words, table).await;
    }
    let stored = world.sql("SELECT COUNT(*), COUNT(allow_rule) FROM {db}.coupons");
    assert_eq!(stored.await, [["1", "0"]]);
}

#[tokio::test]
async fn refused_allow_list_requests_change_nothing() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, _) = api.make(with_list(5)).await;
    add(&api, id, "u-1").await;
    let before = world.dump().await;
    let acts = world.sql("SELECT COUNT(*) FROM {db}.ops_actions").await;
    for (body, said) in [("u-2\nu 3\nu-4", "line 2: "), ("", "1 to 200000")] {
        for verb in ["add", "remove"] {
            let refused = send(&api, verb, id, body).await;
            assert_eq!(refused.code(), (400, "invalid"), "{said}");
            refused.says(said);
        }
    }
    let huge = "x\n".repeat(5_000_000);
    add(&api, id, &huge).await.is(413, "too_large");
    // Other bodies have another limit.
    let long = "x".repeat(20_000);
    let table = r#"
        ops POST /v1/coupons/$id/allow-list/add u-2 ; content-encoding: gzip => 415 unsupported_encoding | gzip
        ops PATCH $id {"name": "$long"} => 413 too_large
        ops POST /v1/coupons/4711/allow-list/add u-1 => 404 not_found"#;
    api.play(&[("$id", &id), ("$long", &long)], table).await;
    assert_eq!(world.dump().await, before);
    let now = world.sql("SELECT COUNT(*) FROM {db}.ops_actions").await;
    assert_eq!(now, acts);
    assert_eq!(agreed(&world, id).await, ["u-1"]);
}

#[tokio::test]
async fn long_list_is_changed_by_one_request() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, _) = api.make(with_list(5)).await;
    let body = |range: std::ops::Range<u32>| {
        let lines = range.map(|n| format!("u-{n:06}\n"));
        lines.collect::<Vec<_>>().concat()
    };
    let changed = async |verb: &str, range: std::ops::Range<u32>| {
        let answer = send(&api, verb, id, &body(range)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        ["changed", "people"].map(|name| answer.json[name].as_u64().unwrap())
    };
    assert_eq!(changed("add", 0..2_500).await, [2_500, 2_500]);
    assert_eq!(changed("add", 2_000..2_501).await, [1, 2_501]);
    let repeated = changed("add", 0..2_500).await;
    assert_eq!(repeated, [0, 2_501], "it is idempotent");
    let people = async |number: u32| {
        let set = format!("UPDATE {{db}}.coupons SET allow_list_people = {number}");
        world.sql(&set).await
    };
    people(199_999).await;
    let too_long = add(&api, id, "u-a\nu-b").await;
    too_long.is(422, "not_possible");
    people(2_501).await;
    assert_eq!(agreed(&world, id).await.len(), 2_501);
    assert_eq!(changed("remove", 1..2_501).await, [2_500, 1]);
    assert_eq!(agreed(&world, id).await, ["u-000000"]);
}

#[tokio::test]
async fn repeat_or_next_change_completes_a_change_missing_in_redis() {
    let world = ServeWorld::new().await;
    let (other, proxy) = behind_redis(&world).await;
    let (api, hindered) = tokio::join!(world.api(), other.api());
    let (id, _) = api.make(with_list(5)).await;
    add(&api, id, "u-1").await;
    proxy.set(ProxyFault::Cut).await.unwrap();
    let half = add(&hindered, id, "u-2").await;
    assert_eq!(half.code(), (503, "unavailable"), "{half:?}");
    half.says("MySQL has the change");
    api.claim(id, "u-2").await.is(403, "not_allowed"); // Redis lacks the change
    assert_eq!(add(&api, id, "u-3").await.json["people"], 3);
    assert_eq!(agreed(&world, id).await, ["u-1", "u-2", "u-3"]);
    let remove = async |api: &InProcessApi| send(api, "remove", id, "u-1").await;
    remove(&hindered).await.has_status(503);
    assert_eq!(remove(&api).await.json["changed"], 0, "a repeat");
    assert_eq!(agreed(&world, id).await, ["u-2", "u-3"]);
}

#[tokio::test]
async fn stale_catalogue_decides_no_claim_by_an_outdated_restriction() {
    let world = ServeWorld::new().await.with_tokens();
    let api = world.api().await;
    let (id, _) = api.make(open(9)).await;
    // This API refreshes its catalogue only once a minute.
    let stale = world.with("catalogue-refresh-ms", 60_000).api().await;
    let path = format!("/v1/coupons/{id}/claims");
    let claim = async |user: &str| {
        let token = token(user, &json!("staff"));
        let headers = [("authorization", token.as_str())];
        stale.ask(Method::POST, &path, &headers, "").await
    };
    let allow = async |whom: Value| {
        let changed = api.patch(id, json!({ "allow": whom })).await;
        changed.has_status(200);
    };
    claim("u-1").await.is(202, "accepted");
    allow(json!("group:vip")).await;
    // The API reads the coupon again, and then judges the user's groups.
    claim("u-2").await.is(403, "not_allowed");
    claim("u-1").await.is(200, "already_claimed");
    allow(json!("list")).await;
    claim("u-5").await.is(403, "not_allowed");
    add(&api, id, "u-5").await.has_status(200);
    claim("u-5").await.is(202, "accepted");
    allow(Value::Null).await;
    claim("u-6").await.is(202, "accepted");
}

fn token(user: &str, groups: &Value) -> String {
    let groups = if groups.is_null() {
        json!({})
    } else {
        json!({"groups": groups})
    };
    bearer(user, &groups)
}
