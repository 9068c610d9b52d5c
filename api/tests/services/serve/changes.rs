//! Changing windows and waiting lists, closing, and conditions on the revision.

use std::ops::RangeInclusive;

use chrono::{SecondsFormat, TimeDelta, Utc};
use firstcome_shared::domain::DropId;
use reqwest::Method;
use serde_json::{Value, json};

use super::world::{HttpAnswer, InProcessApi, OPS_TOKEN, ServeWorld, coupon, open, today, with};

fn in_minutes(minutes: i64) -> String {
    (Utc::now() + TimeDelta::minutes(minutes)).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Returns the drops in MySQL: ID, local date, opening, closing, and whether each was closed early.
async fn drops(world: &ServeWorld, id: i64) -> Vec<[String; 5]> {
    let ms = |column: &str| format!("IFNULL(ROUND(UNIX_TIMESTAMP({column}) * 1000), '')");
    let columns = format!(
        "id, IFNULL(local_date, ''), {}, {}, closed_early",
        ms("opens_at"),
        ms("closes_at")
    );
    let rows = world
        .sql(&format!(
            "SELECT {columns} FROM {{db}}.drops WHERE coupon_id = {id} ORDER BY opens_at"
        ))
        .await;
    rows.into_iter()
        .map(|row| row.try_into().unwrap())
        .collect()
}

/// Returns the drops in MySQL after asserting that Redis has the same settings.
async fn assert_agree(world: &ServeWorld, id: i64) -> Vec<[String; 5]> {
    let drops = drops(world, id).await;
    let coupon = &world
        .sql(&format!(
            "SELECT paused, waiting_list FROM {{db}}.coupons WHERE id = {id}"
        ))
        .await[0];
    for [drop, _, opens, closes, early] in &drops {
        let meta = world.keys(id, DropId(drop.parse().unwrap())).meta;
        let names = [
            "HMGET",
            &meta,
            "opens_at_ms",
            "closes_at_ms",
            "closed_early",
            "paused",
            "waiting_list",
        ];
        let found: Vec<String> = world.ask_redis(&names).await;
        assert_eq!(
            found,
            [opens, closes, early, &coupon[0], &coupon[1]].map(String::as_str),
            "drop {drop}"
        );
    }
    drops
}

async fn daily(api: &InProcessApi, time_zone: &str, hours: RangeInclusive<&str>) -> i64 {
    let (opens, closes) = hours.into_inner();
    let today = today().await;
    let schedule = json!({
        "type": "daily", "time_zone": time_zone, "opens": opens, "closes": closes, "first_day": today,
        "last_day": today + TimeDelta::days(3),
    });
    api.make(with(
        with(open(5), "schedule", schedule),
        "once_per",
        "drop",
    ))
    .await
    .0
}

async fn patch_with(
    api: &InProcessApi,
    id: i64,
    headers: &[(&str, &str)],
    body: &Value,
) -> HttpAnswer {
    let token = format!("Bearer {OPS_TOKEN}");
    let all: Vec<(&str, &str)> = [("authorization", token.as_str())]
        .into_iter()
        .chain(headers.iter().copied())
        .collect();
    api.ask(
        Method::PATCH,
        &format!("/v1/coupons/{id}"),
        &all,
        body.to_string(),
    )
    .await
}

#[tokio::test]
async fn changing_the_waiting_list_keeps_the_users_who_wait() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, _) = api.make(open(1)).await;
    api.claim(id, "u-1").await.has_status(202);
    api.claim(id, "u-2").await.is(409, "sold_out");
    assert_eq!(
        api.patch(id, json!({"waiting_list": 2})).await.json["waiting_list"],
        2
    );
    assert_agree(&world, id).await;
    for user in ["u-2", "u-3"] {
        api.claim(id, user).await.is(202, "waiting");
    }
    assert_eq!(
        api.patch(id, json!({"waiting_list": 0})).await.json["waiting_list"],
        0
    );
    api.claim(id, "u-4").await.is(409, "sold_out");
    assert_eq!(api.claim(id, "u-3").await.json["position"], 2);
    assert_agree(&world, id).await;
}

