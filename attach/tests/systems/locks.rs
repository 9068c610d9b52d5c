//! What their sale notices of a look or of a repair: nothing that lasts, even if this process or
//! its host stops in the middle.

use std::pin::pin;
use std::time::{Duration, Instant};

use firstcome_attach::Engine;
use firstcome_attach::file::AttachFile;
use firstcome_shared::config::TlsArgs;
use firstcome_stack::{FaultProxy, MysqlSessions, ProxyFault, eventually};

use crate::daemon::{Daemon, first_polls, told, why};
use crate::harm::{SET, rows};
use crate::system::Sold as _;
use crate::world::{World, servers, users};
use firstcome_shops::Product;
use firstcome_shops::System;
use firstcome_shops::published::DOWN;

const LIMIT: Duration = Duration::from_secs(60);

const STOCK_TABLE: &str = "CREATE TABLE stock (id INT PRIMARY KEY, sold INT NOT NULL)";
const STOCK_ROW: &str = "INSERT INTO stock VALUES (7, 0)";
const STOCK: &str = "UPDATE stock SET sold = sold + 1 WHERE id = 7";

/// `issue` takes the stock row first, as their consumer does.
const STOCKED: System = System {
    opens: &[
        firstcome_shops::published::COUPON,
        STOCK_TABLE,
        STOCK_ROW,
    ],
    file: "[[campaign]]
name = 'Winter'
quantity = 100
promised = { set = '@users' }
issued = 'SELECT user_id FROM coupon'
queue = []
mode = 'repair'
issue = ['UPDATE stock SET sold = sold + 1 WHERE id = 7', 'INSERT INTO coupon (user_id) VALUES (:user)']
check = []",
    ..SET
};

/// Rows that refer to their number.
const LINKED: &str = "[[campaign]]
name = 'Winter'
quantity = 1000
promised = { set = '@users' }
issued = 'SELECT user_id FROM coupon'
queue = []
mode = 'repair'
issue = ['UPDATE stock SET sold = sold + 1 WHERE id = 7', 'INSERT INTO coupon VALUES (7, :user)']
check = []";

const LINKED_SHOP: System = System {
    opens: &[
        STOCK_TABLE,
        STOCK_ROW,
        "CREATE TABLE coupon (event INT NOT NULL, user_id BIGINT NOT NULL, UNIQUE (event, user_id), \
        FOREIGN KEY (event) REFERENCES stock (id))",
    ],
    issues: &["INSERT INTO coupon VALUES (7, {U})"],
    file: LINKED,
    ..STOCKED
};

/// Nothing links them: what the consumer locks first is not known, and no write of ours waits for
/// the number while it holds the row.
const APART: System = System {
    opens: &[
        STOCK_TABLE,
        STOCK_ROW,
        "CREATE TABLE coupon (event INT NOT NULL, user_id BIGINT NOT NULL, UNIQUE (event, user_id))",
    ],
    file: "[[campaign]]
name = 'Winter'
quantity = 1000
promised = { set = '@users' }
issued = 'SELECT user_id FROM coupon'
queue = []
mode = 'repair'
issue = ['INSERT INTO coupon VALUES (7, :user)', 'SELECT id FROM stock WHERE id = 7 FOR UPDATE NOWAIT', 'UPDATE stock SET sold = sold + 1 WHERE id = 7']
check = []",
    ..LINKED_SHOP
};

/// Starts a process that reaches their MySQL through a proxy.
async fn behind_proxy(world: &World, system: &System) -> (FaultProxy, Daemon) {
    let (mysql, _) = servers().await;
    let proxy = mysql.proxy().await.unwrap();
    let port = format!(":{}/", mysql.port());
    let text = world
        .file(system.file)
        .replace(&port, &format!(":{}/", proxy.port()));
    (proxy, Daemon::start(text, &world.ours))
}

