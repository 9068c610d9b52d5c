//! Features that are usual in other systems, and that a repair has to respect.

use std::time::{Duration, Instant};

use firstcome_attach::AttachError;
use firstcome_attach::config::KeyType;
use firstcome_attach::keys::{Keys, NewMember};
use firstcome_attach::sql::{Sql, text};
use firstcome_reconciler::report::{Outcome, Run, Status};
use firstcome_stack::{MysqlServer, RedisServer, StackOptions, eventually, mysql_connection};
use mysql_async::prelude::Queryable as _;

use crate::program::LIMIT;
use crate::world::{World, confirm, found, mysql_at, pass, redis_at, users};

const FILE: &str = r#"
[[campaign]]
name = "Winter"
mode = "repair"
quantity = 10
in_flight = "0.02s"
users = { key = "@users", type = "set" }
count = { key = "@count", means = "tickets" }
rows = { table = "coupon", user = "user_id", where = { event_id = 7 }, duplicates = "reported" }
failed = { table = "failed_event", user = "user_id", where = { event_id = 7 }, done = "delete" }
"#;

/// Their column decides which ids are one user: `Kim` and `kim`, `lee` and `lee `, 7 and 007.
#[tokio::test]
async fn ids_that_mysql_treats_as_equal_are_one_user_even_if_they_differ_in_redis() {
    let world = World::new().await;
    let pads = "ALTER TABLE coupon MODIFY user_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci";
    world.sql(pads).await;
    world.rows(7, ["Kim", "lee", "bo"].map(str::to_owned)).await;
    let () = world.redis("SADD @users kim bo").await;
    let mut padded = redis::cmd("SADD");
    padded.arg(format!("{}users", world.prefix)).arg("lee ");
    let () = padded.query_async(&mut world.redis.clone()).await.unwrap();
    let () = world.redis("SET @count 3").await;
    let attached = world.attached(FILE);
    let run = pass(&attached).await;
    assert!(run.status == Status::Clean && run.drops[0].exact, "{run:?}");
    // A second member of the same row was promised one, too; nobody can say whether it is another
    // person.
    let () = world.redis("SADD @users KIM").await;
    let () = world.redis("SET @count 4").await;
    let before = world.state().await;
    let run = pass(&attached).await;
    assert_eq!(found(&run.drops[0]), ["1 unissued skipped"], "{run:?}");
    let why = &run.drops[0].findings[0].detail;
    assert!(why.contains("collation"), "{run:?}");
    assert_eq!(world.state().await, before);
    let numbers = World::new().await;
    let integers = "ALTER TABLE coupon MODIFY user_id BIGINT NOT NULL";
    numbers.sql(integers).await;
    numbers.rows(7, ["7", "8"].map(str::to_owned)).await;
    let () = numbers.redis("SADD @users 007 8").await;
    let () = numbers.redis("SET @count 2").await;
    assert_eq!(pass(&numbers.attached(FILE)).await.status, Status::Clean);
}

/// Otherwise each pass would insert such a row again, or would take the rows of other users back
/// with it.
#[tokio::test]
async fn row_that_a_trigger_changes_is_taken_back_alone_with_its_failed_event() {
    let world = World::without_key().await;
    let binary = "ALTER TABLE coupon MODIFY user_id VARCHAR(64) COLLATE utf8mb4_bin NOT NULL";
    world.sql(binary).await;
    let folds = "CREATE TRIGGER folds BEFORE INSERT ON coupon FOR EACH ROW SET NEW.user_id = LOWER(NEW.user_id)";
    world.sql(folds).await;
    world.rows(7, ["lee".to_owned()]).await;
    world.failed(7, ["Kim".to_owned()]).await;
    let () = world.redis("SADD @users Kim lee ann").await;
    let () = world.redis("SET @count 3").await;
    let attached = world.attached(FILE);
    pass(&attached).await;
    assert_eq!(
        world.numbers().await,
        [1, 1, 3, 3],
        "ann has to be confirmed"
    );
    let run = confirm(&attached).await;
    let left = &run.drops[0].findings[0];
    let is_named = left.result == Outcome::Failed && left.detail.contains("a trigger");
    assert!(is_named, "{run:?}");
    // The detail also says that nothing refuses a second row.
    assert!(left.detail.contains("no unique key"), "{run:?}");
    assert_eq!(world.numbers().await, [2, 1, 3, 3]);
}

