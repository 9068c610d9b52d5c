//! The repair limit: beyond it nothing is repaired until a person confirms.

use firstcome_reconciler::report::{Kind, Outcome, Run, Status};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Answer, Fixture, MadeCoupon, Once, redis_holders, rows};
use serde_json::json;

use crate::drift::support::{
    assert_found, assert_settled, clean_pass, everything, expected, inject, injector, mailed,
    pass_repairs,
};

/// Brakes from six repairs per drop on.
const LOW: [(&str, &str); 2] = [
    ("FIRSTCOME_TEST_RECONCILE_BRAKE_PERCENT", "5"),
    ("FIRSTCOME_TEST_RECONCILE_BRAKE_AT_LEAST", "5"),
];

async fn beyond_the_limit(name: &str) -> Fixture {
    let fixture = Fixture::new(name).await;
    for (setting, value) in LOW {
        fixture.world.set(setting, value);
    }
    fixture
}

fn report<'r>(run: &'r Run, coupon: &MadeCoupon) -> &'r firstcome_reconciler::report::DropReport {
    run.drops
        .iter()
        .find(|report| report.drop_id.0 == coupon.drop)
        .expect("the drop was examined")
}

#[tokio::test]
async fn too_many_repairs_wait_for_a_confirmation_at_the_endpoint() {
    let fixture = beyond_the_limit("d-limit").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Suspicious", 100, 100).await;
    let daemon = world.daemon().await;
    daemon.reconcile(&json!({})).await;
    let done = inject(world, &coupon, Drift::MissingAdmission, 6).await;
    let expected = expected(Kind::MissingAdmission, &done);
    let before = everything(world).await;
    let run = daemon.reconcile(&json!({})).await;
    assert_eq!(run.status, Status::Braked, "{run:#?}");
    assert_found(&run, &expected);
    assert!(
        run.all_findings().all(|f| f.result == Outcome::Planned),
        "{run:#?}"
    );
    assert_eq!(
        before,
        everything(world).await,
        "above the limit nothing is repaired"
    );
    let mail = mailed(world, &["action needed", "Suspicious"]).await;
    assert!(
        mail.text.contains("--confirm"),
        "the mail has the command: {}",
        mail.text
    );

    let run = daemon
        .reconcile(&json!({"confirm": true, "coupon_id": coupon.id}))
        .await;
    assert_eq!(run.status, Status::Repaired, "{run:#?}");
    assert_found(&run, &expected);
    let confirmed = format!(
        "SELECT confirmed FROM reconcile_runs WHERE id = '{}'",
        run.run_id
    );
    assert_eq!(
        world.sql.number(&confirmed).await,
        1,
        "the confirmation is recorded"
    );
    assert_settled(world, &coupon, 100, 100, &answers).await;
    clean_pass(world, &coupon).await;
    mailed(world, &["repaired", "Suspicious", "100 of 100 issued"]).await;
    let open = "SELECT COUNT(*) FROM alerts WHERE status <> 'resolved'";
    assert_eq!(world.sql.number(open).await, 0);
}

#[tokio::test]
async fn a_confirmation_covers_only_the_repairs_that_were_seen() {
    let fixture = beyond_the_limit("d-limit-grown").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Grows", 100, 100).await;
    let confirm = async || {
        world
            .once_with(&["--confirm", "--coupon", &coupon.id.to_string()], &[])
            .await
    };
    inject(world, &coupon, Drift::MissingAdmission, 6).await;
    let unseen = confirm().await;
    assert_eq!(
        (unseen.code, unseen.run().status),
        (1, Status::Braked),
        "nobody has seen it: {}",
        unseen.log
    );
    inject(world, &coupon, Drift::MissingAdmission, 40).await;
    assert_eq!(world.once_with(&[], &[]).await.run().status, Status::Braked);
    let grown = confirm().await;
    assert_eq!(
        (grown.code, grown.run().status),
        (1, Status::Braked),
        "six were seen: {}",
        grown.log
    );
    let finding = report(&grown.run(), &coupon).findings[0].detail.clone();
    assert!(
        finding.contains("there were 6 such repairs, now there are 46"),
        "{finding}"
    );
    assert_eq!(confirm().await.run().status, Status::Repaired);
    assert_settled(world, &coupon, 100, 100, &answers).await;
}

/// Runs once with `--confirm` for the coupon.
async fn confirm(fixture: &Fixture, coupon: &MadeCoupon) -> Once {
    let args = ["--confirm", "--coupon", &coupon.id.to_string()];
    fixture.world.once_with(&args, &[]).await
}

