//! `[[check]]`: a SELECT of the team that returns no row while nothing is wrong.

use std::time::Duration;

use firstcome_shared::report::Kind;
use firstcome_shops::Product;
use firstcome_stack::eventually;

use crate::daemon::{Daemon, told, why};
use crate::world::World;

const LIMIT: Duration = Duration::from_secs(60);

const ORDERS: &str =
    "CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY, coupon INT, state VARCHAR(9))";

const FILE: &str = "[[check]]
name = 'used twice'
sql = 'SELECT coupon FROM orders GROUP BY coupon HAVING COUNT(*) > 1'
to_do = 'Cancel the second order.'
every = '10m'";

async fn checked(file: &str) -> (World, Daemon) {
    let world = World::new(&[ORDERS]).await;
    let daemon = world.daemon(file);
    (world, daemon)
}

async fn later(daemon: &Daemon) -> Vec<String> {
    daemon.engine.clock.forward(Duration::from_mins(11));
    let run = daemon.pass().await;
    told(&run.all_findings().cloned().collect::<Vec<_>>())
}

#[tokio::test]
async fn row_is_told_if_two_runs_return_it_and_ends_when_none_does() {
    let (world, daemon) = checked(FILE).await;
    assert_eq!(later(&daemon).await, [""; 0]);
    world
        .run(&["INSERT INTO orders (coupon) VALUES (7), (7)"])
        .await;
    assert_eq!(later(&daemon).await, [""; 0], "seen once");
    assert_eq!(later(&daemon).await, ["1 check skipped"]);
    // Another row in between two of their transactions.
    world
        .run(&["INSERT INTO orders (coupon) VALUES (8), (8)"])
        .await;
    later(&daemon).await;
    world.run(&["DELETE FROM orders WHERE coupon = 8"]).await;
    assert_eq!(later(&daemon).await, ["1 check skipped"]);
    world.run(&["DELETE FROM orders"]).await;
    assert_eq!(later(&daemon).await, [""; 0]);
}

#[tokio::test]
async fn check_that_cannot_run_says_so_and_ends_no_other() {
    let (world, daemon) = checked(FILE).await;
    world
        .run(&["INSERT INTO orders (coupon) VALUES (7), (7)"])
        .await;
    later(&daemon).await;
    assert_eq!(later(&daemon).await, ["1 check skipped"]);
    world
        .run(&["ALTER TABLE orders RENAME COLUMN coupon TO code"])
        .await;
    later(&daemon).await;
    let found = daemon.settle().await;
    let told = told(&found).join(", ");
    assert!(told.contains("stalled") && told.contains("check"), "{told}");
    assert!(why(&found).contains("coupon"), "{found:#?}");
}

/// A replica that is away holds up neither campaigns nor the checks of other databases.
#[tokio::test]
async fn check_whose_own_database_is_away_says_so_and_ends_no_other() {
    let away = FILE.replace(
        "every = '10m'",
        "database = 'postgres://127.0.0.1:1/replica'",
    );
    let file = format!("{away}\n{}", FILE.replace("used twice", "sold twice"));
    let (world, daemon) = checked(&file).await;
    world
        .run(&["INSERT INTO orders (coupon) VALUES (7), (7)"])
        .await;
    later(&daemon).await;
    assert_eq!(
        later(&daemon).await,
        ["1 check skipped", "1 stalled skipped"]
    );
    let run = daemon.pass().await;
    assert!(!run.partial);
    let mut stalled = run.findings.iter().filter(|it| it.kind == Kind::Stalled);
    let coupon = daemon.engine.file.campaigns[0].coupon_id();
    assert_eq!(stalled.next().unwrap().coupon_id, Some(coupon));
}

#[tokio::test]
async fn check_whose_connection_breaks_is_repeated_in_the_next_pass() {
    let rows = [
        "CREATE TABLE orders (coupon INT)",
        "INSERT INTO orders VALUES (7), (7)",
    ];
    let world = World::on(Product::Postgres, &rows).await;
    let daemon = world.daemon(FILE);
    let mut theirs = world.transaction().await;
    let lock = "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE";
    theirs.run(lock).await.unwrap();
    let breaks = async {
        eventually("the check waits", LIMIT, async || world.has_waiter().await).await;
        world
            .sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )
            .await;
    };
    let (found, ()) = tokio::join!(daemon.scheduled(), breaks);
    assert_eq!(told(&found), ["1 stalled skipped"]);
    drop(theirs);
    daemon.scheduled().await;
    daemon.engine.clock.forward(Duration::from_secs(61));
    assert_eq!(told(&daemon.scheduled().await), ["1 check skipped"]);
}

#[tokio::test]
async fn million_rows_are_more_than_a_hundred() {
    let all = FILE.replace(
        "SELECT coupon FROM orders GROUP BY coupon HAVING COUNT(*) > 1",
        "SELECT id FROM orders",
    );
    let (world, daemon) = checked(&all).await;
    world
        .run(&["INSERT INTO orders (coupon) VALUES (1), (2), (3), (4), (5), (6), (7), (8)"])
        .await;
    for _ in 0..6 {
        world
            .run(&["INSERT INTO orders (coupon) SELECT coupon FROM orders"])
            .await;
    }
    later(&daemon).await;
    let found = daemon.settle().await;
    assert!(why(&found).contains("more than 100"), "{found:#?}");
}

#[tokio::test]
async fn values_of_rows_stay_out_of_findings() {
    let secret = FILE.replace(
        "SELECT coupon FROM",
        "SELECT CONCAT(coupon, MAX(state)) FROM",
    );
    let (world, daemon) = checked(&secret).await;
    world
        .run(&[
            "INSERT INTO orders (coupon) VALUES (7), (7)",
            "UPDATE orders SET state = 'SECRET'",
        ])
        .await;
    later(&daemon).await;
    let found = daemon.settle().await;
    assert_eq!(told(&found), ["1 check skipped"]);
    assert!(!why(&found).contains("SECRET"), "{found:#?}");
}