#[tokio::test]
async fn lock_of_a_repair_ends_within_ten_seconds_if_its_host_vanishes() {
    let (world, direct) = STOCKED.sold().await;
    drop(direct);
    let (proxy, daemon) = behind_proxy(&world, &STOCKED).await;
    STOCKED.admit(&world, 30).await;
    daemon.settle().await;
    let mut gate = world.transaction().await;
    gate.run("INSERT INTO coupon (user_id) VALUES (30)")
        .await
        .unwrap();
    let repair = tokio::spawn(async move { daemon.confirm().await });
    eventually("the repair holds the stock row", LIMIT, async || {
        world.has_waiter().await
    })
    .await;
    proxy.set(ProxyFault::BlackHole).await.unwrap();
    let began = Instant::now();
    drop(gate);
    world.sql(STOCK).await;
    let waited = began.elapsed();
    assert!(
        waited <= Duration::from_secs(10),
        "their sale waited for {waited:?}"
    );
    repair.abort();
    assert_eq!(rows(&world).await, 20);
}

/// The proof that a second row is refused waits for a lock of theirs.
#[tokio::test]
async fn user_is_named_although_the_proof_of_its_repair_is_not_answered() {
    for product in [Product::Mysql, Product::Postgres] {
        let system = System {
            product,
            ..LINKED_SHOP
        };
        let (world, daemon) = system.trusted().await;
        let mut theirs = world.transaction().await;
        theirs.run(STOCK).await.unwrap();
        system.admit(&world, 30).await;
        let found = daemon.settle().await;
        assert_eq!(told(&found), ["1 unissued planned"], "{found:#?}");
        drop(theirs);
        assert_eq!(told(&daemon.settle().await), ["1 unissued applied"]);
    }
}

#[tokio::test]
async fn statement_that_takes_longer_than_a_second_is_stopped() {
    let slow = STOCKED.file.replace("(:user)", "(:user + SLEEP(20))");
    let system = System {
        file: slow.leak(),
        ..STOCKED
    };
    let (world, daemon) = system.sold().await;
    system.admit(&world, 30).await;
    daemon.settle().await;
    let began = Instant::now();
    let found = daemon.confirm().await;
    assert_eq!(told(&found), ["1 unissued failed"], "{found:#?}");
    world.sql(STOCK).await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(world.number("SELECT sold FROM stock").await, 1);
}

/// What stands in the way of one user stands in the way of all.
#[tokio::test]
async fn plan_gives_way_to_a_locked_number_after_three_of_its_users() {
    for product in [Product::Mysql, Product::Postgres] {
        let system = System {
            product,
            ..LINKED_SHOP
        };
        let (world, daemon) = system.sold().await;
        world.add_members("@users", users(100..110)).await;
        daemon.settle().await;
        let mut theirs = world.transaction().await;
        theirs.run(STOCK).await.unwrap();
        let found = told(&daemon.confirm().await);
        assert_eq!(found, ["3 unissued failed", "7 unissued planned"]);
        theirs.run("ROLLBACK").await.unwrap();
        assert_eq!(told(&daemon.settle().await), ["10 unissued applied"]);
    }
}

/// As on a machine that is busy: two of three tries fail. A sequence takes nothing back.
#[tokio::test]
async fn plan_goes_on_after_failures_that_come_between_its_rows() {
    let every_third =
        r#"["INSERT INTO coupon SELECT :user::bigint WHERE nextval('tried') % 3 = 0"]"#;
    let always = "['INSERT INTO coupon (user_id) VALUES (:user)']";
    let file = SET.file.replace(always, every_third);
    let system = System {
        product: Product::Postgres,
        opens: &[
            "CREATE TABLE coupon (user_id BIGINT UNIQUE)",
            "CREATE SEQUENCE tried",
        ],
        file: file.leak(),
        ..SET
    };
    let (world, daemon) = system.sold().await;
    world.add_members("@users", users(50..62)).await;
    daemon.settle().await;
    let found = daemon.confirm().await;
    let expected = ["4 unissued applied", "8 unissued failed"];
    assert_eq!(told(&found), expected, "{found:#?}");
}

