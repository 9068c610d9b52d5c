//! What the database says: only read, and only where its address was given.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::answer::Promise;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
/// As many missing people are named.
const NAMED: usize = 20;

/// The rows of the coupon beside what people were told.
#[derive(Debug, Clone, Serialize)]
pub struct Rows {
    /// Rows of the coupon, those from before this rush too.
    pub rows: usize,
    /// People told yes who have no row, or a row of another slot.
    pub yes_without_row: usize,
    pub named: Vec<String>,
    /// How long after the last answer everybody had a row; `None` where somebody never had.
    pub complete_after_ms: Option<u64>,
}

/// A connection to the system's database.
#[derive(Debug)]
pub struct Watch {
    conn: Conn,
    at_first: u64,
    own: u64,
}

impl Watch {
    /// Connects, and counts from now on.
    ///
    /// # Errors
    /// When the address can't be read or MySQL can't be reached: without the address, which holds a password.
    pub async fn open(url: &str) -> Result<Self> {
        let options = Opts::from_url(url).context("DATABASE_URL is no mysql://user:password@host:port/database")?;
        let options = OptsBuilder::from_opts(options).prefer_socket(Some(false));
        let conn = timeout(CONNECT_LIMIT, Conn::new(options)).await.context("MySQL does not answer")?;
        let mut watch = Self { conn: conn.context("MySQL can't be reached")?, at_first: 0, own: 0 };
        watch.at_first = watch.questions().await?;
        watch.own = 0;
        Ok(watch)
    }

    /// Statements that clients sent since, this connection's own left out.
    pub async fn statements(&mut self) -> Result<u64> {
        let now = self.questions().await?;
        Ok(now.saturating_sub(self.at_first + self.own))
    }

    async fn questions(&mut self) -> Result<u64> {
        let row: Option<(String, String)> = self.conn.query_first("SHOW GLOBAL STATUS LIKE 'Questions'").await?;
        self.own += 1;
        Ok(row.context("MySQL does not count questions")?.1.parse()?)
    }

    /// Waits, no longer than `limit`, until everybody who was told yes has a row.
    pub async fn rows(&mut self, coupon: i64, told: &HashMap<String, Promise>, limit: Duration) -> Result<Rows> {
        let begun = Instant::now();
        loop {
            let (count, missing) = self.missing(coupon, told).await?;
            let after = begun.elapsed();
            if missing.is_empty() || after > limit {
                return Ok(Rows {
                    rows: count,
                    yes_without_row: missing.len(),
                    complete_after_ms: missing.is_empty().then(|| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
                    named: missing.into_iter().take(NAMED).collect(),
                });
            }
            sleep(LOOK).await;
        }
    }

    /// How many rows there are, and whose is missing.
    async fn missing(&mut self, coupon: i64, told: &HashMap<String, Promise>) -> Result<(usize, Vec<String>)> {
        let sql = "SELECT user_id, drop_id, slot FROM issued_coupons WHERE coupon_id = ?";
        let rows: Vec<(String, i64, u32)> = self.conn.exec(sql, (coupon,)).await.context("the rows can't be read")?;
        self.own += 1;
        let held: HashMap<(i64, u32), String> =
            rows.into_iter().map(|(user, drop_id, slot)| ((drop_id, slot), user)).collect();
        let has = |user: &String, promise: &Promise| held.get(&(promise.drop_id, promise.slot)) == Some(user);
        let missing = told.iter().filter(|(user, promise)| !has(user, promise)).map(|(user, _)| user.clone());
        Ok((held.len(), missing.collect()))
    }
}
