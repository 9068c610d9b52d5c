//! Many kinds of drift at once in one drop.

use std::collections::BTreeSet;

use firstcome_reconciler::report::{Kind, Outcome, Status};
use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, MadeCoupon, WorldStores, all_issued, assert_kept, people, rush};
use serde_json::json;

use crate::drift::support::{
    FoundDrift, assert_settled, assert_whole, clean_pass, dry_run, expected, found, injector,
    mailed,
};

/// The reconciler's name for the injected drift.
fn word(drift: Drift) -> Kind {
    match drift {
        // A row says where its user belongs, so they are missing there.
        Drift::ConflictMoved | Drift::ConflictExchanged => Kind::MissingAdmission,
        other => serde_json::from_value(other.finding().into()).unwrap(),
    }
}

#[tokio::test]
async fn all_kinds_of_drift_in_one_drop_are_found_and_repaired_together() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let fixture = Fixture::on(WorldStores::shared().await.with_redis(&redis), "d-all").await;
    // Six pages, so users and the slots that they belong to are rarely on the same one.
    fixture
        .world
        .set("FIRSTCOME_TEST_RECONCILE_PAGE_SLOTS", "10");
    let (coupon, answers) = fixture.held("All at once", 60, 30).await;
    let mut injector = injector(&fixture.world, &coupon).await;
    let mut all = BTreeSet::new();
    for drift in [
        Drift::Unpublished,
        Drift::Unissued,
        Drift::FailedClaim,
        Drift::FailedDuplicate,
        Drift::FailedSlotTaken,
        Drift::FailedUnrepairable,
        Drift::MissingAdmission,
        Drift::MissingClaimants,
        Drift::MissingMoved,
        Drift::ConflictMoved,
        Drift::ConflictExchanged,
        Drift::SlotConflict,
        Drift::OverAdmitted,
    ] {
        all.extend(expected(
            word(drift),
            &injector.make(drift, 2).await.unwrap(),
        ));
    }
    // Concerns the drop or everything, but no user in particular.
    for drift in [Drift::Unfilled, Drift::CountLower, Drift::RedisGate] {
        injector.make(drift, 1).await.unwrap();
    }
    let people_in = |found: &BTreeSet<FoundDrift>| -> BTreeSet<FoundDrift> {
        found
            .iter()
            .filter(|(kind, ..)| *kind != Kind::Unfilled)
            .filter(|(.., user)| user.is_some())
            .cloned()
            .collect()
    };
    let kinds_in = |found: &BTreeSet<FoundDrift>| {
        found
            .iter()
            .map(|(kind, ..)| *kind)
            .collect::<BTreeSet<Kind>>()
    };

    let dry = dry_run(&fixture.world).await;
    let listed: BTreeSet<FoundDrift> = found(&dry).into_keys().collect();
    assert_eq!(people_in(&listed), all, "{dry:#?}");
    let mut kinds = kinds_in(&all);
    kinds.extend([Kind::CountMismatch, Kind::Unfilled, Kind::RedisLost]);
    assert_eq!(kinds_in(&listed), kinds, "{dry:#?}");

    let run = fixture.world.once_with(&[], &[]).await.run();
    assert_eq!(
        run.status,
        Status::Drift,
        "only two findings need a person: {run:#?}"
    );
    let left: Vec<_> = run
        .all_findings()
        .filter(|f| f.needs_person || f.result == Outcome::Failed)
        .collect();
    assert!(
        left.len() == 2
            && left
                .iter()
                .all(|f| f.kind == Kind::FailedClaim && f.needs_person),
        "{left:#?}"
    );
    // Two each: unpublished, readmitted, conflicting, over admitted; and one who waited.
    assert_settled(&fixture.world, &coupon, 60, 30 + 4 * 2 + 1, &answers).await;
    mailed(
        &fixture.world,
        &["action needed", "All at once", "39 of 60 issued"],
    )
    .await;

    let second = fixture.world.once_with(&[], &[]).await.run();
    assert!(
        second
            .all_findings()
            .all(|f| f.kind == Kind::FailedClaim && f.needs_person),
        "{second:#?}"
    );
    assert_eq!(second.all_findings().count(), 2);
    fixture
        .world
        .sql
        .query("UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3) WHERE resolved_at IS NULL")
        .await;
    clean_pass(&fixture.world, &coupon).await;
    mailed(&fixture.world, &["resolved", "All at once"]).await;
}

