//! Sizes at which a list of values in one statement would be too long for MySQL (65,535, error
//! 1390).

use firstcome_testkit::{Fixture, LIMIT, World, eventually};

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

#[tokio::test]
async fn beside_dead_letters_that_name_sixty_six_thousand_drops_everything_else_is_repaired() {
    let fixture = Fixture::new("garbage").await;
    let (coupon, _) = fixture.held("Winter", 20, 12).await;
    let world = &fixture.world;
    insert(
        world,
        66_000,
        "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason)",
        "1, 1000000 + i, 1, CONCAT('u-', i), 'garbage'",
    )
    .await;
    world.sql.query(&format!("DELETE FROM issued_coupons WHERE drop_id = {} AND slot <= 3", coupon.drop)).await;
    let once = world.once_with(&[], &[]).await;
    assert_eq!(once.code, 1, "the garbage is left for a person: {}", once.log);
    let rows = format!("SELECT COUNT(*) FROM issued_coupons WHERE drop_id = {}", coupon.drop);
    assert_eq!(world.sql.number(&rows).await, 12);
}
