//! The repair limit: if more users than the limit would lose the slot that Redis shows, nothing
//! moves until an operator confirms the plan. Rows are never limited.

use firstcome_reconciler::report::{Outcome, Run, Status};
use firstcome_stack::Mail;
use reqwest::Url;

use crate::drift::support::{BRAKED, everything, found_in, read};
use crate::prelude::*;

/// Sets the repair limit to five users, or a fifth of the quantity if that is more.
const LIMITED: (&str, &str) = ("FIRSTCOME_TEST_RECONCILE_BRAKE_AT_LEAST", "5");

async fn beyond_the_limit(name: &str) -> Fixture {
    let fixture = Fixture::new(name).await;
    fixture.world.set(LIMITED.0, LIMITED.1);
    fixture
}

/// Confirms repairs by the fingerprint that a dry run has shown.
async fn confirm(fixture: &Fixture, fingerprint: &str, ends: (i32, Status)) {
    pass_ends(&fixture.world, &["--confirm", fingerprint], ends).await;
}

/// Returns the fingerprint that a run has shown.
fn shown(run: &Run, coupon: &MadeCoupon) -> String {
    let mut drops = run.drops.iter();
    let drop = drops.find(|it| it.coupon_id.0 == coupon.id).unwrap();
    drop.held_back.unwrap().fingerprint.to_string()
}

async fn dry_run(fixture: &Fixture, coupon: &MadeCoupon) -> String {
    let args = ["--dry-run", "--coupon", &coupon.id.to_string()];
    shown(&pass_ends(&fixture.world, &args, DRIFT).await, coupon)
}

#[tokio::test]
async fn too_many_repairs_wait_for_a_confirmation_and_rows_are_written() {
    let fixture = beyond_the_limit("d-limit").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Suspicious", 25, 15).await;
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
    let before = shown(&run, &coupon);
    // The daemon and the command show the same repairs.
    let body = json!({"dry_run": true, "coupon_id": coupon.id});
    let now = shown(&daemon.reconcile(&body).await, &coupon);
    assert_eq!(now, before);
    assert_eq!(now, dry_run(&fixture, &coupon).await);
    let body = |fingerprint: &str| json!({"confirm": [fingerprint], "coupon_id": coupon.id});
    let run = daemon.reconcile(&body("00000000000000ff")).await;
    assert_eq!(run.status, Status::Braked, "other repairs");
    let run = daemon.reconcile(&body(&now)).await;
    assert_eq!(run.status, Status::Repaired, "{run:#?}");
    let confirmed = "SELECT COUNT(*) FROM reconcile_runs WHERE confirmed AND status <> 'braked'";
    assert_eq!(world.sql.number(confirmed).await, 1);
    // The strangers got free slots.
    assert_settled(world, &coupon, 25, 21).await;
    // Without the patience of a release, the closure for the repairs may stand in the same mail, and
    // another one tells of the strangers before they got slots.
    let is_end = |mail: &Mail| {
        let mail = read(mail);
        mail.subject.contains("21 of 25 issued") && mail.text.contains("Over after")
    };
    world.mail.wait_for(is_end, LIMIT).await.unwrap();
    clean_pass(world, &coupon).await;
}

