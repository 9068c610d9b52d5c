//! Systems in their different shapes, each observed and then repaired.

use std::time::Duration;

use firstcome_reconciler::context::PassRequest;
use firstcome_reconciler::report::{ActionKind, Kind, Outcome, Run, Status, Trigger};
use firstcome_shared::config::{MysqlArgs, RedisArgs, TlsArgs};
use firstcome_stack::{mysql_connection, mysql_rows};
use mysql_async::prelude::Queryable as _;

use crate::world::{TABLES_OF_ALL, World, confirmed, found, pass, pass_with, users};

const SET: &str = r#"
[[campaign]]
name = "Winter"
mode = "observe"
quantity = 10
in_flight = "20ms"
users = { key = "@users", type = "set" }
count = { key = "@count", means = "tickets" }
rows = { table = "coupon", user = "user_id", where = { event_id = 7 }, order = "created_at" }
failed = { table = "failed_event", user = "user_id", where = { event_id = 7 }, done = "delete" }
"#;

fn repairing(campaign: &str) -> String {
    campaign.replace("mode = \"observe\"", "mode = \"repair\"")
}

/// Eight were admitted, three have no row, one of them failed; one row has no member; the counter
/// ran past the end.
async fn broken() -> World {
    let world = World::new(TABLES_OF_ALL).await;
    world
        .sql("ALTER TABLE coupon ADD UNIQUE KEY (event_id, user_id)")
        .await;
    world.members("@users", users(0..8)).await;
    world.rows(7, users(3..9)).await;
    world.rows(8, users(0..20)).await;
    world.failed(7, users(1..2).chain(users(4..5))).await;
    let () = world.redis("SET @count 1043").await;
    world
}

#[tokio::test]
async fn observing_reports_everything_and_writes_nothing_with_a_login_that_only_reads() {
    let world = broken().await;
    let name = format!("reader_{}", world.prefix.trim_end_matches(':'));
    world.sql(&format!("CREATE USER {name}")).await;
    world.sql(&format!("GRANT SELECT ON *.* TO {name}")).await;
    let read_only = ["+@read", "+ping", "+client|setinfo", "~*"].join(" ");
    let () = world
        .redis(&format!("ACL SETUSER {name} on nopass {read_only}"))
        .await;
    let mut attached = world.attached(SET);
    let tls = TlsArgs::default();
    let database = world.database.replace("root@", &format!("{name}@"));
    attached.theirs = MysqlArgs::at(database.into(), &tls, 5_000).unwrap();
    let redis = world
        .redis_url
        .replace("redis://", &format!("redis://{name}:x@"));
    let redis = RedisArgs::at(redis.into(), false, &tls, 5_000).unwrap();
    attached.redis = firstcome_shared::redis::Redis::new(&redis).unwrap();
    let before = world.state().await;
    let run = pass(&attached).await;
    assert_eq!(world.state().await, before);
    let expected = [
        (Kind::Unissued, Outcome::Skipped, 2),
        (Kind::FailedClaim, Outcome::Skipped, 2),
        (Kind::MissingAdmission, Outcome::Skipped, 1),
        (Kind::Unfilled, Outcome::Skipped, 1),
    ];
    let expected = expected
        .map(|(kind, outcome, n)| ((kind, outcome), n))
        .into();
    assert_eq!(found(&run.drops[0]), expected, "{run:?}");
    assert!(run.drops[0].findings.iter().all(|it| it.needs_person));
    assert!(run.status == Status::Drift && !run.drops[0].exact);
    let recorded = mysql_rows(&world.ours, "SELECT COUNT(*) FROM reconcile_findings")
        .await
        .unwrap();
    assert_eq!(recorded[0][0], "6", "in our tables");
}

#[tokio::test]
async fn repairing_makes_it_exact_and_the_next_pass_finds_nothing() {
    let world = broken().await;
    let attached = world.attached(&repairing(SET));
    let dry = PassRequest {
        dry_run: true,
        ..PassRequest::new(Trigger::Cli)
    };
    let before = world.state().await;
    assert_eq!(pass_with(&attached, dry).await.status, Status::Drift);
    assert_eq!(world.state().await, before, "a dry run");
    let run = pass(&attached).await;
    assert!(
        run.status == Status::Repaired && run.drops[0].exact,
        "{run:?}"
    );
    assert_eq!(
        world
            .number("SELECT COUNT(*) FROM coupon WHERE event_id = 7")
            .await,
        9
    );
    assert_eq!(world.number("SELECT COUNT(*) FROM failed_event").await, 0);
    assert_eq!(world.redis::<i64>("SCARD @users").await, 9);
    assert_eq!(
        world.redis::<i64>("GET @count").await,
        9,
        "one is left to claim"
    );
    assert_eq!(pass(&attached).await.status, Status::Clean);
}