#[tokio::test]
async fn impossible_changes_are_refused_with_advice_and_change_nothing() {
    let (world, api) = ServeWorld::with_api().await;
    let (once, _) = api.make(open(5)).await;
    let (later, _) = api.make(coupon(5, 10..=20)).await;
    let (over, _) = world.make_over(&api, 5).await;
    let in_two_days = with(
        open(5),
        "schedule",
        json!({
            "type": "daily", "time_zone": "UTC", "opens": "11:00", "closes": "12:00",
            "first_day": (Utc::now() + TimeDelta::days(2)).date_naive(),
        }),
    );
    let (daily_later, _) = api.make(in_two_days).await;
    let daily = daily(&api, "UTC", "00:00"..="00:00").await;
    let before = world.dump().await;
    let revisions = async || world.sql("SELECT id, revision FROM {db}.coupons").await;
    let known = revisions().await;
    let yesterday = (Utc::now() - TimeDelta::days(1)).date_naive();
    for (id, body, says) in [
        (once, json!({"opens": "15:00"}), "closes_at"),
        (once, json!({"last_day": "2030-01-01"}), "closes_at"),
        (once, json!({"closes_at": in_minutes(-1)}), "close_now"),
        (
            once,
            json!({"closes_at": in_minutes(5), "close_now": true}),
            "not both",
        ),
        (later, json!({"closes_at": in_minutes(5)}), "later"),
        (
            daily_later,
            json!({"close_now": true}),
            "an earlier last_day",
        ),
        (over, json!({"closes_at": in_minutes(5)}), "new coupon"),
        (over, json!({"close_now": true}), "no drop is open"),
        (daily, json!({"closes_at": in_minutes(5)}), "last_day"),
        (daily, json!({"last_day": yesterday}), "first_day"),
    ] {
        let refused = api.patch(id, body.clone()).await;
        assert_eq!(refused.code(), (422, "not_possible"), "{body}");
        refused.says(says);
    }
    for body in [
        json!({"opens": "25:00"}),
        json!({"closes_at": "2030-01-01T00:00:00"}),
        json!({"close_now": "yes"}),
    ] {
        let refused = api.patch(daily, body.clone()).await;
        assert_eq!(refused.code(), (400, "invalid"), "{body}");
    }
    assert_eq!((world.dump().await, revisions().await), (before, known));
}

#[tokio::test]
async fn earlier_last_day_removes_drops_that_nobody_holds() {
    let (world, api) = ServeWorld::with_api().await;
    let id = daily(&api, "UTC", "00:00"..="00:00").await;
    let made = assert_agree(&world, id).await;
    let [today, tomorrow, last] = std::array::from_fn(|at| made[at][0].parse::<i64>().unwrap());
    assert_eq!(api.claim(id, "u-1").await.json["drop_id"], today);
    let day = |days| (Utc::now() + TimeDelta::days(days)).date_naive();

    let ended = api.patch(id, json!({"last_day": day(1)})).await;
    assert_eq!(ended.json["schedule"]["last_day"], day(1).to_string());
    let left: Vec<i64> = assert_agree(&world, id)
        .await
        .iter()
        .map(|row| row[0].parse().unwrap())
        .collect();
    assert_eq!(left, [today, tomorrow]);
    let expiry: i64 = world
        .ask_redis(&["PTTL", &world.keys(id, DropId(last)).meta])
        .await;
    assert!((1..=60_000).contains(&expiry), "{expiry}");

    api.patch(id, json!({"last_day": null}))
        .await
        .has_status(200);
    assert_eq!(assert_agree(&world, id).await, made, "with its own id");
    // A row that was inserted manually.
    world.issue(id, DropId(last), 1, "u-by-hand").await;
    let refused = api.patch(id, json!({"last_day": day(1)})).await;
    refused.is(422, "not_possible");
    refused.says("has coupons already");
    assert_eq!(assert_agree(&world, id).await, made);
    assert_eq!(api.claim(id, "u-2").await.json["drop_id"], today);
}

