//! Migrations that are repeated, concurrent or interrupted, or that run while the tables are in
//! use.

use std::sync::atomic::{AtomicBool, Ordering};

use firstcome_testkit::{
    Fixture, HeldTransaction, LIMIT, World, WorldStores, all_issued, assert_exact, eventually,
    people, rush,
};

use super::limits::{FOREIGN_KEY, SIGNAL, refuses, row, world};

/// During an upgrade another client, for example a dump, has an open transaction.
#[tokio::test]
async fn a_migration_that_waits_for_a_transaction_delays_no_rows_and_resumes() {
    let fixture = Fixture::new("migrate-waits").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let coupon = api.open_coupon(200).await;
    let statement = "ALTER TABLE drops DROP COLUMN people_erased_at, DROP KEY drops_sealed";
    world.sql.query(statement).await;
    let statement = "DELETE FROM __diesel_schema_migrations WHERE version = '20261122000019'";
    world.sql.query(statement).await;
    let mut open = HeldTransaction::begin(&world.sql).await;
    open.run("SELECT COUNT(*) FROM drops").await;
    let migrate = world.start("firstcome-api", &["migrate"], &[]);
    let waits = "a transaction locks a table that a migration must change";
    eventually("migrate says that it waits", LIMIT, async || {
        migrate.log().contains(waits)
    })
    .await;
    let answers = rush(&[api], coupon.id, &people(200), 20).await;
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
async fn rows_written_while_limits_are_created_obey_the_limits() {
    let world = World::of_tables("limits-meanwhile").await;
    for down in [
        include_str!("../../../../../migrations/2026-11-25-000054_lost_drops/down.sql"),
        include_str!("../../../../../migrations/2026-11-24-000031_one_insert_trigger/down.sql"),
        include_str!("../../../../../migrations/2026-11-21-000014_revoked_coupons/down.sql"),
        include_str!("../../../../../migrations/2026-11-21-000009_findings_once/down.sql"),
        include_str!("../../../../../migrations/2026-11-21-000006_revision/down.sql"),
        include_str!("../../../../../migrations/2026-11-21-000005_slot_limits/down.sql"),
    ] {
        world.sql.query(down).await;
    }
    let statement = "DELETE FROM __diesel_schema_migrations WHERE version >= '20261121000005'";
    world.sql.query(statement).await;
    for (id, once_per) in [(1, "coupon"), (2, "drop")] {
        let statement = format!(
            "INSERT INTO coupons (id, name, quantity, once_per) VALUES ({id}, 'a', 100000, '{once_per}')"
        );
        world.sql.query(&statement).await;
        world.sql.query(&format!("INSERT INTO drops (id, coupon_id, opens_at, local_date, quantity) VALUES ({id}, {id}, '2026-01-01', '2026-01-01', 100000)")).await;
    }
    let done = AtomicBool::new(false);
    let writing = async |drop: u32| {
        let mut slot = 0;
        while !done.load(Ordering::Relaxed) {
            slot += 1;
            let row = format!(
                "INSERT INTO issued_coupons (drop_id, slot, coupon_id, user_id, issued_by) VALUES ({drop}, {slot}, {drop}, 'u-{slot}', 'consumer')"
            );
            world.sql.query(&row).await;
            assert!(slot < 90_000, "migrating never ends");
        }
        slot
    };
    let migrating = async {
        let process = world.start("firstcome-api", &["migrate"], &[]);
        let code = process.ended(LIMIT).await;
        done.store(true, Ordering::Relaxed);
        (code, process.log())
    };
    let (one, two, (code, log)) = tokio::join!(writing(1), writing(2), migrating);
    assert_eq!(code, 0, "{log}");
    assert!(
        one > 10 && two > 10,
        "{one} and {two} rows were written meanwhile"
    );
    let wrong = "SELECT COUNT(*) FROM issued_coupons WHERE slot_limit < slot OR person_scope <> IF(coupon_id = 1, 0, drop_id)";
    assert_eq!(world.sql.number(wrong).await, 0);
    let statement = "SELECT COUNT(*) FROM issued_coupons";
    assert_eq!(world.sql.number(statement).await, i64::from(one + two));
}

#[tokio::test]
async fn no_row_is_unguarded_while_two_insert_triggers_become_one() {
    let world = world("one-trigger").await;
    world
        .sql
        .query(include_str!(
            "../../../../../migrations/2026-11-24-000031_one_insert_trigger/down.sql"
        ))
        .await;
    let revoked = "INSERT INTO revoked_coupons (coupon_id, drop_id, user_id, reason, revoked_by) VALUES (1, 1, 'u-x', '', '')";
    world.sql.query(revoked).await;
    let again = "INSERT INTO revoked_coupons (coupon_id, drop_id, user_id, reason, revoked_by, again_from) \
                 VALUES (2, 3, 'u-y', '', '', '2026-01-01 06:00:00')";
    world.sql.query(again).await;
    let triggers = "SELECT GROUP_CONCAT(trigger_name ORDER BY action_order) FROM information_schema.triggers \
                    WHERE trigger_schema = DATABASE() AND event_object_table = 'issued_coupons' AND event_manipulation = 'INSERT'";
    let up = include_str!("../../../../../migrations/2026-11-24-000031_one_insert_trigger/up.sql");
    let (create, drops) = up.split_once("END;\n\n").unwrap();
    let create = format!("{create}END;");
    let parts: Vec<&str> = std::iter::once(&*create).chain(drops.lines()).collect();
    assert_eq!(parts.len(), 3, "{parts:?}");
    let mut seen = Vec::new();
    // A crash may follow any part. The migration then starts again from the first part.
    for done in 0..=parts.len() {
        for part in &parts[..done] {
            world.sql.query(part).await;
        }
        seen.push(world.sql.query(triggers).await[0][0].clone());
        refuses(&world, SIGNAL, &row(1, 1, 4, "u")).await;
        refuses(&world, SIGNAL, &row(1, 1, 0, "u")).await;
        refuses(&world, FOREIGN_KEY, &row(1, 99, 1, "u")).await;
        let refused = world.sql.refusal(&row(1, 2, 1, "u-x")).await;
        assert!(
            refused.code == SIGNAL && refused.message.starts_with("firstcome: revoked"),
            "at {done}: {refused:?}"
        );
        let at = |claimed_at: &str| {
            row(2, 3, 1, "u-y")
                .replace("issued_by)", "issued_by, claimed_at)")
                .replace("'consumer'", &format!("'consumer', '{claimed_at}'"))
        };
        refuses(&world, SIGNAL, &at("2026-01-01 06:00:00")).await;
        for good in [
            at("2026-01-01 06:00:00.001"),
            row(2, 4, 2, "u-z"),
            row(1, 1, 3, "u-z"),
        ] {
            world.sql.query(&good).await;
        }
        let kept = "SELECT GROUP_CONCAT(CONCAT_WS(':', drop_id, slot, slot_limit, person_scope) ORDER BY drop_id) FROM issued_coupons";
        assert_eq!(
            world.sql.query(kept).await[0][0],
            "1:3:3:0,3:1:3:3,4:2:3:4",
            "at {done}"
        );
        world.sql.query("DELETE FROM issued_coupons").await;
    }
    let revoked = "issued_coupons_revoked_insert";
    let limit = "issued_coupons_limit_insert";
    let one = "issued_coupons_insert";
    assert_eq!(
        seen,
        [
            format!("{revoked},{limit}"),
            format!("{revoked},{limit},{one}"),
            format!("{revoked},{one}"),
            one.into()
        ]
    );
}
