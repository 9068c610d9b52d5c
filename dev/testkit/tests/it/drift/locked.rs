//! Rows that another MySQL client has locked delay only their coupon.

use firstcome_reconciler::report::{Kind, Outcome, Status};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Fixture, HeldTransaction, LIMIT, MadeCoupon, World, all_issued, assert_kept, eventually, rows,
};
use rustix::process::Signal;

use crate::drift::support::{clean_pass, inject, lose_rows, mailed, report};

/// A foreign transaction that locks what every insert of a row of the drop reads.
async fn lock(world: &World, coupon: &MadeCoupon) -> HeldTransaction {
    let mut held = HeldTransaction::begin(&world.sql).await;
    held.run(&format!(
        "SELECT drop_id FROM slot_limits WHERE drop_id = {} FOR UPDATE",
        coupon.drop
    ))
    .await;
    held
}

#[tokio::test]
async fn locked_rows_of_one_coupon_do_not_delay_repairs_of_other_coupons() {
    let fixture = Fixture::new("d-locked").await;
    let world = &fixture.world;
    world.set("FIRSTCOME_TEST_ALERT_PATIENCE_SECONDS", "0");
    let (first, answers) = fixture.held("Locked", 20, 5).await;
    let (second, _) = fixture.held("Free", 20, 5).await;
    lose_rows(world, &first, "<= 3").await;
    lose_rows(world, &second, "<= 3").await;
    let held = lock(world, &first).await;
    let run = world.once_with(&[], &[]).await.run();
    assert_eq!((run.status, &run.error), (Status::Drift, &None), "{run:#?}");
    assert_eq!(rows(world, second.drop).await.len(), 5, "{run:#?}");
    let report = report(&run, first.drop);
    let told = report
        .findings
        .iter()
        .any(|f| f.needs_person && f.detail.contains("locked by another client of MySQL"));
    assert!(told && !report.exact, "{report:#?}");
    mailed(world, &["action needed", "Locked", "locked"]).await;
    held.commit().await;
    world.pass().await;
    assert_kept(world, &first, &answers, &[]).await;
    clean_pass(world, &first).await;
}

#[tokio::test]
async fn locked_rows_of_one_coupon_do_not_delay_rows_of_other_coupons() {
    let fixture = Fixture::new("d-locked-claims").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let [first, second] = [api.open_coupon(20).await, api.open_coupon(20).await];
    let held = lock(world, &first).await;
    let mut answers = (Vec::new(), Vec::new());
    for n in 0..10 {
        let user = format!("u-{n}");
        answers
            .0
            .push((user.clone(), api.claim(first.id, &user).await));
        answers
            .1
            .push((user.clone(), api.claim(second.id, &user).await));
    }
    all_issued(world, second.drop, 10).await;
    let letters =
        "SELECT COUNT(*) FROM failed_claims WHERE reason = 'row_locked' AND resolved_at IS NULL";
    assert_eq!(world.sql.number(letters).await, 10);
    held.commit().await;
    world.pass().await;
    assert_kept(world, &first, &answers.0, &[]).await;
    assert_kept(world, &second, &answers.1, &[]).await;
    assert_eq!(world.sql.number(letters).await, 0);
    // The next claims become rows without a pass.
    assert!(api.claim(first.id, "u-later").await.is_accepted());
    all_issued(world, first.drop, 11).await;
    clean_pass(world, &first).await;
}

#[tokio::test]
async fn repairs_of_a_stopped_pass_are_recorded_and_reported_by_mail() {
    let fixture = Fixture::new("d-stopped").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Repaired", 20, 5).await;
    lose_rows(world, &coupon, "<= 3").await;
    let pass = world.start(
        "firstcome-reconciler",
        &["once", "--json"],
        &[("FIRSTCOME_STALL_AT", "repair_done:1:5000")],
    );
    eventually("the pass has repaired", LIMIT, async || {
        pass.log().contains("stall point")
    })
    .await;
    assert_eq!(rows(world, coupon.drop).await.len(), 5);
    pass.signal(Signal::TERM);
    assert_eq!(pass.ended(LIMIT).await, 2, "{}", pass.log());
    let run: firstcome_reconciler::report::Run =
        serde_json::from_str(&pass.all_stdout().await).unwrap();
    assert_eq!(run.status, Status::Failed, "{run:#?}");
    let applied = run
        .all_findings()
        .filter(|f| f.result == Outcome::Applied)
        .count();
    assert_eq!(applied, 3, "{run:#?}");
    let recorded =
        "SELECT COUNT(*) FROM reconcile_findings WHERE kind = 'unissued' AND result = 'applied'";
    assert_eq!(world.sql.number(recorded).await, 3);
    assert!(run.drops[0].unconfirmed, "{run:#?}");
    mailed(world, &["not compared again (3 issued late)"]).await;
    world.pass().await;
    assert_kept(world, &coupon, &answers, &[]).await;
}