#[tokio::test]
async fn daily_campaign_has_the_quantity_of_each_day_and_one_report_of_a_misfit() {
    let world = World::without_key().await;
    let daily = FILE
        .replace("= 7", "= \"{date:%j}\"")
        .replace('@', "@{date}");
    let quantity = "time_zone = \"UTC\"\nquantity_sql = \"SELECT {date:%Y}\"";
    let daily = daily.replace("quantity = 10", quantity);
    let attached = world.attached(&daily);
    assert_eq!(attached.check().await.unwrap().len(), 1, "no unique key");
    let run = pass(&attached).await;
    let is_dated = run.drops.iter().all(|it| it.quantity > 2_000);
    assert!(run.drops.len() == 2 && is_dated, "{run:?}");
    let misfit = daily.replace("user_id", "user");
    let run = pass(&world.attached(&misfit)).await;
    assert!(run.findings.len() == 1 && run.drops.is_empty(), "{run:?}");
}

/// Their job has locked the event and inserted its row, and commits while the repair waits.
#[tokio::test]
async fn failed_event_that_their_own_job_processes_meanwhile_gets_no_second_row() {
    let world = World::without_key().await;
    world.rows(7, users(1..2)).await;
    world.add_members("@users", users(0..2)).await;
    let () = world.redis("SET @count 2").await;
    let run = loop {
        if let Some(run) = repair_beside_their_job(&world).await {
            break run;
        }
        let undo = "DELETE FROM coupon WHERE user_id = 'user-0'";
        world.sql(undo).await;
    };
    assert_eq!(found(&run.drops[0]), ["1 failed_claim skipped"]);
    assert_eq!(world.numbers().await, [2, 0, 2, 2]);
}

/// Runs a pass that waits while their job processes a failed event. Returns `None` if the job
/// commits only after two seconds, when MySQL has ended the wait.
async fn repair_beside_their_job(world: &World) -> Option<Run> {
    world.failed(7, users(0..1)).await;
    let mut job = mysql_connection(&world.database).await.unwrap();
    job.query_drop("BEGIN").await.unwrap();
    job.query_drop("DELETE FROM failed_event").await.unwrap();
    let insert = "INSERT INTO coupon (event_id, user_id) VALUES (7, 'user-0')";
    job.query_drop(insert).await.unwrap();
    let attached = world.attached(FILE);
    let repair = tokio::spawn(async move { pass(&attached).await });
    let waiting = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB = DATABASE() AND INFO LIKE 'DELETE%'";
    eventually("the repair waits", LIMIT, async || {
        repair.is_finished() || world.number(waiting).await > 0
    })
    .await;
    let is_waiting = !repair.is_finished();
    job.query_drop("COMMIT").await.unwrap();
    let run = repair.await.unwrap();
    if run.drops[0].findings[0].detail.contains("Lock wait") {
        return None;
    }
    assert!(is_waiting, "{run:?}");
    Some(run)
}

#[tokio::test]
async fn rows_marked_as_deleted_do_not_count_and_a_key_with_nulls_is_not_unique() {
    let world = World::without_key().await;
    world
        .sql("ALTER TABLE coupon ADD deleted_at DATETIME")
        .await;
    world.rows(7, users(0..3)).await;
    let delete = "UPDATE coupon SET deleted_at = NOW() WHERE user_id = 'user-0'";
    world.sql(delete).await;
    world.add_members("@users", users(1..4)).await;
    let () = world.redis("SET @count 3").await;
    let attached = FILE.replace("= 7 }, dup", "= 7, deleted_at = \"{null}\" }, dup");
    let marked = world.attached(&attached);
    pass(&marked).await;
    let run = confirm(&marked).await;
    assert_eq!(found(&run.drops[0]), ["1 unissued applied"], "{run:?}");
    // A unique key takes any number of NULLs.
    let key = "ALTER TABLE coupon ADD UNIQUE KEY (event_id, user_id, deleted_at)";
    world.sql(key).await;
    let without = attached.replace(", duplicates = \"reported\"", "");
    let said = world.attached(&without).check().await.unwrap_err();
    let said = said.to_string();
    assert!(said.contains("no unique key on (event_id, user_id)"));
}

