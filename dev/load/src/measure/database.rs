//! A read-only connection that counts statements and reads the rows of a coupon.

use std::time::Duration;

use anyhow::{Context, Result};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder};
use tokio::time::timeout;

use crate::answer::PromisedSlot;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A row of `issued_coupons`.
#[derive(Debug, Clone)]
pub struct CountedRow {
    pub promise: PromisedSlot,
    pub user_id: String,
    pub by_consumer: bool,
}

#[derive(Debug)]
pub struct Database {
    pub conn: Conn,
    at_first: u64,
    own: u64,
}

impl Database {
    /// Connects, and starts to count statements.
    ///
    /// # Errors
    ///
    /// Fails if the address is invalid or MySQL is unreachable. The message omits the address,
    /// because it contains a password.
    pub async fn open(url: &str) -> Result<Self> {
        let options = Opts::from_url(url)
            .context("DATABASE_URL is no mysql://user:password@host:port/database")?;
        let options = OptsBuilder::from_opts(options).prefer_socket(Some(false));
        let conn = timeout(CONNECT_LIMIT, Conn::new(options))
            .await
            .context("MySQL does not answer")?;
        let mut database = Self {
            conn: conn.context("MySQL can't be reached")?,
            at_first: 0,
            own: 0,
        };
        database.at_first = database.questions().await?;
        database.own = 0;
        Ok(database)
    }

    /// Counts the statements that clients have sent since then, without those of this connection.
    pub async fn statements(&mut self) -> Result<u64> {
        let now = self.questions().await?;
        Ok(now.saturating_sub(self.at_first + self.own))
    }

    /// Excludes statements that the measurement itself sent.
    pub fn leave_out(&mut self, statements: u64) {
        self.own += statements;
    }

    async fn questions(&mut self) -> Result<u64> {
        let row: Option<(String, String)> = self
            .conn
            .query_first("SHOW GLOBAL STATUS LIKE 'Questions'")
            .await?;
        self.own += 1;
        Ok(row.context("MySQL does not count questions")?.1.parse()?)
    }

    pub async fn rows(&mut self, coupon: i64) -> Result<Vec<CountedRow>> {
        let sql = "SELECT drop_id, slot, user_id, issued_by = 'consumer' FROM issued_coupons WHERE coupon_id = ?";
        let rows: Vec<(i64, u32, String, bool)> = self
            .conn
            .exec(sql, (coupon,))
            .await
            .context("the rows can't be read")?;
        self.own += 1;
        let row = |(drop_id, slot, user_id, by_consumer)| CountedRow {
            promise: PromisedSlot { drop_id, slot },
            user_id,
            by_consumer,
        };
        Ok(rows.into_iter().map(row).collect())
    }
}
