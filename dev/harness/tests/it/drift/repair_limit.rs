//! The repair limit: if more users than the limit would lose the slot that Redis shows, nothing
//! moves until an operator confirms the plan. Rows are never limited.

use firstcome_harness::drift::Drift;
use firstcome_harness::{Answer, Fixture, MadeCoupon, rows};
use firstcome_reconciler::report::{Outcome, Status};
use serde_json::json;

use crate::drift::support::{
    BRAKED, DRIFT, REPAIRED, assert_settled, clean_pass, everything, found_in, inject, injector,
    mailed, pass_ends,
};

/// Sets the repair limit to five users, or a fifth of the quantity if that is more.
async fn beyond_the_limit(name: &str) -> Fixture {
    let fixture = Fixture::new(name).await;
    let at_least = "FIRSTCOME_TEST_RECONCILE_BRAKE_AT_LEAST";
    fixture.world.set(at_least, "5");
    fixture
}

async fn confirm(fixture: &Fixture, coupon: &MadeCoupon, ends: (i32, Status)) {
    let args = ["--confirm", "--coupon", &coupon.id.to_string()];
    pass_ends(&fixture.world, &args, ends).await;
}

#[tokio::test]
async fn too_many_repairs_wait_for_a_confirmation_and_rows_are_written() {
    let fixture = beyond_the_limit("d-limit").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Suspicious", 25, 15).await;
    let mut damage = injector(world, &coupon).await;
    damage.make(Drift::SlotConflict, 6).await.unwrap();
    let before = everything(world).await;
    let run = pass_ends(world, &[], BRAKED).await;
    let found = found_in(&run, &coupon);
    let are_planned = found.iter().all(|it| it.result == Outcome::Planned);
    assert!(!found.is_empty() && are_planned, "{found:#?}");
    assert_eq!(before, everything(world).await, "nothing moves");
    let mail = mailed(world, &["action needed", "Suspicious"]).await;
    assert!(mail.text.contains("--confirm"), "{}", mail.text);
    // Rows are not limited.
    damage.make(Drift::Unissued, 9).await.unwrap();
    pass_ends(world, &[], BRAKED).await;
    assert_eq!(rows(world, coupon.drop).await.len(), 15);

    let daemon = world.daemon().await;
    // A confirmation must name the run that showed the plan last.
    let shown_by = world.sql.query("SELECT run_id FROM held_back").await;
    let shown_by = &shown_by[0][0];
    let page = format!("/v1/coupons/{}/drops/{}", coupon.id, coupon.drop);
    let page = daemon.get(&page).await.body;
    assert_eq!(page["shown_by"], json!(shown_by));
    let shown = json!({"dry_run": true, "coupon_id": coupon.id});
    let shown = daemon.reconcile(&shown).await;
    let mut body = json!({"confirm": true, "coupon_id": coupon.id, "shown_by": shown_by});
    let run = daemon.reconcile(&body).await;
    assert_eq!(run.status, Status::Braked, "another run has shown it since");
    body["shown_by"] = json!(shown.run_id);
    let run = daemon.reconcile(&body).await;
    assert_eq!(run.status, Status::Repaired, "{run:#?}");
    let confirmed = "SELECT COUNT(*) FROM reconcile_runs WHERE confirmed AND status = 'repaired'";
    assert_eq!(world.sql.number(confirmed).await, 1);
    // The strangers got free slots.
    assert_settled(world, &coupon, 25, 21, &answers).await;
    clean_pass(world, &coupon).await;
    let shown = "SELECT COUNT(*) FROM held_back";
    assert_eq!(world.sql.number(shown).await, 0, "the plan is applied");
}

/// Redis shows strangers on slots that other users hold. Each plan takes these slots from a
/// different set of strangers. The limit is ten users.
#[tokio::test]
async fn a_confirmation_covers_only_the_plan_that_was_shown_and_closes_no_other_coupon() {
    let fixture = beyond_the_limit("d-limit-grown").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, answers) = fixture.held("Grows", 50, 15).await;
    let (other, _) = fixture.held("Open", 10, 2).await;
    let conflicts = async |n| inject(world, &coupon, Drift::SlotConflict, n).await;
    let show = async || {
        let args = ["--dry-run", "--coupon", &coupon.id.to_string()];
        pass_ends(world, &args, DRIFT).await;
    };
    conflicts(11).await;
    // This plan has not been shown to anybody yet, and a refused confirmation does not show it.
    confirm(&fixture, &coupon, BRAKED).await;
    confirm(&fixture, &coupon, BRAKED).await;
    show().await;
    conflicts(11).await;
    // The plan differs from the one that was shown. A closed coupon stays closed, and no other
    // coupon is closed with it.
    let gate = world.redis.of_coupon(coupon.id, "gate");
    world.redis.command::<()>(&["DEL", &gate]).await;
    confirm(&fixture, &coupon, BRAKED).await;
    let answer = api.claim(coupon.id, "stranger").await;
    assert!(matches!(answer, Answer::Problem(503, _)), "{answer:?}");
    let answer = api.until_answered(other.id, "stranger").await;
    assert!(answer.promised().is_some(), "{answer:?}");
    confirm(&fixture, &coupon, BRAKED).await;
    show().await;
    confirm(&fixture, &coupon, REPAIRED).await;
    clean_pass(world, &coupon).await;
    // The confirmation was used up, and this plan was never shown.
    conflicts(12).await;
    confirm(&fixture, &coupon, BRAKED).await;
    show().await;
    confirm(&fixture, &coupon, REPAIRED).await;
    assert_settled(world, &coupon, 50, 49, &answers).await;
}

/// The loss makes the plan void, and the drop is rewritten from its rows.
#[tokio::test]
async fn a_plan_that_waits_for_a_confirmation_ends_with_a_loss_of_redis() {
    let fixture = beyond_the_limit("d-limit-lost").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Lost", 25, 20).await;
    inject(world, &coupon, Drift::SlotConflict, 6).await;
    pass_ends(world, &[], BRAKED).await;
    inject(world, &coupon, Drift::RedisLost, 1).await;
    confirm(&fixture, &coupon, REPAIRED).await;
    let shown = "SELECT COUNT(*) FROM held_back";
    assert_eq!(world.sql.number(shown).await, 0);
    assert_settled(world, &coupon, 25, 20, &answers).await;
    clean_pass(world, &coupon).await;
}
