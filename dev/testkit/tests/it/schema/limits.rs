//! The schema's own constraints, independent of the writing program: plain SQL, and of the product
//! only `migrate`.

use std::sync::atomic::{AtomicBool, Ordering};

use firstcome_testkit::{LIMIT, World, WorldStores};

const DUPLICATE: u16 = 1062;
const FOREIGN_KEY: u16 = 1452;
const CHECK: u16 = 3819;
const SIGNAL: u16 = 1644;

/// Coupon 1 (once per coupon) with drops 1 and 2, coupon 2 (once per drop) with drops 3 and 4, each
/// with quantity 3.
async fn world(name: &str) -> World {
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

fn row(coupon: i64, drop: i64, slot: i64, user: &str) -> String {
    format!(
        "INSERT INTO issued_coupons (coupon_id, drop_id, slot, user_id, issued_by) \
         VALUES ({coupon}, {drop}, {slot}, '{user}', 'consumer')"
    )
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
        assert_eq!(
            world.sql.refusal(&row(1, 1, slot, "u")).await.code,
            SIGNAL,
            "slot {slot}"
        );
    }
    assert!(world.sql.try_query(&row(1, 1, -1, "u")).await.is_err());
    for slot in 1..=3 {
        world
            .sql
            .query(&row(1, 1, slot, &format!("u-{slot}")))
            .await;
    }
    assert_eq!(
        world
            .sql
            .refusal("UPDATE issued_coupons SET slot = 4 WHERE slot = 3")
            .await
            .code,
        SIGNAL
    );
    assert_eq!(
        world
            .sql
            .refusal("UPDATE issued_coupons SET slot = 0 WHERE slot = 3")
            .await
            .code,
        SIGNAL
    );
    assert_eq!(count(&world).await, 3);
}

#[tokio::test]
async fn one_too_many_is_refused_even_inside_a_multi_row_statement() {
    let world = world("many").await;
    let many: Vec<String> = (1..=4)
        .map(|slot| format!("(1, 1, {slot}, 'u-{slot}', 'consumer')"))
        .collect();
    let columns =
        "INSERT INTO issued_coupons (coupon_id, drop_id, slot, user_id, issued_by) VALUES";
    assert_eq!(
        world
            .sql
            .refusal(&format!("{columns} {}", many.join(",")))
            .await
            .code,
        SIGNAL
    );
    assert_eq!(count(&world).await, 0);
    // IGNORE turns many errors into warnings and would clip numbers, but not these.
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
    assert_eq!(
        world.sql.refusal(&named(1, 4, 1, 0, 3)).await.code,
        CHECK,
        "above the limit"
    );
    assert_eq!(
        world.sql.refusal(&named(1, 4, 1, 0, 4)).await.code,
        FOREIGN_KEY,
        "no such limit"
    );
    assert_eq!(
        world.sql.refusal(&named(1, 1, 1, 7, 3)).await.code,
        FOREIGN_KEY,
        "not its scope"
    );
    assert_eq!(
        world.sql.refusal(&named(3, 1, 1, 3, 3)).await.code,
        FOREIGN_KEY,
        "not its coupon"
    );
    world.sql.query(&named(1, 1, 1, 0, 3)).await;
    world.sql.query(&named(3, 1, 2, 3, 3)).await;
    // The limits themselves cannot be raised manually, only through the quantity.
    let more = "INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope) VALUES (1, 4, 1, 0)";
    assert_eq!(world.sql.refusal(more).await.code, SIGNAL);
    assert_eq!(
        world
            .sql
            .refusal("UPDATE slot_limits SET slot_limit = 4 WHERE drop_id = 1")
            .await
            .code,
        SIGNAL
    );
    assert_eq!(count(&world).await, 2);
}

