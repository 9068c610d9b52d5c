//! Constraints that the schema enforces for every writer. The tests use plain SQL, and only
//! `migrate` of the product.

use firstcome_testkit::{HeldTransaction, LIMIT, LOCK_WAITS, World, eventually};

const DUPLICATE: u16 = 1062;
pub(super) const FOREIGN_KEY: u16 = 1452;
const CHECK: u16 = 3819;
pub(super) const SIGNAL: u16 = 1644;
const NO_DEFAULT: u16 = 1364;

/// Creates coupon 1 (once per coupon) with drops 1 and 2, and coupon 2 (once per drop) with drops 3
/// and 4. Each drop has quantity 3.
pub(super) async fn world(name: &str) -> World {
    let world = World::of_tables(name).await;
    world
        .sql
        .query("INSERT INTO coupons (id, name, quantity, once_per) VALUES (1, 'a', 3, 'coupon'), (2, 'b', 3, 'drop')")
        .await;
    let drops = "INSERT INTO drops (id, coupon_id, opens_at, quantity) VALUES \
                 (1, 1, '2026-01-01', 3), (2, 1, '2026-01-02', 3), (3, 2, '2026-01-01', 3), (4, 2, '2026-01-02', 3)";
    world.sql.query(drops).await;
    world
}

/// A row with the drop's highest limit, and the scope of its coupon's rule.
pub(super) fn row(coupon: i64, drop: i64, slot: i64, user: &str) -> String {
    let limits = |value: &str| {
        format!("COALESCE((SELECT MAX({value}) FROM slot_limits l WHERE l.drop_id = {drop}), 3)")
    };
    format!(
        "INSERT INTO issued_coupons (coupon_id, drop_id, slot, user_id, issued_by, slot_limit, person_scope) \
         VALUES ({coupon}, {drop}, {slot}, '{user}', 'consumer', {}, {})",
        limits("l.slot_limit"),
        limits("l.person_scope")
    )
}

/// Fails unless MySQL refuses the statement with this code.
pub(super) async fn refuses(world: &World, code: u16, sql: &str) {
    let refusal = world.sql.refusal(sql).await;
    assert_eq!(refusal.code, code, "{sql}: {refusal:?}");
}

async fn count(world: &World) -> i64 {
    world
        .sql
        .number("SELECT COUNT(*) FROM issued_coupons")
        .await
}

#[tokio::test]
async fn a_slot_outside_the_quantity_is_refused() {
    let world = world("slots").await;
    for slot in [4, 5, 1_000_000, 0] {
        refuses(&world, CHECK, &row(1, 1, slot, "u")).await;
    }
    assert!(world.sql.try_query(&row(1, 1, -1, "u")).await.is_err());
    for slot in 1..=3 {
        let user = format!("u-{slot}");
        world.sql.query(&row(1, 1, slot, &user)).await;
    }
    for slot in [4, 0] {
        let moved = format!("UPDATE issued_coupons SET slot = {slot} WHERE slot = 3");
        refuses(&world, CHECK, &moved).await;
    }
    let limit = "UPDATE issued_coupons SET slot = 4, slot_limit = 4 WHERE slot = 3";
    refuses(&world, FOREIGN_KEY, limit).await;
    assert_eq!(count(&world).await, 3);
}

#[tokio::test]
async fn a_row_by_hand_that_names_no_limit_is_refused() {
    let world = world("unnamed").await;
    let columns = "INSERT INTO issued_coupons (coupon_id, drop_id, slot, user_id, issued_by";
    for (more, values) in [("", ""), (", slot_limit", ", 3"), (", person_scope", ", 0")] {
        let statement = format!("{columns}{more}) VALUES (1, 1, 1, 'u', 'consumer'{values})");
        refuses(&world, NO_DEFAULT, &statement).await;
        // A session that is not strict writes 0 instead.
        let mut lax = HeldTransaction::begin(&world.sql).await;
        lax.run("SET sql_mode = ''").await;
        let written = lax.try_run(&statement).await;
        assert_eq!(written.is_ok(), more == ", slot_limit", "{written:?}");
    }
}

#[tokio::test]
async fn one_row_too_many_is_refused_even_in_a_multi_row_insert() {
    let world = world("many").await;
    let many: Vec<String> = (1..=4)
        .map(|slot| format!("(1, 1, {slot}, 'u-{slot}', 'consumer', 3, 0)"))
        .collect();
    let columns = "INSERT INTO issued_coupons (coupon_id, drop_id, slot, user_id, issued_by, slot_limit, person_scope) VALUES";
    refuses(&world, CHECK, &format!("{columns} {}", many.join(","))).await;
    assert_eq!(count(&world).await, 0);
    // IGNORE turns many errors into warnings and clips numbers, but it does not bypass these
    // constraints.
    let _ = world
        .sql
        .try_query(&format!(
            "INSERT IGNORE {} {}",
            &columns["INSERT ".len()..],
            many.join(",")
        ))
        .await;
    assert!(count(&world).await <= 3);
}

