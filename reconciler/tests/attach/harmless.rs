//! Shapes in which a repair once wrote something wrong without asking. Now it is right, or it asks.

use firstcome_reconciler::context::PassRequest;
use firstcome_reconciler::report::{Run, Status, Trigger};
use firstcome_stack::mysql_connection;
use mysql_async::prelude::Queryable as _;

use crate::world::{World, confirm, found, pass, pass_untrusted, redis_at, users};

const FILE: &str = r#"
[[campaign]]
name = "Winter"
mode = "repair"
quantity = 20
in_flight = "0.02s"
users = { key = "@users", type = "set" }
rows = { table = "coupon", user = "user_id", where = { event_id = 7 } }
"#;

fn with(campaign: &str) -> String {
    format!("{FILE}{campaign}\n")
}

fn counter(means: &str) -> String {
    with(&format!(
        "count = {{ key = \"@count\", means = \"{means}\" }}"
    ))
}

/// Creates a world in which this many users are members and have rows.
async fn sold(number: u32) -> World {
    let world = World::new().await;
    world.add_members("@users", users(0..number)).await;
    world.rows(7, users(0..number)).await;
    world
}

async fn as_it_is(world: &World, file: &str) -> Run {
    let request = PassRequest {
        patience: std::time::Duration::from_secs(60),
        ..PassRequest::new(Trigger::Cli)
    };
    pass_untrusted(&world.attached(file), request).await
}

