//! Systems of different shapes: what a pass reports and repairs in each.

use std::sync::Arc;

use firstcome_reconciler::report::{Kind, Outcome, Status};
use firstcome_stack::{mysql_connection, mysql_rows};
use mysql_async::prelude::Queryable as _;

use crate::world::{World, confirm, dry_run, found, mysql_at, pass, redis_at, users};

const SET: &str = r#"
[[campaign]]
name = "Winter"
quantity = 10
in_flight = "0.02s"
users = { key = "@users", type = "set" }
count = { key = "@count", means = "tickets" }
rows = { table = "coupon", user = "user_id", where = { event_id = 7 }, order = "created_at" }
failed = { table = "failed_event", user = "user_id", where = { event_id = 7 }, done = "delete" }
"#;

fn repairing() -> String {
    SET.replace("quantity", "mode = \"repair\"\nquantity")
}

/// Returns a file for a table without a unique key.
fn with_duplicates(word: &str) -> String {
    repairing().replace("order =", &format!("duplicates = \"{word}\", order ="))
}

/// Eight were admitted, and three of them have no row. One of these three has a failed event, and
/// so has one of the others. One row has no member. The counter ran past the end.
async fn broken() -> World {
    let world = World::new().await;
    world.add_members("@users", users(0..8)).await;
    world.rows(7, users(3..9)).await;
    world.rows(8, users(0..20)).await;
    world.failed(7, users(1..2).chain(users(4..5))).await;
    let () = world.redis("SET @count 1043").await;
    world
}

#[tokio::test]
async fn login_that_only_reads_suffices_to_observe_and_refused_repairs_are_drift() {
    let world = broken().await;
    let name = format!("reader_{}", world.prefix.trim_end_matches(':'));
    world.sql(&format!("CREATE USER {name}")).await;
    world.sql(&format!("GRANT SELECT ON *.* TO {name}")).await;
    let rights = format!("ACL SETUSER {name} on nopass ~* +type +get +scard +sscan +ping +client");
    let () = world.redis(&rights).await;
    let mut attached = world.attached(SET);
    let mut repairing = world.attached(&repairing());
    attached.theirs = mysql_at(&world.database.replace("root@", &format!("{name}@")));
    attached.redis = redis_at(&world.redis_url.replace("//", &format!("//{name}:x@")));
    let before = world.state().await;
    let run = pass(&attached).await;
    assert_eq!(world.state().await, before);
    let expected = "2 failed_claim skipped, 1 missing_admission skipped, 1 unfilled skipped, 2 unissued skipped";
    assert_eq!(found(&run.drops[0]).join(", "), expected, "{run:?}");
    assert!(run.drops[0].findings.iter().all(|it| it.needs_person));
    assert!(run.status == Status::Drift && !run.drops[0].exact);
    let recorded = "SELECT drops_examined, rows_examined FROM reconcile_runs";
    let recorded = mysql_rows(&world.ours, recorded).await.unwrap();
    assert_eq!(recorded[0], ["1", "6"]);
    // Repairs that end early do not count as held back for a confirmation.
    repairing.redis = attached.redis;
    let () = world.redis("SET @count 9").await;
    let run = pass(&repairing).await;
    let why = &run.findings[0].detail;
    assert!(why.contains("refused a command"), "{why}");
    assert_eq!(run.status, Status::Drift, "{run:?}");
}

#[tokio::test]
async fn repairing_makes_the_system_exact_and_the_next_pass_finds_nothing() {
    let world = Arc::new(broken().await);
    let attached = world.attached(&repairing());
    let before = world.state().await;
    assert_eq!(dry_run(&attached).await.status, Status::Drift);
    assert_eq!(world.state().await, before, "a dry run");
    assert_eq!(pass(&attached).await.status, Status::Braked);
    assert_eq!(world.numbers().await, [9, 0, 9, 1043], "it may be stopped");
    // A claim that is refused may be about to give back its increment.
    let pressing = world.clone();
    let pressing =
        tokio::spawn(async move { while pressing.redis::<i64>("INCR @count").await > 0 {} });
    confirm(&attached).await;
    pressing.abort();
    assert!(pressing.await.is_err());
    let count: i64 = world.redis("GET @count").await;
    assert!(count > 1043, "{count}");
    dry_run(&attached).await;
    let run = confirm(&attached).await;
    let is_repaired = run.status == Status::Repaired && run.drops[0].exact;
    assert!(is_repaired, "{run:?}");
    assert_eq!(world.numbers().await, [9, 0, 9, 9]);
    assert_eq!(pass(&attached).await.status, Status::Clean);
}

