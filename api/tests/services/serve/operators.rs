//! Creating and changing coupons.

use std::fmt::Display;

use chrono::{TimeDelta, Utc};
use firstcome_shared::domain::DropId;
use firstcome_stack::ProxyFault;
use reqwest::Method;
use serde_json::json;

use super::world::{HttpAnswer, InProcessApi, OPS_TOKEN, ServeWorld, open, stack, until, with};

#[tokio::test]
async fn created_coupon_is_shown_and_listed() {
    let (_, api) = ServeWorld::with_api().await;
    let body = with(open(7), "name", "  Winter · 겨울 ");
    let table = "ops POST /v1/coupons $body => 201 current_drop.remaining=7 current_drop.state=open next_drop=null";
    let made = api.play(&[("$body", &body)], table).await;
    let location = made.headers["location"].to_str().unwrap().to_owned();
    assert_eq!(location, format!("/v1/coupons/{}", made.json["id"]));
    assert_eq!(made.json["name"], "Winter · 겨울");
    assert_eq!(api.get(&location).await.json, made.json);
    assert_eq!(api.get("/v1/coupons").await.json, json!([made.json]));
}

#[tokio::test]
async fn invalid_body_is_refused_and_the_field_named() {
    let (world, api) = ServeWorld::with_api().await;
    let before = world.dump().await;
    let once = json!({"type": "once", "opens_at": "2026-01-01T00:00:00"});
    let table = "
        ops POST /v1/coupons $none => 400 invalid | quantity
        ops POST /v1/coupons $unknown => 400 invalid | quantum
        ops POST /v1/coupons $local => 400 invalid | no time zone
        ops POST /v1/coupons {} => 400 invalid | name";
    let words: [(&str, &dyn Display); 3] = [
        ("$none", &with(open(1), "quantity", 0)),
        ("$unknown", &with(open(1), "quantum", 5)),
        ("$local", &with(open(1), "schedule", once)),
    ];
    api.play(&words, table).await;
    assert_eq!(
        world.sql("SELECT COUNT(*) FROM {db}.coupons").await,
        [["0"]]
    );
    assert_eq!(world.dump().await, before);
}

/// Asserts the quantity of a coupon, and of a drop in both stores.
async fn has(world: &ServeWorld, id: i64, drop: i64, quantity: &str) {
    let rows = world.sql(&format!("SELECT c.quantity, d.quantity FROM {{db}}.coupons c JOIN {{db}}.drops d ON d.coupon_id = c.id WHERE c.id = {id} AND d.id = {drop}")).await;
    let meta = world.keys(id, DropId(drop)).meta;
    let of_redis: String = world.ask_redis(&["HGET", &meta, "quantity"]).await;
    assert_eq!(
        (rows, &*of_redis),
        (vec![vec![quantity.to_owned(); 2]], quantity)
    );
}

/// Redis may lack holders that only dead letters or messages name.
#[tokio::test]
async fn lower_quantity_is_refused_while_redis_is_not_verified() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, drop) = api.make(open(4)).await;
    let gate = world.keys(id, DropId(drop)).gate;
    let open: String = world.ask_redis(&["GET", &gate]).await;
    let closed = open.replace("open", "closed");
    let of_another_server = format!("0123{}", &open[4..]);
    for wrong in [
        "",
        "of another kind",
        closed.as_str(),
        of_another_server.as_str(),
    ] {
        world.ask_redis::<()>(&["SET", &gate, wrong]).await;
        assert_eq!(
            api.patch(id, json!({"quantity": 2})).await.code(),
            (503, "unavailable"),
            "{wrong:?}"
        );
        has(&world, id, drop, "4").await;
    }
    api.patch(id, json!({"quantity": 5})).await.has_status(200); // a higher quantity is safe

    world.ask_redis::<()>(&["SET", &gate, &open]).await;
    world
        .sql(&format!(
            "UPDATE {{db}}.coupons SET era = era + 1 WHERE id = {id}"
        ))
        .await;
    api.patch(id, json!({"quantity": 2}))
        .await
        .is(503, "unavailable"); // Redis has an older era
    has(&world, id, drop, "5").await;
}

#[tokio::test]
async fn change_applies_to_all_open_and_future_drops_or_to_none() {
    let (world, api) = ServeWorld::with_api().await;
    let schedule = json!({"type": "daily", "time_zone": "UTC", "opens": "00:00", "closes": "00:00", "first_day": "2026-01-01"});
    let (id, today) = api
        .make(with(
            with(open(5), "schedule", schedule),
            "once_per",
            "drop",
        ))
        .await;
    let tomorrow = api.get(&format!("/v1/coupons/{id}")).await.json["next_drop"]["id"]
        .as_i64()
        .unwrap();
    for n in 1..=3 {
        assert_eq!(
            api.claim(id, &format!("u-{n}")).await.json["drop_id"],
            today
        );
    }
    assert_eq!(
        api.patch(id, json!({"quantity": 2})).await.json["given_out"],
        3
    );
    has(&world, id, tomorrow, "5").await; // no drop was changed
    api.patch(id, json!({"quantity": 3})).await.has_status(200);
    has(&world, id, today, "3").await;
    has(&world, id, tomorrow, "3").await;
}

