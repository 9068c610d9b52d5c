//! Counts the statements that MySQL gets, and reads rows, without counting its own statements.

use anyhow::{Context as _, Result};
use firstcome_stack::{MysqlServer, mysql_connection};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

pub(super) struct StatementMeter {
    conn: Conn,
    at_first: u64,
    own: u64,
}

impl StatementMeter {
    pub(super) async fn start(mysql: &MysqlServer) -> Result<Self> {
        let mut meter = Self {
            conn: mysql_connection(&mysql.url()).await?,
            at_first: 0,
            own: 0,
        };
        meter.at_first = meter.questions().await?;
        meter.own = 0;
        Ok(meter)
    }

    /// Counts the statements that clients have sent since the start.
    pub(super) async fn statements(&mut self) -> Result<u64> {
        let now = self.questions().await?;
        Ok(now.saturating_sub(self.at_first + self.own))
    }

    /// Returns the user of each row.
    pub(super) async fn users(&mut self, rows_of: &str) -> Result<Vec<String>> {
        self.own += 1;
        let sql = format!("SELECT user_id FROM {rows_of}");
        Ok(self.conn.query(sql).await?)
    }

    async fn questions(&mut self) -> Result<u64> {
        let sql = "SHOW GLOBAL STATUS LIKE 'Questions'";
        let row: Option<(String, String)> = self.conn.query_first(sql).await?;
        self.own += 1;
        Ok(row.context("MySQL does not count questions")?.1.parse()?)
    }
}
