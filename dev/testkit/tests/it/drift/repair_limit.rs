//! The repair limit: beyond it nothing is repaired until a person confirms.

use firstcome_reconciler::report::{Kind, Outcome, Run, Status};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Answer, Fixture, MadeCoupon, Once, redis_holders, rows};
use serde_json::json;

use crate::drift::support::{
    assert_found, assert_settled, assert_whole, clean_pass, everything, expected, injector, mailed,
    pass_repairs, subjects,
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
    let (coupon, answers) = fixture.held("Suspicious", 100, 100).await;
    let daemon = fixture.world.daemon().await;
    daemon.reconcile(&json!({})).await;
    let done = injector(&fixture.world, &coupon)
        .await
        .make(Drift::MissingAdmission, 6)
        .await
        .unwrap();
    let expected = expected(Kind::MissingAdmission, &done);
    let before = everything(&fixture.world).await;
    let run = daemon.reconcile(&json!({})).await;
    assert_eq!(run.status, Status::Braked, "{run:#?}");
    assert_found(&run, &expected);
    assert!(
        run.all_findings().all(|f| f.result == Outcome::Planned),
        "{run:#?}"
    );
    assert_eq!(
        before,
        everything(&fixture.world).await,
        "above the limit nothing is repaired"
    );
    let mail = mailed(&fixture.world, &["action needed", "Suspicious"]).await;
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
        fixture.world.sql.number(&confirmed).await,
        1,
        "the confirmation is recorded"
    );
    assert_settled(&fixture.world, &coupon, 100, 100, &answers).await;
    clean_pass(&fixture.world, &coupon).await;
    mailed(
        &fixture.world,
        &["repaired", "Suspicious", "100 of 100 issued"],
    )
    .await;
    let open = "SELECT COUNT(*) FROM alerts WHERE status <> 'resolved'";
    assert_eq!(fixture.world.sql.number(open).await, 0);
}

#[tokio::test]
async fn above_the_limit_the_command_line_exits_with_1_until_confirmed() {
    let fixture = beyond_the_limit("d-limit-cli").await;
    let (coupon, answers) = fixture.held("Suspicious", 100, 100).await;
    let (other, _) = fixture.held("Trusted", 100, 100).await;
    injector(&fixture.world, &coupon)
        .await
        .make(Drift::ConflictMoved, 6)
        .await
        .unwrap();
    let small = injector(&fixture.world, &other)
        .await
        .make(Drift::MissingAdmission, 5)
        .await
        .unwrap();
    let dry = fixture.world.once_with(&["--dry-run"], &[]).await;
    assert_eq!(dry.code, 1);
    let braked = fixture.world.once_with(&[], &[]).await;
    assert_eq!(
        (braked.code, braked.run().status),
        (1, Status::Braked),
        "{}",
        braked.log
    );
    assert!(
        report(&braked.run(), &coupon)
            .findings
            .iter()
            .all(|f| f.result == Outcome::Planned)
    );
    // The limit applies to each drop separately.
    let repaired = report(&braked.run(), &other).clone();
    assert_eq!(repaired.findings.len(), small.people.len());
    assert!(
        repaired
            .findings
            .iter()
            .all(|f| f.result == Outcome::Applied),
        "{repaired:#?}"
    );
    assert_whole(&fixture.world, &other, 100, 100).await;

    let again = fixture.world.once_with(&[], &[]).await;
    assert_eq!(
        (again.code, again.run().status),
        (1, Status::Braked),
        "it holds until somebody confirms"
    );
    let mails = subjects(&fixture.world)
        .iter()
        .filter(|subject| subject.contains("action needed"))
        .count();
    assert_eq!(mails, 1, "told once");
    let confirmed = fixture
        .world
        .once_with(&["--confirm", "--coupon", &coupon.id.to_string()], &[])
        .await;
    assert_eq!(
        (confirmed.code, confirmed.run().status),
        (0, Status::Repaired),
        "{}",
        confirmed.log
    );
    assert_settled(&fixture.world, &coupon, 100, 100, &answers).await;
    clean_pass(&fixture.world, &coupon).await;
}

#[tokio::test]
async fn a_confirmation_covers_only_the_repairs_that_were_seen() {
    let fixture = beyond_the_limit("d-limit-grown").await;
    let (coupon, answers) = fixture.held("Grows", 100, 100).await;
    let confirm = async || {
        fixture
            .world
            .once_with(&["--confirm", "--coupon", &coupon.id.to_string()], &[])
            .await
    };
    injector(&fixture.world, &coupon)
        .await
        .make(Drift::MissingAdmission, 6)
        .await
        .unwrap();
    let unseen = confirm().await;
    assert_eq!(
        (unseen.code, unseen.run().status),
        (1, Status::Braked),
        "nobody has seen it: {}",
        unseen.log
    );
    injector(&fixture.world, &coupon)
        .await
        .make(Drift::MissingAdmission, 40)
        .await
        .unwrap();
    assert_eq!(
        fixture.world.once_with(&[], &[]).await.run().status,
        Status::Braked
    );
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
    assert_settled(&fixture.world, &coupon, 100, 100, &answers).await;
}

/// Runs once with `--confirm` for the coupon.
async fn confirm(fixture: &Fixture, coupon: &MadeCoupon) -> Once {
    let args = ["--confirm", "--coupon", &coupon.id.to_string()];
    fixture.world.once_with(&args, &[]).await
}

