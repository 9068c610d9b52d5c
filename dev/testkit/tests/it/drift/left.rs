//! Drift that is left for a person: mailed once, with what was done, and again once resolved.

use firstcome_reconciler::report::{Kind, Outcome, Status};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, LIMIT, assert_kept, eventually, eventually_some};
use serde_json::json;

use crate::drift::support::{
    assert_found, assert_settled, assert_whole, clean_pass, dry_run_lists, everything, expected,
    found, injector, mailed,
};

#[tokio::test]
async fn a_failed_claim_that_cannot_be_issued_is_reported_until_resolved() {
    let fixture = Fixture::new("d-unrepairable").await;
    let (coupon, answers) = fixture.held("Winter", 20, 12).await;
    let done = injector(&fixture.world, &coupon)
        .await
        .make(Drift::FailedUnrepairable, 2)
        .await
        .unwrap();
    let expected = expected(Kind::FailedClaim, &done);
    dry_run_lists(&fixture.world, &expected).await;
    let before = everything(&fixture.world).await;
    let once = fixture.world.once_with(&[], &[]).await;
    let run = once.run();
    assert_found(&run, &expected);
    assert_eq!((run.status, once.code), (Status::Drift, 1), "{run:#?}");
    assert!(
        run.all_findings()
            .all(|f| f.result == Outcome::Skipped && f.needs_person),
        "{run:#?}"
    );
    assert_eq!(
        before,
        everything(&fixture.world).await,
        "there was nothing to change"
    );
    mailed(
        &fixture.world,
        &["action needed", "Winter", "12 of 20 issued"],
    )
    .await;

    fixture
        .world
        .sql
        .query("UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3), resolution = 'by hand'")
        .await;
    clean_pass(&fixture.world, &coupon).await;
    mailed(&fixture.world, &["resolved", "Winter"]).await;
    assert_settled(&fixture.world, &coupon, 20, 12, &answers).await;
}

#[tokio::test]
async fn users_without_a_slot_are_named_as_broken_promises_and_first_in_line() {
    let fixture = Fixture::new("d-broken").await;
    for (drift, quantity) in [
        (Drift::OverAdmitted, 20),
        (Drift::OverShrunk, 18),
        (Drift::SlotConflict, 20),
    ] {
        let name = drift.name();
        let (coupon, answers) = fixture.held(&name, 20, 20).await;
        let done = injector(&fixture.world, &coupon)
            .await
            .make(drift, 2)
            .await
            .unwrap();
        let kind = if drift == Drift::SlotConflict {
            Kind::SlotConflict
        } else {
            Kind::OverAdmitted
        };
        let expected = expected(kind, &done);
        dry_run_lists(&fixture.world, &expected).await;
        let once = fixture.world.once_with(&[], &[]).await;
        let run = once.run();
        assert_found(&run, &expected);
        assert_eq!((run.status, once.code), (Status::Drift, 1), "{run:#?}");
        let broken: Vec<&str> = done.people.iter().map(|hit| hit.user.as_str()).collect();
        assert_whole(&fixture.world, &coupon, quantity, quantity as usize).await;
        assert_kept(&fixture.world, &coupon, &answers, &broken).await;
        let listed = format!(
            "SELECT user_id FROM broken_promises WHERE drop_id = {} ORDER BY user_id",
            coupon.drop
        );
        let mut names: Vec<Vec<String>> =
            broken.iter().map(|user| vec![(*user).to_owned()]).collect();
        names.sort();
        assert_eq!(fixture.world.sql.query(&listed).await, names);
        for user in &broken {
            let me = fixture.api.me(coupon.id, user).await;
            assert!(
                me["status"] == "broken" && me["position"].as_u64() <= Some(2),
                "first in line: {me}"
            );
        }
        mailed(
            &fixture.world,
            &[
                "action needed",
                &name,
                &format!("{quantity} of {quantity} issued"),
            ],
        )
        .await;

        // Reported once and still listed: later passes have nothing new.
        let again = fixture.world.once_with(&[], &[]).await;
        assert!(
            again.code <= 1 && found(&again.run()).is_empty(),
            "{}",
            again.log
        );

        // Slots are added for them: they are the first to get one.
        let reply = fixture.api.patch(coupon.id, &json!({"quantity": 22})).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let mended = fixture.world.once_with(&[], &[]).await;
        assert_eq!(
            (mended.run().status, mended.code),
            (Status::Repaired, 0),
            "{}",
            mended.log
        );
        for user in &broken {
            assert_eq!(fixture.api.me(coupon.id, user).await["status"], "issued");
        }
        assert_whole(&fixture.world, &coupon, 22, quantity as usize + 2).await;
        mailed(
            &fixture.world,
            &["repaired", &name, &format!("{} of 22 issued", quantity + 2)],
        )
        .await;
        clean_pass(&fixture.world, &coupon).await;
        let open = "SELECT COUNT(*) FROM alerts WHERE status <> 'resolved'";
        assert_eq!(
            fixture.world.sql.number(open).await,
            0,
            "nothing is left to report"
        );
    }
}