#[tokio::test]
async fn a_given_limit_must_belong_to_the_drop_and_cover_the_slot() {
    let world = world("limits").await;
    let named = |drop: i64, slot: i64, coupon: i64, scope: i64, limit: i64| {
        format!(
            "INSERT INTO issued_coupons (drop_id, slot, coupon_id, user_id, issued_by, person_scope, slot_limit) \
             VALUES ({drop}, {slot}, {coupon}, 'u-{slot}', 'consumer', {scope}, {limit})"
        )
    };
    refuses(&world, CHECK, &named(1, 4, 1, 0, 3)).await; // above the limit
    refuses(&world, FOREIGN_KEY, &named(1, 4, 1, 0, 4)).await; // no such limit
    refuses(&world, FOREIGN_KEY, &named(1, 1, 1, 7, 3)).await; // wrong scope
    refuses(&world, FOREIGN_KEY, &named(3, 1, 1, 3, 3)).await; // wrong coupon
    world.sql.query(&named(1, 1, 1, 0, 3)).await;
    world.sql.query(&named(3, 1, 2, 3, 3)).await;
    // Slot limits cannot be raised manually. They only follow the quantity.
    let more = "INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope) VALUES (1, 4, 1, 0)";
    refuses(&world, SIGNAL, more).await;
    let raised = "UPDATE slot_limits SET slot_limit = 4 WHERE drop_id = 1";
    refuses(&world, SIGNAL, raised).await;
    assert_eq!(count(&world).await, 2);
}

#[tokio::test]
async fn slot_limits_and_the_limits_of_rows_follow_the_quantity_up_and_down() {
    let world = world("follow").await;
    let limits = async || {
        let limits = "SELECT GROUP_CONCAT(slot_limit ORDER BY slot_limit) FROM slot_limits WHERE drop_id = 1";
        world.sql.query(limits).await[0][0].clone()
    };
    world.sql.query(&row(1, 1, 2, "u-2")).await;
    let statement = "UPDATE drops SET quantity = 200000 WHERE id = 1";
    world.sql.query(statement).await;
    assert_eq!(limits().await, "3,200000");
    for slot in [65_536, 70_000, 150_000] {
        world
            .sql
            .query(&row(1, 1, slot, &format!("u-{slot}")))
            .await;
    }
    let quantity =
        |drop, quantity| format!("UPDATE drops SET quantity = {quantity} WHERE id = {drop}");
    refuses(&world, SIGNAL, &quantity(1, 149_999)).await; // below an issued slot
    refuses(&world, CHECK, &quantity(2, 0)).await;
    world.sql.query(&quantity(2, 2)).await;
    let statement = "UPDATE drops SET quantity = 150000 WHERE id = 1";
    world.sql.query(statement).await;
    assert_eq!(limits().await, "3,150000");
    let kept = "SELECT GROUP_CONCAT(slot_limit ORDER BY slot) FROM issued_coupons";
    assert_eq!(world.sql.query(kept).await[0][0], "3,150000,150000,150000");
    refuses(&world, CHECK, &row(1, 1, 150_001, "u-x")).await;
}

#[tokio::test]
async fn a_second_row_for_a_slot_or_for_a_user_in_the_coupons_scope_is_refused() {
    let world = world("person").await;
    for user in ["odd person", "", ".", "..", "a\\n"] {
        refuses(&world, CHECK, &row(1, 1, 1, user)).await;
    }
    world.sql.query(&row(1, 1, 1, "u-1")).await;
    refuses(&world, DUPLICATE, &row(1, 1, 1, "u-2")).await;
    refuses(&world, DUPLICATE, &row(1, 1, 1, "u-1")).await;
    refuses(&world, DUPLICATE, &row(1, 1, 2, "u-1")).await;
    refuses(&world, DUPLICATE, &row(1, 2, 1, "u-1")).await; // once per coupon, another drop
    world.sql.query(&row(1, 1, 2, "U-1")).await; // another user: ids are case-sensitive
    world.sql.query(&row(2, 3, 1, "u-1")).await;
    refuses(&world, DUPLICATE, &row(2, 3, 2, "u-1")).await;
    world.sql.query(&row(2, 4, 1, "u-1")).await; // once per drop, another drop
    let moved = "UPDATE issued_coupons SET drop_id = 3, slot = 2 WHERE drop_id = 4";
    refuses(&world, FOREIGN_KEY, moved).await;
    let with_scope =
        "UPDATE issued_coupons SET drop_id = 3, slot = 2, person_scope = 3 WHERE drop_id = 4";
    refuses(&world, DUPLICATE, with_scope).await;
    // The scope cannot be set manually.
    let scope = "UPDATE issued_coupons SET person_scope = 99 WHERE drop_id = 1 AND slot = 1";
    refuses(&world, FOREIGN_KEY, scope).await;
}

