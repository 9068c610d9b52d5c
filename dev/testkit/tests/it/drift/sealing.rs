//! Ended drops are sealed once they are verified as exact. They then cost nothing, MySQL still
//! answers for them, and nothing unseals them.

use chrono::{TimeDelta, Timelike as _, Utc};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Answer, Fixture, HeldTransaction, LIMIT, MadeCoupon, PromisedAnswer, assert_kept, eventually,
    rows,
};
use serde_json::{Value, json};

use crate::drift::support::{CLEAN, DRIFT, Found, REPAIRED, found_in, inject, pass_ends};

/// Creates a drop of 20 slots that are all given out, and that has just closed.
pub(crate) async fn closed(fixture: &Fixture, name: &str) -> (MadeCoupon, Vec<PromisedAnswer>) {
    let (coupon, answers) = fixture.held(name, 20, 20).await;
    assert!(
        answers.iter().all(|(_, answer)| answer.is_accepted()),
        "{answers:?}"
    );
    fixture
        .api
        .change(coupon.id, &json!({"close_now": true}))
        .await;
    eventually("the drop closes", LIMIT, async || {
        state(fixture, &coupon).await == "closed"
    })
    .await;
    (coupon, answers)
}

async fn state(fixture: &Fixture, coupon: &MadeCoupon) -> String {
    let body = fixture.api.coupon(coupon.id).await;
    ["current_drop", "next_drop", "last_drop"]
        .iter()
        .find_map(|name| body[*name]["state"].as_str().map(str::to_owned))
        .unwrap_or_else(|| "closed".to_owned())
}

pub(super) async fn sealed(fixture: &Fixture, coupon: &MadeCoupon) -> bool {
    let sealed = format!(
        "SELECT COUNT(*) FROM drops WHERE id = {} AND sealed_at IS NOT NULL",
        coupon.drop
    );
    fixture.world.sql.number(&sealed).await == 1
}

/// Runs passes until the drop is sealed. It must first have been closed for as long as a message
/// may take.
pub(crate) async fn until_sealed(fixture: &Fixture, coupon: &MadeCoupon) {
    eventually("the drop is sealed", LIMIT, async || {
        pass_ends(&fixture.world, &[], CLEAN).await;
        sealed(fixture, coupon).await
    })
    .await;
}

/// Checks that holders see their slots, and that others see that the drop is over.
async fn answered(fixture: &Fixture, coupon: &MadeCoupon, answers: &[PromisedAnswer]) {
    let api = &fixture.api;
    for (user, answer) in answers {
        let (drop, slot) = answer.promised().unwrap();
        let me = api.me(coupon.id, user).await;
        assert_eq!(
            (&me["status"], &me["slot"]),
            (&json!("issued"), &json!(slot)),
            "{user}: {me}"
        );
        assert_eq!(
            api.claim(coupon.id, user).await,
            Answer::Already { drop, slot },
            "{user}"
        );
    }
    assert_eq!(api.me(coupon.id, "u-other").await["status"], "none");
    assert!(api.claim(coupon.id, "u-other").await.is("closed"));
}

#[tokio::test]
async fn dead_letters_of_a_sealed_drop_become_rows_or_are_listed_and_unseal_nothing() {
    let fixture = Fixture::new("d-sealed").await;
    let world = &fixture.world;
    let (coupon, answers) = closed(&fixture, "Over").await;
    until_sealed(&fixture, &coupon).await;
    let users = world.redis.of_drop(coupon.id, coupon.drop, "users");
    let ttl: i64 = world.redis.command(&["TTL", &users]).await;
    assert!(ttl != -1, "the keys of a sealed drop expire");
    // The slot has no row; the user has a row; the slot has the row of another user.
    inject(world, &coupon, Drift::FailedClaim, 1).await;
    inject(world, &coupon, Drift::FailedDuplicate, 1).await;
    pass_ends(world, &[], REPAIRED).await;
    inject(world, &coupon, Drift::FailedSlotTaken, 1).await;
    pass_ends(world, &[], DRIFT).await;
    assert_kept(world, &coupon, &answers, &[]).await;
    assert!(sealed(&fixture, &coupon).await, "nothing unseals a drop");
    answered(&fixture, &coupon, &answers).await;
}

