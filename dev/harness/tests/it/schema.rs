//! MySQL: the constraints that the schema enforces for every writer, and migrations that are
//! repeated, concurrent or interrupted. The tests use plain SQL, and only `migrate` of the product.

use firstcome_harness::{HeldTransaction, LIMIT, LOCK_WAITS, World, WorldStores, eventually};
use firstcome_stack::table_statements;

const DUPLICATE: u16 = 1062;
const FOREIGN_KEY: u16 = 1452;
const CHECK: u16 = 3819;
const SIGNAL: u16 = 1644;
const NO_DEFAULT: u16 = 1364;
/// A number outside the range of its column's type.
const RANGE: u16 = 1264;
/// A deletion or change of a row to which other rows refer.
const REFERRED: u16 = 1451;

/// Creates coupon 1 (once per coupon) with drops 1 and 2, and coupon 2 (once per drop) with drops 3
/// and 4. Each drop has quantity 3.
async fn world(name: &str) -> World {
    let world = World::of_tables(name).await;
    for insert in [
        "coupons (id, name, quantity, once_per) VALUES (1, 'a', 3, 'coupon'), (2, 'b', 3, 'drop')",
        "drops (id, coupon_id, opens_at, quantity) VALUES \
         (1, 1, '2026-01-01', 3), (2, 1, '2026-01-02', 3), (3, 2, '2026-01-01', 3), (4, 2, '2026-01-02', 3)",
    ] {
        world.sql.query(&format!("INSERT INTO {insert}")).await;
    }
    world
}

/// Returns an insert of a row with the drop's highest limit and the scope of its coupon's rule.
fn row(coupon: i64, drop: i64, slot: i64, user: &str) -> String {
    let limit = |value: &str| {
        format!("COALESCE((SELECT MAX({value}) FROM slot_limits l WHERE l.drop_id = {drop}), 3)")
    };
    let (limit, scope) = (limit("l.slot_limit"), limit("l.person_scope"));
    named(coupon, drop, slot, user, &scope, &limit)
}

fn named(coupon: i64, drop: i64, slot: i64, user: &str, scope: &str, limit: &str) -> String {
    format!(
        "INSERT INTO issued_coupons (coupon_id, drop_id, slot, user_id, issued_by, person_scope, slot_limit) \
         VALUES ({coupon}, {drop}, {slot}, '{user}', 'consumer', {scope}, {limit})"
    )
}

fn quantity(drop: i64, quantity: i64) -> String {
    format!("UPDATE drops SET quantity = {quantity} WHERE id = {drop}")
}

/// Runs statements in order. Each must have this code, or 0 if MySQL must accept it.
async fn run(world: &World, statements: impl IntoIterator<Item = (u16, String)>) {
    for (code, statement) in statements {
        let refused = world.sql.try_query(&statement).await.err();
        let found = refused.as_ref().map_or(0, |refusal| refusal.code);
        assert_eq!(found, code, "{statement}: {refused:?}");
    }
}

#[tokio::test]
async fn rows_outside_the_quantity_the_drop_and_the_scope_are_refused() {
    let world = world("rows").await;
    let update = |change: &str| format!("UPDATE issued_coupons SET {change}");
    #[rustfmt::skip]
    let statements = [
        // Slots outside the quantity.
        (CHECK, row(1, 1, 4, "u")), (CHECK, row(1, 1, 1_000_000, "u")), (CHECK, row(1, 1, 0, "u")),
        (RANGE, row(1, 1, -1, "u")),
        (0, row(1, 1, 3, "u-3")),
        (CHECK, update("slot = 4 WHERE slot = 3")), (CHECK, update("slot = 0 WHERE slot = 3")),
        (FOREIGN_KEY, update("slot = 4, slot_limit = 4 WHERE slot = 3")),
        // One row too many in a single statement.
        (CHECK, format!("{}, (1, 1, 4, 'u-4', 'consumer', 0, 3)", row(1, 1, 1, "u-1"))),
        // A limit must belong to the drop and cover the slot.
        (CHECK, named(1, 1, 4, "u-4", "0", "3")), (FOREIGN_KEY, named(1, 1, 4, "u-4", "0", "4")),
        (FOREIGN_KEY, named(1, 1, 1, "u-1", "7", "3")), (FOREIGN_KEY, named(1, 3, 1, "u-1", "3", "3")),
        // Slot limits follow the quantity, and nobody can write them directly.
        (SIGNAL, "INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope) VALUES (1, 4, 1, 0)".into()),
        (SIGNAL, "UPDATE slot_limits SET slot_limit = 4 WHERE drop_id = 1".into()),
        // An unknown drop, and a drop of another coupon.
        (FOREIGN_KEY, row(1, 99, 1, "u-1")), (FOREIGN_KEY, row(99, 1, 1, "u-1")), (FOREIGN_KEY, row(1, 3, 1, "u-1")),
        // Invalid user IDs, and a second row for a slot, or for a user in the coupon's scope. IDs
        // are case-sensitive.
        (CHECK, row(1, 1, 1, "odd person")), (CHECK, row(1, 1, 1, "")), (CHECK, row(1, 1, 1, "..")),
        (0, row(1, 1, 1, "u-1")),
        (DUPLICATE, row(1, 1, 1, "u-2")), (DUPLICATE, row(1, 1, 2, "u-1")), (DUPLICATE, row(1, 2, 1, "u-1")),
        (0, row(1, 1, 2, "U-1")), (0, row(2, 3, 1, "u-1")), (DUPLICATE, row(2, 3, 2, "u-1")), (0, row(2, 4, 1, "u-1")),
        (FOREIGN_KEY, update("drop_id = 3, slot = 2 WHERE drop_id = 4")),
        (DUPLICATE, update("drop_id = 3, slot = 2, person_scope = 3 WHERE drop_id = 4")),
        (FOREIGN_KEY, update("person_scope = 99 WHERE drop_id = 1 AND slot = 1")),
        // A drop with rows can neither be deleted nor move to another coupon.
        (REFERRED, "DELETE FROM drops WHERE id = 1".into()),
        (REFERRED, "UPDATE drops SET coupon_id = 2 WHERE id = 1".into()),
    ];
    run(&world, statements).await;
    let count = "SELECT COUNT(*) FROM issued_coupons WHERE drop_id = 1";
    assert_eq!(world.sql.number(count).await, 3);
}

