//! Changing windows and waiting lists, closing, and conditions on the revision.

use std::fmt::Display;
use std::ops::RangeInclusive;

use chrono::{SecondsFormat, TimeDelta, Utc};
use firstcome_shared::domain::DropId;
use reqwest::Method;
use serde_json::json;

use super::world::{HttpAnswer, InProcessApi, ServeWorld, coupon, open, today, with};

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

#[tokio::test]
async fn changing_the_waiting_list_keeps_the_users_who_wait() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, _) = api.make(open(1)).await;
    let longer = r#"
        u-1 claims $id => 202 accepted
        u-2 claims $id => 409 sold_out
        ops PATCH $id {"waiting_list": 2} => 200 waiting_list=2"#;
    let shorter = r#"
        u-2 claims $id => 202 waiting
        u-3 claims $id => 202 waiting
        ops PATCH $id {"waiting_list": 0} => 200 waiting_list=0
        u-4 claims $id => 409 sold_out
        u-3 claims $id => 202 waiting position=2"#;
    for table in [longer, shorter] {
        api.play(&[("$id", &id)], table).await;
        assert_agree(&world, id).await;
    }
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
    let table = r#"
        ops PATCH $once {"opens": "15:00"} => 422 not_possible | closes_at
        ops PATCH $once {"last_day": "2030-01-01"} => 422 not_possible | closes_at
        ops PATCH $once {"closes_at": "$past"} => 422 not_possible | close_now
        ops PATCH $once {"closes_at": "$soon", "close_now": true} => 422 not_possible | not both
        ops PATCH $later {"closes_at": "$soon"} => 422 not_possible | later
        ops PATCH $in_two_days {"close_now": true} => 422 not_possible | an earlier last_day
        ops PATCH $over {"closes_at": "$soon"} => 422 not_possible | new coupon
        ops PATCH $over {"close_now": true} => 422 not_possible | no drop is open
        ops PATCH $daily {"closes_at": "$soon"} => 422 not_possible | last_day
        ops PATCH $daily {"last_day": "$yesterday"} => 422 not_possible | first_day
        ops PATCH $daily {"opens": "25:00"} => 400 invalid
        ops PATCH $daily {"closes_at": "2030-01-01T00:00:00"} => 400 invalid
        ops PATCH $daily {"close_now": "yes"} => 400 invalid"#;
    let words: [(&str, &dyn Display); 8] = [
        ("$once", &once),
        ("$later", &later),
        ("$over", &over),
        ("$in_two_days", &daily_later),
        ("$daily", &daily),
        ("$past", &in_minutes(-1)),
        ("$soon", &in_minutes(5)),
        ("$yesterday", &yesterday),
    ];
    api.play(&words, table).await;
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
        let table = r#"
            ops PATCH $id {"quantity": 3} => 503 unavailable | lost a drop
            ops PATCH $id {"quantity": 9} => 503 unavailable | lost a drop
            ops PATCH $id {"close_now": true} => 503 unavailable | lost a drop"#;
        api.play(&[("$id", &id)], table).await;
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
    let users = &world.keys(id, DropId(drop)).users;
    let held: u32 = world.ask_redis(&["ZCARD", users]).await;
    for late in claims(100).await {
        late.is(410, "closed");
    }
    let [_, _, _, closes, early] = &assert_agree(&world, id).await[0];
    assert_eq!(early, "1");
    let table = r#"
        ops PATCH $id {"close_now": true} => 200
        ops PATCH $id {"closes_at": "$soon"} => 422 not_possible"#;
    let words: [(&str, &dyn Display); 2] = [("$id", &id), ("$soon", &in_minutes(9))];
    apis[0].play(&words, table).await;
    let again = &assert_agree(&world, id).await[0][3];
    assert_eq!(again, closes, "a repeat keeps the closing time");
    assert_eq!(world.ask_redis::<u32>(&["ZCARD", users]).await, held);
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
    let both = apis.iter().map(async |api| {
        let request = format!("ops PATCH {id} {{\"quantity\": 6}} ; if-match: {first}");
        api.send(&request).await
    });
    let both = futures_util::future::join_all(both).await;
    let (changed, refused): (Vec<&HttpAnswer>, Vec<&HttpAnswer>) =
        both.iter().partition(|answer| answer.status == 200);
    assert_eq!(changed.len(), 1, "{both:?}");
    refused[0].is(412, "changed_meanwhile");
    let now = tag(changed[0]);
    // The API that made the change: the other may still show the previous state.
    let changer = both.iter().position(|answer| answer.status == 200).unwrap();
    let table = r#"
        ops PATCH $id {"paused": true} ; if-match: $first => 412 changed_meanwhile revision=$now
        ops PATCH $id {"paused": true} ; if-match: 7 => 400 invalid
        - GET $id => 200 revision=$now paused=false
        ops PATCH $id {"paused": true} ; if-match: "$now" ; if-match: "$now" => 400 invalid
        ops PATCH $id {"name": "Now"} ; if-match: "$now" => 200
        ops PATCH $id {"name": "Any"} ; if-match: * => 200
        ops PATCH 4711 {"name": "x"} ; if-match: * => 404 not_found"#;
    let words: [(&str, &dyn Display); 3] = [
        ("$id", &id),
        ("$first", &first),
        ("$now", &now.trim_matches('"')),
    ];
    apis[changer].play(&words, table).await;
}

/// The corrected request must not be refused as a concurrent change.
#[tokio::test]
async fn quantity_below_given_out_is_refused_without_taking_a_revision() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, _) = api.make(open(5)).await;
    for user in ["u-1", "u-2", "u-3"] {
        api.claim(id, user).await.has_status(202);
    }
    let before = world.dump().await;
    let refused =
        r#"ops PATCH $id {"quantity": 2} ; if-match: "1" => 409 below_given_out given_out=3"#;
    api.play(&[("$id", &id)], refused).await;
    assert_eq!(world.dump().await, before);
    let corrected = r#"ops PATCH $id {"quantity": 4} ; if-match: "1" => 200 quantity=4"#;
    api.play(&[("$id", &id)], corrected).await;
    assert_agree(&world, id).await;
}

#[tokio::test]
async fn opening_moves_in_both_stores_until_a_minute_before_it() {
    let (world, api) = ServeWorld::with_api().await;
    let later = in_minutes(60);
    let (id, _) = api.make(coupon(5, 10..=120)).await;
    api.patch(id, json!({"opens_at": later}))
        .await
        .has_status(200);
    let [[_, _, opens, ..]] = assert_agree(&world, id).await.try_into().unwrap();
    let expected = later.parse::<chrono::DateTime<Utc>>().unwrap();
    assert_eq!(opens, expected.timestamp_millis().to_string());
    let table = r#"
        u-1 claims $id => 409 not_open
        ops PATCH $id {"opens_at": "$soon"} => 200
        ops PATCH $id {"opens_at": "$later"} => 422 not_possible"#;
    let soon = in_minutes(1);
    let words: [(&str, &dyn Display); 3] = [("$id", &id), ("$soon", &soon), ("$later", &later)];
    api.play(&words, table).await;
    assert_agree(&world, id).await;
}