/// A process that is killed leaves nothing behind at any reading and any statement.
#[tokio::test]
async fn pass_that_ends_anywhere_leaves_rows_and_numbers_whole() {
    let (world, daemon) = STOCKED.sold().await;
    world.run(&["UPDATE stock SET sold = 20"]).await;
    let whole = "SELECT COUNT(DISTINCT user_id) = COUNT(*) AND COUNT(*) = (SELECT sold FROM stock) \
        FROM coupon";
    let mut promised = 20;
    for polls in 1..500 {
        if rows(&world).await == i64::from(promised) {
            promised += 1;
            STOCKED.admit(&world, promised).await;
        }
        let daemon = daemon.restarted();
        daemon.settle().await;
        let ended = first_polls(polls, pin!(daemon.confirm())).await;
        assert_eq!(world.number(whole).await, 1, "after {polls} polls");
        // The COMMIT of the process before may have come after its rows were counted, so that
        // nothing was left to write.
        if ended.is_some_and(|found| told(&found).concat().contains("unissued applied")) {
            assert!(polls > 20, "{polls} polls");
            return;
        }
    }
    panic!("no repair has ended");
}

#[tokio::test]
async fn row_that_locks_its_number_is_not_written_before_the_number_is_moved() {
    let (first, second) = (
        "'UPDATE stock SET sold = sold + 1 WHERE id = 7'",
        "'INSERT INTO coupon VALUES (7, :user)'",
    );
    let file = LINKED_SHOP
        .file
        .replace(&format!("{first}, {second}"), &format!("{second}, {first}"));
    let system = System {
        file: file.leak(),
        ..LINKED_SHOP
    };
    let (world, daemon) = system.sold().await;
    system.admit(&world, 30).await;
    daemon.settle().await;
    let found = daemon.confirm().await;
    assert!(
        why(&found).contains("write the UPDATE of stock before"),
        "{found:#?}"
    );
    assert_eq!(rows(&world).await, 20);
}

/// Their consumer holds the number, and then writes the very row that we write.
#[tokio::test]
async fn number_that_is_locked_without_waiting_makes_no_consumer_a_victim() {
    let (world, daemon) = APART.sold().await;
    APART.admit(&world, 30).await;
    daemon.settle().await;
    let mut consumer = world.transaction().await;
    let locks = "SELECT id FROM stock WHERE id = 7 FOR UPDATE";
    consumer.run(locks).await.unwrap();
    let repair = tokio::spawn(async move { daemon.confirm().await });
    eventually("the repair waits or has ended", LIMIT, async || {
        repair.is_finished() || world.has_waiter().await
    })
    .await;
    for statement in ["INSERT INTO coupon VALUES (7, 30)", STOCK, "COMMIT"] {
        consumer.run(statement).await.unwrap();
    }
    let found = repair.await.unwrap();
    assert_eq!(told(&found), ["1 unissued failed"], "{found:#?}");
    assert_eq!(rows(&world).await, 21);
}

/// The number is moved before the row is inserted, so that nobody waits for it with a shared lock
/// of its foreign key. Their consumer does both in the other order.
#[tokio::test]
async fn their_consumer_is_never_the_victim_of_a_deadlock() {
    for (product, order) in [
        (Product::Mysql, [0, 1]),
        (Product::Mysql, [1, 0]),
        (Product::Postgres, [0, 1]),
        (Product::Postgres, [1, 0]),
    ] {
        let system = System {
            product,
            ..LINKED_SHOP
        };
        let (world, daemon) = system.sold().await;
        for user in (100..140).step_by(2) {
            system.admit(&world, user).await;
            system.admit(&world, user + 1).await;
            daemon.settle().await;
            // The claim of another user, and a late message of one whose row we write.
            let late = user + u32::from(user % 4 == 0);
            let row = format!("INSERT INTO coupon VALUES (7, {late})");
            let both = [row.as_str(), STOCK];
            let consumer = async {
                let mut consumer = world.transaction().await;
                for at in order {
                    consumer.run(both[at]).await?;
                    tokio::task::yield_now().await;
                }
                consumer.run("COMMIT").await
            };
            let (consumed, found) = tokio::join!(consumer, daemon.confirm());
            let refused = consumed.err().unwrap_or_default();
            let is_victim = ["1213", "40P01", "deadlock"]
                .iter()
                .any(|it| refused.contains(it));
            assert!(!is_victim, "{product:?} {order:?}: {refused}: {found:#?}");
        }
    }
}