#[tokio::test]
async fn rows_made_ahead_are_not_given_out_and_no_row_is_inserted_beside_them() {
    let world = World::without_key().await;
    for statement in [
        "ALTER TABLE coupon MODIFY user_id VARCHAR(64) NULL",
        "ALTER TABLE failed_event MODIFY user_id VARCHAR(64) NULL",
        "INSERT INTO coupon (event_id, user_id) VALUES (7, NULL), (7, NULL), (7, 'lee')",
        "INSERT INTO failed_event (event_id, user_id) VALUES (7, NULL)",
    ] {
        world.sql(statement).await;
    }
    let () = world.redis("SADD @users kim lee").await;
    let () = world.redis("SET @count 2").await;
    let attached = world.attached(FILE);
    pass(&attached).await;
    let run = confirm(&attached).await;
    let kinds = ["1 failed_claim skipped", "1 unissued skipped"];
    assert_eq!(found(&run.drops[0]), kinds, "{run:?}");
    let why = "rows without a user are coupons made ahead";
    let mut findings = run.drops[0].findings.iter();
    assert!(findings.any(|it| it.detail.contains(why)), "{run:?}");
    assert_eq!(world.numbers().await, [3, 1, 2, 2]);
}

/// The keys have expired or are lost, or the file names other keys.
#[tokio::test]
async fn keys_that_are_missing_are_created_only_after_a_confirmation() {
    let world = World::new().await;
    world.rows(7, users(0..4)).await;
    let attached = world.attached(FILE);
    let run = pass(&attached).await;
    assert_eq!(run.status, Status::Braked, "{run:?}");
    assert_eq!(world.numbers().await, [4, 0, 0, -1]);
    assert_eq!(confirm(&attached).await.status, Status::Repaired);
    assert_eq!(world.numbers().await, [4, 0, 4, 4]);
    let mut keys = Keys::new(&attached.redis);
    let key = format!("{}gone", world.prefix).into_bytes();
    for kind in [KeyType::Set, KeyType::SortedSet, KeyType::Hash] {
        let mut kim = NewMember {
            kind,
            member: b"kim".to_vec(),
            spellings: vec![b"kim".to_vec()],
            score: 1.0,
            value: b"1".to_vec(),
            may_create: false,
        };
        assert!(!keys.add(&key, &kim).await.unwrap());
        let size = keys.size(kind, &key).await.unwrap();
        assert_eq!(size, 0, "it expired between the looks");
        kim.may_create = true;
        assert!(keys.add(&key, &kim).await.unwrap());
        assert_eq!(keys.size(kind, &key).await.unwrap(), 1);
        let () = world.redis("DEL @gone").await;
    }
}

