//! Broken promises: these users are first on the waiting list, which is rebuilt if it is lost, and
//! the promise stays open until a row or an operator resolves it.

use firstcome_reconciler::report::Status;
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Fixture, LIMIT, MadeCoupon, World, all_issued, eventually, people, rows, rush,
};
use serde_json::json;

use crate::drift::support::{assert_whole, clean_pass, inject, mailed, pass_ends};

/// Creates a drop of 17 slots, and three users who were promised slots 18 to 20, in that order.
async fn three_broken(fixture: &Fixture) -> (MadeCoupon, Vec<String>) {
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Broken", 20, 20).await;
    let done = inject(world, &coupon, Drift::OverShrunk, 3).await;
    let mut broken: Vec<_> = done
        .people
        .iter()
        .map(|hit| (hit.slot, hit.user.clone()))
        .collect();
    broken.sort();
    pass_ends(world, &[], (1, Status::Drift)).await;
    assert_eq!(open_promises(world).await, 3);
    (coupon, broken.into_iter().map(|(_, user)| user).collect())
}

async fn open_promises(world: &World) -> i64 {
    let open = "SELECT COUNT(*) FROM broken_promises WHERE mended_at IS NULL";
    world.sql.number(open).await
}

#[tokio::test]
async fn slots_added_after_a_flush_go_to_broken_promises_in_order() {
    let fixture = Fixture::new("b-emptied").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let (coupon, broken) = three_broken(&fixture).await;
    for key in world.redis.names().await {
        world.redis.command::<i64>(&["DEL", &key]).await;
    }
    api.change(coupon.id, &json!({"quantity": 20})).await;
    let newcomers: Vec<String> = (0..200).map(|n| format!("new-{n}")).collect();
    let (newcomers, _) = tokio::join!(
        rush(&[api], coupon.id, &newcomers, 5),
        pass_ends(world, &[], (0, Status::Repaired))
    );
    assert!(
        newcomers.iter().all(|(_, answer)| !answer.is_accepted()),
        "{newcomers:?}"
    );
    let rows = rows(world, coupon.drop).await;
    let later: Vec<_> = rows.range(18..).map(|(_, user)| user.clone()).collect();
    assert_eq!(later, broken);
    assert_eq!(open_promises(world).await, 0);
    assert_whole(world, &coupon, 20, 20).await;
    clean_pass(world, &coupon).await;
}

#[tokio::test]
async fn any_row_resolves_a_broken_promise_and_a_lost_waiting_list_is_rebuilt() {
    let fixture = Fixture::new("b-again").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let (coupon, broken) = three_broken(&fixture).await;
    let waiting = world.redis.of_drop(coupon.id, coupon.drop, "waiting");
    world.redis.command::<i64>(&["DEL", &waiting]).await;
    api.change(coupon.id, &json!({"quantity": 18})).await;
    // The waiting list is empty, so the first of the three to claim gets the slot.
    assert_eq!(
        api.claim(coupon.id, &broken[2]).await.promised(),
        Some((coupon.drop, 18))
    );
    all_issued(world, coupon.drop, 18).await;
    pass_ends(world, &[], (1, Status::Drift)).await;
    assert_eq!(open_promises(world).await, 2);
    for (at, user) in broken[..2].iter().enumerate() {
        let me = api.me(coupon.id, user).await;
        assert_eq!(
            (&me["status"], &me["position"]),
            (&json!("broken"), &json!(at + 1)),
            "{me}"
        );
    }
    api.change(coupon.id, &json!({"quantity": 20})).await;
    pass_ends(world, &[], (0, Status::Repaired)).await;
    assert_eq!(open_promises(world).await, 0);
    assert_whole(world, &coupon, 20, 20).await;
}

#[tokio::test]
async fn a_closed_drop_stays_unsealed_until_an_operator_resolves_broken_promises() {
    let fixture = Fixture::new("b-closed").await;
    let world = &fixture.world;
    let (coupon, _) = three_broken(&fixture).await;
    mailed(world, &["action needed", "3 broken promises"]).await;
    let close = format!(
        "UPDATE drops SET closes_at = UTC_TIMESTAMP(3) - INTERVAL 1 HOUR WHERE id = {}",
        coupon.drop
    );
    world.sql.query(&close).await;
    let sealed = format!(
        "SELECT COUNT(*) FROM drops WHERE id = {} AND sealed_at IS NOT NULL",
        coupon.drop
    );
    for _ in 0..2 {
        let once = world.start("firstcome-reconciler", &["once"], &[]);
        let code = once.ended(LIMIT).await;
        let told = once.all_stdout().await;
        assert_eq!(code, 1, "{told}");
        assert!(
            told.contains("17 of 17 issued, NOT exact, 3 broken promises"),
            "{told}"
        );
        assert_eq!(world.sql.number(&sealed).await, 0);
    }
    let last = "SELECT status FROM reconcile_runs ORDER BY id DESC LIMIT 1";
    assert_eq!(world.sql.query(last).await, [["drift"]]);

    let statement = "UPDATE broken_promises SET mended_at = UTC_TIMESTAMP(3)";
    world.sql.query(statement).await;
    pass_ends(world, &[], (0, Status::Clean)).await;
    assert_eq!(world.sql.number(&sealed).await, 1);
    mailed(world, &["resolved", "Broken"]).await;

    // A broken promise is found after the drop was sealed.
    let statement = "UPDATE broken_promises SET mended_at = NULL LIMIT 1";
    world.sql.query(statement).await;
    let once = world.once_with(&[], &[]).await;
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
        eventually("users have claimed", LIMIT, async || {
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
async fn promises_that_mysql_lost_are_listed_again_from_the_waiting_list() {
    let fixture = Fixture::new("b-lost").await;
    let world = &fixture.world;
    let (_, broken) = three_broken(&fixture).await;
    let listed = "SELECT user_id, slot FROM broken_promises WHERE mended_at IS NULL ORDER BY slot";
    let before = world.sql.query(listed).await;
    assert_eq!(before.len(), broken.len());
    for lost in ["slot = 19", "TRUE"] {
        let lose = format!("DELETE FROM broken_promises WHERE {lost}");
        world.sql.query(&lose).await;
        pass_ends(world, &[], (1, Status::Drift)).await;
        assert_eq!(world.sql.query(listed).await, before, "{lost}");
    }
}
