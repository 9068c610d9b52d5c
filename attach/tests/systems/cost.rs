//! What a look costs.

use std::time::{Duration, Instant};

use crate::daemon::{Daemon, told};
use crate::world::{World, users};

const COUPON: &str = "CREATE TABLE coupon (id BIGINT PRIMARY KEY AUTO_INCREMENT, event_id BIGINT \
    NOT NULL, user_id BIGINT NOT NULL, UNIQUE KEY (event_id, user_id))";

const FILE: &str = "[[campaign]]
name = 'Winter'
quantity = 1000000
promised = { set = '@users' }
issued = 'SELECT user_id FROM coupon WHERE event_id = 7'";

/// Sells to so many users, and starts a process whose login is its own.
async fn sold_to(number: u32) -> (World, Daemon) {
    let world = World::new(&[COUPON]).await;
    world.add_members("@users", users(1..number + 1)).await;
    let rows = format!(
        "INSERT /*+ SET_VAR(cte_max_recursion_depth = {number}) */ INTO coupon (event_id, user_id) \
        WITH RECURSIVE n AS (SELECT 1 AS u UNION ALL SELECT u + 1 FROM n WHERE u < {number}) \
        SELECT 7, u FROM n"
    );
    world.sql(&rows).await;
    let name = world.login("GRANT SELECT ON coupon TO").await;
    let text = world.file(FILE).replace("root@", &format!("{name}@"));
    let daemon = Daemon::start(text, &world.ours);
    (world, daemon)
}

/// Looks once. Returns how many rows their server has read for that.
async fn rows_read_by_a_look(world: &World, daemon: &Daemon) -> i64 {
    let name = world.named("reader_@").replace(':', "");
    let read = format!(
        "SELECT COALESCE(SUM(variable_value), 0) FROM performance_schema.status_by_user \
        WHERE user = '{name}' AND variable_name LIKE 'Handler_read%'"
    );
    let before = world.number(&read).await;
    let run = daemon.pass().await;
    let found: Vec<_> = run.all_findings().cloned().collect();
    assert_eq!(told(&found), [""; 0]);
    world.number(&read).await - before
}

/// Each row is read once, by the index that the condition uses.
#[tokio::test]
async fn look_reads_each_row_once() {
    let (world, daemon) = sold_to(30_000).await;
    let read = rows_read_by_a_look(&world, &daemon).await;
    assert!((30_000..=30_100).contains(&read), "{read} rows were read");
}

/// Prints what docs/ATTACH.md says about time and memory.
#[tokio::test]
#[ignore = "a measurement: cargo test --release -p firstcome-attach cost_of -- --ignored --nocapture"]
async fn cost_of_looks() {
    for number in [100_000, 300_000, 1_000_000] {
        let (world, daemon) = sold_to(number).await;
        let before = resident_kib();
        for look in ["first", "second"] {
            let began = Instant::now();
            let read = rows_read_by_a_look(&world, &daemon).await;
            let took = began.elapsed().as_secs_f64();
            let more = (peak_kib() - before) / 1_024;
            println!("{number} users, {look} look: {took:.2} s, {read} rows read, {more} MiB more");
        }
    }
}

const REPAIRS: &str = "
queue = []
mode = 'repair'
check = []
issue = ['INSERT INTO coupon (event_id, user_id) VALUES (7, :user)']";

/// A consumer that has stood since the sale began: every user is owed a row.
#[tokio::test]
#[ignore = "a measurement: cargo test --release -p firstcome-attach cost_of -- --ignored --nocapture"]
async fn cost_of_a_first_plan() {
    for number in [100_000, 1_000_000] {
        let world = World::new(&[COUPON]).await;
        world.add_members("@users", users(0..number)).await;
        let daemon = world.daemon(&format!("{FILE}{REPAIRS}"));
        let before = resident_kib();
        let mut shown = daemon.pass().await;
        for step in ["a look", "the plan"] {
            daemon.engine.clock.forward(Duration::from_secs(61));
            let began = Instant::now();
            shown = daemon.pass().await;
            let took = began.elapsed().as_secs_f64();
            let more = (peak_kib() - before) / 1_024;
            println!("{number} users are owed, {step}: {took:.2} s, {more} MiB more");
        }
        shown.drops[0].findings.truncate(1_000);
        let began = Instant::now();
        let found = daemon.confirm_shown_by(&shown).await;
        let took = began.elapsed().as_secs_f64();
        println!("a look and 1,000 repairs: {took:.2} s");
        assert!(told(&found).contains(&"1000 unissued applied".to_owned()));
    }
}

/// The first repair of a pass reads all rows in its transaction.
#[tokio::test]
#[ignore = "a measurement: cargo test --release -p firstcome-attach cost_of -- --ignored --nocapture"]
async fn cost_of_repairs() {
    for number in [100_000, 999_000] {
        let (world, _reader) = sold_to(number).await;
        let daemon = world.daemon(&format!("{FILE}{REPAIRS}"));
        daemon.pass().await;
        world
            .add_members("@users", users(number + 1..number + 3))
            .await;
        daemon.settle().await;
        let shown = daemon.pass().await;
        let began = Instant::now();
        let found = daemon.confirm_shown_by(&shown).await;
        let took = began.elapsed().as_secs_f64();
        println!("{number} users, a look and two repairs: {took:.2} s");
        assert_eq!(told(&found), ["2 unissued applied"]);
    }
}

fn status(field: &str) -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn resident_kib() -> i64 {
    // Starts the peak anew.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    status("VmRSS:")
}

fn peak_kib() -> i64 {
    status("VmHWM:")
}