#[tokio::test]
async fn their_inserts_go_on_while_a_table_is_altered_beside_a_look() {
    let world = World::new(&[firstcome_shops::published::COUPON]).await;
    let many = 200_000;
    world.add_members("@users", users(0..many)).await;
    world.add_rows(users(0..many)).await;
    let file = SET.file.replace("quantity = 100", "quantity = 1000000");
    let daemon = world.daemon(&file);
    let look = tokio::spawn(async move { daemon.settle().await });
    let altering = MysqlSessions::new(&world.database);
    let alter = tokio::spawn(async move {
        for number in 0..3 {
            let alter = format!("ALTER TABLE coupon ADD COLUMN c{number} INT");
            altering.rows(&alter).await.unwrap();
        }
    });
    let mut longest = Duration::ZERO;
    for user in 0..200 {
        let began = Instant::now();
        world.add_rows([(many + user).to_string()]).await;
        longest = longest.max(began.elapsed());
    }
    alter.await.unwrap();
    look.await.unwrap();
    assert!(
        longest < Duration::from_secs(5),
        "an insert waited for {longest:?}"
    );
}

#[tokio::test]
async fn login_that_may_only_select_observes_and_cannot_repair() {
    let (world, _daemon) = SET.sold().await;
    let name = world.login("GRANT SELECT ON coupon TO").await;
    let text = world.file(SET.file).replace("root@", &format!("{name}@"));
    let daemon = Daemon::start(text, &world.ours);
    SET.admit(&world, 30).await;
    assert_eq!(told(&daemon.settle().await), ["1 unissued planned"]);
    let found = daemon.confirm().await;
    assert!(why(&found).contains("1142"), "{found:#?}");
    assert_eq!(rows(&world).await, 20);
}

/// All campaigns of a file wait for one answer.
#[tokio::test]
async fn redis_that_is_away_is_asked_once_in_a_pass() {
    let file = SET
        .file
        .replace("quantity = 100", "each = 'WITH RECURSIVE n AS (SELECT 1 AS id UNION ALL SELECT id + 1 FROM n WHERE id < 50) SELECT id, id, 9 FROM n'")
        .replace("@users", "@users:{id}")
        .replace("FROM coupon'", "FROM coupon WHERE :id = 7'")
        .replace("VALUES (:user)", "SELECT :user WHERE :id = 7");
    let world = World::new(&[firstcome_shops::published::COUPON]).await;
    let (_, redis) = servers().await;
    let proxy = redis.proxy().await.unwrap();
    let port = |port: u16| format!(":{port}\"");
    let text = world.file(&file);
    let text = text.replace(&port(redis.port()), &port(proxy.port()));
    let file = AttachFile::parse(&text).unwrap();
    let engine = Engine::new(file, None, &TlsArgs::default(), 200).unwrap();
    let daemon = Daemon::over(engine);
    assert_eq!(told(&daemon.scheduled().await), [""; 0]);
    proxy.set(ProxyFault::BlackHole).await.unwrap();
    let began = Instant::now();
    let run = daemon.pass().await;
    let found: Vec<_> = run.all_findings().cloned().collect();
    assert_eq!(told(&found), ["1 stalled skipped"], "{found:#?}");
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(5), "{waited:?}");
}

#[tokio::test]
async fn store_that_is_away_names_nobody() {
    let (world, _direct) = DOWN.sold().await;
    let (proxy, daemon) = behind_proxy(&world, &DOWN).await;
    daemon.settle().await;
    DOWN.admit(&world, 28).await;
    DOWN.issue(&world, 28).await;
    daemon.settle().await;
    DOWN.admit(&world, 29).await;
    daemon.settle().await;
    daemon.confirm().await;
    DOWN.admit(&world, 30).await;
    proxy.set(ProxyFault::Cut).await.unwrap();
    for _ in 0..3 {
        let run = daemon.pass().await;
        let found: Vec<_> = run.all_findings().cloned().collect();
        assert_eq!(told(&found), ["1 stalled skipped"]);
    }
    proxy.set(ProxyFault::Pass).await.unwrap();
    assert_eq!(told(&daemon.settle().await), ["1 unissued applied"]);
    assert_eq!(rows(&world).await, 23);
}
