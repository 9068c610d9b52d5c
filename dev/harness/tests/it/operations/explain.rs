//! The full history of one user, at the endpoint and on the command line.

use crate::drift::support::explained;
use crate::prelude::*;

/// Fails unless each of these events has a line with all its words.
fn assert_told(story: &Value, events: &[&[&str]]) {
    let happenings = story["happenings"].as_array().unwrap();
    let line = |event: &Value| format!("{}: {}", event["source"], event["what"]).replace('"', "");
    let lines: Vec<String> = happenings.iter().map(line).collect();
    for words in events {
        let is_it = |line: &String| words.iter().all(|word| line.contains(word));
        assert!(lines.iter().any(is_it), "no line has {words:?}: {lines:#?}");
    }
}

#[tokio::test]
async fn explain_and_search_cover_issued_reissued_reported_waiting_and_unknown_users() {
    let fixture = Fixture::new("d-story").await;
    let world = &fixture.world;
    let daemon = world.daemon().await;
    let (coupon, answers) = fixture.held("Told", 20, 12).await;
    let path = |coupon: i64, user: &str| format!("/v1/coupons/{coupon}/people/{user}");
    let story = async |user: &str| {
        let reply = daemon.get(&path(coupon.id, user)).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(explained(world, &coupon, user).await, reply.body);
        reply.body
    };
    let (user, answer) = &answers[0];
    let (drop, slot) = answer.promised().unwrap();
    let used = format!(
        "INSERT INTO coupon_uses \
         (drop_id, slot, claimed_at, reference, used_by, used_at, undone_at) \
         SELECT drop_id, slot, claimed_at, 'order-1', 'shop-eu', issued_at, UTC_TIMESTAMP(3) \
         FROM issued_coupons WHERE drop_id = {drop} AND slot = {slot}"
    );
    world.sql.query(&used).await;
    let told = story(user).await;
    let found = (&told["holds"], &told["slot"], &told["drop_id"]);
    assert_eq!(found, (&json!("issued"), &json!(slot), &json!(drop)));
    let at = format!("slot {slot}");
    let row = ["mysql:", "row", &at, "written by the consumer"];
    let used = ["mysql:", "code of", &at, "used by order order-1 of shop-eu"];
    let undone = [
        "mysql:",
        "use of",
        &at,
        "by order order-1 of shop-eu undone",
    ];
    let admitted = ["redis:", "admitted", &at];
    assert_told(&told, &[&admitted, &row, &used, &undone]);

    let done = inject(world, &coupon, Drift::FailedClaim, 1).await;
    let user = &done.people[0].user;
    let run = world.pass().await;
    let told = story(user).await;
    assert_eq!(told["holds"], "issued");
    let events: [&[&str]; 4] = [
        &["dead letter:", "failed claim", "firstcome-drift"],
        &["dead letter:", "dealt with: issued"],
        &["reconciler:", "failed claim", "applied", &run.run_id],
        &["mysql:", "written by the reconciler"],
    ];
    assert_told(&told, &events);

    let told = story("u-nobody").await;
    let found = (&told["holds"], &told["happenings"]);
    assert_eq!(found, (&json!("none"), &json!([])));
    for (path, status) in [(path(424_242, "u-1"), 404), (path(coupon.id, "u%201"), 400)] {
        assert_eq!(daemon.get(&path).await.status, status, "{path}");
    }
    let stranger = daemon.http().get(&path(coupon.id, "u-1")).await.status;
    assert_eq!(stranger, 401, "without a token");
    a_waiting_user_is_found_without_naming_the_coupon(&fixture, &daemon).await;
}

/// Only Redis knows the users who wait.
async fn a_waiting_user_is_found_without_naming_the_coupon(
    fixture: &Fixture,
    daemon: &ReconcilerClient,
) {
    let mut body = coupon_body("Waits", 1, 5);
    body["once_per"] = json!("drop");
    let coupon = fixture.api.create_coupon(&body).await;
    for user in ["u-first", "u-second"] {
        fixture.api.claim(coupon.id, user).await;
    }
    let find = async |user: &str| {
        let path = format!("/v1/people?user_id={user}");
        daemon.get(&path).await
    };
    for user in ["u-first", "u-second"] {
        let found = find(user).await;
        assert_eq!(
            found.body["coupons"][0]["id"], coupon.id,
            "{user}: {found:?}"
        );
    }
    assert_eq!(find("u-third").await.status, 404);
}