/// The reconciler creates such a drop again, and its quantity must not fall below the number of
/// slots that are given out.
#[tokio::test]
async fn new_quantities_and_windows_are_refused_while_a_drop_is_lost() {
    let (world, api) = ServeWorld::with_api().await;
    let (once, _) = api.make(open(5)).await;
    let daily = daily(&api, "UTC", "00:00"..="00:00").await;
    for id in [once, daily] {
        api.claim(id, "u-1").await.has_status(202);
        let lose = format!(
            "DELETE /*+ SET_VAR(foreign_key_checks=OFF) */ FROM {{db}}.drops \
             WHERE coupon_id = {id} AND opens_at <= UTC_TIMESTAMP(3)"
        );
        world.sql(&lose).await;
        for body in [
            json!({"quantity": 3}),
            json!({"quantity": 9}),
            json!({"close_now": true}),
        ] {
            let refused = api.patch(id, body.clone()).await;
            assert_eq!(refused.code(), (503, "unavailable"), "{id} {body}");
            refused.says("lost a drop");
        }
        let quantity = format!("SELECT quantity, revision FROM {{db}}.coupons WHERE id = {id}");
        assert_eq!(world.sql(&quantity).await, [["5", "1"]]);
        api.patch(id, json!({"paused": true})).await.has_status(200);
    }
}

#[tokio::test]
async fn close_now_stops_admission_immediately_and_is_idempotent() {
    let world = ServeWorld::new().await;
    let apis = [world.api().await, world.api().await];
    let (id, drop) = apis[0].make(with(open(1_000), "waiting_list", 10)).await;
    let claims = async |from: usize| {
        let each = (from..from + 40).map(|n| (&apis[n % 2], format!("u-{n}")));
        futures_util::future::join_all(each.map(async |(api, user)| api.claim(id, &user).await))
            .await
    };
    let (_, closed) = tokio::join!(claims(0), apis[1].patch(id, json!({"close_now": true})));
    assert_eq!(
        (closed.status, &closed.json["current_drop"]["state"]),
        (200, &json!("closed")),
        "{closed:?}"
    );
    let held: u32 = world
        .ask_redis(&["ZCARD", &world.keys(id, DropId(drop)).users])
        .await;
    for late in claims(100).await {
        late.is(410, "closed");
    }
    let [_, _, _, closes, early] = &assert_agree(&world, id).await[0];
    assert_eq!(early, "1");
    apis[0]
        .patch(id, json!({"close_now": true}))
        .await
        .has_status(200);
    assert_eq!(
        &assert_agree(&world, id).await[0][3],
        closes,
        "a repeat keeps the closing time"
    );
    assert_eq!(
        world
            .ask_redis::<u32>(&["ZCARD", &world.keys(id, DropId(drop)).users])
            .await,
        held
    );
    apis[0]
        .patch(id, json!({"closes_at": in_minutes(9)}))
        .await
        .is(422, "not_possible");
}