/// Members of a set that holds everybody who asked are no promises.
#[tokio::test]
async fn set_of_applicants_promises_nothing_and_its_counter_falls_only_if_confirmed() {
    let world = World::without_key().await;
    world.add_members("@users", users(0..50)).await;
    world.rows(7, users(0..7)).await;
    world.failed(7, users(7..9)).await;
    let () = world.redis("SET @count 50").await;
    let file = with_duplicates("reported");
    let attached = world.attached(&file.replace("\"set\"", "\"set\", means = \"applied\""));
    let run = pass(&attached).await;
    assert_eq!(run.status, Status::Braked, "{run:?}");
    assert_eq!(world.numbers().await, [9, 0, 50, 50], "the failed events");
    assert_eq!(confirm(&attached).await.status, Status::Repaired);
    assert_eq!(world.numbers().await, [9, 0, 50, 9]);
}

#[tokio::test]
async fn sorted_sets_and_hashes_are_repaired_in_their_forms() {
    let world = World::new().await;
    let count = "count = { key = \"@count\", means = \"tickets\" }\n";
    let file = repairing().replace(count, "");
    world.rows(7, users(0..9)).await;
    let at = "UPDATE coupon SET created_at = '2026-01-02 03:04:05.678'";
    world.sql(at).await;
    let at = "SELECT ROUND(UNIX_TIMESTAMP('2026-01-02 03:04:05.678') * 1000)";
    let at = world.number(at).await;
    for (after, user) in [(3, "late"), (1, "early"), (2, "middle")] {
        let claim = format!("ZADD @users {} {user}", at + after);
        let () = world.redis(&claim).await;
    }
    for user in users(0..5) {
        let () = world.redis(&format!("ZADD @users {at} {user}")).await;
    }
    let run = pass(&world.attached(&file.replace("\"set\"", "\"sorted set\""))).await;
    let expected = "4 missing_admission applied, 2 over_admitted skipped, 1 unissued applied";
    assert_eq!(found(&run.drops[0]).join(", "), expected);
    let early = "SELECT COUNT(*) FROM coupon WHERE user_id = 'early'";
    assert_eq!(world.number(early).await, 1);
    let score: i64 = world.redis("ZSCORE @users user-7").await;
    assert_eq!(score, at);
    let () = world.redis("DEL @users").await;
    for user in users(1..6) {
        let () = world.redis(&format!("HSET @users {user} kept")).await;
    }
    pass(&world.attached(&file.replace("\"set\"", "\"hash\""))).await;
    let values: Vec<String> = world.redis("HMGET @users user-1 user-8").await;
    assert_eq!(values, ["kept", "kept"]);
    assert_eq!(world.redis::<i64>("HLEN @users").await, 10);
}

#[tokio::test]
async fn quantity_of_a_table_and_the_lock_of_the_stock_row_are_used() {
    let world = World::without_key().await;
    world.sql("INSERT INTO stock VALUES (7, 10)").await;
    world.add_members("@users", users(0..9)).await;
    world.rows(7, users(8..9)).await;
    let () = world.redis("SET @count 9").await;
    let stock = "quantity_sql = \"SELECT total FROM stock WHERE id = 7\"\nstock = { table = \"stock\", where = { id = 7 } }";
    let attached = world.attached(&with_duplicates("locked").replace("quantity = 10", stock));
    let mut writer = mysql_connection(&world.database).await.unwrap();
    writer.query_drop("BEGIN").await.unwrap();
    let lock = "SELECT 1 FROM stock WHERE id = 7 FOR UPDATE";
    writer.query_drop(lock).await.unwrap();
    let run = pass(&attached).await;
    let why = &run.drops[0].findings[0].detail;
    assert!(why.contains("Lock wait timeout"), "{run:?}");
    writer.query_drop("ROLLBACK").await.unwrap();
    assert_eq!(pass(&attached).await.status, Status::Repaired);
    world.sql("DELETE FROM stock").await;
    let run = pass(&attached).await;
    let why = &run.findings[0].detail;
    assert!(why.contains("quantity_sql selects 0 rows"), "{run:?}");
}

