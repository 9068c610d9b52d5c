//! Ended drops are sealed once they are verified as exact. They then cost nothing, and MySQL still
//! answers for them.

use chrono::{NaiveDate, TimeDelta, Timelike as _, Utc};
use firstcome_reconciler::report::{Kind, Status};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Answer, Fixture, LIMIT, MadeCoupon, PromisedAnswer, assert_kept, eventually,
};
use serde_json::{Value, json};

use crate::drift::support::{assert_found, expected, inject, pass_ends, report};

/// Creates a drop of 20 slots that are all given out, and that has just closed.
pub(super) async fn closed(fixture: &Fixture, name: &str) -> (MadeCoupon, Vec<PromisedAnswer>) {
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

async fn sealed(fixture: &Fixture, coupon: &MadeCoupon) -> bool {
    let sealed = format!(
        "SELECT COUNT(*) FROM drops WHERE id = {} AND sealed_at IS NOT NULL",
        coupon.drop
    );
    fixture.world.sql.number(&sealed).await == 1
}

/// Runs passes until the drop is sealed. It must first have been closed for as long as a message
/// may take.
pub(super) async fn until_sealed(fixture: &Fixture, coupon: &MadeCoupon) {
    eventually("the drop is sealed", LIMIT, async || {
        let run = fixture.world.pass().await;
        assert_eq!(run.status, Status::Clean, "{run:#?}");
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
async fn the_deep_pass_checks_and_repairs_sealed_drops() {
    let fixture = Fixture::new("d-deep").await;
    let world = &fixture.world;
    let (coupon, answers) = closed(&fixture, "Over").await;
    until_sealed(&fixture, &coupon).await;
    let deep = world.once_with(&["--deep"], &[]).await.run();
    assert_eq!((deep.status, deep.deep), (Status::Clean, true), "{deep:#?}");
    let report = report(&deep, coupon.drop);
    assert!(report.examined.rows == 20 && report.exact, "{report:#?}");

    let done = inject(world, &coupon, Drift::Unissued, 2).await;
    assert_found(&world.pass().await, &[].into());
    let deep = world.once_with(&["--deep"], &[]).await.run();
    assert_found(&deep, &expected(Kind::Unissued, &done));
    assert_eq!(deep.status, Status::Repaired, "{deep:#?}");
    assert_kept(world, &coupon, &answers, &[]).await;
    answered(&fixture, &coupon, &answers).await;
    pass_ends(world, &["--deep"], (0, Status::Clean)).await;
}

#[tokio::test]
async fn only_keys_of_sealed_drops_expire_after_a_deep_pass() {
    let fixture = Fixture::new("d-lasting").await;
    let world = &fixture.world;
    let (coupon, _) = closed(&fixture, "Over").await;
    until_sealed(&fixture, &coupon).await;
    // A process may die after it seals a drop and before it sets the expiry.
    let own = world.redis.own(&format!("{{{}}}:", coupon.id));
    let names = || async {
        let names = world.redis.names().await;
        names
            .into_iter()
            .filter(|name| name.starts_with(&own))
            .collect::<Vec<_>>()
    };
    for name in names().await {
        world.redis.command::<i64>(&["PERSIST", &name]).await;
    }
    pass_ends(world, &["--deep"], (0, Status::Clean)).await;
    let there = names().await;
    assert!(there.len() >= 4, "{there:?}");
    for name in there {
        assert!(
            world.redis.command::<i64>(&["TTL", &name]).await > 0,
            "{name} does not expire"
        );
    }
    // Open coupons keep their keys.
    let (open, _) = fixture.held("Open", 5, 5).await;
    pass_ends(world, &["--deep"], (0, Status::Clean)).await;
    let users = world.redis.of_drop(open.id, open.drop, "users");
    assert_eq!(world.redis.command::<i64>(&["TTL", &users]).await, -1);
    // A drop that was unsealed loses its expiry. It stays unsealed, because the dead letter of an
    // invalid user ID waits for a person.
    let (ended, _) = closed(&fixture, "Unsealed").await;
    let letter = format!(
        "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason) VALUES ({}, {}, 1, 'odd person', 'test')",
        ended.id, ended.drop
    );
    world.sql.query(&letter).await;
    let users = world.redis.of_drop(ended.id, ended.drop, "users");
    world
        .redis
        .command::<i64>(&["EXPIRE", &users, "3600"])
        .await;
    pass_ends(world, &[], (1, Status::Drift)).await;
    assert_eq!(world.redis.command::<i64>(&["TTL", &users]).await, -1);
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

#[tokio::test]
async fn an_ended_coupon_is_removed_from_redis_unless_it_gets_more_days() {
    let fixture = Fixture::new("d-over").await;
    let world = &fixture.world;
    let body = one_day();
    let (coupon, _) = fixture.held_of(&body, 3).await;
    until_sealed(&fixture, &coupon).await;
    let redis = &world.redis;
    let names = ["claimants", "gate", "revision"]
        .map(|name| redis.own(&format!("{{{}}}:{name}", coupon.id)));
    let expire = async || {
        let mut expire = Vec::new();
        for name in &names {
            expire.push(redis.command::<i64>(&["TTL", name]).await > 0);
        }
        expire
    };
    assert_eq!(expire().await, [true; 3]);
    let day: NaiveDate = serde_json::from_value(body["schedule"]["last_day"].clone()).unwrap();
    let more = json!({"last_day": day + TimeDelta::days(1)});
    fixture.api.change(coupon.id, &more).await;
    assert_eq!(
        expire().await,
        [false; 3],
        "Redis must know the holders, so that none gets a second one"
    );
    assert_eq!(world.pass().await.status, Status::Clean);
}
