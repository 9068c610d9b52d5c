//! Migrations that are repeated, concurrent or interrupted.

use firstcome_testkit::{LIMIT, World, WorldStores};

#[tokio::test]
async fn concurrent_migrations_succeed_and_migrating_again_is_a_no_op() {
    let world = World::bare(WorldStores::shared().await, "two-migrate").await;
    let migrate = || world.start("firstcome-api", &["migrate", "--partitions", "3"], &[]);
    for process in [migrate(), migrate()] {
        assert_eq!(process.ended(LIMIT).await, 0, "{}", process.log());
    }
    assert_eq!(world.topic.offsets().await.len(), 3);
    // In this process, only the first world migrates its tables. Every later world copies them.
    let copied = [World::new("first").await, World::new("copied").await];
    assert_eq!(
        firstcome_stack::table_statements(copied[1].sql.url())
            .await
            .unwrap(),
        firstcome_stack::table_statements(world.sql.url())
            .await
            .unwrap()
    );
    world
        .sql
        .query("INSERT INTO coupons (id, name, quantity, once_per) VALUES (1, 'a', 3, 'coupon')")
        .await;
    let created = "SELECT table_name, create_time FROM information_schema.tables WHERE table_schema = DATABASE() \
                   UNION SELECT trigger_name, created FROM information_schema.triggers WHERE trigger_schema = DATABASE() \
                   ORDER BY 1";
    let before = world.sql.query(created).await;
    let again = migrate();
    assert_eq!(again.ended(LIMIT).await, 0, "{}", again.log());
    assert_eq!(world.sql.query(created).await, before);
    let rows = "SELECT COUNT(*) FROM coupons";
    assert_eq!(world.sql.number(rows).await, 1, "rows stay");
    assert_eq!(world.topic.offsets().await.len(), 3, "partitions stay");
    let all = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations"))
        .unwrap()
        .count();
    let ran = world
        .sql
        .number("SELECT COUNT(*) FROM __diesel_schema_migrations")
        .await;
    assert_eq!(usize::try_from(ran).unwrap(), all);
}

#[tokio::test]
async fn a_migration_that_was_interrupted_completes_when_it_is_repeated() {
    let world = World::of_tables("interrupted").await;
    let whole = firstcome_stack::table_statements(world.sql.url())
        .await
        .unwrap();
    for statement in [
        "DROP TABLE ops_actions",
        "DROP TRIGGER drops_after_update",
        "DELETE FROM __diesel_schema_migrations",
    ] {
        world.sql.query(statement).await;
    }
    let migrate = world.start("firstcome-api", &["migrate"], &[]);
    assert_eq!(migrate.ended(LIMIT).await, 0, "{}", migrate.log());
    let mut again = firstcome_stack::table_statements(world.sql.url())
        .await
        .unwrap();
    let mut whole = whole;
    again.sort();
    whole.sort();
    assert_eq!(again, whole);
}
