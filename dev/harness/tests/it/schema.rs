//! MySQL: the constraints that the schema enforces for every writer, and migrations that are
//! repeated, concurrent or interrupted. The tests use plain SQL. Of the product, they only use
//! `migrate` and the change of a quantity.

use chrono::Utc;
use firstcome_harness::LOCK_WAITS;
use firstcome_shared::coupon::CouponPatch;
use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::change::CouponChanged;
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::{DataRefusal, Db, DbSettings};
use firstcome_stack::{WRITE_LIMITS, table_statements};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::prelude::*;

const DUPLICATE: u16 = 1062;
const FOREIGN_KEY: u16 = 1452;
const CHECK: u16 = 3819;
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
    world.sql.query(WRITE_LIMITS).await;
    world
}

/// Changes the quantity of coupon 1 as the product does. Returns why MySQL refuses it.
async fn change(world: &World, quantity: u32) -> Result<(), Option<DataRefusal>> {
    let settings = DbSettings {
        url: world.sql.url().to_owned().into(),
        pool_size: 1,
        limit: Duration::from_secs(30),
    };
    let patch = CouponPatch {
        quantity: Some(quantity),
        ..CouponPatch::default()
    };
    let coupon = CouponId(1);
    let by = Operator::default();
    let db = Db::new(&settings).unwrap();
    let changed = db.change_coupon(coupon, None, patch, Utc::now(), by).await;
    let changed = changed.map_err(|error| error.refusal())?;
    assert!(matches!(changed, CouponChanged::Yes(_)), "{changed:?}");
    Ok(())
}

/// What MySQL answers to a quantity below an issued slot.
const BELOW: Result<(), Option<DataRefusal>> = Err(Some(DataRefusal::SlotOutOfRange));

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
        // No limit is above the quantity, and it belongs to the coupon's scope.
        (CHECK, "INSERT INTO slot_limits VALUES (1, 4, 1, 0, 3, 'coupon')".into()),
        (FOREIGN_KEY, "INSERT INTO slot_limits VALUES (1, 4, 1, 0, 4, 'coupon')".into()),
        (CHECK, "INSERT INTO slot_limits VALUES (1, 2, 1, 1, 3, 'coupon')".into()),
        (FOREIGN_KEY, "INSERT INTO slot_limits VALUES (1, 2, 1, 1, 3, 'drop')".into()),
        (CHECK, "UPDATE slot_limits SET slot_limit = 4 WHERE drop_id = 2".into()),
        (REFERRED, "UPDATE slot_limits SET slot_limit = 2 WHERE drop_id = 1".into()),
        (REFERRED, quantity(1, 4)), (REFERRED, quantity(1, 2)), (CHECK, quantity(1, 0)),
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
    run(&world, [(0, row(1, 1, 2, "u-2"))]).await;
    assert_eq!(change(&world, 200_000).await, Ok(()));
    // The limits below the quantity are 10,000 slots apart.
    let parts = |last: u32| {
        let all = (10_000..=last)
            .step_by(10_000)
            .map(|limit| limit.to_string());
        format!("3,{}", all.collect::<Vec<_>>().join(","))
    };
    assert_eq!(limits().await, parts(200_000));
    #[rustfmt::skip]
    let rows = [(0, row(1, 1, 65_536, "u-65536")), (0, row(1, 1, 150_000, "u-150000"))];
    run(&world, rows).await;
    assert_eq!(change(&world, 149_999).await, BELOW);
    assert_eq!(limits().await, parts(200_000), "nothing was changed");
    assert_eq!(change(&world, 150_000).await, Ok(()));
    let drops = "INSERT INTO drops (id, coupon_id, local_date, opens_at, closes_at, quantity)";
    let day =
        |id: i64, window: &str| format!("{drops} VALUES ({id}, 1, '2026-02-01', {window}, 3)");
    #[rustfmt::skip]
    let statements = [
        (CHECK, row(1, 1, 150_001, "u-x")),
        // `once_per` has two values and cannot change.
        (REFERRED, "UPDATE coupons SET once_per = 'drop' WHERE id = 1".into()),
        (CHECK, "INSERT INTO coupons (id, name, quantity, once_per) VALUES (9, 'x', 1, 'day')".into()),
        (0, "UPDATE coupons SET once_per = 'coupon', name = 'renamed' WHERE id = 1".into()),
        // A coupon has one drop per day, whose window ends after it begins.
        (0, day(8, "'2026-02-01 06:00', '2026-02-01 07:00'")),
        (DUPLICATE, day(9, "'2026-02-01 08:00', '2026-02-01 09:00'")),
        (CHECK, "UPDATE drops SET closes_at = opens_at WHERE local_date = '2026-02-01'".into()),
        // A revocation has its coupon's scope.
        (FOREIGN_KEY, revocation("'drop'")), (0, revocation("'coupon'")),
        (NO_DEFAULT, revocation("NULL").replace(", once_per", "").replace(", NULL", "")),
    ];
    run(&world, statements).await;
    assert_eq!(limits().await, parts(150_000));
    let kept = "SELECT GROUP_CONCAT(slot_limit ORDER BY slot) FROM issued_coupons";
    assert_eq!(world.sql.query(kept).await, [["3,150000,150000"]]);
}