/// Joins the details of all findings.
fn details(run: &Run) -> String {
    let details = run.all_findings().map(|it| it.detail.as_str());
    details.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn mapping_repairs_nothing_until_a_look_was_clean_or_a_plan_was_confirmed() {
    let world = sold(9).await;
    let lose = "DELETE FROM coupon WHERE user_id = 'user-3'";
    world.sql(lose).await;
    let run = as_it_is(&world, FILE).await;
    assert_eq!(run.status, Status::Braked, "{run:?}");
    assert!(details(&run).contains("confirm its first plan"), "{run:?}");
    world.add_members("@users", users(3..10)).await;
    world.rows(7, users(9..10).chain(users(3..4))).await;
    assert_eq!(as_it_is(&world, FILE).await.status, Status::Clean);
    world.sql(lose).await;
    let run = as_it_is(&world, FILE).await;
    assert_eq!(run.status, Status::Repaired, "ten users in both: {run:?}");
    world.sql(lose).await;
    let other = FILE.replace("event_id = 7 }", "event_id = 7 }, order = \"id\"");
    let run = as_it_is(&world, &other).await;
    assert_eq!(run.status, Status::Braked, "another mapping: {run:?}");
    let attached = world.attached(&other);
    let confirmed = PassRequest {
        coupon: Some(attached.file.campaigns[0].coupon_id()),
        confirm: true,
        ..PassRequest::new(Trigger::Cli)
    };
    let run = pass_untrusted(&attached, confirmed).await;
    assert_eq!(run.status, Status::Repaired, "{run:?}");
    let lose = "DELETE FROM coupon WHERE user_id = 'user-4'";
    world.sql(lose).await;
    assert_eq!(as_it_is(&world, &other).await.status, Status::Repaired);
}

/// Seven of ten systems count down. Mapped with the nearest word, all coupons would be sold again.
#[tokio::test]
async fn counter_that_counts_down_is_not_raised_as_one_that_counts_up() {
    for means in ["tickets", "issued"] {
        for (sold_out, left) in [(14, 6), (20, -37)] {
            let world = sold(sold_out).await;
            let () = world.redis(&format!("SET @count {left}")).await;
            let run = pass(&world.attached(&counter(means))).await;
            assert_eq!(run.status, Status::Braked, "{means} {left}: {run:?}");
            assert!(details(&run).contains("seems to count down"), "{run:?}");
            assert_eq!(world.redis::<i64>("GET @count").await, left);
        }
    }
}

#[tokio::test]
async fn counter_that_counts_down_is_compared_and_moved_by_the_difference() {
    let told = "count = { key = \"@count\", means = \"left\" }\nquantity_sql = \"SELECT total FROM stock WHERE id = 7\"";
    let told = with(told).replace("quantity = 20\n", "");
    let world = sold(14).await;
    world.sql("INSERT INTO stock VALUES (7, 20)").await;
    let () = world.redis("SET @count 6").await;
    let attached = world.attached(&told);
    assert_eq!(pass(&attached).await.status, Status::Clean);
    let () = world.redis("SET @count 9 EX 1000").await;
    let run = pass(&attached).await;
    assert_eq!(run.status, Status::Repaired, "{run:?}");
    assert!(details(&run).contains("says that 9 are left, and 6 are"));
    assert_eq!(world.redis::<i64>("GET @count").await, 6);
    assert!(world.redis::<i64>("TTL @count").await > 900, "its expiry");
    let () = world.redis("SET @count 2").await;
    assert_eq!(pass(&attached).await.status, Status::Repaired);
    assert_eq!(world.redis::<i64>("GET @count").await, 6);
    // If the file gives the quantity, somebody may have added stock.
    let written = counter("left").replace("\"@count\"", "\"@hash\", field = \"stock\"");
    let written = written.replace("Winter", "Field");
    let () = world.redis("HSET @hash stock 9 opens 1").await;
    let attached = world.attached(&written);
    let run = pass(&attached).await;
    assert_eq!(run.status, Status::Braked, "{run:?}");
    assert!(
        details(&run).contains("somebody may have added stock"),
        "{run:?}"
    );
    assert_eq!(confirm(&attached).await.status, Status::Repaired);
    assert_eq!(world.redis::<i64>("HGET @hash stock").await, 6);
    let many = sold(20).await;
    let () = many.redis("SET @count -4711").await;
    let losers = many.attached(&counter("left tickets"));
    assert_eq!(pass(&losers).await.status, Status::Clean);
    let exact = many.attached(&counter("left"));
    let run = pass(&exact).await;
    assert_eq!(run.status, Status::Drift, "{run:?}");
    assert!(details(&run).contains("write means = \"left tickets\""));
}

/// Otherwise each coupon that was used would be issued a second time.
#[tokio::test]
async fn coupon_that_was_used_is_not_issued_again() {
    let world = World::without_key().await;
    let status = "ALTER TABLE coupon ADD status VARCHAR(9) NOT NULL DEFAULT 'ISSUED'";
    world.sql(status).await;
    world.add_members("@users", users(0..12)).await;
    world.rows(7, users(0..11)).await;
    world.sql("UPDATE coupon SET status = 'USED' LIMIT 5").await;
    let rows = "event_id = 7, status = \"ISSUED\" }, duplicates = \"reported\"";
    let attached = world.attached(&FILE.replace("event_id = 7 }", rows));
    let told = attached.check().await.unwrap();
    assert!(
        told.iter().any(|it| it.contains("status may change")),
        "{told:?}"
    );
    pass(&attached).await;
    let run = confirm(&attached).await;
    let expected = ["1 unissued applied", "5 unissued skipped"];
    assert_eq!(found(&run.drops[0]), expected, "{run:?}");
    let all = rows.replace("\"ISSUED\"", "[\"ISSUED\", \"USED\"]");
    let attached = world.attached(&FILE.replace("event_id = 7 }", &all));
    assert_eq!(pass(&attached).await.status, Status::Clean);
    world
        .sql("DELETE FROM coupon WHERE status = 'USED' LIMIT 1")
        .await;
    pass(&attached).await;
    assert_eq!(confirm(&attached).await.status, Status::Repaired);
}

/// Otherwise their consumers would hand out again what a repair gave, or never hand out what a
/// trigger took twice.
#[tokio::test]
async fn stock_column_moves_once_with_each_row_and_an_undescribed_one_is_reported() {
    let world = World::without_key().await;
    world.sql("ALTER TABLE stock ADD remaining INT").await;
    world.sql("INSERT INTO stock VALUES (7, 20, 3)").await;
    world.add_members("@users", users(0..18)).await;
    world.rows(7, users(0..17)).await;
    let locked = FILE.replace("= 7 }", "= 7 }, duplicates = \"locked\"");
    let stock = "stock = { table = \"stock\", where = { id = 7 } }\n";
    let undescribed = world.attached(&format!("{locked}{stock}"));
    let run = pass(&undescribed).await;
    assert!(details(&run).contains("left = \"remaining\""), "{run:?}");
    let described = stock.replace("7 } }", "7 }, left = \"remaining\" }");
    let attached = world.attached(&format!("{locked}{described}"));
    assert_eq!(pass(&attached).await.status, Status::Repaired);
    let remaining = "SELECT remaining FROM stock";
    assert_eq!(world.number(remaining).await, 2);
    // A trigger of theirs moves it with the row.
    let trigger = "CREATE TRIGGER moves AFTER INSERT ON coupon FOR EACH ROW UPDATE stock SET remaining = remaining - 1";
    world.sql(trigger).await;
    world.add_members("@users", users(18..19)).await;
    assert_eq!(pass(&attached).await.status, Status::Repaired);
    assert_eq!(world.number(remaining).await, 1);
    world.sql("DROP TRIGGER moves").await;
    // Their transaction lowered it, and died before the row.
    world.sql("UPDATE stock SET remaining = 0").await;
    world.add_members("@users", users(19..20)).await;
    let run = pass(&attached).await;
    let expected = ["1 count_mismatch skipped", "1 unissued applied"];
    assert_eq!(found(&run.drops[0]), expected, "{run:?}");
    assert_eq!(world.number(remaining).await, 0);
    assert_eq!(pass(&attached).await.status, Status::Clean);
}

/// The next sale may use the same keys.
#[tokio::test]
async fn after_the_end_nothing_is_written_to_redis() {
    let world = sold(10).await;
    let over = counter("tickets").replace("quantity", "ends = \"2020-01-01T00:00:00Z\"\nquantity");
    let () = world.redis("SET @count 1").await;
    let () = world.redis("SREM @users user-1").await;
    world
        .sql("DELETE FROM coupon WHERE user_id = 'user-2'")
        .await;
    let run = pass(&world.attached(&over)).await;
    let expected = "1 count_mismatch skipped, 1 missing_admission skipped, 1 unissued applied";
    assert_eq!(found(&run.drops[0]).join(", "), expected, "{run:?}");
    assert_eq!(world.numbers().await, [10, 0, 9, 1]);
    let running = counter("tickets");
    let () = world.redis("SADD @users user-1").await;
    let run = pass(&world.attached(&running)).await;
    assert_eq!(run.status, Status::Braked, "{run:?}");
    assert!(details(&run).contains("as after a reset"), "{run:?}");
}

#[tokio::test]
async fn user_of_a_row_beyond_the_quantity_is_not_added_to_redis() {
    let world = sold(20).await;
    world.rows(7, ["stranger".to_owned()]).await;
    let attached = world.attached(&FILE.replace("= 7 }", "= 7 }, order = \"id\""));
    for _ in 0..2 {
        let run = pass(&attached).await;
        let expected = ["1 missing_admission skipped", "1 over_issued skipped"];
        assert_eq!(found(&run.drops[0]), expected, "{run:?}");
    }
    world
        .sql("DELETE FROM coupon WHERE user_id = 'stranger'")
        .await;
    assert_eq!(pass(&attached).await.status, Status::Clean);
}

/// Somebody inserts a row by hand and deletes it once a mail has named its user. A repair made the
/// user a member meanwhile, which promises nothing.
#[tokio::test]
async fn user_whom_a_repair_added_for_a_row_gets_no_other_row_without_asking() {
    for stranger in ["stranger", "손님"] {
        let world = sold(12).await;
        let attached = world.attached(FILE);
        world.rows(7, [stranger.to_owned()]).await;
        let run = pass(&attached).await;
        let added = "1 missing_admission applied";
        assert!(found(&run.drops[0]).contains(&added.to_owned()), "{run:?}");
        let delete = format!("DELETE FROM coupon WHERE user_id = '{stranger}'");
        world.sql(&delete).await;
        for _ in 0..2 {
            let run = pass(&attached).await;
            assert!(
                found(&run.drops[0]).contains(&"1 unissued planned".to_owned()),
                "{run:?}"
            );
            assert!(
                details(&run).contains("because of a row that is gone"),
                "{run:?}"
            );
        }
        assert_eq!(world.numbers().await[0], 12, "no row came back");
        let () = world.redis(&format!("SREM @users {stranger}")).await;
        let run = pass(&attached).await;
        assert!(
            !found(&run.drops[0]).join(" ").contains("unissued"),
            "{run:?}"
        );
    }
}

#[tokio::test]
async fn row_without_a_unique_key_needs_a_confirmation_while_a_message_may_wait() {
    let world = World::without_key().await;
    world.add_members("@users", users(0..12)).await;
    world.rows(7, users(0..11)).await;
    let reported = FILE.replace("= 7 }", "= 7 }, duplicates = \"reported\"");
    let run = pass(&world.attached(&reported)).await;
    assert_eq!(run.status, Status::Braked, "{run:?}");
    assert!(
        details(&run).contains("no message waits on your topic"),
        "{run:?}"
    );
}

/// A cache of theirs may set it back, or a nightly preload.
#[tokio::test]
async fn difference_that_came_back_twice_within_an_hour_is_reported_and_not_repaired() {
    let world = sold(12).await;
    let attached = world.attached(FILE);
    for _ in 0..2 {
        let () = world.redis("SREM @users user-1").await;
        assert_eq!(pass(&attached).await.status, Status::Repaired);
    }
    let () = world.redis("SREM @users user-1").await;
    let run = pass(&attached).await;
    assert_eq!(found(&run.drops[0]), ["1 missing_admission skipped"]);
    assert!(details(&run).contains("something sets it back"), "{run:?}");
    assert_eq!(world.redis::<i64>("SCARD @users").await, 11);
}

#[tokio::test]
async fn member_is_added_with_the_time_of_its_row_or_the_value_of_the_file() {
    let world = World::new().await;
    world.rows(7, users(0..3)).await;
    world
        .sql("UPDATE coupon SET created_at = '2026-01-02 03:04:05'")
        .await;
    let () = world
        .redis("ZADD @users 1767323000 user-0 1767323001 user-1")
        .await;
    let sorted = FILE.replace("\"set\"", "\"sorted set\"");
    let sorted = sorted.replace("= 7 }", "= 7 }, order = \"created_at\"");
    let sorted = sorted.replace("quantity", "time_zone = \"UTC\"\nquantity");
    assert_eq!(
        pass(&world.attached(&sorted)).await.status,
        Status::Repaired
    );
    let score: f64 = world.redis("ZSCORE @users user-2").await;
    assert!((score - 1_767_323_045.0).abs() < 1.0, "{score}");
    let () = world.redis("DEL @users").await;
    let () = world
        .redis("HSET @users user-0 {\"at\":1} user-1 {\"at\":2}")
        .await;
    let hash = FILE.replace("\"set\"", "\"hash\"");
    let run = pass(&world.attached(&hash)).await;
    assert_eq!(
        found(&run.drops[0]),
        ["1 missing_admission failed"],
        "{run:?}"
    );
    let valued = hash.replace("\"hash\"", "\"hash\", value = \"{}\"");
    assert_eq!(
        pass(&world.attached(&valued)).await.status,
        Status::Repaired
    );
    assert_eq!(world.redis::<String>("HGET @users user-2").await, "{}");
}

#[tokio::test]
async fn time_of_a_row_follows_the_time_zone_of_the_campaign() {
    let world = sold(10).await;
    world.add_members("@users", users(10..11)).await;
    let zone = FILE.replace("quantity", "time_zone = \"Pacific/Kiritimati\"\nquantity");
    let zone = zone.replace("= 7 }", "= 7 }, insert = { created_at = \"{now}\" }");
    assert_eq!(pass(&world.attached(&zone)).await.status, Status::Repaired);
    let hours = "SELECT TIMESTAMPDIFF(MINUTE, UTC_TIMESTAMP(), MAX(created_at)) FROM coupon";
    assert!((835..=840).contains(&world.number(hours).await));
}

/// One name in the set must not switch the comparison off.
#[tokio::test]
async fn member_that_the_column_cannot_hold_is_reported_and_the_others_are_repaired() {
    let world = sold(12).await;
    world
        .sql("ALTER TABLE coupon MODIFY user_id VARCHAR(64) CHARACTER SET ascii NOT NULL")
        .await;
    let () = world.redis("SADD @users 김민수").await;
    let mut odd = redis::cmd("SADD");
    odd.arg(format!("{}users", world.prefix))
        .arg(&[0xff_u8, 0xfe][..]);
    let () = odd.query_async(&mut world.redis.clone()).await.unwrap();
    world
        .sql("DELETE FROM coupon WHERE user_id = 'user-1'")
        .await;
    let run = pass(&world.attached(FILE)).await;
    let expected = ["1 unissued applied", "2 unissued skipped"];
    assert_eq!(found(&run.drops[0]), expected, "{run:?}");
}

#[tokio::test]
async fn uuids_in_sixteen_bytes_are_read_selected_and_written_as_uuids() {
    let world = World::without_key().await;
    let event = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";
    let table = "CREATE TABLE issued (id BINARY(16) PRIMARY KEY, event_id BINARY(16) NOT NULL, user_id BINARY(16) NOT NULL, \
        code CHAR(16) NOT NULL, UNIQUE KEY (event_id, user_id))";
    world.sql(table).await;
    let user = |n: u32| format!("00000000-0000-4000-8000-{n:012}");
    for n in 0..11 {
        let row = format!(
            "INSERT INTO issued VALUES (UUID_TO_BIN(UUID()), UUID_TO_BIN('{event}'), UUID_TO_BIN('{}'), 'A')",
            user(n)
        );
        world.sql(&row).await;
    }
    world.add_members("@users", (0..12).map(user)).await;
    let rows = format!(
        "rows = {{ table = \"issued\", user = \"user_id\", where = {{ event_id = \"{event}\" }}"
    );
    let file = FILE.replace(
        "rows = { table = \"coupon\", user = \"user_id\", where = { event_id = 7 }",
        &rows,
    );
    let why = world.attached(&file).check().await.unwrap_err().to_string();
    assert!(why.contains("no default for \"id\", \"code\""), "{why}");
    let filled = file.replace(
        "} }\n",
        "}, insert = { id = \"{uuid}\", code = \"{random:16}\" } }\n",
    );
    let run = pass(&world.attached(&filled)).await;
    assert_eq!(run.status, Status::Repaired, "{run:?}");
    let last =
        "SELECT BIN_TO_UUID(user_id), LENGTH(id), LENGTH(code) FROM issued WHERE code <> 'A'";
    assert_eq!(world.sql(last).await, [[user(11).as_str(), "16", "16"]]);
    let text = world.attached(&file.replace(event, "7")).check().await;
    let why = text.unwrap_err().to_string();
    assert!(why.contains("BINARY(16): write a UUID"), "{why}");
}

#[tokio::test]
async fn table_or_query_that_does_not_fit_is_reported_with_its_campaign() {
    let world = sold(10).await;
    world.sql("CREATE VIEW seen AS SELECT * FROM coupon").await;
    world.sql("INSERT INTO stock VALUES (7, 10), (8, 10)").await;
    let view = FILE.replace("\"coupon\"", "\"seen\"");
    let two = FILE.replace(
        "quantity = 20",
        "quantity_sql = \"SELECT total FROM stock\"",
    );
    let made = FILE.replace("event_id = 7", "twice = 14");
    world
        .sql("ALTER TABLE coupon ADD twice INT AS (event_id * 2)")
        .await;
    for (file, why) in [
        (&view, "\"seen\" is a view"),
        (&two, "quantity_sql selects 2 rows"),
        (&made, "column \"twice\" of coupon is generated"),
        (
            &FILE.replace("event_id", "event"),
            "no column \"event\"; the nearest",
        ),
    ] {
        let run = pass(&world.attached(file)).await;
        let said = details(&run);
        assert!(
            said.contains(why) && said.contains("Winter"),
            "{why}: {said}"
        );
    }
    let processed = "ALTER TABLE failed_event ADD processed_at DATETIME NULL";
    world.sql(processed).await;
    world.failed(7, users(3..4)).await;
    let failed = "failed = { table = \"failed_event\", user = \"user_id\", where = { event_id = 7 }, \
        done = { column = \"processed_at\", value = \"{now}\" } }";
    let attached = world.attached(&with(failed));
    assert_eq!(pass(&attached).await.status, Status::Repaired);
    assert_eq!(pass(&attached).await.status, Status::Clean);
}

/// A locked table concerns one campaign.
#[tokio::test]
async fn campaign_that_cannot_be_compared_hides_no_other() {
    let world = sold(12).await;
    world.sql("CREATE TABLE locked LIKE coupon").await;
    world
        .sql("DELETE FROM coupon WHERE user_id = 'user-1'")
        .await;
    let other = FILE
        .replace("Winter", "Summer")
        .replace("@users", "@others");
    let other = other.replace("\"coupon\"", "\"locked\"");
    let mut attached = world.attached(&format!("{other}{FILE}"));
    attached.theirs.limit = std::time::Duration::from_secs(2);
    let mut lock = mysql_connection(&world.database).await.unwrap();
    lock.query_drop("LOCK TABLES locked WRITE").await.unwrap();
    let run = pass(&attached).await;
    lock.query_drop("UNLOCK TABLES").await.unwrap();
    assert_eq!(found(&run.drops[0]), ["1 unissued applied"], "{run:?}");
    let why = &run.findings[0].detail;
    assert!(
        why.contains("Summer") && why.contains("their MySQL"),
        "{why}"
    );
}

#[tokio::test]
async fn repair_that_their_redis_refuses_is_reported_with_its_campaign() {
    let world = sold(12).await;
    let name = format!("adds_none_{}", world.prefix.trim_end_matches(':'));
    let rights = format!("ACL SETUSER {name} on nopass ~* allcommands -sadd");
    let () = world.redis(&rights).await;
    let () = world.redis("SREM @users user-2").await;
    world.rows(7, users(13..14)).await;
    let mut attached = world.attached(FILE);
    attached.redis = redis_at(&world.redis_url.replace("//", &format!("//{name}:x@")));
    let run = pass(&attached).await;
    let why = &run.findings[0].detail;
    assert!(
        why.contains("campaign \"Winter\": their Redis refused"),
        "{why}"
    );
    assert_eq!(found(&run.drops[0]), ["2 missing_admission skipped"]);
}