#[tokio::test]
async fn repairs_need_writable_servers_and_tables_with_transactions() {
    let world = World::new().await;
    world.rows(7, users(0..1)).await;
    world.add_members("@users", users(0..1)).await;
    let () = world.redis("SET @count 1").await;
    let StackOptions { mysql, redis, .. } = StackOptions::without_fsync();
    let (mysql, redis) =
        tokio::try_join!(MysqlServer::start(mysql), RedisServer::start(redis)).unwrap();
    let observing = FILE.replace("mode = \"repair\"\n", "");
    let refused = async |change: &dyn Fn(&mut firstcome_attach::Attached), said: &str| {
        let mut attached = world.attached(FILE);
        change(&mut attached);
        match attached.check().await {
            Err(AttachError::Misfit(why)) => assert!(why.contains(said), "{why}"),
            other => panic!("{said}: {other:?}"),
        }
    };
    mysql.query("SET GLOBAL read_only = 1").await.unwrap();
    let theirs = mysql_at(&mysql.database_url("mysql"));
    refused(&|it| it.theirs = theirs.clone(), "this MySQL is read-only").await;
    let mut conn = redis.connection().await.unwrap();
    let mut replicate = redis::cmd("REPLICAOF");
    replicate.arg("127.0.0.1").arg("1");
    let () = replicate.query_async(&mut conn).await.unwrap();
    let replica = redis_at(&redis.url());
    refused(&|it| it.redis = replica.clone(), "this server is a replica").await;
    world.sql("ALTER TABLE coupon ENGINE = MyISAM").await;
    refused(&|_| {}, "ENGINE = InnoDB").await;
    let run = pass(&world.attached(&observing)).await;
    assert_eq!(run.status, Status::Clean);
    world.sql("ALTER TABLE coupon ENGINE = InnoDB").await;
    world.sql("ALTER TABLE failed_event ENGINE = MyISAM").await;
    refused(&|_| {}, "the engine of failed_event").await;
}

/// A campaign with a key that the login may not read hides no other campaign.
#[tokio::test]
async fn key_that_may_not_be_read_concerns_only_its_campaign() {
    let world = World::new().await;
    let other = FILE
        .replace("Winter", "Summer")
        .replace("@users", "@hidden")
        .replace("= 7", "= 8");
    let name = format!("half_{}", world.prefix.trim_end_matches(':'));
    let rights = format!("ACL SETUSER {name} on nopass ~@users ~@count allcommands");
    let () = world.redis(&rights).await;
    world.rows(7, users(0..1)).await;
    world.add_members("@users", users(0..1)).await;
    let () = world.redis("SET @count 1").await;
    let other = other.replace("count = ", "# count = ");
    let mut attached = world.attached(&format!("{other}{FILE}"));
    attached.redis = redis_at(&world.redis_url.replace("//", &format!("//{name}:x@")));
    let run = pass(&attached).await;
    assert!(run.drops.len() == 1 && run.drops[0].exact, "{run:?}");
    let why = &run.findings[0].detail;
    let is_named = why.contains("Summer") && why.contains("refused a command");
    assert!(is_named, "{why}");
}

/// Their server has one limit for the prepared statements of all its clients.
#[tokio::test]
async fn no_statement_stays_prepared_on_their_server_and_reading_rows_is_paced() {
    let world = World::new().await;
    let theirs = mysql_at(&world.database);
    let mut sql = Sql::connect(&theirs, 1_000_000).await.unwrap();
    for number in 0..50 {
        let value = vec![number.into()];
        // MySQL prepares a `?` of an unknown type a second time, by itself.
        let typed = sql.number("SELECT CAST(? AS SIGNED)", value);
        assert_eq!(typed.await.unwrap(), Some(number));
    }
    let counts =
        "SHOW SESSION STATUS WHERE Variable_name IN ('Com_stmt_close', 'Com_stmt_prepare')";
    let counts = sql.rows(counts, Vec::new()).await.unwrap();
    let counts = [0, 1].map(|at| text(&counts[at], 1).parse::<u32>().unwrap());
    assert!(counts[1] >= 50 && counts[1] - counts[0] <= 1, "{counts:?}");
    let limit = sql.number("SELECT @@max_execution_time", Vec::new());
    assert!(limit.await.unwrap() > Some(0));
    // The limit of rows in a second.
    let mut slow = Sql::connect(&theirs, 1_000).await.unwrap();
    let rows = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 900) SELECT i FROM n";
    let began = Instant::now();
    assert_eq!(slow.rows(rows, Vec::new()).await.unwrap().len(), 900);
    assert!(began.elapsed() >= Duration::from_millis(900), "{began:?}");
}
