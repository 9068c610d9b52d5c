//! Drift that only an operator can resolve is mailed once, and again when it is resolved.

use firstcome_reconciler::report::{Kind, Status};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Fixture, LIMIT, assert_kept, coupon_body, eventually, eventually_some, rows,
};
use serde_json::json;

use crate::drift::support::{
    assert_found, assert_settled, assert_whole, clean_pass, dry_run_lists, everything, expected,
    found, inject, lose_rows, mailed, pass_ends,
};

#[tokio::test]
async fn users_without_a_slot_are_listed_as_broken_promises_and_first_in_line() {
    let fixture = Fixture::new("d-broken").await;
    let api = &fixture.api;
    let world = &fixture.world;
    for (drift, quantity) in [
        (Drift::OverAdmitted, 20),
        (Drift::OverShrunk, 18),
        (Drift::SlotConflict, 20),
    ] {
        let name = drift.name();
        let (coupon, answers) = fixture.held(&name, 20, 20).await;
        let done = inject(world, &coupon, drift, 2).await;
        let kind = if drift == Drift::SlotConflict {
            Kind::SlotConflict
        } else {
            Kind::OverAdmitted
        };
        let expected = expected(kind, &done);
        dry_run_lists(world, &expected).await;
        let run = pass_ends(world, &[], (1, Status::Drift)).await;
        assert_found(&run, &expected);
        let broken: Vec<&str> = done.people.iter().map(|hit| hit.user.as_str()).collect();
        assert_whole(world, &coupon, quantity, quantity as usize).await;
        assert_kept(world, &coupon, &answers, &broken).await;
        let listed = format!(
            "SELECT user_id FROM broken_promises WHERE drop_id = {} ORDER BY user_id",
            coupon.drop
        );
        let mut names: Vec<Vec<String>> =
            broken.iter().map(|user| vec![(*user).to_owned()]).collect();
        names.sort();
        assert_eq!(world.sql.query(&listed).await, names);
        for user in &broken {
            let me = api.me(coupon.id, user).await;
            assert!(
                me["status"] == "broken" && me["position"].as_u64() <= Some(2),
                "first in line: {me}"
            );
        }
        mailed(
            world,
            &[
                "action needed",
                &name,
                &format!("{quantity} of {quantity} issued"),
            ],
        )
        .await;

        // The drift was reported once and is still listed. Later passes have nothing new.
        let again = world.once_with(&[], &[]).await;
        assert!(
            again.code <= 1 && found(&again.run()).is_empty(),
            "{}",
            again.log
        );

        // Slots are added for these users, who are the first to get one.
        let reply = api.patch(coupon.id, &json!({"quantity": 22})).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        pass_ends(world, &[], (0, Status::Repaired)).await;
        for user in &broken {
            assert_eq!(api.me(coupon.id, user).await["status"], "issued");
        }
        assert_whole(world, &coupon, 22, quantity as usize + 2).await;
        mailed(
            world,
            &["repaired", &name, &format!("{} of 22 issued", quantity + 2)],
        )
        .await;
        clean_pass(world, &coupon).await;
        let open = "SELECT COUNT(*) FROM alerts WHERE status <> 'resolved'";
        assert_eq!(world.sql.number(open).await, 0, "nothing is left to report");
    }
}

#[tokio::test]
async fn a_stalled_consumer_is_reported_and_reported_again_when_it_resumes() {
    let fixture = Fixture::new("d-stalled").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Held up", 20, 12).await;
    let daemon = world
        .daemon_with(&[("FIRSTCOME_TEST_CONSUMER_STALL_SECONDS", "1")])
        .await;
    daemon.reconcile(&json!({})).await;
    let done = inject(world, &coupon, Drift::Stalled, 3).await;
    let run = eventually_some("a pass sees the stall", LIMIT, async || {
        let run = daemon.reconcile(&json!({})).await;
        if found(&run).is_empty() {
            Err("not yet")
        } else {
            Ok(run)
        }
    })
    .await;
    assert_found(&run, &[(Kind::Stalled, None, None)].into());
    assert_eq!(run.status, Status::Drift, "{run:#?}");
    mailed(world, &["action needed", "consumer"]).await;
    let before = everything(world).await;
    let dry = daemon.reconcile(&json!({"dry_run": true})).await;
    assert_found(&dry, &[(Kind::Stalled, None, None)].into());
    assert_eq!(before, everything(world).await);

    done.stall.unwrap().end().await.unwrap();
    eventually("the consumer has caught up", LIMIT, async || {
        world.topic.lag().await == 0
    })
    .await;
    let run = daemon.reconcile(&json!({})).await;
    assert_found(&run, &[].into());
    mailed(world, &["resolved"]).await;
    assert_settled(world, &coupon, 20, 12, &answers).await;
}

#[tokio::test]
async fn a_dead_letter_gets_a_slot_that_the_same_pass_frees() {
    let fixture = Fixture::new("d-freed").await;
    let world = &fixture.world;
    let mut body = coupon_body("Freed", 3, 0);
    body["once_per"] = json!("drop");
    let (coupon, answers) = fixture.held_of(&body, 3).await;
    let (user, answer) = &answers[1];
    let slot = answer.promised().unwrap().1;
    let users = world.redis.of_drop(coupon.id, coupon.drop, "users");
    world.redis.command::<i64>(&["ZREM", &users, user]).await;
    lose_rows(world, &coupon, &format!("= {slot}")).await;
    let held = answers[0].1.promised().unwrap().1;
    let values = format!("{}, {}, {held}, 'u-late', 'manual'", coupon.id, coupon.drop);
    let insert = "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason)";
    world
        .sql
        .query(&format!("{insert} VALUES ({values})"))
        .await;
    let run = pass_ends(world, &[], (0, Status::Repaired)).await;
    assert!(
        run.all_findings().all(|finding| !finding.needs_person),
        "{run:#?}"
    );
    assert_eq!(rows(world, coupon.drop).await[&slot], "u-late");
}
