//! What their sale notices of a look or of a repair: nothing that lasts, even if this process or
//! its host stops in the middle.

use std::time::{Duration, Instant};

use firstcome_stack::{FaultProxy, MysqlSessions, ProxyFault, eventually, mysql_connection};
use mysql_async::prelude::Queryable as _;
use secrecy::ExposeSecret as _;

use crate::daemon::{Daemon, told, why};
use crate::harm::{SET, rows};
use crate::published::DOWN;
use crate::system::System;
use crate::world::{World, servers, users};

const LIMIT: Duration = Duration::from_secs(60);

const STOCK: &str = "UPDATE stock SET sold = sold + 1 WHERE id = 7";

/// `issue` takes the stock row first, as their consumer does, and is slow after that.
const SLOW: System = System {
    opens: &[
        crate::published::COUPON,
        "CREATE TABLE stock (id INT PRIMARY KEY, sold INT NOT NULL)",
        "INSERT INTO stock VALUES (7, 0)",
    ],
    file: "[[campaign]]
name = 'Winter'
quantity = 100
promised = { set = '@users' }
issued = 'SELECT user_id FROM coupon'
queue = []
mode = 'repair'
issue = ['UPDATE stock SET sold = sold + 1 WHERE id = 7', 'INSERT INTO coupon (user_id) SELECT :user + SLEEP(0.8)']
check = []",
    ..SET
};

/// Starts a process that reaches their MySQL through a proxy.
async fn behind_proxy(world: &World, system: &System) -> (FaultProxy, Daemon) {
    let (mysql, _) = servers().await;
    let proxy = mysql.proxy().await.unwrap();
    let port = format!(":{}/", mysql.port());
    let text = world
        .file(system.file)
        .replace(&port, &format!(":{}/", proxy.port()));
    let ours = world.ours.expose_secret().to_owned();
    (proxy, Daemon::start(text, ours.into()))
}

async fn is_repairing(world: &World) -> bool {
    let running = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() \
        AND info LIKE 'INSERT INTO coupon%SLEEP%' AND id <> CONNECTION_ID()";
    world.number(running).await > 0
}

#[tokio::test]
async fn lock_of_a_repair_ends_within_ten_seconds_if_its_host_vanishes() {
    let (world, direct) = SLOW.sold().await;
    drop(direct);
    let (proxy, daemon) = behind_proxy(&world, &SLOW).await;
    SLOW.admit(&world, 30).await;
    daemon.settle().await;
    let repair = tokio::spawn(async move { daemon.confirm().await });
    eventually("the repair holds the stock row", LIMIT, async || {
        is_repairing(&world).await
    })
    .await;
    proxy.set(ProxyFault::BlackHole).await.unwrap();
    let began = Instant::now();
    world.sql(STOCK).await;
    let waited = began.elapsed();
    assert!(
        waited < Duration::from_secs(14),
        "their sale waited for {waited:?}"
    );
    repair.abort();
    assert_eq!(rows(&world).await, 20);
}

#[tokio::test]
async fn statement_that_takes_longer_than_a_second_is_stopped() {
    let slow = SLOW.file.replace("SLEEP(0.8)", "SLEEP(20)");
    let system = System {
        file: slow.leak(),
        ..SLOW
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

/// A process that is killed leaves nothing behind at any statement.
#[tokio::test]
async fn pass_that_ends_anywhere_leaves_rows_and_numbers_whole() {
    let fast = SLOW.file.replace(" + SLEEP(0.8)", " + SLEEP(0.01)");
    let system = System {
        file: fast.leak(),
        ..SLOW
    };
    let (world, daemon) = system.sold().await;
    world.run(&["UPDATE stock SET sold = 20"]).await;
    world.add_members("@users", users(40..50)).await;
    for ms in (0..200).step_by(8) {
        let daemon = daemon.restarted();
        daemon.settle().await;
        let pass = tokio::time::timeout(Duration::from_millis(ms), daemon.confirm());
        let _ended = pass.await;
    }
    daemon.settle().await;
    daemon.confirm().await;
    let whole = "SELECT COUNT(DISTINCT user_id) = 30 AND COUNT(*) = 30 AND COUNT(*) = \
        (SELECT sold FROM stock) FROM coupon";
    eventually(
        "abandoned transactions are rolled back",
        LIMIT,
        async || world.number(whole).await == 1,
    )
    .await;
}

/// Both take the stock row, and the same user's row.
#[tokio::test]
async fn their_consumer_is_never_the_victim_of_a_deadlock() {
    let fast = SLOW.file.replace(" + SLEEP(0.8)", "");
    let system = System {
        file: fast.leak(),
        ..SLOW
    };
    let (world, daemon) = system.sold().await;
    for user in 100..130 {
        system.admit(&world, user).await;
        daemon.settle().await;
        let consumer = async {
            let mut conn = mysql_connection(&world.database).await.unwrap();
            conn.query_drop("BEGIN").await.unwrap();
            conn.query_drop(STOCK).await.unwrap();
            tokio::task::yield_now().await;
            let row = format!("INSERT INTO coupon (user_id) VALUES ({user})");
            let inserted = conn.query_drop(row).await;
            let ended = if inserted.is_ok() {
                "COMMIT"
            } else {
                "ROLLBACK"
            };
            conn.query_drop(ended).await.unwrap();
            inserted
        };
        let (inserted, found) = tokio::join!(consumer, daemon.confirm());
        if let Err(error) = inserted {
            let mysql_async::Error::Server(error) = error else {
                panic!("{error}");
            };
            assert_eq!(error.code, 1062, "{error}: {found:#?}");
        }
    }
    assert_eq!(rows(&world).await, 50);
}

#[tokio::test]
async fn their_inserts_go_on_while_a_table_is_altered_beside_a_look() {
    let world = World::new(&[crate::published::COUPON]).await;
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
    let name = world.named("reader_@").replace(':', "");
    world.sql(&format!("CREATE USER {name}")).await;
    world
        .sql(&format!("GRANT SELECT ON coupon TO {name}"))
        .await;
    let text = world.file(SET.file).replace("root@", &format!("{name}@"));
    let daemon = Daemon::start(text, world.ours.clone());
    SET.admit(&world, 30).await;
    assert_eq!(told(&daemon.settle().await), ["1 unissued planned"]);
    let found = daemon.confirm().await;
    assert!(why(&found).contains("1142"), "{found:#?}");
    assert_eq!(rows(&world).await, 20);
}

#[tokio::test]
async fn store_that_is_away_names_nobody() {
    let (world, _direct) = DOWN.sold().await;
    let (proxy, daemon) = behind_proxy(&world, &DOWN).await;
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
    assert_eq!(rows(&world).await, 22);
}
