//! What the contract says a claim is answered, and that an answer which gives nothing changes
//! nothing.

use chrono::{DateTime, SecondsFormat};
use firstcome_testkit::{
    Answer, ApiClient, Http, HttpReply, LIMIT, OPS_TOKEN, World, eventually_some, open_world,
};
use reqwest::Method;
use serde_json::{Value, json};

/// A coupon of one drop whose window lies around Redis's own now, in milliseconds from it.
async fn window(world: &World, opens_in: i64, closes_in: Option<i64>) -> Value {
    let now = world.redis.now_ms().await;
    let at = |ms: i64| {
        DateTime::from_timestamp_millis(now + ms)
            .unwrap()
            .to_rfc3339_opts(SecondsFormat::Millis, true)
    };
    let mut schedule = json!({"type": "once", "opens_at": at(opens_in)});
    if let Some(ms) = closes_in {
        schedule["closes_at"] = at(ms).into();
    }
    json!({"name": "c", "quantity": 1, "once_per": "coupon", "waiting_list": 0, "schedule": schedule})
}

fn problem(reply: &HttpReply, status: u16, code: &str) {
    let found = (
        reply.status,
        reply.content_type.as_str(),
        reply.body["code"].as_str(),
    );
    assert_eq!(
        found,
        (status, "application/problem+json", Some(code)),
        "{}",
        reply.text
    );
    assert_eq!(reply.body["status"], status);
    for field in ["type", "title", "detail"] {
        assert!(
            reply.body[field]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{field}: {}",
            reply.text
        );
    }
}

async fn claim(api: &ApiClient, coupon: i64, user: &str) -> HttpReply {
    Http::send(api.claim_request(coupon, user)).await
}

#[tokio::test]
async fn before_opening_the_answer_is_not_open_with_the_instant_and_redis_is_unchanged() {
    let (world, api) = open_world("before").await;
    let body = window(&world, 3_600_000, None).await;
    let coupon = api.create_coupon(&body).await;
    assert_eq!(
        coupon.body["next_drop"]["state"], "scheduled",
        "{}",
        coupon.body
    );
    let before = world.redis.dump().await;
    let reply = claim(&api, coupon.id, "u-1").await;
    problem(&reply, 409, "not_open");
    let instant = |value: &Value| DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap();
    assert_eq!(
        instant(&reply.body["opens_at"]),
        instant(&body["schedule"]["opens_at"])
    );
    assert_eq!(world.redis.dump().await, before);
    assert_eq!(api.me(coupon.id, "u-1").await["status"], "none");
}

#[tokio::test]
async fn a_drop_opens_and_closes_by_itself_by_the_clock_of_redis() {
    let (world, api) = open_world("window").await;
    let coupon = api
        .create_coupon(&window(&world, 1_000, Some(4_000)).await)
        .await;
    let first = eventually_some("it opens", LIMIT, async || {
        match api.claim(coupon.id, "u-1").await {
            answer if answer.is("not_open") => Err("not open"),
            answer => Ok(answer),
        }
    })
    .await;
    let opens_at_ms: i64 = world
        .redis
        .command(&[
            "HGET",
            &world.redis.of_drop(coupon.id, coupon.drop, "meta"),
            "opens_at_ms",
        ])
        .await;
    assert!(world.redis.now_ms().await >= opens_at_ms);
    assert_eq!(
        first,
        Answer::Accepted {
            drop: coupon.drop,
            slot: 1,
            queued: true
        }
    );
    let before = world.redis.dump().await;
    let closed = eventually_some("it closes", LIMIT, async || {
        match claim(&api, coupon.id, "u-2").await {
            reply if reply.body["code"] == "sold_out" => Err("sold out"),
            reply => Ok(reply),
        }
    })
    .await;
    problem(&closed, 410, "closed");
    assert_eq!(
        api.claim(coupon.id, "u-1").await,
        Answer::Already {
            drop: coupon.drop,
            slot: 1
        },
        "a retry is safe"
    );
    assert_eq!(world.redis.dump().await, before);
}

