//! Incomplete revocations: after a crash, a loss of Redis, or a manual change.

use firstcome_reconciler::report::{Kind, Status};
use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, MadeCoupon, WorldStores, all_issued, assert_kept, rows};
use serde_json::json;

use crate::drift::support::{
    assert_whole, clean_pass, dry_run_lists, expected, inject, mailed, pass_ends, pass_repairs,
};

async fn banned(fixture: &Fixture, coupon: &MadeCoupon, people: &[&str]) {
    let api = &fixture.api;
    let rows = rows(&fixture.world, coupon.drop).await;
    for user in people {
        assert!(api.claim(coupon.id, user).await.is("revoked"), "{user}");
        assert_eq!(api.me(coupon.id, user).await["status"], "revoked");
        assert!(rows.values().all(|holder| holder != user), "{user}");
    }
}

#[tokio::test]
async fn each_missing_step_of_a_revocation_is_completed_and_reported_by_mail() {
    let fixture = Fixture::new("d-revoked").await;
    let world = &fixture.world;
    // Recorded revocations need no confirmation, even if they exceed the limit.
    for (setting, value) in [
        ("FIRSTCOME_TEST_RECONCILE_BRAKE_PERCENT", "1"),
        ("FIRSTCOME_TEST_RECONCILE_BRAKE_AT_LEAST", "1"),
    ] {
        world.set(setting, value);
    }
    for (drift, kind) in [
        (Drift::RevokedAdmission, Kind::RevokedAdmission),
        (Drift::RevokedForgotten, Kind::RevokedAdmission),
        (Drift::RevokedRow, Kind::RevokedRow),
    ] {
        let name = drift.name();
        let (coupon, answers) = fixture.held(&name, 20, 20).await;
        let done = inject(world, &coupon, drift, 3).await;
        let expected = expected(kind, &done);
        dry_run_lists(world, &expected).await;
        pass_repairs(world, &expected).await;
        let people: Vec<&str> = done.people.iter().map(|hit| hit.user.as_str()).collect();
        banned(&fixture, &coupon, &people).await;
        assert_whole(world, &coupon, 20, 17).await;
        assert_kept(world, &coupon, &answers, &people).await;
        clean_pass(world, &coupon).await;
        mailed(world, &["repaired", &name, "17 of 20 issued"]).await;
        assert!(
            fixture.api.claim(coupon.id, "next").await.is_accepted(),
            "{name}: their slots are free"
        );
    }
}

#[tokio::test]
async fn a_lost_or_stale_redis_gets_all_revocations_before_it_opens() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let fixture = Fixture::on(
        WorldStores::shared().await.with_redis(&redis),
        "d-revoked-lost",
    )
    .await;
    let world = &fixture.world;
    for drift in [Drift::RedisFlushed, Drift::RedisLost] {
        let (coupon, answers) = fixture.held(&drift.name(), 10, 10).await;
        let gone = ["u-1", "u-2"].map(|wanted| {
            answers
                .iter()
                .find(|(user, _)| user == wanted)
                .unwrap()
                .0
                .as_str()
        });
        for user in gone {
            fixture.api.give_back(coupon.id, user).await.unwrap();
        }
        inject(world, &coupon, drift, 1).await;
        world.pass().await;
        banned(&fixture, &coupon, &gone).await;
        assert_whole(world, &coupon, 10, 8).await;
        assert_kept(world, &coupon, &answers, &gone).await;
    }
}

/// Redis has only half of an admission: the coupon's claimants name a slot that no user holds. If
/// the user may claim again, the claimants alone do not show whether the claim is new or the
/// revoked one.
#[tokio::test]
async fn claimants_alone_do_not_restore_a_revoked_claim() {
    let fixture = Fixture::new("d-revoked-named").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let (coupon, answers) = fixture.held("Named", 5, 5).await;
    let user = answers[2].0.as_str();
    let slot = answers[2].1.promised().unwrap().1;
    let order = json!({"reason": "fraud", "by": "Ann", "may_claim_again": true});
    api.revoke(coupon.id, user, &order).await.unwrap();
    let statement = "UPDATE revoked_coupons SET revoked_at = revoked_at - INTERVAL 1 MINUTE";
    world.sql.query(statement).await;
    let named = format!("{}:{slot}", coupon.drop);
    world
        .redis
        .command::<i64>(&["HSET", &world.redis.claimants(coupon.id), user, &named])
        .await;
    let free = world.redis.of_drop(coupon.id, coupon.drop, "free");
    assert_eq!(
        world
            .redis
            .command::<i64>(&["ZREM", &free, &slot.to_string()])
            .await,
        1
    );
    world.pass().await;
    assert_whole(world, &coupon, 5, 4).await;
    assert_eq!(api.me(coupon.id, user).await["status"], "revoked");
    clean_pass(world, &coupon).await;
    assert!(api.claim(coupon.id, user).await.is_accepted());
}