#[tokio::test]
async fn unpublished_claims_survive_the_loss_of_the_drops_keys() {
    let fixture = Fixture::new("d-both-lost").await;
    let (coupon, answers) = fixture.held("Both lost", 20, 12).await;
    let mut injector = injector(&fixture.world, &coupon).await;
    let done = injector.make(Drift::Unpublished, 2).await.unwrap();
    injector.make(Drift::RedisLost, 1).await.unwrap();
    // The coupon's list of claimants still has them, and answers are derived from it.
    let run = fixture.world.once_with(&[], &[]).await;
    assert!(run.code <= 1, "{}", run.log);
    for hit in &done.people {
        let answer = fixture.api.claim(coupon.id, &hit.user).await;
        assert_eq!(
            answer.promised(),
            Some((coupon.drop, u32::try_from(hit.slot).unwrap())),
            "{hit:?}: {answer:?}"
        );
    }
    fixture.world.once_with(&[], &[]).await;
    assert_settled(&fixture.world, &coupon, 20, 14, &answers).await;
    clean_pass(&fixture.world, &coupon).await;
}

#[tokio::test]
async fn users_may_hold_one_in_each_drop_if_that_is_allowed() {
    let fixture = Fixture::new("d-per-drop").await;
    let per_drop = json!({
        "name": "Daily", "quantity": 20, "once_per": "drop", "waiting_list": 0,
        "schedule": {"type": "once", "opens_at": "2026-01-01T00:00:00Z"},
    });
    let (first, first_answers) = fixture.held_of(&per_drop, 12).await;
    let next = format!(
        "INSERT INTO drops (coupon_id, opens_at, quantity) VALUES ({}, '2026-02-01', 20)",
        first.id
    );
    fixture.world.sql.query(&next).await;
    fixture.world.pass().await;
    let second = MadeCoupon {
        drop: fixture.world.sql.number("SELECT MAX(id) FROM drops").await,
        ..first.clone()
    };
    let second_answers = rush(&[&fixture.api], second.id, &people(12), 10).await;
    all_issued(&fixture.world, second.drop, 12).await;
    clean_pass(&fixture.world, &first).await;

    let mut all = BTreeSet::new();
    let mut in_first = injector(&fixture.world, &first).await;
    let mut in_second = injector(&fixture.world, &second).await;
    for drift in [
        Drift::Unissued,
        Drift::FailedClaim,
        Drift::FailedDuplicate,
        Drift::MissingAdmission,
    ] {
        all.extend(expected(
            word(drift),
            &in_first.make(drift, 2).await.unwrap(),
        ));
    }
    for drift in [
        Drift::ConflictExchanged,
        Drift::SlotConflict,
        Drift::OverAdmitted,
    ] {
        all.extend(expected(
            word(drift),
            &in_second.make(drift, 2).await.unwrap(),
        ));
    }
    let run = fixture.world.pass().await;
    assert_eq!(
        found(&run).into_keys().collect::<BTreeSet<_>>(),
        all,
        "{run:#?}"
    );
    assert_whole(&fixture.world, &first, 20, 12).await;
    assert_whole(&fixture.world, &second, 20, 16).await;
    assert_kept(&fixture.world, &first, &first_answers, &[]).await;
    assert_kept(&fixture.world, &second, &second_answers, &[]).await;
    clean_pass(&fixture.world, &second).await;
}