#[tokio::test]
async fn change_applies_only_to_the_revision_in_if_match() {
    let world = ServeWorld::new().await;
    let apis = [world.api().await, world.api().await];
    let made = apis[0].ops(Method::POST, "/v1/coupons", &open(5)).await;
    let id = made.json["id"].as_i64().unwrap();
    let tag = |answer: &HttpAnswer| {
        let tag = answer.headers["etag"].to_str().unwrap().to_owned();
        assert_eq!(
            tag,
            format!("\"{}\"", answer.json["revision"]),
            "{answer:?}"
        );
        tag
    };
    let first = tag(&made);
    assert_eq!(tag(&apis[1].get(&format!("/v1/coupons/{id}")).await), first);

    let both = futures_util::future::join_all(apis.iter().map(async |api| {
        patch_with(api, id, &[("if-match", &first)], &json!({"quantity": 6})).await
    }));
    let both = both.await;
    let (changed, refused): (Vec<&HttpAnswer>, Vec<&HttpAnswer>) =
        both.iter().partition(|answer| answer.status == 200);
    assert_eq!(
        (changed.len(), refused[0].code()),
        (1, (412, "changed_meanwhile")),
        "{both:?}"
    );

    let stale = patch_with(
        &apis[0],
        id,
        &[("if-match", &first)],
        &json!({"paused": true}),
    )
    .await;
    let now = tag(changed[0]);
    stale.is(412, "changed_meanwhile");
    assert_eq!(format!("\"{}\"", stale.json["revision"]), now);
    patch_with(&apis[0], id, &[("if-match", "7")], &json!({"paused": true}))
        .await
        .is(400, "invalid");
    // Ask the API that made the change: the other may still show the previous state.
    let changer = both.iter().position(|answer| answer.status == 200).unwrap();
    assert_eq!(
        tag(&apis[changer].get(&format!("/v1/coupons/{id}")).await),
        now,
        "refused requests change nothing"
    );
    let twice = [("if-match", now.as_str()), ("if-match", now.as_str())];
    patch_with(&apis[0], id, &twice, &json!({"paused": true}))
        .await
        .is(400, "invalid");
    patch_with(&apis[0], id, &[("if-match", &now)], &json!({"name": "Now"}))
        .await
        .has_status(200);
    patch_with(&apis[0], id, &[("if-match", "*")], &json!({"name": "Any"}))
        .await
        .has_status(200);
    patch_with(&apis[0], 4_711, &[("if-match", "*")], &json!({"name": "x"}))
        .await
        .is(404, "not_found");
}

#[tokio::test]
async fn quantity_below_given_out_is_refused_without_taking_a_revision() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, _) = api.make(open(5)).await;
    for user in ["u-1", "u-2", "u-3"] {
        api.claim(id, user).await.has_status(202);
    }
    let tag = api.get(&format!("/v1/coupons/{id}")).await.headers["etag"]
        .to_str()
        .unwrap()
        .to_owned();
    let meant_for = [("if-match", tag.as_str())];
    let before = world.dump().await;
    let refused = patch_with(&api, id, &meant_for, &json!({"quantity": 2})).await;
    assert_eq!(
        (refused.code(), &refused.json["given_out"]),
        ((409, "below_given_out"), &json!(3)),
        "{refused:?}"
    );
    assert_eq!(world.dump().await, before);
    // The corrected request must not be refused as a concurrent change.
    let corrected = patch_with(&api, id, &meant_for, &json!({"quantity": 4})).await;
    assert_eq!(
        (corrected.status, &corrected.json["quantity"]),
        (200, &json!(4)),
        "{corrected:?}"
    );
    assert_agree(&world, id).await;
}

#[tokio::test]
async fn opening_moves_in_both_stores_until_a_minute_before_it() {
    let (world, api) = ServeWorld::with_api().await;
    let later = in_minutes(60);
    let (id, _) = api.make(coupon(5, 10..=120)).await;
    let moved = patch_with(&api, id, &[], &json!({"opens_at": later})).await;
    assert_eq!(moved.status, 200, "{moved:?}");
    let [[_, _, opens, ..]] = assert_agree(&world, id).await.try_into().unwrap();
    let expected = later.parse::<chrono::DateTime<Utc>>().unwrap();
    assert_eq!(opens, expected.timestamp_millis().to_string());
    let early = api.claim(id, "u-1").await;
    early.is(409, "not_open");
    let soon = patch_with(&api, id, &[], &json!({"opens_at": in_minutes(1)})).await;
    assert_eq!(soon.status, 200, "{soon:?}");
    let late = patch_with(&api, id, &[], &json!({"opens_at": later})).await;
    late.is(422, "not_possible");
    assert_agree(&world, id).await;
}
