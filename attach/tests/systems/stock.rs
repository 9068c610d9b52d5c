//! The column of a stock row that counts, and rows that no unique key protects, while their own
//! writers are at work.

use std::time::Duration;

use firstcome_attach::Attached;
use firstcome_attach::config::CountName;
use firstcome_attach::keys::Keys;
use firstcome_attach::keys::MoveCount;
use firstcome_stack::{eventually, mysql_connection};
use mysql_async::prelude::Queryable as _;

use crate::world::{World, campaign, confirm, pass, told, trust, users};

const TABLES: [&str; 3] = [
    "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40) NOT NULL, KEY (user_id))",
    "CREATE TABLE stock (id INT PRIMARY KEY, remaining INT NOT NULL)",
    "INSERT INTO stock VALUES (7, 3)",
];

fn file(rest: &str) -> String {
    let settings = format!(
        "quantity = 20
        users = {{ key = '@users', type = 'set' }}
        {rest}"
    );
    campaign("Winter", &settings)
}

/// A campaign with seventeen rows that was clean once, and then got one more member.
async fn open(rest: &str) -> (World, Attached) {
    let world = World::empty().await;
    for sql in TABLES {
        world.sql(sql).await;
    }
    world.add_rows(users(0..17)).await;
    world.add_members("@users", users(0..17)).await;
    let attached = world.attached(&file(rest));
    assert!(pass(&attached).await.is_empty());
    let () = world.redis("SADD @users 17").await;
    (world, attached)
}

/// How often their stock row was read or written.
async fn reads_of_stock(world: &World) -> i64 {
    let database = world.database_name();
    let read = format!(
        "SELECT COUNT_STAR FROM performance_schema.table_io_waits_summary_by_table \
         WHERE OBJECT_SCHEMA = '{database}' AND OBJECT_NAME = 'stock'"
    );
    world.number(&read).await
}

/// How long a condition may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

const REMAINING: &str = "SELECT remaining FROM stock";

const COUNTED: &str = "rows = { table = 'coupon', user = 'user_id', duplicates = 'locked' }
    stock = { table = 'stock', where = { id = 7 }, left = 'remaining' }";

/// Their consumer moves the column in a transaction before that of the row.
#[tokio::test]
async fn row_waits_while_the_column_moves_and_is_inserted_once_it_rests() {
    let (world, attached) = open(&format!("{COUNTED}\nqueue = {{ list = '@queue' }}")).await;
    // The second look waits until this message is gone.
    let () = world.redis("RPUSH @queue message").await;
    let before = reads_of_stock(&world).await;
    let lowered = async {
        eventually("the first look", LIMIT, async || {
            reads_of_stock(&world).await > before
        })
        .await;
        world.sql("UPDATE stock SET remaining = 2").await;
        let () = world.redis("DEL @queue").await;
    };
    let (findings, ()) = tokio::join!(pass(&attached), lowered);
    assert_eq!(told(&findings), ["1 unissued skipped"], "{findings:#?}");
    let why = &findings[0].detail;
    assert!(why.contains("column of the stock row moves"), "{why}");
    assert_eq!(world.row_count().await, 17);
    // The writer died: both looks see the same two numbers.
    let findings = pass(&attached).await;
    let expected = ["1 count_mismatch skipped", "1 unissued applied"];
    assert_eq!(told(&findings), expected, "{findings:#?}");
    assert_eq!(world.row_count().await, 18);
    assert_eq!(world.number(REMAINING).await, 2, "it counted the row");
    assert!(pass(&attached).await.is_empty());
}

#[tokio::test]
async fn column_that_differs_at_rest_keeps_its_difference_over_several_rows() {
    let (world, attached) = open(COUNTED).await;
    world.sql("UPDATE stock SET remaining = 9").await;
    let trigger = "CREATE TRIGGER moves AFTER INSERT ON coupon FOR EACH ROW UPDATE stock SET remaining = remaining - 1";
    world.sql(trigger).await;
    let () = world.redis("SADD @users 18 19").await;
    let findings = pass(&attached).await;
    let expected = ["1 count_mismatch skipped", "3 unissued applied"];
    assert_eq!(told(&findings), expected, "{findings:#?}");
    assert_eq!(world.row_count().await, 20);
    assert_eq!(world.number(REMAINING).await, 6);
}

#[tokio::test]
async fn row_without_a_unique_key_needs_confirmation_unless_the_queue_has_passed() {
    let rows = "rows = { table = 'coupon', user = 'user_id', duplicates = 'reported' }";
    let (world, attached) = open(rows).await;
    let findings = pass(&attached).await;
    assert_eq!(told(&findings), ["1 unissued planned"], "{findings:#?}");
    let () = world.redis("XGROUP CREATE @stream w $ MKSTREAM").await;
    let queue = format!("{rows}\nqueue = {{ stream = '@stream', group = 'w' }}");
    let described = world.attached(&file(&queue));
    let ours = attached.ours.as_ref().unwrap();
    let campaign = &described.file.campaigns[0];
    let is_trusted = ours.trusts(&described.file, campaign).await.unwrap();
    assert!(!is_trusted, "a queue is a part of the mapping");
    trust(&described).await;
    let findings = pass(&described).await;
    assert_eq!(told(&findings), ["1 unissued applied"], "{findings:#?}");
    assert_eq!(world.row_count().await, 18);
    assert!(confirm(&described).await.is_empty());
}

