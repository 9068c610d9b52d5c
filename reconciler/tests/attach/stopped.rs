//! The program is killed, or frozen as with its host, while a repair holds rows of their sale.

use std::time::{Duration, Instant};

use firstcome_shops::Product;
use firstcome_stack::eventually;
use futures_util::future::join_all;
use rustix::process::Signal;
use tempfile::NamedTempFile;

use crate::program::{LIMIT, Running, World, alone};

/// How long their sale may wait for a repair whose process is gone.
const LOCKED: Duration = Duration::from_secs(10);

const TABLES: [&str; 7] = [
    "CREATE TABLE coupon (user_id INT PRIMARY KEY)",
    "CREATE TABLE stock (id INT PRIMARY KEY, sold INT NOT NULL)",
    "INSERT INTO stock VALUES (7, 12)",
    "CREATE TABLE ledger (id INT PRIMARY KEY, written INT NOT NULL)",
    "INSERT INTO ledger VALUES (7, 12)",
    "CREATE TABLE failed (id INT PRIMARY KEY, user_id INT NOT NULL)",
    "INSERT INTO failed VALUES (1, 30)",
];

const FILE: &str = r#"
[[campaign]]
name = "Winter"
mode = "repair"
quantity = 150
in_flight = "1s"
promised = { set = "@users" }
issued = "SELECT user_id FROM coupon"
failed = "SELECT id, user_id FROM failed"
queue = []
resolve = "DELETE FROM failed WHERE id = :failed"
issue = ["UPDATE stock SET sold = sold + 1", "INSERT INTO coupon VALUES (:user)", "UPDATE ledger SET written = written + 1"]
check = ["SELECT id FROM stock WHERE sold <> (SELECT COUNT(*) FROM coupon)"]
"#;

/// While one of them is held, the program waits in its first, third or last statement.
const GATES: [&str; 3] = [
    "DELETE FROM failed",
    "INSERT INTO coupon VALUES (30)",
    "UPDATE ledger SET written = 0",
];

/// What their sale writes meanwhile.
const SALE: [&str; 2] = [
    "UPDATE stock SET sold = sold",
    "UPDATE failed SET user_id = user_id",
];

#[tokio::test]
async fn repair_whose_process_is_gone_locks_their_rows_for_ten_seconds_at_most() {
    let mut all = Vec::new();
    for product in [Product::Mysql, Product::Postgres] {
        for signal in [Signal::KILL, Signal::STOP] {
            all.push(async move {
                for gate in GATES {
                    vanish(product, signal, gate).await;
                }
            });
        }
    }
    join_all(all).await;
}

async fn vanish(product: Product, signal: Signal, gate: &str) {
    let world = World::on(product, &TABLES).await;
    for user in 1..=12 {
        world.run(&[&format!("SADD @users {user}")]).await;
        world
            .sql(&format!("INSERT INTO coupon VALUES ({user})"))
            .await;
    }
    world.run(&["SADD @users 30"]).await;
    let plan = NamedTempFile::new().unwrap();
    let shown = start(&world, &["--once", "--json"]);
    std::fs::write(plan.path(), printed(&shown).await).unwrap();
    let confirm = ["--once", "--confirm", plan.path().to_str().unwrap()];

    let mut held = world.transaction().await;
    held.run(gate).await.unwrap();
    let frozen = start(&world, &confirm);
    eventually("its statement waits", LIMIT, async || {
        world.has_waiter().await
    })
    .await;
    frozen.program.signal(signal).unwrap();
    let gone = Instant::now();
    drop(held);
    for statement in SALE {
        world.sql(statement).await;
    }
    let waited = gone.elapsed();
    println!("{product:?} {signal:?} in {gate:?}: {waited:?}");
    assert!(
        waited <= LOCKED,
        "{product:?} {signal:?} {gate}: {waited:?}"
    );
    frozen.program.signal(Signal::CONT).unwrap();
    printed(&frozen).await;
    let whole =
        "SELECT COUNT(*) + (SELECT sold FROM stock) + (SELECT written FROM ledger) FROM coupon";
    // A killed process commits nothing. A frozen one whose statement waits may be overtaken by the
    // sale, since PostgreSQL gives the row to whoever comes first: then no limit has passed when it
    // goes on, and its repair is whole.
    let may_be: &[i64] = match signal {
        Signal::KILL => &[36],
        _ => &[36, 39],
    };
    let is = world.number(whole).await;
    assert!(may_be.contains(&is), "{product:?} {signal:?} {gate}: {is}");

    let text = printed(&start(&world, &confirm)).await;
    assert_eq!(world.number(whole).await, 39, "{text}");
}

fn start(world: &World, args: &[&str]) -> Running {
    Running::start(&mut alone(world, FILE, args))
}

/// Returns what it has printed once it has ended.
async fn printed(running: &Running) -> String {
    running.program.all_stdout(LIMIT).await.unwrap()
}
