//! Ended drops are sealed once they are verified as exact. They then cost nothing, MySQL still
//! answers for them, and nothing unseals them.

use chrono::{TimeDelta, Timelike as _, Utc};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Answer, Fixture, LIMIT, MadeCoupon, PromisedAnswer, assert_kept, eventually, rows,
};
use serde_json::{Value, json};

use crate::drift::support::{CLEAN, DRIFT, REPAIRED, inject, pass_ends};

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
