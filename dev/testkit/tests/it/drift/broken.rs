//! Broken promises: first in line whatever happens to the waiting list, and open until a row or an
//! operator resolves them.

use firstcome_reconciler::report::Status;
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, LIMIT, MadeCoupon, all_issued, eventually, people, rows, rush};
use serde_json::json;

use crate::drift::support::{assert_whole, clean_pass, injector, mailed};

/// A drop of 17 with three users who were promised slots 18 to 20, in that order.
async fn three_broken(fixture: &Fixture) -> (MadeCoupon, Vec<String>) {
    let (coupon, _) = fixture.held("Broken", 20, 20).await;
    let done = injector(&fixture.world, &coupon)
        .await
        .make(Drift::OverShrunk, 3)
        .await
        .unwrap();
    let mut broken: Vec<_> = done
        .people
        .iter()
        .map(|hit| (hit.slot, hit.user.clone()))
        .collect();
    broken.sort();
    let once = fixture.world.once_with(&[], &[]).await;
    assert_eq!(
        (once.code, open_promises(fixture).await),
        (1, 3),
        "{}",
        once.log
    );
    (coupon, broken.into_iter().map(|(_, user)| user).collect())
}

async fn open_promises(fixture: &Fixture) -> i64 {
    fixture
        .world
        .sql
        .number("SELECT COUNT(*) FROM broken_promises WHERE mended_at IS NULL")
        .await
}