fn revocation(once_per: &str) -> String {
    format!(
        "INSERT INTO revoked_coupons (id, coupon_id, drop_id, user_id, reason, revoked_by, once_per) \
         VALUES (1, 1, 1, 'u', 'fraud', 'Ann', {once_per})"
    )
}

#[tokio::test]
async fn a_lower_quantity_lowers_only_the_row_limits_above_it_and_refuses_slots_above_it() {
    let world = world("parts").await;
    let row = |slot: i64, limit: u32| {
        let (user, limit) = (format!("u-{slot}"), limit.to_string());
        named(1, 1, slot, &user, "0", &limit)
    };
    assert_eq!(change(&world, 50_000).await, Ok(()));
    let rows = [(2, 3), (9_999, 10_000), (10_001, 20_000), (25_000, 30_000)];
    run(&world, rows.map(|(slot, limit)| (0, row(slot, limit)))).await;
    assert_eq!(change(&world, 24_999).await, BELOW);
    assert_eq!(change(&world, 25_000).await, Ok(()));
    let lowered = [
        (FOREIGN_KEY, row(25_001, 30_000)),
        (CHECK, row(25_001, 25_000)),
        (0, row(24_999, 25_000)),
    ];
    run(&world, lowered).await;
    let kept = "SELECT GROUP_CONCAT(slot_limit ORDER BY slot) FROM issued_coupons";
    let kept = world.sql.query(kept).await;
    assert_eq!(kept, [["3,10000,20000,25000,25000"]]);
}

#[tokio::test]
async fn a_quantity_lowered_below_a_row_that_is_being_written_waits_and_is_refused() {
    let world = world("lowering").await;
    let mut holding = HeldTransaction::begin(&world.sql).await;
    holding.run(&row(1, 1, 3, "u-3")).await;
    let commits = async {
        eventually("the update waits", LIMIT, async || {
            world.sql.number(LOCK_WAITS).await > 0
        })
        .await;
        holding.commit().await;
    };
    let (lowered, ()) = tokio::join!(change(&world, 2), commits);
    assert_eq!(lowered, BELOW);
}

/// What must never be, in any number of rows: a slot outside the quantity of its drop, two rows of a
/// user in the scope of the coupon, a drop of another coupon.
const SURPLUS: &str = "SELECT COUNT(*) FROM issued_coupons i \
    LEFT JOIN drops d ON d.id = i.drop_id AND d.coupon_id = i.coupon_id \
    LEFT JOIN coupons c ON c.id = d.coupon_id \
    WHERE d.id IS NULL OR i.slot NOT BETWEEN 1 AND d.quantity OR EXISTS ( \
        SELECT 1 FROM issued_coupons o WHERE o.coupon_id = i.coupon_id AND o.user_id = i.user_id \
        AND (o.drop_id, o.slot) <> (i.drop_id, i.slot) \
        AND (c.once_per = 'coupon' OR o.drop_id = i.drop_id))";

