//! Tables are altered while they are in use.

use firstcome_testkit::{
    Fixture, HeldTransaction, LIMIT, all_issued, assert_exact, eventually, people, rush,
};

/// An upgrade meets an open transaction: a dump, or a person at a console.
#[tokio::test]
async fn a_migration_that_waits_for_a_transaction_delays_no_rows_and_resumes() {
    let fixture = Fixture::new("migrate-waits").await;
    let world = &fixture.world;
    let coupon = fixture.api.open_coupon(200).await;
    world
        .sql
        .query("ALTER TABLE drops DROP COLUMN people_erased_at, DROP KEY drops_sealed")
        .await;
    world
        .sql
        .query("DELETE FROM __diesel_schema_migrations WHERE version = '20261122000019'")
        .await;
    let mut open = HeldTransaction::begin(&world.sql).await;
    open.run("SELECT COUNT(*) FROM drops").await;
    let migrate = world.start("firstcome-api", &["migrate"], &[]);
    let waits = "a transaction locks a table that a migration must change";
    eventually("it says that it waits", LIMIT, async || {
        migrate.log().contains(waits)
    })
    .await;
    let answers = rush(&[&fixture.api], coupon.id, &people(200), 20).await;
    all_issued(world, coupon.drop, 200).await;
    assert_eq!(migrate.status(), None, "{}", migrate.log());
    open.commit().await;
    assert_eq!(migrate.ended(LIMIT).await, 0, "{}", migrate.log());
    assert!(
        migrate.stdout().contains("20261122000019"),
        "{}",
        migrate.stdout()
    );
    assert_exact(world, &coupon, 200, &answers).await;
}