#[tokio::test]
async fn a_confirmation_ends_once_the_shown_repairs_are_done() {
    let fixture = beyond_the_limit("d-limit-forgotten").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Old", 100, 100).await;
    let mut injector = injector(world, &coupon).await;
    injector.make(Drift::MissingAdmission, 20).await.unwrap();
    let braked = world.once_with(&[], &[]).await.run().status;
    assert_eq!(braked, Status::Braked);
    assert_eq!(
        confirm(&fixture, &coupon).await.run().status,
        Status::Repaired
    );
    clean_pass(world, &coupon).await;
    injector.make(Drift::ConflictMoved, 10).await.unwrap();
    let unseen = confirm(&fixture, &coupon).await.run();
    assert_eq!(
        unseen.status,
        Status::Braked,
        "these were never shown: {unseen:#?}"
    );
    assert_eq!(
        confirm(&fixture, &coupon).await.run().status,
        Status::Repaired
    );
    assert_settled(world, &coupon, 100, 100, &answers).await;
}

#[tokio::test]
async fn a_closed_gate_restores_missing_users_but_moves_nobody_beyond_the_limit() {
    let fixture = beyond_the_limit("d-limit-closed").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Closed", 100, 90).await;
    let (other, _) = fixture.held("Open", 10, 2).await;
    let redis = &world.redis;
    let users = redis.of_drop(coupon.id, coupon.drop, "users");
    let all = rows(world, coupon.drop).await;
    // 20 users have each other's slots, and Redis has forgotten 10 more.
    for pair in (1..=20).step_by(2) {
        for (slot, of) in [(pair, pair + 1), (pair + 1, pair)] {
            redis
                .command::<()>(&["ZADD", &users, &slot.to_string(), &all[&of]])
                .await;
        }
    }
    for slot in 81..=90 {
        redis.command::<()>(&["ZREM", &users, &all[&slot]]).await;
    }
    let gate = redis.own(&format!("{{{}}}:gate", coupon.id));
    redis.command::<()>(&["DEL", &gate]).await;
    let run = world.once_with(&[], &[]).await.run();
    assert_eq!(run.status, Status::Braked, "{run:#?}");
    let holders = redis_holders(world, &coupon).await;
    for pair in (1..=20).step_by(2) {
        assert_eq!(
            (&holders[&pair], &holders[&(pair + 1)]),
            (&all[&(pair + 1)], &all[&pair]),
            "nobody is moved"
        );
    }
    for slot in 81..=90 {
        assert_eq!(
            holders[&slot], all[&slot],
            "users missing in Redis are restored"
        );
    }
    let answer = api.claim(coupon.id, "stranger").await;
    assert!(matches!(answer, Answer::Problem(503, _)), "{answer:?}");
    let answer = api.claim(other.id, "stranger").await;
    assert!(
        answer.is_accepted(),
        "only that coupon is closed: {answer:?}"
    );
    let confirmed = confirm(&fixture, &coupon).await.run();
    assert_eq!(confirmed.status, Status::Repaired, "{confirmed:#?}");
    world.pass().await;
    assert_settled(world, &coupon, 100, 90, &answers).await;
    let answer = api.claim(coupon.id, "stranger").await;
    assert!(answer.is_accepted(), "{answer:?}");
}

#[tokio::test]
async fn deleted_claimants_are_restored_but_deleted_users_are_not() {
    let fixture = Fixture::new("d-limit-claimants").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Deleted", 200, 200).await;
    let redis = &world.redis;
    let claimants = redis.claimants(coupon.id);
    let users = redis.of_drop(coupon.id, coupon.drop, "users");
    let all = rows(world, coupon.drop).await;
    let found = |people: u32| {
        let people = all.iter().filter(|(slot, _)| **slot <= people);
        people
            .map(|(slot, user)| {
                (
                    Kind::MissingAdmission,
                    Some(i64::from(*slot)),
                    Some(user.clone()),
                )
            })
            .collect()
    };
    redis.command::<()>(&["DEL", &claimants]).await;
    pass_repairs(world, &found(200)).await;
    assert_settled(world, &coupon, 200, 200, &answers).await;
    for (slot, user) in all.iter().filter(|(slot, _)| **slot <= 60) {
        redis
            .command::<()>(&[
                "HSET",
                &claimants,
                user,
                &format!("{}:{}", coupon.drop, slot + 1),
            ])
            .await;
    }
    pass_repairs(world, &found(60)).await;
    assert_settled(world, &coupon, 200, 200, &answers).await;

    redis.command::<()>(&["DEL", &claimants]).await;
    redis
        .command::<()>(&["ZREMRANGEBYSCORE", &users, "1", "60"])
        .await;
    let braked = world.once_with(&[], &[]).await;
    assert_eq!(
        (braked.code, braked.run().status),
        (1, Status::Braked),
        "60 people are gone: {}",
        braked.log
    );
    assert!(
        report(&braked.run(), &coupon)
            .findings
            .iter()
            .all(|f| f.result == Outcome::Planned)
    );
}
