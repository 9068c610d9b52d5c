//! The repair limit: more repairs than this are held back until an operator confirms them.

use firstcome_reconciler::report::{Kind, Outcome, Run, Status};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Answer, Fixture, MadeCoupon, redis_holders, rows};
use serde_json::json;

use crate::drift::support::{
    assert_found, assert_settled, clean_pass, everything, expected, inject, mailed, pass_ends,
    pass_repairs, report,
};

/// Holds back repairs from the sixth per drop on.
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

/// Runs a pass with `--confirm` for the coupon, which must end with this exit code and status.
async fn confirm(fixture: &Fixture, coupon: &MadeCoupon, ends: (i32, Status)) -> Run {
    let args = ["--confirm", "--coupon", &coupon.id.to_string()];
    pass_ends(&fixture.world, &args, ends).await
}

const BRAKED: (i32, Status) = (1, Status::Braked);
const REPAIRED: (i32, Status) = (0, Status::Repaired);

#[tokio::test]
async fn a_confirmation_covers_the_shown_repairs_and_ends_once_they_are_done() {
    let fixture = beyond_the_limit("d-limit-grown").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Grows", 100, 100).await;
    inject(world, &coupon, Drift::MissingAdmission, 6).await;
    // The repairs have not been shown to anybody yet.
    confirm(&fixture, &coupon, BRAKED).await;
    inject(world, &coupon, Drift::MissingAdmission, 40).await;
    pass_ends(world, &[], BRAKED).await;
    // Only the first six were shown before this pass.
    let grown = confirm(&fixture, &coupon, BRAKED).await;
    let detail = &report(&grown, coupon.drop).findings[0].detail;
    assert!(
        detail.contains("there were 6 such repairs, now there are 46"),
        "{detail}"
    );
    confirm(&fixture, &coupon, REPAIRED).await;
    clean_pass(world, &coupon).await;
    // The confirmation has ended, and these repairs were never shown.
    inject(world, &coupon, Drift::ConflictMoved, 10).await;
    confirm(&fixture, &coupon, BRAKED).await;
    confirm(&fixture, &coupon, REPAIRED).await;
    assert_settled(world, &coupon, 100, 100, &answers).await;
}

#[tokio::test]
async fn a_closed_coupon_regains_missing_users_but_moves_none_beyond_the_limit() {
    let fixture = beyond_the_limit("d-limit-closed").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Closed", 100, 90).await;
    let (other, _) = fixture.held("Open", 10, 2).await;
    let redis = &world.redis;
    let users = redis.of_drop(coupon.id, coupon.drop, "users");
    let all = rows(world, coupon.drop).await;
    // 20 users have swapped slots in pairs, and Redis has lost 10 more.
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
    confirm(&fixture, &coupon, REPAIRED).await;
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
    let braked = pass_ends(world, &[], (1, Status::Braked)).await;
    assert!(
        report(&braked, coupon.drop)
            .findings
            .iter()
            .all(|f| f.result == Outcome::Planned)
    );
}
