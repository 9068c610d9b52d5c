//! Rows that another client of MySQL has locked: the trouble of their coupon, and of no other.

use firstcome_reconciler::report::{Outcome, Status};
use firstcome_testkit::{
    Fixture, HeldTransaction, LIMIT, LOCK_WAITS, MadeCoupon, World, all_issued, assert_kept, eventually, rows,
};
use rustix::process::Signal;

use crate::drift::support::{clean_pass, mailed};

/// Somebody's open transaction, which holds what each row of the drop must read.
async fn lock(world: &World, coupon: &MadeCoupon) -> HeldTransaction {
    let mut held = HeldTransaction::begin(&world.sql).await;
    held.run(&format!("SELECT drop_id FROM slot_limits WHERE drop_id = {} FOR UPDATE", coupon.drop)).await;
    held
}

async fn lose_rows(world: &World, coupon: &MadeCoupon) {
    world.sql.query(&format!("DELETE FROM issued_coupons WHERE drop_id = {} AND slot <= 3", coupon.drop)).await;
}

#[tokio::test]
async fn a_pass_that_meets_locked_rows_of_one_coupon_repairs_the_others_and_says_so() {
    let fixture = Fixture::new("d-locked").await;
    let world = &fixture.world;
    let (first, answers) = fixture.held("Locked", 20, 5).await;
    let (second, _) = fixture.held("Free", 20, 5).await;
    lose_rows(world, &first).await;
    lose_rows(world, &second).await;
    let held = lock(world, &first).await;
    let run = world.once_with(&[], &[]).await.run();
    assert_eq!((run.status, &run.error), (Status::Drift, &None), "{run:#?}");
    assert_eq!(rows(world, second.drop).await.len(), 5, "{run:#?}");
    let report = run.drops.iter().find(|report| report.drop_id.0 == first.drop).unwrap();
    let told = report.findings.iter().any(|f| f.needs_person && f.detail.contains("locked by another client of MySQL"));
    assert!(told && !report.exact, "{report:#?}");
    mailed(world, &["action needed", "Locked", "locked"]).await;
    held.commit().await;
    world.pass().await;
    assert_kept(world, &first, &answers, &[]).await;
    clean_pass(world, &first).await;
}

#[tokio::test]
async fn a_consumer_that_meets_locked_rows_of_one_coupon_writes_the_others() {
    let fixture = Fixture::new("d-locked-claims").await;
    let world = &fixture.world;
    let [first, second] = [fixture.api.open_coupon(20).await, fixture.api.open_coupon(20).await];
    let held = lock(world, &first).await;
    let mut answers = (Vec::new(), Vec::new());
    for n in 0..10 {
        let user = format!("u-{n}");
        answers.0.push((user.clone(), fixture.api.claim(first.id, &user).await));
        answers.1.push((user.clone(), fixture.api.claim(second.id, &user).await));
    }
    all_issued(world, second.drop, 10).await;
    let letters = "SELECT COUNT(*) FROM failed_claims WHERE reason = 'row_locked' AND resolved_at IS NULL";
    assert_eq!(world.sql.number(letters).await, 10);
    held.commit().await;
    world.pass().await;
    assert_kept(world, &first, &answers.0, &[]).await;
    assert_kept(world, &second, &answers.1, &[]).await;
    assert_eq!(world.sql.number(letters).await, 0);
    // The next ones become rows without a pass.
    assert!(fixture.api.claim(first.id, "u-later").await.is_accepted());
    all_issued(world, first.drop, 11).await;
    clean_pass(world, &first).await;
}

#[tokio::test]
async fn what_a_pass_repaired_before_it_was_stopped_is_recorded_and_mailed() {
    let fixture = Fixture::new("d-stopped").await;
    let world = &fixture.world;
    let (first, answers) = fixture.held("Repaired", 20, 5).await;
    let (second, _) = fixture.held("Locked", 20, 5).await;
    lose_rows(world, &first).await;
    lose_rows(world, &second).await;
    let held = lock(world, &second).await;
    let pass = world.start("firstcome-reconciler", &["once", "--json"], &[]);
    eventually("the pass waits for the lock", LIMIT, async || world.sql.number(LOCK_WAITS).await > 0).await;
    assert_eq!(rows(world, first.drop).await.len(), 5);
    pass.signal(Signal::TERM);
    assert_eq!(pass.ended(LIMIT).await, 2, "{}", pass.log());
    held.commit().await;
    let run: firstcome_reconciler::report::Run = serde_json::from_str(&pass.all_stdout().await).unwrap();
    assert_eq!(run.status, Status::Failed, "{run:#?}");
    let told = run.all_findings().filter(|f| f.drop_id.is_some_and(|drop| drop.0 == first.drop));
    assert!(told.filter(|f| f.result == Outcome::Applied).count() == 3, "{run:#?}");
    let recorded = format!(
        "SELECT COUNT(*) FROM reconcile_findings WHERE drop_id = {} AND kind = 'unissued' AND result = 'applied'",
        first.drop
    );
    assert_eq!(world.sql.number(&recorded).await, 3);
    mailed(world, &["repaired: 3 issued late"]).await;
    world.pass().await;
    assert_kept(world, &first, &answers, &[]).await;
    clean_pass(world, &second).await;
}
