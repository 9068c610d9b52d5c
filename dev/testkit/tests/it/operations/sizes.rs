//! More than 65,535 objects, MySQL's limit for the values of one statement (error 1390).

use std::time::Instant;

use firstcome_reconciler::report::{Run, Status};
use firstcome_testkit::scale::{measured, measured_each};
use firstcome_testkit::{
    Fixture, HeldTransaction, LIMIT, MadeCoupon, World, eventually, exact, open_world,
};

use super::scale::{pass, seconds, sold_out};

/// Runs `INSERT … SELECT … FROM n`, where `n` contains the numbers 1 to `most`.
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
async fn processes_start_and_a_pass_is_clean_with_66_000_finished_coupons() {
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
        "INSERT INTO drops (id, coupon_id, opens_at, closes_at, quantity, sealed_at, sealed_rows)",
        "1000 + i, 1000 + i, '2026-01-01', '2026-01-02', 1, '2026-01-03', 0",
    )
    .await;
    let once = world.once_with(&["--deep"], &[]).await;
    assert_eq!(once.code, 0, "{}", once.log);
    let api = world.serve().await;
    let coupon = api.open_coupon(10).await;
    eventually("a claim is accepted", LIMIT, async || {
        api.claim(coupon.id, "u-1").await.promised().is_some()
    })
    .await;
}

#[tokio::test]
async fn dead_letters_of_66_000_drops_do_not_prevent_other_repairs() {
    let what = |part: &str| format!("3,000,000 garbage dead letters naming 66,000 drops: {part}");
    let figures = [
        (&*what("a pass"), "≤ 15 s"),
        (
            &what("memory of the pass over that of an empty one"),
            "≤ 50 MB",
        ),
    ];
    let [took, more] = measured_each(figures, [66_000, 3_000_000], async |letters| {
        let (run, more) = beside_garbage(letters).await;
        [seconds(&run), more]
    })
    .await;
    assert!(took < 60.0 && more <= 50.0, "{took} s, {more} MB");
}

/// Runs a pass with this many dead letters. Returns its memory in MB beyond that of an empty pass.
async fn beside_garbage(letters: u32) -> (Run, f64) {
    let fixture = Fixture::new("garbage").await;
    let (coupon, _) = fixture.held("Winter", 20, 12).await;
    let world = &fixture.world;
    let (_, least) = pass(world, &[]).await;
    for _ in 0..letters.div_ceil(66_000) {
        insert(
            world,
            66_000,
            "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason)",
            "1, 1000000 + i, 1, CONCAT('u-', i), 'garbage'",
        )
        .await;
    }
    world
        .sql
        .query(&format!(
            "DELETE FROM issued_coupons WHERE drop_id = {} AND slot <= 3",
            coupon.drop
        ))
        .await;
    let (run, peak) = pass(world, &[]).await;
    assert_eq!(
        run.status,
        Status::Drift,
        "the garbage is left for an operator: {run:#?}"
    );
    assert_eq!(run.findings.len(), 1, "{:#?}", run.findings);
    let rows = format!(
        "SELECT COUNT(*) FROM issued_coupons WHERE drop_id = {}",
        coupon.drop
    );
    assert_eq!(world.sql.number(&rows).await, 12);
    (run, peak - least)
}

#[tokio::test]
async fn dead_letters_are_reissued_in_batches() {
    let what = "100,000 dead letters reissued ÷ straight inserts";
    let ratio = measured(what, [5_000, 100_000], "≥ 0.5", reissued_by_straight).await;
    // A statement for each letter gives 0.01. The limit allows for a busy machine and a debug
    // build.
    assert!(ratio > 0.03, "{ratio}");
}

/// Returns the duration of plain inserts of the same rows divided by the duration of the pass.
async fn reissued_by_straight(number: u32) -> f64 {
    let (world, api) = open_world("reissued").await;
    let straight = api.open_coupon(number).await;
    // Its users are in Redis, as those of claims that Kafka did not accept are.
    let coupon = sold_out(&world, number, false).await;
    let straight = insert_straight(&world, &straight, number).await;
    insert(
        &world,
        number,
        "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason)",
        &format!(
            "{}, {}, i, CONCAT('u-', i), 'unpublished'",
            coupon.id, coupon.drop
        ),
    )
    .await;
    // The pass skips the other coupon, because its users are not in Redis.
    let (run, _) = pass(&world, &["--coupon", &coupon.id.to_string()]).await;
    assert_eq!(
        (run.status, run.drops[0].after.rows),
        (Status::Repaired, u64::from(number)),
        "{:?}",
        run.error
    );
    let issued = world
        .sql
        .number("SELECT COUNT(*) FROM failed_claims WHERE resolution = 'issued'")
        .await;
    assert_eq!(issued, i64::from(number));
    assert!(run.drops[0].exact, "{:?}", run.drops[0]);
    if number <= 5_000 {
        // The check would time out for a hundred thousand rows.
        exact(&world.sql, &world.redis, &coupon, number)
            .await
            .unwrap();
    }
    straight / seconds(&run)
}

/// Returns the duration in seconds of plain inserts with the consumer's number of rows per
/// statement.
async fn insert_straight(world: &World, coupon: &MadeCoupon, number: u32) -> f64 {
    let of_limit = async |column: &str| {
        let query = format!(
            "SELECT MAX({column}) FROM slot_limits WHERE drop_id = {}",
            coupon.drop
        );
        world.sql.number(&query).await
    };
    let limit = of_limit("slot_limit").await;
    let scope = of_limit("person_scope").await;
    let began = Instant::now();
    let mut session = HeldTransaction::begin(&world.sql).await;
    for first in (1..=number).step_by(500) {
        let row = |slot: u32| {
            format!(
                "({}, {slot}, {}, 'u-{slot}', 'code-{slot}', UTC_TIMESTAMP(3), UTC_TIMESTAMP(3), 'consumer', {limit}, {scope})",
                coupon.drop, coupon.id
            )
        };
        let rows: Vec<String> = (first..first + 500).map(row).collect();
        let columns = "drop_id, slot, coupon_id, user_id, code, claimed_at, issued_at, issued_by, slot_limit, person_scope";
        session
            .run(&format!(
                "INSERT INTO issued_coupons ({columns}) VALUES {}",
                rows.join(",")
            ))
            .await;
        session.run("COMMIT").await;
        session.run("BEGIN").await;
    }
    session.commit().await;
    began.elapsed().as_secs_f64()
}
