//! Shops that use the codes of a coupon: one or several orders try to use each code at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use hdrhistogram::Histogram;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio::task::JoinSet;

use crate::ops::Ops;

/// The answers that shops got.
#[derive(Debug)]
pub struct ShopTally {
    pub codes: usize,
    /// Codes that exactly one order uses.
    pub used_once: usize,
    pub requests: usize,
    pub seconds: f64,
    /// Microseconds from a request to its answer.
    pub latencies: Histogram<u64>,
}

impl ShopTally {
    /// Returns the row of a table.
    pub fn row(&self) -> (String, String) {
        let used = format!("{} of {}", self.used_once, self.codes);
        ("codes used by one of two orders".to_owned(), used)
    }
}

/// Reads from MySQL the codes of users whose IDs begin with this prefix.
pub async fn codes(conn: &mut Conn, coupon: i64, prefix: &str) -> Result<Vec<String>> {
    let sql = "SELECT code FROM issued_coupons WHERE coupon_id = ? AND INSTR(user_id, ?) = 1 \
               ORDER BY drop_id, slot";
    Ok(conn.exec(sql, (coupon, prefix)).await?)
}

/// The work that shops share.
struct Work {
    apis: Vec<Ops>,
    codes: Vec<String>,
    orders: usize,
    next: AtomicUsize,
}

/// Lets `orders` orders try to use each code at once, over this many connections to these APIs. The
/// clients in `apis` must have the REDEEM_TOKEN.
pub async fn use_codes(
    apis: Vec<Ops>,
    codes: Vec<String>,
    orders: usize,
    connections: usize,
) -> Result<ShopTally> {
    let all = codes.len();
    let work = Arc::new(Work {
        apis,
        codes,
        orders,
        next: AtomicUsize::new(0),
    });
    let begun = Instant::now();
    let mut shops = JoinSet::new();
    for _ in 0..(connections / orders).max(1) {
        shops.spawn(shop(Arc::clone(&work)));
    }
    let mut tally = ShopTally {
        codes: all,
        used_once: 0,
        requests: all * orders,
        seconds: 0.0,
        latencies: latencies()?,
    };
    while let Some(shop) = shops.join_next().await {
        let (used_once, latencies) = shop??;
        tally.used_once += used_once;
        tally.latencies.add(latencies)?;
    }
    tally.seconds = begun.elapsed().as_secs_f64();
    Ok(tally)
}

fn latencies() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

/// Takes one code after the other. Returns how many of them exactly one order uses, and the
/// latencies.
async fn shop(work: Arc<Work>) -> Result<(usize, Histogram<u64>)> {
    let mut used_once = 0;
    let mut all = latencies()?;
    loop {
        let at = work.next.fetch_add(1, Ordering::Relaxed);
        let Some(code) = work.codes.get(at) else {
            return Ok((used_once, all));
        };
        let mut orders = JoinSet::new();
        for order in 0..work.orders {
            let api = work.apis[(at + order) % work.apis.len()].clone();
            let (code, reference) = (code.clone(), format!("order-{at}-{order}"));
            orders.spawn(async move {
                let begun = Instant::now();
                let is_used = api.use_code(&code, &reference).await;
                is_used.map(|is_used| (is_used, begun.elapsed()))
            });
        }
        let mut uses = 0;
        while let Some(order) = orders.join_next().await {
            let (is_used, took) = order??;
            uses += usize::from(is_used);
            all.record(u64::try_from(took.as_micros())?)?;
        }
        used_once += usize::from(uses == 1);
    }
}