#[tokio::test]
async fn a_confirmation_ends_once_the_shown_repairs_are_done() {
    let fixture = beyond_the_limit("d-limit-forgotten").await;
    let (coupon, answers) = fixture.held("Old", 100, 100).await;
    let mut injector = injector(&fixture.world, &coupon).await;
    injector.make(Drift::MissingAdmission, 20).await.unwrap();
    let braked = fixture.world.once_with(&[], &[]).await.run().status;
    assert_eq!(braked, Status::Braked);
    assert_eq!(
        confirm(&fixture, &coupon).await.run().status,
        Status::Repaired
    );
    clean_pass(&fixture.world, &coupon).await;
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
    assert_settled(&fixture.world, &coupon, 100, 100, &answers).await;
}

#[tokio::test]
async fn a_confirmation_does_not_cover_the_same_number_of_other_repairs() {
    let fixture = beyond_the_limit("d-limit-others").await;
    let (coupon, _) = fixture.held("Others", 100, 100).await;
    let redis = &fixture.world.redis;
    let users = redis.of_drop(coupon.id, coupon.drop, "users");
    let all = rows(&fixture.world, coupon.drop).await;
    let forget = async |slots: std::ops::RangeInclusive<u32>| {
        for slot in slots {
            redis.command::<()>(&["ZREM", &users, &all[&slot]]).await;
        }
    };
    forget(1..=10).await;
    let braked = fixture.world.once_with(&[], &[]).await.run().status;
    assert_eq!(braked, Status::Braked);
    for slot in 1..=10 {
        redis
            .command::<()>(&["ZADD", &users, &slot.to_string(), &all[&slot]])
            .await;
    }
    forget(11..=20).await;
    let run = confirm(&fixture, &coupon).await.run();
    assert_eq!(run.status, Status::Braked, "{run:#?}");
    let detail = &report(&run, &coupon).findings[0].detail;
    assert!(
        detail.contains("other repairs than the 10 that were shown"),
        "{detail}"
    );
    assert_eq!(
        confirm(&fixture, &coupon).await.run().status,
        Status::Repaired
    );
}

#[tokio::test]
async fn a_closed_gate_restores_missing_users_but_moves_nobody_beyond_the_limit() {
    let fixture = beyond_the_limit("d-limit-closed").await;
    let (coupon, answers) = fixture.held("Closed", 100, 90).await;
    let (other, _) = fixture.held("Open", 10, 2).await;
    let redis = &fixture.world.redis;
    let users = redis.of_drop(coupon.id, coupon.drop, "users");
    let all = rows(&fixture.world, coupon.drop).await;
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
    let run = fixture.world.once_with(&[], &[]).await.run();
    assert_eq!(run.status, Status::Braked, "{run:#?}");
    let holders = redis_holders(&fixture.world, &coupon).await;
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
    let answer = fixture.api.claim(coupon.id, "stranger").await;
    assert!(matches!(answer, Answer::Problem(503, _)), "{answer:?}");
    let answer = fixture.api.claim(other.id, "stranger").await;
    assert!(
        answer.is_accepted(),
        "only that coupon is closed: {answer:?}"
    );
    let confirmed = confirm(&fixture, &coupon).await.run();
    assert_eq!(confirmed.status, Status::Repaired, "{confirmed:#?}");
    fixture.world.pass().await;
    assert_settled(&fixture.world, &coupon, 100, 90, &answers).await;
    let answer = fixture.api.claim(coupon.id, "stranger").await;
    assert!(answer.is_accepted(), "{answer:?}");
}

#[tokio::test]
async fn promised_rows_are_never_held_back() {
    let fixture = beyond_the_limit("d-limit-not").await;
    for (drift, kind) in [
        (Drift::Unissued, Kind::Unissued),
        (Drift::FailedClaim, Kind::FailedClaim),
        (Drift::FailedDuplicate, Kind::FailedClaim),
    ] {
        let (coupon, answers) = fixture.held(&drift.name(), 100, 100).await;
        let done = injector(&fixture.world, &coupon)
            .await
            .make(drift, 40)
            .await
            .unwrap();
        pass_repairs(&fixture.world, &expected(kind, &done)).await;
        assert_settled(&fixture.world, &coupon, 100, 100, &answers).await;
    }
    let (coupon, answers) = fixture.held("Lost", 100, 100).await;
    injector(&fixture.world, &coupon)
        .await
        .make(Drift::RedisLost, 1)
        .await
        .unwrap();
    pass_repairs(&fixture.world, &[(Kind::RedisLost, None, None)].into()).await;
    assert_settled(&fixture.world, &coupon, 100, 100, &answers).await;
}

#[tokio::test]
async fn deleted_claimants_are_restored_but_deleted_users_are_not() {
    let fixture = Fixture::new("d-limit-claimants").await;
    let (coupon, answers) = fixture.held("Deleted", 200, 200).await;
    let redis = &fixture.world.redis;
    let claimants = redis.claimants(coupon.id);
    let users = redis.of_drop(coupon.id, coupon.drop, "users");
    let all = rows(&fixture.world, coupon.drop).await;
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
    pass_repairs(&fixture.world, &found(200)).await;
    assert_settled(&fixture.world, &coupon, 200, 200, &answers).await;
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
    pass_repairs(&fixture.world, &found(60)).await;
    assert_settled(&fixture.world, &coupon, 200, 200, &answers).await;

    redis.command::<()>(&["DEL", &claimants]).await;
    redis
        .command::<()>(&["ZREMRANGEBYSCORE", &users, "1", "60"])
        .await;
    let braked = fixture.world.once_with(&[], &[]).await;
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