#[tokio::test]
async fn quantity_below_rows_that_redis_lacks_is_refused() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, drop) = api.make(open(5)).await;
    world.issue(id, DropId(drop), 5, "u-5").await;
    api.patch(id, json!({"quantity": 4}))
        .await
        .is(409, "below_given_out");
    // Redis is stricter until the next pass, or until the coupon is changed again.
    api.patch(id, json!({"quantity": 5})).await.has_status(200);
    has(&world, id, drop, "5").await;
}

#[tokio::test]
async fn list_of_coupons_has_pages() {
    let (world, api) = ServeWorld::with_api().await;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(api.make(open(1)).await.0);
    }
    all.push(world.make_over(&api, 1).await.0);
    // Ids made in the same second have no order.
    all.sort_unstable();
    let ids = async |query: &str| {
        let listed = api.get(&format!("/v1/coupons{query}")).await;
        let coupons = listed.json.as_array().unwrap().iter();
        let ids: Vec<i64> = coupons.map(|one| one["id"].as_i64().unwrap()).collect();
        let link = listed.headers.get("link");
        (ids, link.map(|link| link.to_str().unwrap().to_owned()))
    };
    assert_eq!(ids("").await, (all.clone(), None));
    let (page, link) = ids("?limit=3").await;
    assert_eq!(page, all[..3]);
    let next = format!("?limit=3&after={}", all[2]);
    assert_eq!(link.unwrap(), format!("</v1/coupons{next}>; rel=\"next\""));
    assert_eq!(ids(&next).await, (vec![all[3]], None));
    let table = "
        - GET /v1/coupons?limit=0 => 400 invalid
        - GET /v1/coupons?limit=1001 => 400 invalid
        - GET /v1/coupons?limit=x => 400 invalid
        - GET /v1/coupons?after=x => 400 invalid
        - GET /v1/coupons?sort=name => 400 invalid";
    api.play(&[], table).await;
}

async fn make_with(api: &InProcessApi, key: &str, body: &str) -> HttpAnswer {
    let token = format!("Bearer {OPS_TOKEN}");
    let headers = [("authorization", token.as_str()), ("idempotency-key", key)];
    api.ask(Method::POST, "/v1/coupons", &headers, body).await
}

#[tokio::test]
async fn repeat_with_idempotency_key_creates_no_second_coupon() {
    let world = ServeWorld::new().await;
    let apis = [world.api().await, world.api().await];
    let body = open(7).to_string();
    let made = (0..10).map(|n| make_with(&apis[n % 2], "k-1", &body));
    let made = futures_util::future::join_all(made).await;
    let id = &made[0].json["id"];
    for one in &made {
        assert_eq!((one.status, &one.json["id"]), (201, id), "{one:?}");
        let is_same = one.headers["location"] == made[0].headers["location"];
        assert!(is_same && one.json["quantity"] == 7, "{one:?}");
    }
    // The same JSON in another form is the same request. A refused one does not use up its key.
    let (form, other) = (body.replacen(':', " :  ", 1), open(8).to_string());
    let table = "
        ops POST /v1/coupons $form ; idempotency-key: k-1 => 201 id=$id
        ops POST /v1/coupons $other ; idempotency-key: k-1 => 422 idempotency_key_used
        ops POST /v1/coupons $body ; idempotency-key: $long => 400 invalid
        ops POST /v1/coupons {} ; idempotency-key: k-2 => 400 invalid
        ops POST /v1/coupons $body ; idempotency-key: k-2 => 201";
    let words: [(&str, &dyn Display); 5] = [
        ("$form", &form),
        ("$other", &other),
        ("$long", &"x".repeat(256)),
        ("$body", &body),
        ("$id", id),
    ];
    apis[0].play(&words, table).await;
    make_with(&apis[0], "", &body).await.is(400, "invalid");
    let coupons = world.sql("SELECT COUNT(*) FROM {db}.coupons");
    assert_eq!(coupons.await, [["2"]]);
    // A repeat may come when the window has passed.
    let closes = Utc::now() + TimeDelta::seconds(2);
    let mut short = open(7);
    short["schedule"]["closes_at"] = json!(closes);
    let short = short.to_string();
    let first = make_with(&apis[0], "k-3", &short).await;
    until("the window has passed", async || Utc::now() > closes).await;
    make_with(&apis[0], "k-4", &short).await.is(400, "invalid");
    let again = make_with(&apis[1], "k-3", &short).await;
    assert_eq!((again.status, &again.json["id"]), (201, &first.json["id"]));
}

#[tokio::test]
async fn repeat_after_a_lost_response_creates_one_coupon() {
    let world = ServeWorld::new().await;
    let mysql = stack().await.mysql.proxy().await.unwrap();
    let url = stack().await.mysql.database_url_via(&mysql, &world.name);
    let api = world
        .with("database-url", url)
        .with("database-timeout-ms", 1_500)
        .api()
        .await;
    let body = open(7).to_string();
    mysql.set(ProxyFault::DropReplies).await.unwrap();
    let lost = make_with(&api, "k", &body).await;
    lost.is(503, "unavailable");
    lost.says("same Idempotency-Key");
    mysql.set(ProxyFault::Pass).await.unwrap();
    until("the request succeeds", async || {
        make_with(&api, "k", &body).await.status == 201
    })
    .await;
    let coupons = world.sql("SELECT COUNT(*) FROM {db}.coupons").await;
    assert_eq!(coupons[0][0], "1");
}