#[tokio::test]
async fn limits_follow_the_quantity_up_and_down_and_rows_with_them() {
    let world = world("follow").await;
    let limits = async || {
        let limits = "SELECT GROUP_CONCAT(slot_limit ORDER BY slot_limit) FROM slot_limits WHERE drop_id = 1";
        world.sql.query(limits).await[0][0].clone()
    };
    world.sql.query(&row(1, 1, 2, "u-2")).await;
    world
        .sql
        .query("UPDATE drops SET quantity = 200000 WHERE id = 1")
        .await;
    assert_eq!(limits().await, "3,65536,131072,196608,200000");
    for slot in [65_536, 65_537, 150_000] {
        world
            .sql
            .query(&row(1, 1, slot, &format!("u-{slot}")))
            .await;
    }
    assert_eq!(
        world
            .sql
            .refusal("UPDATE drops SET quantity = 149999 WHERE id = 1")
            .await
            .code,
        SIGNAL
    );
    world
        .sql
        .query("UPDATE drops SET quantity = 150000 WHERE id = 1")
        .await;
    assert_eq!(limits().await, "3,65536,131072,150000");
    let kept = "SELECT GROUP_CONCAT(slot_limit ORDER BY slot) FROM issued_coupons";
    assert_eq!(world.sql.query(kept).await[0][0], "3,65536,131072,150000");
    assert_eq!(
        world.sql.refusal(&row(1, 1, 150_001, "u-x")).await.code,
        SIGNAL
    );
}

#[tokio::test]
async fn a_quantity_lowered_in_a_transaction_that_began_before_the_rows_is_refused() {
    let world = world("snapshot").await;
    let mut older = firstcome_testkit::HeldTransaction::begin(&world.sql).await;
    older.run("SELECT COUNT(*) FROM issued_coupons").await;
    world.sql.query(&row(1, 1, 3, "u-3")).await;
    let lowered = older
        .try_run("UPDATE drops SET quantity = 2 WHERE id = 1")
        .await;
    assert_eq!(lowered.unwrap_err().code, SIGNAL);
}

#[tokio::test]
async fn a_second_row_for_a_slot_is_refused() {
    let world = world("second-row").await;
    world.sql.query(&row(1, 1, 1, "u-1")).await;
    assert_eq!(
        world.sql.refusal(&row(1, 1, 1, "u-2")).await.code,
        DUPLICATE
    );
    assert_eq!(
        world.sql.refusal(&row(1, 1, 1, "u-1")).await.code,
        DUPLICATE
    );
    world.sql.query(&row(1, 2, 1, "u-2")).await;
}

#[tokio::test]
async fn a_second_row_for_a_user_is_refused_within_the_coupons_scope() {
    let world = world("person").await;
    world.sql.query(&row(1, 1, 1, "u-1")).await;
    assert_eq!(
        world.sql.refusal(&row(1, 1, 2, "u-1")).await.code,
        DUPLICATE
    );
    assert_eq!(
        world.sql.refusal(&row(1, 2, 1, "u-1")).await.code,
        DUPLICATE,
        "another drop of a once-per-coupon coupon"
    );
    world.sql.query(&row(1, 1, 2, "U-1")).await; // another person: ids are compared to the letter
    world.sql.query(&row(2, 3, 1, "u-1")).await;
    assert_eq!(
        world.sql.refusal(&row(2, 3, 2, "u-1")).await.code,
        DUPLICATE
    );
    world.sql.query(&row(2, 4, 1, "u-1")).await; // another drop of a once-per-drop coupon
    let moved = "UPDATE issued_coupons SET drop_id = 3, slot = 2 WHERE drop_id = 4";
    assert_eq!(world.sql.refusal(moved).await.code, DUPLICATE);
    let scope = "UPDATE issued_coupons SET person_scope = 99, slot = 2, user_id = 'u-2' WHERE drop_id = 1 AND slot = 1";
    world.sql.try_query(scope).await.unwrap_err(); // slot 2 is taken
    world
        .sql
        .query("UPDATE issued_coupons SET person_scope = 99 WHERE drop_id = 1 AND slot = 1")
        .await;
    assert_eq!(
        world.sql.refusal(&row(1, 2, 1, "u-1")).await.code,
        DUPLICATE,
        "the scope cannot be written manually"
    );
}

#[tokio::test]
async fn a_code_given_out_twice_is_refused() {
    let world = world("codes").await;
    world.sql.query(&row(1, 1, 1, "u-1")).await;
    world.sql.query(&row(1, 1, 2, "u-2")).await;
    let doubled = "UPDATE issued_coupons a JOIN issued_coupons b ON b.slot = 1 SET a.code = b.code WHERE a.slot = 2";
    assert_eq!(world.sql.refusal(doubled).await.code, DUPLICATE);
    let other_coupon = "INSERT INTO issued_coupons (coupon_id, drop_id, slot, user_id, issued_by, code) \
                        SELECT 2, 3, 1, 'u-1', 'consumer', code FROM issued_coupons WHERE slot = 1";
    assert_eq!(world.sql.refusal(other_coupon).await.code, DUPLICATE);
}