/// The smallest operator with a client: any statement, about few values.
fn typed(random: &mut StdRng) -> String {
    let mut any = |values: &[&str]| (*values.choose(random).unwrap_or(&"1")).to_owned();
    let coupon = any(&["1", "2"]);
    let drop = any(&["1", "2", "3", "4"]);
    let slot = any(&["0", "1", "2", "3", "4", "5"]);
    let limit = any(&["1", "2", "3", "4", "5"]);
    let quantity = any(&["2", "3", "3", "4", "5"]);
    let scope = any(&["0", "0", "1", "2", "3", "4"]);
    let once_per = any(&["coupon", "drop"]);
    let user = any(&["a", "b", "c"]);
    let other = any(&["1", "2", "3", "4"]);
    let number = |text: &str| text.parse::<i64>().unwrap();
    match random.random_range(0..18) {
        0..3 => row(number(&coupon), number(&drop), number(&slot), &user),
        3..5 => named(
            number(&coupon),
            number(&drop),
            number(&slot),
            &user,
            &scope,
            &limit,
        ),
        15..18 => WRITE_LIMITS.to_owned(),
        5 => format!(
            "UPDATE issued_coupons SET slot = {slot}, slot_limit = {limit} WHERE drop_id = {drop} LIMIT 1"
        ),
        6 => format!(
            "UPDATE issued_coupons SET drop_id = {drop}, person_scope = {scope} WHERE drop_id = {other} LIMIT 1"
        ),
        7 => format!(
            "INSERT INTO slot_limits VALUES ({drop}, {limit}, {coupon}, {scope}, {quantity}, '{once_per}')"
        ),
        8 => format!(
            "UPDATE slot_limits SET slot_limit = {limit}, quantity = {quantity} WHERE drop_id = {drop} LIMIT 1"
        ),
        9 => format!("DELETE FROM slot_limits WHERE drop_id = {drop} AND slot_limit >= {limit}"),
        10 => format!(
            "UPDATE drops SET quantity = {quantity}, coupon_id = {coupon} WHERE id = {drop}"
        ),
        11 => format!("UPDATE coupons SET once_per = '{once_per}' WHERE id = {coupon}"),
        12 => format!("DELETE FROM issued_coupons WHERE drop_id = {drop} AND slot = {slot}"),
        13 => format!(
            "UPDATE issued_coupons SET user_id = '{user}' WHERE drop_id = {drop} AND slot = {slot}"
        ),
        _ => format!(
            "INSERT INTO drops (id, coupon_id, opens_at, quantity) VALUES ({drop}, {coupon}, '2026-01-01', {quantity}) \
             ON DUPLICATE KEY UPDATE coupon_id = {coupon}, quantity = {quantity}"
        ),
    }
}

#[tokio::test]
async fn no_manual_statements_one_after_the_other_make_a_surplus_or_second_row() {
    let world = world("typed").await;
    let seed = std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    let mut random = StdRng::seed_from_u64(seed);
    let mut written = 0;
    for _ in 0..2_000 {
        let statement = typed(&mut random);
        let accepted = world.sql.try_query(&statement).await.is_ok();
        if accepted && statement.starts_with("INSERT INTO issued_coupons") {
            written += 1;
        }
        if accepted {
            let surplus = world.sql.number(SURPLUS).await;
            assert_eq!(surplus, 0, "SEED={seed}: {statement}");
        }
    }
    assert!(written > 10, "SEED={seed}: {written} rows were accepted");
}

/// A user with rights on one database and the binary log on: no right and no setting of the server.
#[tokio::test]
async fn migrate_needs_the_documented_rights_on_one_database_and_no_server_setting() {
    let mysql = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    let stores = WorldStores::shared().await.with_mysql_at(&mysql.url());
    let world = World::bare(stores, "rights").await;
    let settings = "SELECT CONCAT(@@log_bin, @@log_bin_trust_function_creators)";
    assert_eq!(world.sql.query(settings).await, [["10"]]);
    let url = with_documented_rights(&world, "firstcome_migrate").await;
    let migrating = [("DATABASE_URL", url.as_str())];
    let process = world.start(
        "firstcome-api",
        &["migrate", "--partitions", "3"],
        &migrating,
    );
    assert_eq!(process.ended(LIMIT).await, 0, "{}", process.log());
    assert_eq!(world.sql.number(SURPLUS).await, 0, "the tables are there");
    let made = "SELECT COUNT(*) FROM information_schema.triggers WHERE trigger_schema = DATABASE()";
    assert_eq!(world.sql.number(made).await, 0);
}

/// Returns the address of MySQL for a user with the rights on one database that docs/SETUP.md gives
/// to the user of this name.
pub(crate) async fn with_documented_rights(world: &World, name: &str) -> String {
    let documented = include_str!("../../../../docs/SETUP.md");
    let end = format!("ON firstcome.* TO {name}@'10.0.%';");
    let grant = documented.lines().find_map(|line| line.strip_suffix(&end));
    let grant = grant.unwrap_or_else(|| panic!("no rights of {name}"));
    let database = world.database();
    let user = format!("{database}_{}", &name[..1]);
    for statement in [
        format!("CREATE USER IF NOT EXISTS {user} IDENTIFIED BY 'secret'"),
        format!("{grant} ON `{database}`.* TO {user}"),
    ] {
        world.sql.query(&statement).await;
    }
    world.sql.url().replace("root@", &format!("{user}:secret@"))
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
