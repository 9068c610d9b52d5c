//! Dead letters that an operator corrects or discards while a pass judges them.

use firstcome_harness::LOCK_WAITS;
use firstcome_reconciler::report::{Outcome, Run};

use crate::prelude::*;

/// Runs a pass that judges dead letters while an operator, who has locked them, changes them.
async fn pass_beside(world: &World, changes: &[&str]) -> Run {
    let mut operator = HeldTransaction::begin(&world.sql).await;
    let open = "SELECT GROUP_CONCAT(id) FROM failed_claims WHERE resolved_at IS NULL";
    let open = world.sql.query(open).await.concat().concat();
    let lock = format!(
        "SELECT id FROM failed_claims FORCE INDEX (PRIMARY) WHERE id IN ({open}) FOR UPDATE"
    );
    operator.run(&lock).await;
    let changed = async {
        eventually("the pass has judged them", LIMIT, async || {
            world.sql.number(LOCK_WAITS).await > 0
        })
        .await;
        for change in changes {
            operator.run(change).await;
        }
        operator.commit().await;
    };
    let (once, ()) = tokio::join!(world.once_with(&[], &[]), changed);
    once.run()
}

/// In a sealed drop, dead letters of vacant slots get rows. In an open one, users whose slot is
/// another user's are owed one.
#[tokio::test]
async fn a_pass_does_not_override_what_an_operator_decides_while_it_judges() {
    let fixture = Fixture::new("d-decided").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (sealed, _) = fixture.held("Sealed", 10, 5).await;
    api.change(sealed.id, &json!({"close_now": true})).await;
    until_sealed(world, &sealed).await;
    let (open, _) = fixture.held("Open", 10, 5).await;
    for (coupon, slots) in [(&sealed, [6, 7]), (&open, [2, 3])] {
        for (slot, user) in std::iter::zip(slots, ["u-forged", "u-typo"]) {
            let insert = format!(
                "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason) \
                 VALUES ({}, {}, {slot}, '{user}', 'by hand')",
                coupon.id, coupon.drop
            );
            world.sql.query(&insert).await;
        }
        let discard = "UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3), \
            resolution = 'by_hand' WHERE user_id = 'u-forged' AND resolved_at IS NULL";
        let correct = "UPDATE failed_claims SET user_id = 'u-right', reason = 'corrected' \
            WHERE user_id = 'u-typo'";
        let run = pass_beside(world, &[discard, correct]).await;
        let mut found = run.all_findings();
        let has_repaired = found.any(|found| found.result == Outcome::Applied);
        assert!(!has_repaired, "{run:#?}");
        let unresolved = "SELECT COUNT(*) FROM failed_claims WHERE resolved_at IS NULL";
        assert_eq!(world.sql.number(unresolved).await, 1);
        let owed = "SELECT COUNT(*) FROM broken_promises";
        assert_eq!(world.sql.number(owed).await, 0);
        assert_eq!(rows(world, coupon.drop).await.len(), 5);
        pass_ends(world, &[], REPAIRED).await;
        let now = rows(world, coupon.drop).await;
        let is_issued = now.values().any(|user| user == "u-right");
        assert!(is_issued && now.len() == 6, "{now:?}");
        // Otherwise the job that deletes old ones waits for the operator, before the pass begins.
        world.sql.query("DELETE FROM failed_claims").await;
    }
}
