//! What a look costs.

use std::time::Instant;

use crate::shop::{Shop, pass, results};

const COUPON: &str = "CREATE TABLE coupon (id BIGINT PRIMARY KEY AUTO_INCREMENT, event_id BIGINT \
    NOT NULL, user_id BIGINT NOT NULL, UNIQUE KEY (event_id, user_id))";

async fn shop_with_rows(users: u64) -> Shop {
    let shop = Shop::new(&[COUPON]).await;
    shop.add("@users", 1..=users).await;
    let digits = "(SELECT 0 n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL \
        SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION \
        ALL SELECT 9)";
    let insert = format!(
        "INSERT INTO coupon (event_id, user_id) SELECT 7, 1 + a.n + 10 * b.n + 100 * c.n + 1000 * \
        d.n + 10000 * e.n + 100000 * f.n AS u FROM {digits} a, {digits} b, {digits} c, {digits} d, \
        {digits} e, {digits} f HAVING u <= {users}"
    );
    shop.sql(&insert).await;
    shop
}

async fn rows_read(shop: &Shop) -> i64 {
    let read = shop.sql("SHOW GLOBAL STATUS LIKE 'Handler_read%'").await;
    read.iter().map(|row| row[1].parse::<i64>().unwrap()).sum()
}

fn file() -> &'static str {
    "[[campaign]]\nname = \"Winter\"\nquantity = 1000000\npromised = { set = \"@users\" }\n\
     issued = \"SELECT user_id FROM coupon WHERE event_id = 7\""
}

/// Each row is read once, by the index that the condition uses.
#[tokio::test]
async fn look_reads_each_row_once() {
    const USERS: u64 = 30_000;
    let shop = shop_with_rows(USERS).await;
    let engine = shop.engine(file());
    let before = rows_read(&shop).await;
    let run = pass(&engine, None).await;
    let read = rows_read(&shop).await - before;
    assert!(results(&run).is_empty(), "{run:#?}");
    assert_eq!(run.drops[0].before.rows, USERS);
    // Other tests and SHOW STATUS itself read some rows, too.
    let most = i64::try_from(USERS).unwrap() * 3 / 2;
    assert!(read <= most, "{read} rows were read");
}

/// Prints what docs/ATTACH.md says about time and memory.
#[tokio::test]
#[ignore = "a measurement: cargo test --release -p firstcome-attach --test engine -- --ignored --nocapture"]
async fn cost_of_looks() {
    for users in [100_000_u64, 300_000, 1_000_000] {
        let shop = shop_with_rows(users).await;
        let engine = shop.engine(file());
        for look in ["first", "second"] {
            let [memory, read] = [resident_kib(), rows_read(&shop).await];
            let began = Instant::now();
            let run = pass(&engine, None).await;
            println!(
                "{users} users, {look} look: {:.2} s, {} rows read, {} KiB more at its peak",
                began.elapsed().as_secs_f64(),
                rows_read(&shop).await - read,
                peak_kib() - memory
            );
            assert!(results(&run).is_empty());
        }
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