#[tokio::test]
async fn the_earliest_of_several_broken_promises_is_kept_first() {
    let fixture = Fixture::new("d-order").await;
    let (coupon, _) = fixture.held("Order", 20, 20).await;
    let done = injector(&fixture.world, &coupon)
        .await
        .make(Drift::OverShrunk, 3)
        .await
        .unwrap();
    let mut broken: Vec<(i64, String)> = done
        .people
        .iter()
        .map(|hit| (hit.slot, hit.user.clone()))
        .collect();
    broken.sort();
    fixture.world.once_with(&[], &[]).await;
    for (waits, (_, user)) in broken.iter().enumerate() {
        assert_eq!(
            fixture.api.me(coupon.id, user).await["position"],
            waits + 1,
            "{broken:?}"
        );
    }
    let newcomer = fixture.api.claim(coupon.id, "newcomer").await;
    assert!(
        newcomer.is("sold_out") || newcomer.is("waiting"),
        "{newcomer:?}"
    );
    assert_eq!(
        fixture
            .api
            .patch(coupon.id, &json!({"quantity": 18}))
            .await
            .status,
        200
    );
    fixture.world.once_with(&[], &[]).await;
    let standing = async |user: &str| fixture.api.me(coupon.id, user).await["status"].clone();
    assert_eq!(
        [standing(&broken[0].1).await, standing(&broken[1].1).await],
        ["issued", "broken"]
    );
}

#[tokio::test]
async fn a_drop_that_closed_below_its_quantity_is_reported_once() {
    let fixture = Fixture::new("d-below").await;
    let (coupon, answers) = fixture.held("Left over", 20, 12).await;
    injector(&fixture.world, &coupon)
        .await
        .make(Drift::UnfilledClosed, 2)
        .await
        .unwrap();
    let before = everything(&fixture.world).await;
    let dry = fixture.world.once_with(&["--dry-run"], &[]).await;
    assert_eq!(before, everything(&fixture.world).await);
    assert_found(&dry.run(), &[(Kind::Unfilled, None, None)].into());
    let run = fixture.world.once_with(&[], &[]).await.run();
    assert_found(&run, &[(Kind::Unfilled, None, None)].into());
    assert_eq!(run.status, Status::Clean, "every promise is kept: {run:#?}");
    assert_kept(&fixture.world, &coupon, &answers, &[]).await;
    mailed(
        &fixture.world,
        &["closed below its quantity", "Left over", "12 of 20 issued"],
    )
    .await;
    let told = fixture.world.mail.mails().len();
    fixture.world.pass().await;
    assert_eq!(fixture.world.mail.mails().len(), told, "told once");
}

#[tokio::test]
async fn a_stalled_consumer_is_reported_and_reported_again_when_it_resumes() {
    let fixture = Fixture::new("d-stalled").await;
    let (coupon, answers) = fixture.held("Held up", 20, 12).await;
    let daemon = fixture
        .world
        .daemon_with(&[("FIRSTCOME_TEST_CONSUMER_STALL_SECONDS", "1")])
        .await;
    daemon.reconcile(&json!({})).await;
    let done = injector(&fixture.world, &coupon)
        .await
        .make(Drift::Stalled, 3)
        .await
        .unwrap();
    let patience = "SELECT MIN(CAST(v.variable_value AS UNSIGNED)) FROM performance_schema.data_locks l \
        JOIN performance_schema.variables_by_thread v ON v.thread_id = l.thread_id AND v.variable_name = 'wait_timeout' \
        WHERE l.object_schema = DATABASE() AND l.object_name = 'slot_limits' AND l.lock_type = 'RECORD' \
            AND l.lock_mode LIKE 'X%' AND l.lock_status = 'GRANTED'";
    assert!(
        fixture.world.sql.number(patience).await > 600,
        "MySQL released the lock too early"
    );
    let run = eventually_some("a pass sees it", LIMIT, async || {
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
    mailed(&fixture.world, &["action needed", "consumer"]).await;
    let before = everything(&fixture.world).await;
    let dry = daemon.reconcile(&json!({"dry_run": true})).await;
    assert_found(&dry, &[(Kind::Stalled, None, None)].into());
    assert_eq!(before, everything(&fixture.world).await);

    done.stall.unwrap().end().await.unwrap();
    eventually("the consumer has caught up", LIMIT, async || {
        fixture.world.topic.lag().await == 0
    })
    .await;
    let run = daemon.reconcile(&json!({})).await;
    assert_found(&run, &[].into());
    mailed(&fixture.world, &["resolved"]).await;
    assert_settled(&fixture.world, &coupon, 20, 12, &answers).await;
}