/// Members of a set that holds everybody who asked are no promises.
#[tokio::test]
async fn set_of_applicants_promises_nothing_and_the_counter_is_lowered_only_by_a_person() {
    let world = World::new(TABLES_OF_ALL).await;
    world.members("@users", users(0..50)).await;
    world.rows(7, users(0..7)).await;
    world.failed(7, users(7..9)).await;
    let () = world.redis("SET @count 50").await;
    let file = repairing(SET)
        .replace("type = \"set\"", "type = \"set\", means = \"applied\"")
        .replace("order = ", "duplicates = \"reported\", order = ");
    let attached = world.attached(&file);
    let run = pass(&attached).await;
    assert_eq!(run.status, Status::Braked, "{run:?}");
    assert_eq!(
        world.number("SELECT COUNT(*) FROM coupon").await,
        9,
        "the failed events"
    );
    assert_eq!(world.redis::<i64>("GET @count").await, 50);
    let run = pass_with(&attached, confirmed(&attached)).await;
    assert_eq!(
        (run.status, world.redis::<i64>("GET @count").await),
        (Status::Repaired, 9)
    );
}

#[tokio::test]
async fn sorted_sets_and_hashes_are_repaired_in_their_forms() {
    let world = World::new(TABLES_OF_ALL).await;
    world
        .sql("ALTER TABLE coupon ADD UNIQUE KEY (user_id, event_id)")
        .await;
    let file = repairing(SET).replace("count = { key = \"@count\", means = \"tickets\" }\n", "");
    let sorted = file.replace("type = \"set\"", "type = \"sorted set\"");
    world.rows(7, users(0..9)).await;
    world
        .sql("UPDATE coupon SET created_at = '2026-01-02 03:04:05.678'")
        .await;
    let () = world.redis("ZADD @users 5 late 1 early 3 middle").await;
    let run = pass(&world.attached(&sorted)).await;
    let named = run.drops[0]
        .findings
        .iter()
        .filter(|it| it.kind == Kind::OverAdmitted);
    assert_eq!(named.count(), 2, "{run:?}");
    assert_eq!(
        world
            .number("SELECT COUNT(*) FROM coupon WHERE user_id = 'early'")
            .await,
        1
    );
    let score: f64 = world.redis("ZSCORE @users user-3").await;
    let at = world
        .sql("SELECT UNIX_TIMESTAMP('2026-01-02 03:04:05.678') * 1000")
        .await;
    assert!((score - at[0][0].parse::<f64>().unwrap()).abs() < 1.0);
    let () = world.redis("DEL @users").await;
    let () = world.redis("HSET @users user-1 kept").await;
    let hash = file.replace("type = \"set\"", "type = \"hash\", value = \"issued\"");
    pass(&world.attached(&hash)).await;
    let values: Vec<String> = world.redis("HMGET @users user-1 user-2").await;
    assert_eq!(values, ["kept", "issued"]);
    assert_eq!(world.redis::<i64>("HLEN @users").await, 10);
}

#[tokio::test]
async fn quantity_of_a_table_and_the_lock_of_the_stock_row_are_used() {
    let world = World::new(TABLES_OF_ALL).await;
    world.sql("INSERT INTO stock VALUES (7, 10, 4)").await;
    world.members("@users", users(0..9)).await;
    let () = world.redis("SET @count 9").await;
    let stock = "quantity_sql = \"SELECT total FROM stock WHERE id = 7\"\nstock = { table = \"stock\", where = { id = 7 } }";
    let file = repairing(SET).replace("quantity = 10", stock);
    let attached = world.attached(&file.replace("order = ", "duplicates = \"locked\", order = "));
    let mut writer = mysql_connection(&world.database).await.unwrap();
    writer.query_drop("BEGIN").await.unwrap();
    writer
        .query_drop("SELECT 1 FROM stock WHERE id = 7 FOR UPDATE")
        .await
        .unwrap();
    let run = pass(&attached).await;
    assert!(
        run.drops[0].findings[0]
            .detail
            .contains("Lock wait timeout"),
        "{run:?}"
    );
    writer.query_drop("ROLLBACK").await.unwrap();
    assert_eq!(pass(&attached).await.status, Status::Repaired);
    world.sql("DELETE FROM stock").await;
    let run = pass(&attached).await;
    assert!(
        run.findings[0]
            .detail
            .contains("quantity_sql selects no number"),
        "{run:?}"
    );
}

#[tokio::test]
async fn users_who_are_numbers_are_compared_as_numbers() {
    let world = World::new(TABLES_OF_ALL).await;
    world.sql("ALTER TABLE coupon MODIFY user_id BIGINT UNSIGNED NOT NULL, ADD UNIQUE KEY (event_id, user_id)").await;
    let numbers = ["9007199254740993", "9007199254740992", "007", "x"].map(str::to_owned);
    world.members("@users", numbers).await;
    world.rows(7, ["9007199254740992".to_owned()]).await;
    let () = world.redis("SET @count 4").await;
    let run = pass(&world.attached(&repairing(SET))).await;
    assert_eq!(
        found(&run.drops[0])[&(Kind::Unissued, Outcome::Applied)],
        1,
        "{run:?}"
    );
    assert_eq!(found(&run.drops[0])[&(Kind::Unissued, Outcome::Failed)], 2);
    assert_eq!(world.number("SELECT COUNT(*) FROM coupon").await, 2);
}