/// A list does not show whether a message came and was taken.
#[tokio::test]
async fn row_without_a_unique_key_needs_confirmation_if_the_queue_is_a_list() {
    let rows = "rows = { table = 'coupon', user = 'user_id', duplicates = 'reported' }
        queue = { list = '@queue' }";
    let (world, attached) = open(rows).await;
    let findings = pass(&attached).await;
    assert_eq!(told(&findings), ["1 unissued planned"], "{findings:#?}");
    assert_eq!(world.row_count().await, 17);
}

/// Between look and repair, a refused claim takes from the counter and gives back: setting a value,
/// or adding the difference to another value, would sell one coupon too many.
#[tokio::test]
async fn counter_moves_by_the_difference_and_only_from_an_allowed_value() {
    let (world, attached) = open(COUNTED).await;
    let mut keys = Keys::new(&attached.redis);
    let field = Some(b"stock".to_vec());
    for (now, seen, may_move, by, after) in [
        (Some(4), Some(4), 0, 2, Some(6)),
        // A refused claim has taken one from the counter, and gives it back after the repair.
        (Some(3), Some(4), 0, 2, Some(3)),
        (Some(5), Some(4), 0, 2, Some(5)),
        // While coupons are being sold, a counter of what is left only falls.
        (Some(3), Some(4), -1, -2, Some(1)),
        (Some(5), Some(4), -1, -2, Some(5)),
        (Some(5), Some(4), 1, 2, Some(7)),
        (Some(3), Some(4), 1, 2, Some(3)),
        (None, Some(4), 0, 2, None),
        (None, None, 0, 6, Some(6)),
        (Some(0), None, 0, 6, Some(0)),
    ] {
        for field in [None, field.clone()] {
            let () = world.redis("DEL @count").await;
            if let Some(now) = now {
                let set = if field.is_some() {
                    format!("HSET @count stock {now}")
                } else {
                    format!("SET @count {now}")
                };
                let () = world.redis(&set).await;
            }
            let name = CountName {
                key: world.key("@count").into_bytes(),
                field,
            };
            let to = MoveCount { seen, may_move, by };
            let is_moved = keys.move_count(&name, &to).await.unwrap();
            let case = format!("{now:?} {to:?} {name:?}");
            assert_eq!(keys.count(&name).await.unwrap(), after, "{case}");
            assert_eq!(is_moved, now != after, "{case}");
        }
    }
}

/// Their job gives out the last coupons while the repair waits for the stock row, and takes back
/// the row of user 17 while the repair closes the event.
#[tokio::test]
async fn row_that_is_deleted_meanwhile_leaves_its_event_open_if_all_are_given_out() {
    let failed = "failed = { table = 'failed', user = 'user_id', done = 'delete' }";
    let (world, _) = open(COUNTED).await;
    for sql in [
        "CREATE TABLE failed (id INT PRIMARY KEY, user_id VARCHAR(40) NOT NULL)",
        "INSERT INTO failed VALUES (1, '17')",
        "CREATE TRIGGER takes_back BEFORE DELETE ON failed FOR EACH ROW             DELETE FROM coupon WHERE user_id = OLD.user_id",
    ] {
        world.sql(sql).await;
    }
    let attached = world.attached(&file(&format!("{COUNTED}\n{failed}")));
    trust(&attached).await;
    let findings = loop {
        let mut job = mysql_connection(&world.database).await.unwrap();
        for sql in [
            "BEGIN",
            "UPDATE stock SET remaining = 0",
            "INSERT INTO coupon (user_id) VALUES ('17'), ('18'), ('19')",
        ] {
            job.query_drop(sql).await.unwrap();
        }
        let waits = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB = DATABASE()             AND INFO LIKE 'SELECT 1 FROM `stock`%FOR UPDATE'";
        let committed = async {
            eventually("the repair waits", LIMIT, async || {
                world.number(waits).await > 0
            })
            .await;
            job.query_drop("COMMIT").await.unwrap();
        };
        let (findings, ()) = tokio::join!(pass(&attached), committed);
        if !findings[0].detail.contains("Lock wait") {
            break findings;
        }
        // On a busy machine, MySQL ended the wait first.
        world.sql("DELETE FROM coupon WHERE user_id > 16").await;
        world.sql("UPDATE stock SET remaining = 3").await;
    };
    assert_eq!(told(&findings), ["1 failed_claim skipped"], "{findings:#?}");
    assert_eq!(world.number("SELECT COUNT(*) FROM failed").await, 1);
    assert_eq!(world.row_count().await, 20);
}
