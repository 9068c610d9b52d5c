//! Sizes at which a list of values in one statement would be too long for MySQL (65,535, error
//! 1390).

use std::time::{Duration, Instant};

use firstcome_reconciler::report::{Run, Status};
use firstcome_testkit::{Fixture, LIMIT, Session, World, eventually, exact, open_world};

/// Runs `INSERT … SELECT … FROM n`, where `n` has the numbers 1 to `most`.
pub(crate) async fn insert(world: &World, most: u32, insert: &str, select: &str) {
    world
        .sql
        .query(&format!(
            "{insert} WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {most})
             SELECT /*+ SET_VAR(cte_max_recursion_depth = 100000) */ {select} FROM n"
        ))
        .await;
}

#[tokio::test]
async fn beside_sixty_six_thousand_finished_coupons_everything_starts_and_a_pass_ends_clean() {
    let world = World::new("finished").await;
    insert(
        &world,
        66_000,
        "INSERT INTO coupons (id, name, quantity, once_per)",
        "1000 + i, CONCAT('finished ', i), 1, 'coupon'",
    )
    .await;
    insert(
        &world,
        66_000,
        "INSERT INTO drops (coupon_id, opens_at, closes_at, quantity, sealed_at, sealed_rows)",
        "1000 + i, '2026-01-01', '2026-01-02', 1, '2026-01-03', 0",
    )
    .await;
    let once = world.once_with(&["--deep"], &[]).await;
    assert_eq!(once.code, 0, "{}", once.log);
    let api = world.serve().await;
    let coupon = api.open_coupon(10).await;
    eventually("a claim is accepted", LIMIT, async || api.claim(coupon.id, "u-1").await.promised().is_some()).await;
}

/// Whether the sizes are those of `make scale`, which take minutes.
fn is_full() -> bool {
    std::env::var("SCALE").is_ok_and(|scale| scale == "full")
}

/// A pass by the command line, with the most memory it had, in kilobytes.
async fn metered_pass(world: &World) -> (Run, u64) {
    let pass = world.start("firstcome-reconciler", &["once", "--json"], &[]);
    let mut peak = 0;
    eventually("the pass ends", Duration::from_secs(300), async || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pass.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        peak = now.unwrap_or(0).max(peak);
        pass.status().is_some()
    })
    .await;
    let run = serde_json::from_str(&pass.all_stdout().await).unwrap_or_else(|e| panic!("{e}: {}", pass.log()));
    (run, peak)
}

fn seconds(run: &Run) -> f64 {
    (run.finished_at.unwrap() - run.started_at).as_seconds_f64()
}

#[tokio::test]
async fn beside_dead_letters_that_name_sixty_six_thousand_drops_everything_else_is_repaired() {
    let fixture = Fixture::new("garbage").await;
    let (coupon, _) = fixture.held("Winter", 20, 12).await;
    let world = &fixture.world;
    let (empty, least) = metered_pass(world).await;
    let letters = if is_full() { 3_000_000 } else { 66_000 };
    for _ in 0..(letters + 65_999) / 66_000 {
        insert(
            world,
            66_000,
            "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason)",
            "1, 1000000 + i, 1, CONCAT('u-', i), 'garbage'",
        )
        .await;
    }
    world.sql.query(&format!("DELETE FROM issued_coupons WHERE drop_id = {} AND slot <= 3", coupon.drop)).await;
    let (run, peak) = metered_pass(world).await;
    assert_eq!(run.status, Status::Drift, "the garbage is left for a person: {run:#?}");
    assert_eq!(run.findings.len(), 1, "{:#?}", run.findings);
    let rows = format!("SELECT COUNT(*) FROM issued_coupons WHERE drop_id = {}", coupon.drop);
    assert_eq!(world.sql.number(&rows).await, 12);
    let (took, usual, more) = (seconds(&run), seconds(&empty), peak.saturating_sub(least) / 1_024);
    println!(
        "scale: a pass beside {letters} garbage dead letters | {took:.1} s, +{more} MB, everything else repaired | {usual:.1} s"
    );
    assert!(more <= 50, "{more} MB more than an empty pass");
    assert!(!is_full() || took <= 15.0, "{took:.1} s");
}

#[tokio::test]
async fn dead_letters_are_reissued_in_batches() {
    let (world, api) = open_world("reissued").await;
    let number: u32 = if is_full() { 100_000 } else { 5_000 };
    let (straight, coupon) = (api.open_coupon(number).await, api.open_coupon(number).await);
    let began = Instant::now();
    let mut session = Session::begin(&world.sql).await;
    for first in (1..=number).step_by(500) {
        let row = |slot: u32| {
            format!(
                "({}, {slot}, {}, 'u-{slot}', 'code-{slot}', UTC_TIMESTAMP(3), UTC_TIMESTAMP(3), 'consumer')",
                straight.drop, straight.id
            )
        };
        let rows: Vec<String> = (first..first + 500).map(row).collect();
        let columns = "drop_id, slot, coupon_id, user_id, code, claimed_at, issued_at, issued_by";
        session.run(&format!("INSERT INTO issued_coupons ({columns}) VALUES {}", rows.join(","))).await;
        session.run("COMMIT").await;
        session.run("BEGIN").await;
    }
    session.commit().await;
    let straight = began.elapsed().as_secs_f64();
    insert(
        &world,
        number,
        "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason)",
        &format!("{}, {}, i, CONCAT('u-', i), 'unpublished'", coupon.id, coupon.drop),
    )
    .await;
    // The other coupon's people are not in Redis, and no part of this.
    let once = world.start("firstcome-reconciler", &["once", "--json", "--coupon", &coupon.id.to_string()], &[]);
    once.ended(Duration::from_secs(600)).await;
    let run: Run = serde_json::from_str(&once.all_stdout().await).unwrap_or_else(|e| panic!("{e}: {}", once.log()));
    assert_eq!((run.status, run.drops[0].after.rows), (Status::Repaired, u64::from(number)), "{:?}", run.error);
    assert_eq!(
        world.sql.number("SELECT COUNT(*) FROM failed_claims WHERE resolution = 'issued'").await,
        i64::from(number)
    );
    assert!(run.drops[0].exact, "{:?}", run.drops[0]);
    if !is_full() {
        // It has seconds, not for a hundred thousand rows.
        exact(&world.sql, &world.redis, &coupon, number).await.unwrap();
    }
    let took = seconds(&run);
    let ratio = straight / took;
    println!("scale: {number} dead letters reissued ÷ straight inserts | {ratio:.2} | {took:.1} s, {straight:.1} s");
    assert!(!is_full() || ratio >= 0.5, "{took:.1} s, straight inserts took {straight:.1} s");
}