/// A lock on the coupon's row interrupts an attempt after it has closed the coupon, and Redis is away
/// during another one, and has no memory during a third one.
#[tokio::test]
async fn confirmed_repairs_that_are_interrupted_are_made_by_the_same_run() {
    let (fixture, _redis) = Fixture::with_own_redis("d-limit-again", &[LIMITED]).await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Interrupted", 25, 15).await;
    inject(world, &coupon, Drift::SlotConflict, 6).await;
    let shown = dry_run(&fixture, &coupon).await;
    let gate = world.redis.of_coupon(coupon.id, "gate");
    let era = async || {
        let gate: String = world.redis.command(&["GET", &gate]).await;
        let era = gate.split(' ').nth(1).map(str::parse::<u64>);
        era.unwrap().unwrap()
    };
    let before = era().await;
    let mut lock = HeldTransaction::begin(&world.sql).await;
    lock.run(&format!(
        "SELECT era FROM coupons WHERE id = {} FOR UPDATE",
        coupon.id
    ))
    .await;
    let mut url = Url::parse(&world.setting("REDIS_URL")).unwrap();
    let link = FaultProxy::start(url.port().unwrap()).await.unwrap();
    url.set_port(Some(link.port())).unwrap();
    let id = coupon.id.to_string();
    let args = ["once", "--json", "--confirm", &shown, "--coupon", &id];
    let env = [("REDIS_URL", url.as_str())];
    let run = world.start("firstcome-reconciler", &args, &env);
    eventually("another attempt begins", LIMIT, async || {
        era().await > before + 1
    })
    .await;
    link.set(ProxyFault::Cut).await.unwrap();
    eventually("an attempt without Redis fails", LIMIT, async || {
        run.log().contains("confirmed repairs are tried again")
    })
    .await;
    let memory = ["1", "0"].map(|most| ["CONFIG", "SET", "maxmemory", most]);
    world.redis.command::<()>(&memory[0]).await;
    link.set(ProxyFault::Pass).await.unwrap();
    eventually("an attempt without memory fails", LIMIT, async || {
        run.log().contains("OOM")
    })
    .await;
    world.redis.command::<()>(&memory[1]).await;
    lock.commit().await;
    assert_eq!(run.ended(LIMIT).await, REPAIRED.0, "{}", run.log());
    assert_settled(world, &coupon, 25, 21).await;
    clean_pass(world, &coupon).await;
}

/// Redis shows strangers on slots that other users hold. Each plan takes these slots from a
/// different set of strangers. The limit is ten users.
#[tokio::test]
async fn a_confirmation_covers_only_the_plan_that_was_shown_and_closes_no_other_coupon() {
    let fixture = beyond_the_limit("d-limit-grown").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, _) = fixture.held("Grows", 50, 15).await;
    let (other, _) = fixture.held("Open", 10, 2).await;
    let conflicts = async |n| inject(world, &coupon, Drift::SlotConflict, n).await;
    conflicts(11).await;
    let first = dry_run(&fixture, &coupon).await;
    conflicts(11).await;
    // The repairs differ from those that were shown. A closed coupon stays closed, and no other
    // coupon is closed with it.
    close(world, &coupon).await;
    confirm(&fixture, &first, BRAKED).await;
    let answer = api.claim(coupon.id, "stranger").await;
    assert!(matches!(answer, Answer::Problem(503, _)), "{answer:?}");
    let answer = api.until_answered(other.id, "stranger").await;
    assert!(answer.promised().is_some(), "{answer:?}");
    let second = dry_run(&fixture, &coupon).await;
    assert_ne!(second, first);
    confirm(&fixture, &second, REPAIRED).await;
    clean_pass(world, &coupon).await;
    // A confirmation covers no later repairs.
    conflicts(12).await;
    confirm(&fixture, &second, BRAKED).await;
    let third = dry_run(&fixture, &coupon).await;
    confirm(&fixture, &third, REPAIRED).await;
    assert_settled(world, &coupon, 50, 49).await;
    a_loss_of_redis_voids_a_plan_that_waits(&fixture).await;
}

/// The drop is rewritten from its rows.
async fn a_loss_of_redis_voids_a_plan_that_waits(fixture: &Fixture) {
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Lost", 25, 20).await;
    inject(world, &coupon, Drift::SlotConflict, 6).await;
    pass_ends(world, &[], BRAKED).await;
    inject(world, &coupon, Drift::RedisLost, 1).await;
    let run = pass_ends(world, &[], REPAIRED).await;
    assert!(
        run.drops.iter().all(|drop| drop.held_back.is_none()),
        "{run:#?}"
    );
    assert_settled(world, &coupon, 25, 20).await;
    clean_pass(world, &coupon).await;
}