#[tokio::test]
async fn a_row_without_a_limit_is_refused_and_one_without_a_scope_only_in_strict_mode() {
    let world = world("unnamed").await;
    let columns = "INSERT INTO issued_coupons (coupon_id, drop_id, slot, user_id, issued_by";
    for (more, values) in [("", ""), (", slot_limit", ", 3"), (", person_scope", ", 0")] {
        let statement = format!("{columns}{more}) VALUES (1, 1, 1, 'u', 'consumer'{values})");
        run(&world, [(NO_DEFAULT, statement.clone())]).await;
        // A session that is not strict writes 0 instead.
        let mut lax = HeldTransaction::begin(&world.sql).await;
        lax.run("SET sql_mode = ''").await;
        let written = lax.try_run(&statement).await;
        assert_eq!(written.is_ok(), more == ", slot_limit", "{written:?}");
    }
}

/// No program could read such dates.
#[tokio::test]
async fn zero_dates_are_refused_even_in_a_session_that_is_not_strict() {
    let world = world("zero").await;
    let mut lax = HeldTransaction::begin(&world.sql).await;
    lax.run("SET sql_mode = ''").await;
    for date in ["0000-00-00", "2026-00-01", "2026-01-00"] {
        for insert in [
            "drops (id, coupon_id, quantity, opens_at) VALUES (9, 1, 3",
            "drops (id, coupon_id, quantity, opens_at, closes_at) VALUES (9, 1, 3, '2025-01-01'",
            "issued_coupons (coupon_id, drop_id, slot, user_id, issued_by, person_scope, slot_limit, claimed_at) \
             VALUES (1, 1, 1, 'u', 'consumer', 0, 3",
            "failed_claims (coupon_id, drop_id, slot, user_id, reason, claimed_at) VALUES (1, 1, 1, 'u', 'by hand'",
        ] {
            let insert = format!("INSERT INTO {insert}, '{date}')");
            let refusal = lax.try_run(&insert).await.unwrap_err();
            assert_eq!(refusal.code, CHECK, "{insert}");
        }
    }
}

#[tokio::test]
async fn limits_follow_the_quantity_and_coupons_and_drops_keep_their_rules() {
    let world = world("follow").await;
    let limits = async || {
        let limits = "SELECT GROUP_CONCAT(slot_limit ORDER BY slot_limit) FROM slot_limits WHERE drop_id = 1";
        world.sql.query(limits).await.concat().concat()
    };
    run(
        &world,
        [(0, row(1, 1, 2, "u-2")), (0, quantity(1, 200_000))],
    )
    .await;
    // The limits below the quantity are 10,000 slots apart.
    let parts = |last: u32| {
        let all = (10_000..=last)
            .step_by(10_000)
            .map(|limit| limit.to_string());
        format!("3,{}", all.collect::<Vec<_>>().join(","))
    };
    assert_eq!(limits().await, parts(200_000));
    let drops = "INSERT INTO drops (id, coupon_id, local_date, opens_at, closes_at, quantity)";
    let day =
        |id: i64, window: &str| format!("{drops} VALUES ({id}, 1, '2026-02-01', {window}, 3)");
    #[rustfmt::skip]
    let statements = [
        (0, row(1, 1, 65_536, "u-65536")), (0, row(1, 1, 150_000, "u-150000")),
        (SIGNAL, quantity(1, 149_999)), // below an issued slot
        (CHECK, quantity(2, 0)), (0, quantity(2, 2)), (0, quantity(1, 150_000)),
        (CHECK, row(1, 1, 150_001, "u-x")),
        // `once_per` has two values and cannot change.
        (SIGNAL, "UPDATE coupons SET once_per = 'drop' WHERE id = 1".into()),
        (CHECK, "INSERT INTO coupons (id, name, quantity, once_per) VALUES (9, 'x', 1, 'day')".into()),
        (0, "UPDATE coupons SET once_per = 'coupon', name = 'renamed' WHERE id = 1".into()),
        // A coupon has one drop per day, whose window ends after it begins.
        (0, day(8, "'2026-02-01 06:00', '2026-02-01 07:00'")),
        (DUPLICATE, day(9, "'2026-02-01 08:00', '2026-02-01 09:00'")),
        (CHECK, "UPDATE drops SET closes_at = opens_at WHERE local_date = '2026-02-01'".into()),
    ];
    run(&world, statements).await;
    assert_eq!(limits().await, parts(150_000));
    let kept = "SELECT GROUP_CONCAT(slot_limit ORDER BY slot) FROM issued_coupons";
    assert_eq!(world.sql.query(kept).await, [["3,150000,150000"]]);
}