/// The dead letters before the locked one are issued and reported.
#[tokio::test]
async fn dead_letters_issued_before_a_lock_are_recorded() {
    let fixture = Fixture::new("d-locked-letters").await;
    let world = &fixture.world;
    let coupon = fixture.api.open_coupon(3_000).await;
    let columns =
        "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason, source_hash)";
    let letters = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1800)";
    let values = format!(
        "{}, {}, i, CONCAT('u-', i), 'by hand', UNHEX(SHA2(i, 256))",
        coupon.id, coupon.drop
    );
    let settings = "SET SESSION cte_max_recursion_depth = 10000";
    let mut by_hand = HeldTransaction::begin(&world.sql).await;
    by_hand.run(settings).await;
    by_hand
        .run(&format!("{columns} {letters} SELECT {values} FROM n"))
        .await;
    by_hand.commit().await;
    let mut held = HeldTransaction::begin(&world.sql).await;
    let one = world
        .sql
        .number("SELECT id FROM failed_claims WHERE slot = 1700")
        .await;
    held.run(&format!(
        "SELECT id FROM failed_claims WHERE id = {one} FOR UPDATE"
    ))
    .await;
    let run = world.once_with(&[], &[]).await.run();
    let issued = i64::try_from(rows(world, coupon.drop).await.len()).unwrap();
    assert!((500..1_800).contains(&issued), "{issued}");
    let told = run
        .all_findings()
        .filter(|f| f.result == Outcome::Applied && f.slot.is_some())
        .count();
    assert!(
        i64::try_from(told).unwrap() >= issued - 1_000 && told >= 500,
        "{told} of {issued}"
    );
    held.commit().await;
    world.pass().await;
    assert_eq!(rows(world, coupon.drop).await.len(), 1_800);
}

/// While the table is locked, messages that are not claims cannot be stored, but claims become
/// rows.
#[tokio::test]
async fn a_locked_dead_letter_table_does_not_delay_claims_of_the_same_batch() {
    let fixture = Fixture::new("d-locked-table").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let [first, second] = [api.open_coupon(20).await, api.open_coupon(20).await];
    let mut held = HeldTransaction::begin(&world.sql).await;
    held.run("UPDATE failed_claims SET error = '' WHERE reason = 'none'")
        .await;
    let locked = lock(world, &first).await;
    fixture.consumer.process.freeze();
    world.topic.produce(None, "odd", b"no claim").await;
    for n in 0..10 {
        for coupon in [&first, &second] {
            assert!(api.claim(coupon.id, &format!("u-{n}")).await.is_accepted());
        }
    }
    fixture.consumer.process.thaw();
    eventually("the rows of the other drop exist", LIMIT, async || {
        rows(world, second.drop).await.len() == 10
    })
    .await;
    held.commit().await;
    locked.commit().await;
    all_issued(world, first.drop, 10).await;
    let kept = "SELECT COUNT(*) FROM failed_claims WHERE reason = 'undecodable'";
    eventually(
        "the message that is not a claim is stored",
        LIMIT,
        async || world.sql.number(kept).await == 1,
    )
    .await;
}

/// Each blocked move waits for two seconds, so the pass must not try all of them. It must not abort
/// either, because only this pass knows the users' new slots.
#[tokio::test]
async fn a_pass_with_moves_blocked_by_a_lock_reports_them_and_continues() {
    let fixture = Fixture::new("d-locked-moves").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Moves", 20, 8).await;
    let done = inject(world, &coupon, Drift::SlotConflict, 3).await;
    let held = lock(world, &coupon).await;
    let run = world.once_with(&[], &[]).await.run();
    let moved = run
        .all_findings()
        .filter(|f| f.kind == Kind::SlotConflict && f.detail.contains("without a row so far"));
    assert_eq!(moved.count(), 1, "{run:#?}");
    assert!(
        run.all_findings()
            .any(|f| f.detail.contains("locked by another client")),
        "{run:#?}"
    );
    held.commit().await;
    world.once_with(&[], &[]).await;
    let people: Vec<&str> = done.people.iter().map(|hit| hit.user.as_str()).collect();
    assert_kept(world, &coupon, &answers, &people).await;
    clean_pass(world, &coupon).await;
}
