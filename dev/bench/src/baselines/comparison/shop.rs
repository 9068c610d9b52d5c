//! A shop that shares MySQL with the coupons: it places orders at a fixed rate and measures their
//! latency.

use std::time::Duration;

use anyhow::{Context, Result};
use firstcome_stack::{MysqlServer, mysql_connection};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rand::RngExt as _;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

const CONNECTIONS: u32 = 8;
/// Interval between two orders of a connection: 200 orders per second in total.
const EVERY: Duration = Duration::from_millis(40);
const PRODUCTS: u32 = 10_000;
const CUSTOMERS: u32 = 10_000;

/// Latency of orders, measured from the time at which each was due.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ShopLatency {
    pub orders: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// A shop that runs until it is closed.
pub struct Shop {
    close: CancellationToken,
    work: JoinSet<Result<Vec<f64>>>,
}

impl Shop {
    pub async fn open(mysql: &MysqlServer) -> Result<Self> {
        prepare(mysql).await?;
        let close = CancellationToken::new();
        let mut work = JoinSet::new();
        for number in 0..CONNECTIONS {
            let conn = mysql_connection(&mysql.database_url("bench")).await?;
            // The orders are spread over the interval.
            let first = Instant::now() + EVERY * number / CONNECTIONS;
            work.spawn(sell(conn, first, close.clone()));
        }
        Ok(Self { close, work })
    }

    pub async fn close(self) -> Result<ShopLatency> {
        self.close.cancel();
        let took: Vec<Vec<f64>> = self
            .work
            .join_all()
            .await
            .into_iter()
            .collect::<Result<_>>()?;
        let mut took = took.concat();
        took.sort_by(f64::total_cmp);
        let at = |share: usize| {
            took.get((took.len() * share).div_ceil(100).saturating_sub(1))
                .copied()
        };
        let p50 = at(50).context("no order")?;
        let p99 = at(99).context("no order")?;
        Ok(ShopLatency {
            orders: took.len(),
            p50_ms: p50,
            p99_ms: p99,
        })
    }
}

async fn sell(mut conn: Conn, mut due: Instant, close: CancellationToken) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    while !close.is_cancelled() {
        sleep_until(due).await;
        let product = rand::rng().random_range(0..PRODUCTS);
        let customer = rand::rng().random_range(0..CUSTOMERS);
        order(&mut conn, product, customer).await?;
        took.push(due.elapsed().as_secs_f64() * 1e3);
        due += EVERY;
    }
    conn.disconnect().await?;
    Ok(took)
}

/// Reads a product, buys it, and then reads the customer's last orders.
async fn order(conn: &mut Conn, product: u32, customer: u32) -> Result<()> {
    conn.query_drop("START TRANSACTION").await?;
    let sql = "SELECT price FROM shop_products WHERE id = ? FOR UPDATE";
    let price: u32 = conn
        .exec_first(sql, (product,))
        .await?
        .context("no product")?;
    let sql = "INSERT INTO shop_orders (customer_id, product_id, price, ordered_at) VALUES (?, ?, ?, UTC_TIMESTAMP(3))";
    conn.exec_drop(sql, (customer, product, price)).await?;
    conn.exec_drop(
        "UPDATE shop_products SET sold = sold + 1 WHERE id = ?",
        (product,),
    )
    .await?;
    conn.query_drop("COMMIT").await?;
    let sql = "SELECT id, price FROM shop_orders WHERE customer_id = ? ORDER BY id DESC LIMIT 10";
    let _: Vec<(u64, u32)> = conn.exec(sql, (customer,)).await?;
    Ok(())
}

async fn prepare(mysql: &MysqlServer) -> Result<()> {
    let products: Vec<String> = (0..PRODUCTS)
        .map(|id| format!("({id},{},0)", 100 + id % 900))
        .collect();
    for sql in [
        "CREATE DATABASE IF NOT EXISTS bench".to_owned(),
        "DROP TABLE IF EXISTS bench.shop_products, bench.shop_orders".to_owned(),
        "CREATE TABLE bench.shop_products (id INT UNSIGNED NOT NULL PRIMARY KEY, price INT UNSIGNED NOT NULL,
         sold INT UNSIGNED NOT NULL)"
            .to_owned(),
        "CREATE TABLE bench.shop_orders (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, customer_id INT UNSIGNED NOT NULL,
         product_id INT UNSIGNED NOT NULL, price INT UNSIGNED NOT NULL, ordered_at DATETIME(3) NOT NULL,
         KEY of_customer (customer_id, id))"
            .to_owned(),
        format!("INSERT INTO bench.shop_products VALUES {}", products.join(",")),
    ] {
        mysql.query(&sql).await?;
    }
    Ok(())
}