async fn raise(fixture: &Fixture, coupon: &MadeCoupon, quantity: u32) {
    assert_eq!(
        fixture
            .api
            .patch(coupon.id, &json!({"quantity": quantity}))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn after_a_flush_added_slots_go_to_broken_promises_in_order() {
    let fixture = Fixture::new("b-emptied").await;
    let (coupon, broken) = three_broken(&fixture).await;
    for key in fixture.world.redis.names().await {
        fixture.world.redis.command::<i64>(&["DEL", &key]).await;
    }
    raise(&fixture, &coupon, 20).await;
    let newcomers: Vec<String> = (0..200).map(|n| format!("new-{n}")).collect();
    let (newcomers, once) = tokio::join!(
        rush(&[&fixture.api], coupon.id, &newcomers, 5),
        fixture.world.once_with(&[], &[])
    );
    assert_eq!(
        (once.run().status, once.code),
        (Status::Repaired, 0),
        "{}",
        once.log
    );
    assert!(
        newcomers.iter().all(|(_, answer)| !answer.is_accepted()),
        "{newcomers:?}"
    );
    let rows = rows(&fixture.world, coupon.drop).await;
    assert_eq!(
        rows.range(18..)
            .map(|(_, user)| user.clone())
            .collect::<Vec<_>>(),
        broken
    );
    assert_eq!(open_promises(&fixture).await, 0);
    assert_whole(&fixture.world, &coupon, 20, 20).await;
    clean_pass(&fixture.world, &coupon).await;
}

#[tokio::test]
async fn any_row_resolves_a_broken_promise_and_a_lost_line_is_rebuilt() {
    let fixture = Fixture::new("b-again").await;
    let (coupon, broken) = three_broken(&fixture).await;
    let waiting = fixture
        .world
        .redis
        .of_drop(coupon.id, coupon.drop, "waiting");
    fixture.world.redis.command::<i64>(&["DEL", &waiting]).await;
    raise(&fixture, &coupon, 18).await;
    // With nobody in line, the fastest of them wins.
    assert_eq!(
        fixture.api.claim(coupon.id, &broken[2]).await.promised(),
        Some((coupon.drop, 18))
    );
    all_issued(&fixture.world, coupon.drop, 18).await;
    let once = fixture.world.once_with(&[], &[]).await;
    assert_eq!(
        (once.run().status, once.code, open_promises(&fixture).await),
        (Status::Drift, 1, 2),
        "{}",
        once.log
    );
    for (at, user) in broken[..2].iter().enumerate() {
        let me = fixture.api.me(coupon.id, user).await;
        assert_eq!(
            (&me["status"], &me["position"]),
            (&json!("broken"), &json!(at + 1)),
            "{me}"
        );
    }
    raise(&fixture, &coupon, 20).await;
    let once = fixture.world.once_with(&[], &[]).await;
    assert_eq!(
        (once.run().status, once.code, open_promises(&fixture).await),
        (Status::Repaired, 0, 0),
        "{}",
        once.log
    );
    assert_whole(&fixture.world, &coupon, 20, 20).await;
}

#[tokio::test]
async fn a_closed_drop_stays_unsealed_until_an_operator_resolves_broken_promises() {
    let fixture = Fixture::new("b-closed").await;
    let (coupon, _) = three_broken(&fixture).await;
    mailed(&fixture.world, &["action needed", "3 broken promises"]).await;
    let close = format!(
        "UPDATE drops SET closes_at = UTC_TIMESTAMP(3) - INTERVAL 1 HOUR WHERE id = {}",
        coupon.drop
    );
    fixture.world.sql.query(&close).await;
    let sealed = format!(
        "SELECT COUNT(*) FROM drops WHERE id = {} AND sealed_at IS NOT NULL",
        coupon.drop
    );
    for _ in 0..2 {
        let once = fixture.world.start("firstcome-reconciler", &["once"], &[]);
        let code = once.ended(LIMIT).await;
        let told = once.all_stdout().await;
        assert_eq!(code, 1, "{told}");
        assert!(
            told.contains("17 of 17 issued, NOT exact, 3 broken promises"),
            "{told}"
        );
        assert_eq!(fixture.world.sql.number(&sealed).await, 0);
    }
    let last = "SELECT status FROM reconcile_runs ORDER BY id DESC LIMIT 1";
    assert_eq!(fixture.world.sql.query(last).await, [["drift"]]);

    fixture
        .world
        .sql
        .query("UPDATE broken_promises SET mended_at = UTC_TIMESTAMP(3)")
        .await;
    let once = fixture.world.once_with(&[], &[]).await;
    assert_eq!(
        (once.code, once.run().status),
        (0, Status::Clean),
        "{}",
        once.log
    );
    assert_eq!(fixture.world.sql.number(&sealed).await, 1);
    mailed(&fixture.world, &["resolved", "Broken"]).await;

    // A broken promise found after the drop was sealed.
    fixture
        .world
        .sql
        .query("UPDATE broken_promises SET mended_at = NULL LIMIT 1")
        .await;
    let once = fixture.world.once_with(&[], &[]).await;
    assert_eq!(
        (once.code, once.run().drops[0].after.broken_promises),
        (1, 1),
        "{}",
        once.log
    );
}

#[tokio::test]
async fn a_claim_overdue_after_the_last_repairs_is_not_a_failure() {
    let (world, api) = firstcome_testkit::open_world("b-last-round").await;
    let coupon = api.open_coupon(100_000).await;
    let users = world.redis.of_drop(coupon.id, coupon.drop, "users");
    let people = people(100_000);
    let claim_all = async |half: usize| {
        for person in people.iter().skip(half).step_by(2) {
            api.claim(coupon.id, person).await;
        }
    };
    let pass = async {
        eventually("people have claimed", LIMIT, async || {
            world.redis.command::<i64>(&["ZCARD", &users]).await > 300
        })
        .await;
        world
            .once_with(&[], &[("FIRSTCOME_TEST_RECONCILE_OVERDUE_MS", "1000")])
            .await
    };
    let once = tokio::select! {
        once = pass => once,
        _ = async { tokio::join!(claim_all(0), claim_all(1)) } => panic!("the claims ended before the pass"),
    };
    let run = once.run();
    assert_eq!(
        (run.status, once.code),
        (Status::Repaired, 0),
        "{}",
        once.log
    );
    assert!(
        run.all_findings()
            .any(|f| f.detail.contains("after the last repairs")),
        "no claim arrived in the last round"
    );
}

#[tokio::test]
async fn a_score_between_two_slots_is_corrected_whoever_owns_the_slot() {
    let fixture = Fixture::new("b-score").await;
    let (coupon, _) = fixture.held("Scores", 20, 12).await;
    let users = fixture.world.redis.of_drop(coupon.id, coupon.drop, "users");
    let held = rows(&fixture.world, coupon.drop).await;
    // The holder of slot 3 has a score between two slots, and a stranger has one where another user
    // is; two more have extreme scores.
    for (score, user) in [
        ("3.5", held[&3].as_str()),
        ("5.5", "stranger"),
        ("+inf", "above"),
        ("-inf", "below"),
    ] {
        fixture
            .world
            .redis
            .command::<i64>(&["ZADD", &users, score, user])
            .await;
    }
    let once = fixture.world.once_with(&[], &[]).await;
    assert_eq!(
        (once.run().status, once.code),
        (Status::Repaired, 0),
        "{}",
        once.log
    );
    let after = rows(&fixture.world, coupon.drop).await;
    assert_eq!(after.len(), 15, "{after:?}");
    assert!(
        held.iter()
            .all(|(slot, user)| after.get(slot) == Some(user)),
        "{after:?}"
    );
    assert_whole(&fixture.world, &coupon, 20, 15).await;
    clean_pass(&fixture.world, &coupon).await;
}