#[tokio::test]
async fn sold_out_changes_nothing() {
    let (world, api) = open_world("sold-out").await;
    let coupon = api.open_coupon(1).await;
    assert!(api.claim(coupon.id, "u-1").await.is_accepted());
    let before = world.redis.dump().await;
    problem(&claim(&api, coupon.id, "u-2").await, 409, "sold_out");
    assert_eq!(world.redis.dump().await, before);
}

#[tokio::test]
async fn a_paused_coupon_admits_nobody_until_it_is_resumed() {
    let (world, api) = open_world("paused").await;
    let coupon = api.open_coupon(1).await;
    assert_eq!(
        api.patch(coupon.id, &json!({"paused": true})).await.status,
        200
    );
    let before = world.redis.dump().await;
    problem(&claim(&api, coupon.id, "u-1").await, 409, "paused");
    assert_eq!(
        api.coupon(coupon.id).await["current_drop"]["state"],
        "paused"
    );
    assert_eq!(world.redis.dump().await, before);
    assert_eq!(
        api.patch(coupon.id, &json!({"paused": false})).await.status,
        200
    );
    assert!(api.claim(coupon.id, "u-1").await.is_accepted());
}

#[tokio::test]
async fn a_full_waiting_list_ends_in_sold_out() {
    let (_world, api) = open_world("waiting").await;
    let mut body = json!({"name": "c", "quantity": 1, "once_per": "coupon", "waiting_list": 2});
    body["schedule"] = json!({"type": "once", "opens_at": "2026-01-01T00:00:00Z"});
    let coupon = api.create_coupon(&body).await;
    assert!(api.claim(coupon.id, "u-1").await.is_accepted());
    assert_eq!(
        api.claim(coupon.id, "u-2").await,
        Answer::Waiting { position: 1 }
    );
    assert_eq!(
        api.claim(coupon.id, "u-3").await,
        Answer::Waiting { position: 2 }
    );
    assert_eq!(
        api.claim(coupon.id, "u-2").await,
        Answer::Waiting { position: 1 },
        "a retry keeps the place"
    );
    assert!(api.claim(coupon.id, "u-4").await.is("sold_out"));
    assert_eq!(api.me(coupon.id, "u-3").await["status"], "waiting");
}

#[tokio::test]
async fn requests_that_are_not_claims_are_refused_and_change_nothing() {
    let (world, api) = open_world("wrong").await;
    let coupon = api.open_coupon(1).await;
    let before = world.redis.dump().await;
    let path = format!("/v1/coupons/{}/claims", coupon.id);
    let post = |path: &str| api.http().request(Method::POST, path);

    problem(&claim(&api, 999_999, "u-1").await, 404, "not_found");
    problem(
        &Http::send(post("/v1/coupons/abc/claims").header("x-user-id", "u-1")).await,
        404,
        "not_found",
    );
    problem(&Http::send(post(&path)).await, 401, "unauthorized");
    for bad in ["", "a b", "a/b", "<b>", &"x".repeat(65)] {
        problem(
            &Http::send(post(&path).header("x-user-id", bad)).await,
            400,
            "bad_user_id",
        );
    }
    let twice = post(&path)
        .header("x-user-id", "u-1")
        .header("x-user-id", "u-2");
    problem(&Http::send(twice).await, 400, "bad_user_id");
    // The person never comes from the body.
    problem(
        &Http::send(post(&path).json(&json!({"user_id": "u-1"}))).await,
        401,
        "unauthorized",
    );
    let huge = post(&path)
        .header("x-user-id", "u-1")
        .body("x".repeat(64 * 1024));
    problem(&Http::send(huge).await, 413, "too_large");
    assert_eq!(world.redis.dump().await, before);
    assert_eq!(
        world
            .topic
            .offsets()
            .await
            .iter()
            .map(|(_, end)| end)
            .sum::<i64>(),
        0,
        "no message"
    );
    assert!(
        api.claim(coupon.id, "u-1").await.is_accepted(),
        "and the API goes on"
    );
}

