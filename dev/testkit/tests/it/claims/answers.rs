//! Answers that change over time. All other answers of the contract are covered by the API's own
//! tests (`api/tests/serve/admission.rs`).

use chrono::{DateTime, SecondsFormat};
use firstcome_testkit::{
    Answer, ApiClient, Http, HttpReply, LIMIT, World, eventually_some, open_world,
};
use serde_json::{Value, json};

/// A coupon with one drop whose window lies around Redis's current time, in milliseconds from it.
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
async fn a_drop_opens_and_closes_by_the_clock_of_redis() {
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
