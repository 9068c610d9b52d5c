//! Steps that all cycles share.

use firstcome_reconciler::report::{Run, Status};
use firstcome_shared::crash::Point;

use crate::prelude::*;

/// The shell's exit code for SIGABRT.
const ABORTED: i32 = 128 + 6;

/// Creates a world with the processes that do not crash.
pub(super) async fn fixture(name: &str) -> Fixture {
    let world = World::new(&format!("x-{}", name.replace('_', "-"))).await;
    for (name, value) in [
        // Passes wait for this time before they judge recent claims. It may be short, because
        // the claims here are few.
        ("PUBLISH_DEADLINE_MS", "500"),
        ("FIRSTCOME_TEST_BACKUP_DEADLINE_MS", "500"),
        // Otherwise, the mails and events of later cycles would wait.
        ("FIRSTCOME_TEST_ALERT_COOLDOWN_SECONDS", "0"),
        (
            "RUST_LOG",
            "warn,firstcome_api=info,firstcome_reconciler=info",
        ),
    ] {
        world.set(name, value);
    }
    Fixture::of(world).await
}

/// Runs one pass to its end or to the crash point. Returns whether it died at the crash point.
pub(super) async fn pass_dies(world: &World, point: Point) -> bool {
    let crash = [("FIRSTCOME_CRASH_AT", point.name())];
    let once = world.once_with(&[], &crash).await;
    let died = once.log.contains(&format!("crash point {}", point.name()));
    let codes = if died { ABORTED..=ABORTED } else { 0..=1 };
    assert!(codes.contains(&once.code), "{}: {}", once.code, once.log);
    died
}

pub(super) async fn must_die(world: &World, point: Point, why: &str) {
    let died = pass_dies(world, point).await;
    assert!(died, "{} was not reached: {why}", point.name());
}

/// Runs a pass that repairs the remaining drift, then a pass that must find nothing except
/// promises that are listed as broken.
pub(super) async fn mend(world: &World) {
    let once = world.once_with(&[], &[]).await;
    assert!(once.code <= 1, "code {}: {}", once.code, once.log);
    assert_nothing_found(&world.once_with(&[], &[]).await.run());
}

/// Ends the open dead letters, as an operator does.
pub(super) async fn resolve_letters(world: &World) {
    let resolve = "UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3), resolution = 'by_hand' \
                       WHERE resolved_at IS NULL";
    world.sql.query(resolve).await;
}

/// Checks that promises have rows, ends broken promises by hand, and seals the drop so that
/// later passes skip it.
pub(super) async fn count(world: &World, coupon: &MadeCoupon, quantity: u32) {
    assert_kept(world, coupon, &[]).await;
    let rows = rows(world, coupon.drop).await;
    assert!(rows.len() <= quantity as usize, "{rows:?}");
    let mend = "UPDATE broken_promises SET mended_at = UTC_TIMESTAMP(3)";
    world.sql.query(mend).await;
    let seal = format!(
        "UPDATE drops SET closes_at = UTC_TIMESTAMP(3), sealed_at = UTC_TIMESTAMP(3) WHERE id = {}",
        coupon.drop
    );
    world.sql.query(&seal).await;
}

/// Fails unless the run found nothing but the promises that are listed as broken.
fn assert_nothing_found(run: &Run) {
    let kinds: Vec<Kind> = run.all_findings().map(|finding| finding.kind).collect();
    let status = if kinds.is_empty() {
        Status::Clean
    } else {
        Status::Drift
    };
    let are_listed = kinds.iter().all(|kind| *kind == Kind::BrokenPromise);
    assert!(run.status == status && are_listed, "{run:#?}");
}