#[tokio::test]
async fn operators_routes_want_the_token_and_a_body_that_makes_sense() {
    let (world, api) = open_world("ops").await;
    let before = world.redis.dump().await;
    let good = window(&world, 0, None).await;
    let post = || api.http().request(Method::POST, "/v1/coupons");
    problem(&Http::send(post().json(&good)).await, 401, "unauthorized");
    problem(
        &Http::send(post().bearer_auth(format!("{OPS_TOKEN}x")).json(&good)).await,
        401,
        "unauthorized",
    );
    let changed = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    let bad_bodies = [
        json!({}),
        json!([]),
        changed("quantity", json!(0)),
        changed("quantity", json!(-1)),
        changed("quantity", json!(1.5)),
        changed("quantity", json!(5_000_000_000_u64)),
        changed("name", json!("")),
        changed("name", json!("x".repeat(201))),
        changed("once_per", json!("day")),
        changed("schedule", json!({"type": "weekly"})),
        changed("schedule", json!({"type": "once", "opens_at": "tomorrow"})),
        changed(
            "schedule",
            json!({"type": "once", "opens_at": "2026-01-02T00:00:00Z", "closes_at": "2026-01-01T00:00:00Z"}),
        ),
        changed(
            "schedule",
            json!({"type": "daily", "time_zone": "Mars/Olympus", "opens": "15:00", "closes": "18:00", "first_day": "2026-12-01"}),
        ),
    ];
    let ops = || api.http().ops(Method::POST, "/v1/coupons");
    for body in bad_bodies {
        problem(&Http::send(ops().json(&body)).await, 400, "invalid");
    }
    let not_json = ops().header("content-type", "application/json").body("{");
    problem(&Http::send(not_json).await, 400, "invalid");
    assert_eq!(world.redis.dump().await, before);
    assert_eq!(world.sql.number("SELECT COUNT(*) FROM coupons").await, 0);
}

#[tokio::test]
async fn a_closed_gate_admits_nobody_and_says_when_to_try_again() {
    let world = World::new("closed").await;
    let api = world.serve().await;
    let coupon = api.open_coupon(1).await;
    let before = world.redis.dump().await;
    let reply = claim(&api, coupon.id, "u-1").await;
    problem(&reply, 503, "unavailable");
    assert!(
        reply.retry_after().is_some_and(|seconds| seconds >= 1),
        "{reply:?}"
    );
    assert_eq!(world.redis.dump().await, before);
    world.pass().await;
    assert!(api.claim(coupon.id, "u-1").await.is_accepted());
}

#[tokio::test]
async fn a_quantity_can_be_raised_while_people_claim_but_not_lowered_under_what_is_given_out() {
    let (world, api) = open_world("raise").await;
    let _consumer = world.consume().await;
    let coupon = api.open_coupon(2).await;
    for user in ["u-1", "u-2"] {
        assert!(api.claim(coupon.id, user).await.is_accepted());
    }
    assert!(api.claim(coupon.id, "u-3").await.is("sold_out"));
    let lowered = api.patch(coupon.id, &json!({"quantity": 1})).await;
    problem(&lowered, 409, "below_given_out");
    assert_eq!(lowered.body["given_out"], 2);
    assert_eq!(
        api.patch(coupon.id, &json!({"quantity": 3})).await.status,
        200
    );
    assert_eq!(
        api.claim(coupon.id, "u-3").await,
        Answer::Accepted {
            drop: coupon.drop,
            slot: 3,
            queued: true
        }
    );
    firstcome_testkit::all_issued(&world, coupon.drop, 3).await;
    assert!(
        world
            .sql
            .query("SELECT * FROM failed_claims")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn a_person_sees_accepted_then_issued_with_a_code() {
    let (world, api) = open_world("me").await;
    let coupon = api.open_coupon(5).await;
    assert!(api.claim(coupon.id, "u-1").await.is_accepted());
    let me = api.me(coupon.id, "u-1").await;
    assert_eq!(
        (&me["status"], &me["drop_id"], &me["slot"]),
        (&json!("accepted"), &json!(coupon.drop), &json!(1))
    );
    let _consumer = world.consume().await;
    firstcome_testkit::all_issued(&world, coupon.drop, 1).await;
    let me = api.me(coupon.id, "u-1").await;
    assert_eq!(me["status"], "issued");
    let code = world.sql.query("SELECT code FROM issued_coupons").await;
    assert_eq!(me["code"], code[0][0].as_str());
}