/// MySQL also takes `Kim` and `kim` for one user.
#[tokio::test]
async fn user_whom_mysql_refuses_is_reported_with_the_reason_and_without_the_name() {
    let world = World::new().await;
    let check = "ALTER TABLE coupon ADD CHECK (user_id <> 'bob')";
    world.sql(check).await;
    let () = world.redis("SADD @users kim Kim bob").await;
    world.rows(7, ["Kim".to_owned()]).await;
    let () = world.redis("SET @count 3").await;
    let run = pass(&world.attached(&repairing())).await;
    let expected = ["1 unissued failed", "1 unissued skipped"];
    assert_eq!(found(&run.drops[0]), expected, "{run:?}");
    let mut findings = run.drops[0].findings.iter();
    let why = findings.find(|it| it.result == Outcome::Failed);
    let why = &why.unwrap().detail;
    let is_said = why.contains("Check constraint") && !why.contains("bob");
    assert!(is_said, "{why}");
}

/// MySQL would take text that is no number for zero.
#[tokio::test]
async fn only_exact_integers_get_rows_if_the_user_column_is_an_integer() {
    let world = World::new().await;
    let integers = "ALTER TABLE coupon MODIFY user_id BIGINT UNSIGNED NOT NULL";
    world.sql(integers).await;
    let users = ["9007199254740993", "9007199254740992", "007", "x"].map(str::to_owned);
    world.rows(7, [users[1].clone()]).await;
    world.add_members("@users", users).await;
    let () = world.redis("SET @count 4").await;
    let run = pass(&world.attached(&repairing())).await;
    let expected = ["1 unissued applied", "2 unissued skipped"];
    assert_eq!(found(&run.drops[0]), expected);
}

#[tokio::test]
async fn more_repairs_than_the_limit_wait_for_a_confirmation_of_exactly_these() {
    let world = World::new().await;
    world.add_members("@users", users(0..9)).await;
    let () = world.redis("SET @count 9").await;
    let attached = world.attached(&repairing().replace("quantity", "repair_limit = 8\nquantity"));
    let run = pass(&attached).await;
    let told = &run.drops[0].findings[0].detail;
    assert!(run.status == Status::Braked && told.contains("9 repairs, and the limit is 8"));
    world.add_members("@users", users(20..21)).await;
    let () = world.redis("SET @count 10").await;
    for _ in 0..2 {
        let run = confirm(&attached).await;
        assert_eq!(run.status, Status::Braked, "others than were shown");
        assert_eq!(world.numbers().await[0], 0);
    }
    dry_run(&attached).await;
    assert_eq!(confirm(&attached).await.status, Status::Repaired);
    assert_eq!(world.numbers().await[0], 10);
}

#[tokio::test]
async fn store_that_is_away_is_reported_as_stalled_and_nothing_is_repaired() {
    let world = broken().await;
    let before = world.state().await;
    let mut without_redis = world.attached(&repairing());
    without_redis.redis = redis_at("redis://127.0.0.1:1");
    let mut without_mysql = world.attached(&repairing());
    without_mysql.theirs = mysql_at("mysql://root@127.0.0.1:1/x");
    for attached in [without_redis, without_mysql] {
        let run = pass(&attached).await;
        assert!(run.partial && run.drops.is_empty(), "{run:?}");
        let said = (run.status, run.findings[0].kind);
        assert_eq!(said, (Status::Drift, Kind::Stalled));
    }
    assert_eq!(world.state().await, before);
}

#[tokio::test]
async fn two_passes_at_once_take_turns_and_repair_once() {
    let world = broken().await;
    let () = world.redis("SET @count 8").await;
    let attached = [world.attached(&repairing()), world.attached(&repairing())];
    let runs = tokio::join!(pass(&attached[0]), pass(&attached[1]));
    let is_clean = [runs.0.status, runs.1.status].map(|status| status == Status::Clean);
    assert_ne!(is_clean[0], is_clean[1], "{runs:?}");
    assert_eq!(world.numbers().await, [9, 0, 9, 9]);
}
