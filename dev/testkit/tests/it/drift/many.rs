//! Many kinds of drift at once in one drop.

use std::collections::BTreeSet;

use firstcome_reconciler::report::{Kind, Outcome, Status};
use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, WorldStores};

use crate::drift::support::{
    FoundDrift, assert_settled, clean_pass, dry_run, expected, found, injector, mailed,
};

/// Returns the kind of finding that reports the drift.
fn word(drift: Drift) -> Kind {
    match drift {
        // The row names the user's slot, so the finding reports that the user is missing from that
        // slot.
        Drift::ConflictMoved | Drift::ConflictExchanged => Kind::MissingAdmission,
        other => serde_json::from_value(other.finding().into()).unwrap(),
    }
}

#[tokio::test]
async fn all_kinds_of_drift_in_one_drop_are_found_and_repaired_together() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let fixture = Fixture::on(WorldStores::shared().await.with_redis(&redis), "d-all").await;
    let world = &fixture.world;
    // Six pages, so users and the slots that they belong to are rarely on the same one.
    world.set("FIRSTCOME_TEST_RECONCILE_PAGE_SLOTS", "10");
    let (coupon, answers) = fixture.held("All at once", 60, 30).await;
    let mut injector = injector(world, &coupon).await;
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
    // These findings concern the drop or all of Redis, not a particular user.
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

    let dry = dry_run(world).await;
    let listed: BTreeSet<FoundDrift> = found(&dry).into_keys().collect();
    assert_eq!(people_in(&listed), all, "{dry:#?}");
    let mut kinds = kinds_in(&all);
    kinds.extend([Kind::CountMismatch, Kind::Unfilled, Kind::RedisLost]);
    assert_eq!(kinds_in(&listed), kinds, "{dry:#?}");

    let run = world.once_with(&[], &[]).await.run();
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
    // Two users each were unpublished, readmitted, conflicting and over-admitted; one waited.
    assert_settled(world, &coupon, 60, 30 + 4 * 2 + 1, &answers).await;
    mailed(world, &["action needed", "All at once", "39 of 60 issued"]).await;

    let second = world.once_with(&[], &[]).await.run();
    assert!(
        second
            .all_findings()
            .all(|f| f.kind == Kind::FailedClaim && f.needs_person),
        "{second:#?}"
    );
    assert_eq!(second.all_findings().count(), 2);
    world
        .sql
        .query("UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3) WHERE resolved_at IS NULL")
        .await;
    clean_pass(world, &coupon).await;
    mailed(world, &["resolved", "All at once"]).await;
}

#[tokio::test]
async fn unpublished_claims_survive_the_loss_of_the_drops_keys() {
    let fixture = Fixture::new("d-both-lost").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Both lost", 20, 12).await;
    let mut injector = injector(world, &coupon).await;
    let done = injector.make(Drift::Unpublished, 2).await.unwrap();
    injector.make(Drift::RedisLost, 1).await.unwrap();
    // The coupon's list of claimants still has them, and answers are derived from it.
    let run = world.once_with(&[], &[]).await;
    assert!(run.code <= 1, "{}", run.log);
    for hit in &done.people {
        let answer = fixture.api.claim(coupon.id, &hit.user).await;
        assert_eq!(
            answer.promised(),
            Some((coupon.drop, u32::try_from(hit.slot).unwrap())),
            "{hit:?}: {answer:?}"
        );
    }
    world.once_with(&[], &[]).await;
    assert_settled(world, &coupon, 20, 14, &answers).await;
    clean_pass(world, &coupon).await;
}