#[tokio::test]
async fn an_unknown_drop_and_a_drop_of_another_coupon_are_refused() {
    let world = world("unknown").await;
    refuses(&world, FOREIGN_KEY, &row(1, 99, 1, "u-1")).await;
    refuses(&world, FOREIGN_KEY, &row(99, 1, 1, "u-1")).await;
    refuses(&world, FOREIGN_KEY, &row(1, 3, 1, "u-1")).await;
    world.sql.query(&row(1, 1, 1, "u-1")).await;
    assert!(
        world
            .sql
            .try_query("DELETE FROM drops WHERE id = 1")
            .await
            .is_err(),
        "a drop with rows stays"
    );
    assert!(
        world
            .sql
            .try_query("UPDATE drops SET coupon_id = 2 WHERE id = 1")
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_quantity_lowered_while_a_row_is_being_written_waits_for_it() {
    let world = world("lowering").await;
    let mut holding = HeldTransaction::begin(&world.sql).await;
    holding.run(&row(1, 1, 3, "u-3")).await;
    let lowering = world
        .sql
        .try_query("UPDATE drops SET quantity = 2 WHERE id = 1");
    let mut lowering = std::pin::pin!(lowering);
    // The update waits for the row's transaction, so it cannot end while that transaction is open.
    let waiting = eventually("the update waits", LIMIT, async || {
        world.sql.number(LOCK_WAITS).await > 0
    });
    tokio::select! {
        ended = &mut lowering => panic!("it did not wait: {ended:?}"),
        () = waiting => {}
    }
    holding.commit().await;
    assert_eq!(lowering.await.unwrap_err().code, SIGNAL);
}

#[tokio::test]
async fn a_quantity_lowered_from_an_older_snapshot_sees_the_rows_written_since() {
    let world = world("snapshot").await;
    let mut holding = HeldTransaction::begin(&world.sql).await;
    holding
        .run("SET @isolation = @@transaction_isolation")
        .await;
    // The server's default is REPEATABLE READ, so this query fixes the snapshot of the session.
    holding.run("SELECT COUNT(*) FROM issued_coupons").await;
    world.sql.query(&row(1, 1, 3, "u-3")).await;
    holding
        .run("SELECT 1 / (COUNT(*) = 0 AND @isolation = 'REPEATABLE-READ') FROM issued_coupons")
        .await;
    let refused = holding
        .try_run("UPDATE drops SET quantity = 2 WHERE id = 1")
        .await;
    assert_eq!(refused.unwrap_err().code, SIGNAL);
    holding.commit().await;
    let statement = "SELECT quantity FROM drops WHERE id = 1";
    assert_eq!(world.sql.number(statement).await, 3);
}

#[tokio::test]
async fn once_per_cannot_change_and_has_two_values() {
    let world = world("once-per").await;
    let changed = "UPDATE coupons SET once_per = 'drop' WHERE id = 1";
    refuses(&world, SIGNAL, changed).await;
    let unknown = "INSERT INTO coupons (id, name, quantity, once_per) VALUES (9, 'x', 1, 'day')";
    refuses(&world, CHECK, unknown).await;
    let statement = "UPDATE coupons SET once_per = 'coupon', name = 'renamed' WHERE id = 1";
    world.sql.query(statement).await;
}

#[tokio::test]
async fn a_coupon_has_one_drop_per_day_whose_window_ends_after_it_begins() {
    let world = world("days").await;
    let drops = "INSERT INTO drops (id, coupon_id, local_date, opens_at, closes_at, quantity)";
    let day =
        |id: i64, window: &str| format!("{drops} VALUES ({id}, 1, '2026-02-01', {window}, 3)");
    let statement = day(8, "'2026-02-01 06:00', '2026-02-01 07:00'");
    world.sql.query(&statement).await;
    let again = day(9, "'2026-02-01 08:00', '2026-02-01 09:00'");
    refuses(&world, DUPLICATE, &again).await;
    let backwards = "UPDATE drops SET closes_at = opens_at WHERE local_date = '2026-02-01'";
    refuses(&world, CHECK, backwards).await;
}