#[tokio::test]
async fn an_unknown_drop_and_a_drop_of_another_coupon_are_refused() {
    let world = world("unknown").await;
    assert_eq!(
        world.sql.refusal(&row(1, 99, 1, "u-1")).await.code,
        FOREIGN_KEY
    );
    assert_eq!(
        world.sql.refusal(&row(99, 1, 1, "u-1")).await.code,
        FOREIGN_KEY
    );
    assert_eq!(
        world.sql.refusal(&row(1, 3, 1, "u-1")).await.code,
        FOREIGN_KEY
    );
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
async fn a_quantity_can_be_raised_but_not_lowered_under_an_issued_slot() {
    let world = world("quantity").await;
    world.sql.query(&row(1, 1, 3, "u-3")).await;
    assert_eq!(
        world
            .sql
            .refusal("UPDATE drops SET quantity = 2 WHERE id = 1")
            .await
            .code,
        SIGNAL
    );
    assert_eq!(
        world
            .sql
            .refusal("UPDATE drops SET quantity = 0 WHERE id = 2")
            .await
            .code,
        CHECK
    );
    world
        .sql
        .query("UPDATE drops SET quantity = 2 WHERE id = 2")
        .await;
    world
        .sql
        .query("UPDATE drops SET quantity = 4 WHERE id = 1")
        .await;
    world.sql.query(&row(1, 1, 4, "u-4")).await;
}

#[tokio::test]
async fn a_quantity_lowered_while_a_row_is_being_written_waits_for_it() {
    let world = world("lowering").await;
    let mut holding = firstcome_testkit::HeldTransaction::begin(&world.sql).await;
    holding.run(&row(1, 1, 3, "u-3")).await;
    let lowering = world
        .sql
        .try_query("UPDATE drops SET quantity = 2 WHERE id = 1");
    let mut lowering = std::pin::pin!(lowering);
    // It waits for the row's transaction, so it cannot end while that is open.
    let waiting = firstcome_testkit::eventually("the update waits", LIMIT, async || {
        world.sql.number(firstcome_testkit::LOCK_WAITS).await > 0
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
    let mut holding = firstcome_testkit::HeldTransaction::begin(&world.sql).await;
    holding
        .run("SET @isolation = @@transaction_isolation")
        .await;
    // The server's default is REPEATABLE READ: this fixes the session's snapshot.
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
    assert_eq!(
        world
            .sql
            .number("SELECT quantity FROM drops WHERE id = 1")
            .await,
        3
    );
}

#[tokio::test]
async fn once_per_cannot_change_and_has_two_values() {
    let world = world("once-per").await;
    assert_eq!(
        world
            .sql
            .refusal("UPDATE coupons SET once_per = 'drop' WHERE id = 1")
            .await
            .code,
        SIGNAL
    );
    assert_eq!(
        world
            .sql
            .refusal("INSERT INTO coupons (name, quantity, once_per) VALUES ('x', 1, 'day')")
            .await
            .code,
        CHECK
    );
    world
        .sql
        .query("UPDATE coupons SET once_per = 'coupon', name = 'renamed' WHERE id = 1")
        .await;
}

#[tokio::test]
async fn a_coupon_has_one_drop_per_day_whose_window_ends_after_it_begins() {
    let world = world("days").await;
    let day = "INSERT INTO drops (coupon_id, local_date, opens_at, closes_at, quantity) VALUES (1, '2026-02-01', ";
    world
        .sql
        .query(&format!("{day} '2026-02-01 06:00', '2026-02-01 07:00', 3)"))
        .await;
    let again = format!("{day} '2026-02-01 08:00', '2026-02-01 09:00', 3)");
    assert_eq!(world.sql.refusal(&again).await.code, DUPLICATE);
    let backwards = "UPDATE drops SET closes_at = opens_at WHERE local_date = '2026-02-01'";
    assert_eq!(world.sql.refusal(backwards).await.code, CHECK);
}

#[tokio::test]
async fn a_dead_letter_with_the_five_columns_of_the_contract_is_valid() {
    let world = world("by-hand").await;
    let by_hand = "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason) VALUES (1, 1, 1, 'u-1', 'by hand')";
    world.sql.query(by_hand).await;
    world.sql.query(by_hand).await;
    assert_eq!(
        world
            .sql
            .number("SELECT COUNT(*) FROM failed_claims WHERE resolved_at IS NULL")
            .await,
        2
    );
}

#[tokio::test]
async fn migrating_again_is_a_no_op() {
    let world = world("again").await;
    let tables = "SELECT table_name, create_time FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY 1";
    let triggers = "SELECT trigger_name, created FROM information_schema.triggers WHERE trigger_schema = DATABASE() ORDER BY 1";
    let migrate = async || {
        let again = world.start("firstcome-api", &["migrate", "--partitions", "3"], &[]);
        assert_eq!(again.ended(LIMIT).await, 0, "{}", again.log());
    };
    // Creates the topic.
    migrate().await;
    let before = (
        world.sql.query(tables).await,
        world.sql.query(triggers).await,
    );
    migrate().await;
    assert_eq!(
        (
            world.sql.query(tables).await,
            world.sql.query(triggers).await
        ),
        before
    );
    assert_eq!(
        world.sql.number("SELECT COUNT(*) FROM drops").await,
        4,
        "data stays"
    );
    assert_eq!(world.topic.offsets().await.len(), 3, "partitions stay");
}

#[tokio::test]
async fn two_concurrent_migrations_both_succeed() {
    let world = World::bare(WorldStores::shared().await, "two-migrate").await;
    let both = [0, 1].map(|_| world.start("firstcome-api", &["migrate", "--partitions", "3"], &[]));
    for process in &both {
        assert_eq!(process.ended(LIMIT).await, 0, "{}", process.log());
    }
    assert_eq!(world.topic.offsets().await.len(), 3);
    // Every world of this process except the first has copied tables instead of migrated ones.
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
async fn rows_written_while_limits_are_created_obey_them_too() {
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
    world
        .sql
        .query("DELETE FROM __diesel_schema_migrations WHERE version >= '20261121000005'")
        .await;
    for (id, once_per) in [(1, "coupon"), (2, "drop")] {
        world
            .sql
            .query(&format!(
                "INSERT INTO coupons (id, name, quantity, once_per) VALUES ({id}, 'a', 100000, '{once_per}')"
            ))
            .await;
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
    assert_eq!(
        world
            .sql
            .number("SELECT COUNT(*) FROM issued_coupons")
            .await,
        i64::from(one + two)
    );
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
    // A crash may follow each part; migration then starts again from the first.
    for done in 0..=parts.len() {
        for part in &parts[..done] {
            world.sql.query(part).await;
        }
        seen.push(world.sql.query(triggers).await[0][0].clone());
        assert_eq!(
            world.sql.refusal(&row(1, 1, 4, "u")).await.code,
            SIGNAL,
            "one too many at {done}"
        );
        assert_eq!(
            world.sql.refusal(&row(1, 1, 0, "u")).await.code,
            SIGNAL,
            "slot 0 at {done}"
        );
        assert_eq!(
            world.sql.refusal(&row(1, 99, 1, "u")).await.code,
            FOREIGN_KEY,
            "no such drop at {done}"
        );
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
        assert_eq!(
            world.sql.refusal(&at("2026-01-01 06:00:00")).await.code,
            SIGNAL,
            "claimed before at {done}"
        );
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

#[tokio::test]
async fn a_manual_row_waits_for_a_revocation_in_progress() {
    let world = world("revoking").await;
    let mut older = firstcome_testkit::HeldTransaction::begin(&world.sql).await;
    older.run("SELECT COUNT(*) FROM revoked_coupons").await;
    let mut revoking = firstcome_testkit::HeldTransaction::begin(&world.sql).await;
    let revoked = "INSERT INTO revoked_coupons (coupon_id, drop_id, user_id, reason, revoked_by) VALUES (1, 1, 'u', '', '')";
    revoking.run(revoked).await;
    let inserting = async { older.try_run(&row(1, 1, 1, "u")).await };
    let committing = async {
        let waits = async || world.sql.number(firstcome_testkit::LOCK_WAITS).await > 0;
        firstcome_testkit::eventually("the row waits", LIMIT, waits).await;
        revoking.commit().await;
    };
    // The current state of the revocation counts, not the older transaction's snapshot.
    let (inserted, ()) = tokio::join!(inserting, committing);
    assert_eq!(inserted.unwrap_err().code, SIGNAL);
}