/// Two processes completed the revocation concurrently, and each wrote a different time to Redis.
#[tokio::test]
async fn a_revocation_whose_outcome_differs_in_redis_is_repaired() {
    let fixture = Fixture::new("d-revoked-end").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let (coupon, answers) = fixture.held("Ended", 5, 5).await;
    let user = answers[2].0.as_str();
    let order = json!({"reason": "fraud", "by": "Ann", "may_claim_again": true});
    api.revoke(coupon.id, user, &order).await.unwrap();
    let statement = "UPDATE revoked_coupons SET revoked_at = revoked_at - INTERVAL 1 MINUTE";
    world.sql.query(statement).await;
    let end = "SELECT CONCAT(id, ':', CAST(UNIX_TIMESTAMP(again_from) * 1000 AS UNSIGNED)) FROM revoked_coupons";
    let [stands] = &world.sql.query(end).await.concat()[..] else {
        panic!("one is revoked")
    };
    let known = format!(
        "{}:{{{}}}:revoked",
        world.setting("REDIS_KEY_PREFIX"),
        coupon.id
    );
    let fields: Vec<String> = world.redis.command(&["HGETALL", &known]).await;
    assert_eq!(&fields[1], stands);
    let other = format!("{}:9", stands.split(':').next().unwrap());
    world
        .redis
        .command::<i64>(&["HSET", &known, &fields[0], &other])
        .await;
    world.pass().await;
    let now: String = world.redis.command(&["HGET", &known, &fields[0]]).await;
    assert_eq!(&now, stands);
    clean_pass(world, &coupon).await;
    assert!(api.claim(coupon.id, user).await.is_accepted());
}

/// A pass lists a promise as broken while the user returns it.
#[tokio::test]
async fn a_returned_promise_does_not_stay_listed_as_broken() {
    let fixture = Fixture::new("d-revoked-listed").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Listed", 5, 5).await;
    let gave_back = answers[0].0.as_str();
    api.give_back(coupon.id, gave_back).await.unwrap();
    for user in [gave_back, "has-none-yet"] {
        let values = format!(
            "{}, '{user}', {}, 1, 'no slot was left for them', 'by hand'",
            coupon.drop, coupon.id
        );
        let columns = "drop_id, user_id, coupon_id, slot, reason, run_id";
        let statement = format!("INSERT INTO broken_promises ({columns}) VALUES ({values})");
        world.sql.query(&statement).await;
    }
    // One pass puts the other user in line and gives them the free slot. The next pass sees their
    // row.
    world.once_with(&[], &[]).await;
    world.once_with(&[], &[]).await;
    let statement = "SELECT COUNT(*) FROM broken_promises WHERE mended_at IS NULL";
    assert_eq!(world.sql.number(statement).await, 0);
    assert_eq!(api.me(coupon.id, "has-none-yet").await["status"], "issued");
    banned(&fixture, &coupon, &[gave_back]).await;
    assert_whole(world, &coupon, 5, 5).await;
    clean_pass(world, &coupon).await;
}

/// A pass lists the promise as broken between the steps of a revocation after which the user may
/// claim again.
#[tokio::test]
async fn a_promise_listed_as_broken_during_its_revocation_is_closed_afterwards() {
    let fixture = Fixture::new("d-revoked-between").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Between", 5, 5).await;
    let gone = answers[0].0.as_str();
    world
        .sql
        .query(
            "CREATE TRIGGER lists BEFORE UPDATE ON revoked_coupons FOR EACH ROW \
             INSERT INTO broken_promises (drop_id, user_id, coupon_id, slot, reason, run_id) \
             VALUES (NEW.drop_id, NEW.user_id, NEW.coupon_id, 1, 'no slot was left for them', 'by hand') \
             ON DUPLICATE KEY UPDATE mended_at = NULL",
        )
        .await;
    let order = json!({"reason": "by mistake", "by": "Bob", "may_claim_again": true});
    fixture.api.revoke(coupon.id, gone, &order).await.unwrap();
    world.sql.query("DROP TRIGGER lists").await;
    let statement = "SELECT COUNT(*) FROM broken_promises";
    assert_eq!(world.sql.number(statement).await, 1);
    let statement = "SELECT COUNT(*) FROM broken_promises WHERE mended_at IS NULL";
    assert_eq!(world.sql.number(statement).await, 0);
    clean_pass(world, &coupon).await;
}

#[tokio::test]
async fn a_deep_pass_reports_revocations_that_mysql_lost() {
    let fixture = Fixture::new("d-revoked-lost").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Lost", 5, 5).await;
    let order = json!({"reason": "fraud", "by": "Ann"});
    for (user, _) in &answers[..2] {
        fixture.api.revoke(coupon.id, user, &order).await.unwrap();
    }
    let deep = ["--deep"];
    pass_ends(world, &deep, (0, Status::Clean)).await;
    let lose = "DELETE FROM revoked_coupons LIMIT 1";
    world.sql.query(lose).await;
    let run = pass_ends(world, &deep, (1, Status::Drift)).await;
    assert!(
        run.findings
            .iter()
            .any(|finding| finding.kind == Kind::RevokedAdmission
                && finding.detail.contains("`revoked_coupons`")),
        "{run:#?}"
    );
}

#[tokio::test]
async fn a_wrong_time_of_admission_takes_no_slot_from_a_user_with_a_row() {
    let fixture = Fixture::new("d-revoked-time").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let (coupon, answers) = fixture.held("Again", 5, 5).await;
    let user = answers[2].0.as_str();
    let order = json!({"reason": "fraud", "by": "Ann", "may_claim_again": true});
    api.revoke(coupon.id, user, &order).await.unwrap();
    let (drop, slot) = api.claim(coupon.id, user).await.promised().unwrap();
    all_issued(world, drop, 5).await;
    let backdate = "UPDATE revoked_coupons SET revoked_at = revoked_at - INTERVAL 1 MINUTE";
    world.sql.query(backdate).await;
    let times = world.redis.of_drop(coupon.id, drop, "times");
    world
        .redis
        .command::<i64>(&["HSET", &times, &slot.to_string(), "1"])
        .await;
    let run = world.pass().await;
    assert_eq!(run.status, Status::Clean, "{run:#?}");
    assert_eq!(rows(world, drop).await[&slot], user);
}