#[tokio::test]
async fn a_lower_quantity_lowers_only_the_row_limits_above_it_and_refuses_slots_above_it() {
    let world = world("parts").await;
    let row = |slot: i64, limit: u32| {
        let (user, limit) = (format!("u-{slot}"), limit.to_string());
        named(1, 1, slot, &user, "0", &limit)
    };
    let rows = [(2, 3), (9_999, 10_000), (10_001, 20_000), (25_000, 30_000)];
    let statements = [(0, quantity(1, 50_000))].into_iter();
    let rows = rows.map(|(slot, limit)| (0, row(slot, limit)));
    let lower = [
        (SIGNAL, quantity(1, 24_999)),
        (0, quantity(1, 25_000)),
        (FOREIGN_KEY, row(25_001, 30_000)),
        (CHECK, row(25_001, 25_000)),
        (0, row(24_999, 25_000)),
    ];
    run(&world, statements.chain(rows).chain(lower)).await;
    let kept = "SELECT GROUP_CONCAT(slot_limit ORDER BY slot) FROM issued_coupons";
    let kept = world.sql.query(kept).await;
    assert_eq!(kept, [["3,10000,20000,25000,25000"]]);
}

#[tokio::test]
async fn a_quantity_lowered_below_a_row_that_is_being_written_waits_and_is_refused() {
    let world = world("lowering").await;
    let mut holding = HeldTransaction::begin(&world.sql).await;
    holding.run(&row(1, 1, 3, "u-3")).await;
    let lower = quantity(1, 2);
    let lowering = world.sql.try_query(&lower);
    let commits = async {
        eventually("the update waits", LIMIT, async || {
            world.sql.number(LOCK_WAITS).await > 0
        })
        .await;
        holding.commit().await;
    };
    let (lowered, ()) = tokio::join!(lowering, commits);
    assert_eq!(lowered.unwrap_err().code, SIGNAL);
}

#[tokio::test]
async fn a_quantity_lowered_from_an_older_snapshot_sees_the_rows_written_since() {
    let world = world("snapshot").await;
    let mut holding = HeldTransaction::begin(&world.sql).await;
    let isolation = "SET @isolation = @@transaction_isolation";
    holding.run(isolation).await;
    // The server's default is REPEATABLE READ, so this query fixes the snapshot of the session.
    holding.run("SELECT COUNT(*) FROM issued_coupons").await;
    world.sql.query(&row(1, 1, 3, "u-3")).await;
    holding
        .run("SELECT 1 / (COUNT(*) = 0 AND @isolation = 'REPEATABLE-READ') FROM issued_coupons")
        .await;
    let refused = holding.try_run(&quantity(1, 2)).await;
    assert_eq!(refused.unwrap_err().code, SIGNAL);
}

#[tokio::test]
async fn migrations_may_run_concurrently_and_again_and_after_an_interruption() {
    let world = World::bare(WorldStores::shared().await, "two-migrate").await;
    let migrate = || world.start("firstcome-api", &["migrate", "--partitions", "3"], &[]);
    for process in [migrate(), migrate()] {
        assert_eq!(process.ended(LIMIT).await, 0, "{}", process.log());
    }
    let url = world.sql.url();
    let tables = async |url: &str| {
        let mut tables = table_statements(url).await.unwrap();
        tables.sort();
        tables
    };
    let whole = tables(url).await;
    // In this process, only the first world gets its tables from `migrate` alone. Every later world
    // begins with copies of them.
    let copied = [World::new("first").await, World::new("copied").await];
    assert_eq!(tables(copied[1].sql.url()).await, whole);
    let coupon = "INSERT INTO coupons (id, name, quantity, once_per) VALUES (1, 'a', 3, 'coupon')";
    world.sql.query(coupon).await;
    for interrupted in [false, true] {
        for statement in [
            "DROP TABLE ops_actions",
            "DROP TRIGGER drops_after_update",
            "DELETE FROM __diesel_schema_migrations",
        ] {
            if interrupted {
                world.sql.query(statement).await;
            }
        }
        let again = migrate();
        assert_eq!(again.ended(LIMIT).await, 0, "{}", again.log());
        assert_eq!(tables(url).await, whole);
        let rows = "SELECT COUNT(*) FROM coupons";
        assert_eq!(world.sql.number(rows).await, 1, "rows stay");
        assert_eq!(world.topic.ends().await.len(), 3, "partitions stay");
    }
}