/// The messages of a sealed drop that has lost its rows are read again.
#[tokio::test]
async fn lost_rows_of_a_sealed_drop_come_back_from_the_topic() {
    let fixture = Fixture::new("d-sealed-rows").await;
    let world = &fixture.world;
    let (coupon, answers) = closed(&fixture, "Rows").await;
    until_sealed(&fixture, &coupon).await;
    for lost in ["issued_coupons", "topic_positions"] {
        world.sql.query(&format!("DELETE FROM {lost}")).await;
    }
    eventually("the rows are back", LIMIT, async || {
        world.once_with(&[], &[]).await;
        rows(world, coupon.drop).await.len() == 20
    })
    .await;
    assert_kept(world, &coupon, &answers, &[]).await;
    // Each late row counts as one more than at sealing; OPERATIONS says how to record the number.
    let count = "(SELECT COUNT(*) FROM issued_coupons i WHERE i.drop_id = drops.id)";
    let record = format!("UPDATE drops SET sealed_rows = {count} WHERE sealed_at IS NOT NULL");
    world.sql.query(&record).await;
    pass_ends(world, &["--deep"], CLEAN).await;
}

/// A message whose slot has the row of another user is left to an operator. However many there are,
/// none hides a letter that can become a row.
#[tokio::test]
async fn letters_that_stay_hide_no_letter_that_becomes_a_row() {
    let fixture = Fixture::new("d-sealed-many").await;
    let world = &fixture.world;
    let (coupon, answers) = closed(&fixture, "Many").await;
    until_sealed(&fixture, &coupon).await;
    let (id, drop) = (coupon.id, coupon.drop);
    let many = format!(
        "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason, source_partition, source_offset) \
         SELECT {id}, {drop}, 1, CONCAT('x-', n), 'sealed_drop', 0, 1000 + n FROM \
         (WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 600) \
         SELECT n FROM numbers) numbers"
    );
    world.sql.query(&many).await;
    let columns = "(coupon_id, drop_id, slot, reason)";
    let nameless = format!("INSERT INTO failed_claims {columns} VALUES ({id}, {drop}, 1, 'x')");
    world.sql.query(&nameless).await;
    inject(world, &coupon, Drift::FailedClaim, 1).await;
    let run = pass_ends(world, &[], DRIFT).await;
    assert_kept(world, &coupon, &answers, &[]).await;
    let open = "SELECT COUNT(*) FROM failed_claims WHERE resolved_at IS NULL";
    assert_eq!(world.sql.number(open).await, 601);
    let found = found_in(&run, &coupon);
    let is_nameless = |it: &&Found| it.detail.ends_with("names a sealed drop and no user");
    assert_eq!(found.iter().filter(is_nameless).count(), 1);
    assert_eq!(found.len(), 602);
}

#[tokio::test]
async fn locked_letter_of_a_sealed_drop_stops_only_that_drop() {
    let fixture = Fixture::new("d-sealed-lock").await;
    let world = &fixture.world;
    let (open, _) = fixture.held("Open", 5, 2).await;
    let (coupon, answers) = closed(&fixture, "Locked").await;
    let (other, _) = closed(&fixture, "Other").await;
    until_sealed(&fixture, &coupon).await;
    until_sealed(&fixture, &other).await;
    inject(world, &coupon, Drift::FailedClaim, 2).await;
    inject(world, &other, Drift::FailedClaim, 1).await;
    let mut held = HeldTransaction::begin(&world.sql).await;
    held.run("SELECT id FROM failed_claims ORDER BY id LIMIT 1 FOR UPDATE")
        .await;
    let run = pass_ends(world, &[], DRIFT).await;
    let all = rows(world, other.drop).await.len();
    assert_eq!(all, 20, "{run:#}");
    let drops = run["drops"].as_array().expect("drops");
    assert!(
        drops.iter().any(|report| report["drop_id"] == open.drop),
        "{run:#}"
    );
    held.run("ROLLBACK").await;
    pass_ends(world, &[], REPAIRED).await;
    assert_kept(world, &coupon, &answers, &[]).await;
}

/// Returns the body of a daily coupon whose only day closes in six seconds, around noon in its time
/// zone.
pub(super) fn one_day() -> Value {
    let now = Utc::now();
    let ahead = 12 - i32::try_from(now.hour()).unwrap();
    let local = now + TimeDelta::hours(ahead.into());
    let day = local.date_naive();
    let closes = (local + TimeDelta::seconds(6))
        .format("%H:%M:%S")
        .to_string();
    let schedule = json!({
        "type": "daily", "time_zone": format!("Etc/GMT{:+}", -ahead), "opens": "00:00", "closes": closes,
        "first_day": day, "last_day": day,
    });
    json!({"name": "Over", "quantity": 3, "once_per": "coupon", "waiting_list": 0, "schedule": schedule})
}