/// MySQL takes `Kim` and `kim` for one user, Redis does not.
#[tokio::test]
async fn refused_row_is_reported_with_mysqls_reason_and_without_the_user() {
    let world = World::new(TABLES_OF_ALL).await;
    world
        .sql("ALTER TABLE coupon ADD UNIQUE KEY (event_id, user_id), ADD CHECK (user_id <> 'bob')")
        .await;
    world
        .members("@users", ["kim", "Kim", "bob"].map(str::to_owned))
        .await;
    world.rows(7, ["Kim".to_owned()]).await;
    let () = world.redis("SET @count 3").await;
    let run = pass(&world.attached(&repairing(SET))).await;
    let of = |user: &str| {
        let found = run.drops[0]
            .findings
            .iter()
            .find(|it| it.user_id.as_deref() == Some(user));
        let found = found.unwrap_or_else(|| panic!("{user}: {run:?}"));
        (found.result, found.detail.clone())
    };
    assert_eq!(of("kim").0, Outcome::Skipped);
    let (result, why) = of("bob");
    assert!(
        result == Outcome::Failed && why.contains("Check constraint") && !why.contains("bob"),
        "{why}"
    );
}

#[tokio::test]
async fn more_repairs_than_the_limit_wait_for_a_confirmation_of_exactly_these() {
    let world = World::new(TABLES_OF_ALL).await;
    world
        .sql("ALTER TABLE coupon ADD UNIQUE KEY (event_id, user_id)")
        .await;
    world.members("@users", users(0..9)).await;
    let () = world.redis("SET @count 9").await;
    let attached =
        world.attached(&repairing(SET).replace("quantity = 10", "quantity = 10\nrepair_limit = 8"));
    let run = pass(&attached).await;
    assert_eq!(run.status, Status::Braked);
    assert!(
        run.drops[0].findings[0]
            .detail
            .contains("9 repairs at once are more than 8"),
        "{run:?}"
    );
    world.members("@users", users(20..21)).await;
    let () = world.redis("SET @count 10").await;
    let run = pass_with(&attached, confirmed(&attached)).await;
    assert_eq!(run.status, Status::Braked, "others than were shown");
    assert_eq!(world.number("SELECT COUNT(*) FROM coupon").await, 0);
    assert_eq!(
        pass_with(&attached, confirmed(&attached)).await.status,
        Status::Repaired
    );
    assert_eq!(world.number("SELECT COUNT(*) FROM coupon").await, 10);
}

#[tokio::test]
async fn store_that_is_away_is_a_stall_and_never_a_repair() {
    let world = broken().await;
    let before = world.state().await;
    let is_stalled = |run: &Run| {
        run.partial
            && run.drops.is_empty()
            && run
                .findings
                .iter()
                .any(|it| it.kind == Kind::Stalled && it.action == ActionKind::Report)
    };
    let tls = TlsArgs::default();
    let mut attached = world.attached(&repairing(SET));
    let nowhere = RedisArgs::at("redis://127.0.0.1:1".to_owned().into(), false, &tls, 500).unwrap();
    attached.redis = firstcome_shared::redis::Redis::new(&nowhere).unwrap();
    let run = pass(&attached).await;
    assert!(is_stalled(&run) && run.status == Status::Drift, "{run:?}");
    let mut attached = world.attached(&repairing(SET));
    attached.theirs =
        MysqlArgs::at("mysql://root@127.0.0.1:1/x".to_owned().into(), &tls, 500).unwrap();
    assert!(is_stalled(&pass(&attached).await));
    assert_eq!(world.state().await, before);
}

#[tokio::test]
async fn two_passes_at_once_take_turns_and_repair_once() {
    let world = broken().await;
    let file = repairing(SET);
    let attached = [world.attached(&file), world.attached(&file)];
    let runs = tokio::join!(pass(&attached[0]), pass(&attached[1]));
    let mut statuses = [runs.0.status, runs.1.status];
    statuses.sort_by_key(|status| *status == Status::Clean);
    assert_eq!(statuses, [Status::Repaired, Status::Clean]);
    assert_eq!(
        world
            .number("SELECT COUNT(*) FROM coupon WHERE event_id = 7")
            .await,
        9
    );
}

#[tokio::test]
async fn rows_are_read_no_faster_than_allowed() {
    let world = World::new(TABLES_OF_ALL).await;
    world.rows(7, users(0..10_000)).await;
    world.members("@users", users(0..10_000)).await;
    let () = world.redis("SET @count 10000").await;
    let file = format!(
        "max_rows_per_second = 5000{}",
        SET.replace("quantity = 10", "quantity = 10000")
    );
    let began = std::time::Instant::now();
    let run = pass(&world.attached(&file)).await;
    assert!(
        began.elapsed() >= Duration::from_millis(1_900),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        (run.status, run.drops[0].examined.rows),
        (Status::Clean, 10_000)
    );
}
