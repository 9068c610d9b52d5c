//! Plain SQL, as an operator would type it, independent of the product's code.

use std::time::Duration;

use anyhow::Context as _;
use firstcome_stack::{MysqlSessions, mysql_connection};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

/// Timeout for a MySQL that may be broken.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Sql(MysqlSessions);

/// MySQL's error when it refuses a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlRefusal {
    pub code: u16,
    pub message: String,
}

/// Fails the test if a statement fails for a reason other than a refusal.
fn refusal(sql: &str) -> impl FnOnce(mysql_async::Error) -> SqlRefusal {
    move |error| match error {
        mysql_async::Error::Server(error) => SqlRefusal {
            code: error.code,
            message: error.message,
        },
        error => panic!("MySQL: {sql}: {error}"),
    }
}

impl Sql {
    pub fn new(url: &str) -> Self {
        Self(MysqlSessions::new(url))
    }

    pub fn url(&self) -> &str {
        self.0.url()
    }

    /// Runs one statement in a new session. Returns the rows as text, with `NULL` for null.
    pub async fn try_query(&self, sql: &str) -> Result<Vec<Vec<String>>, SqlRefusal> {
        self.0.rows(sql).await.map_err(refusal(sql))
    }

    /// Like [`Self::query`], but returns an error if MySQL refuses, fails or does not answer in
    /// time.
    pub async fn rows(&self, sql: &str) -> anyhow::Result<Vec<Vec<String>>> {
        Ok(tokio::time::timeout(PATIENCE, self.0.rows(sql))
            .await
            .context("MySQL does not answer")??)
    }

    /// Like [`Sql::try_query`], for statements that must succeed.
    pub async fn query(&self, sql: &str) -> Vec<Vec<String>> {
        self.try_query(sql)
            .await
            .unwrap_or_else(|refused| panic!("MySQL refused {sql}: {refused:?}"))
    }

    /// Returns the error of a statement that MySQL must refuse.
    pub async fn refusal(&self, sql: &str) -> SqlRefusal {
        self.try_query(sql).await.expect_err(sql)
    }

    /// Returns the single number that a query selects.
    pub async fn number(&self, sql: &str) -> i64 {
        let rows = self.query(sql).await;
        rows[0][0]
            .parse()
            .unwrap_or_else(|_| panic!("{sql} gave {rows:?}"))
    }
}

/// A transaction that a test keeps open.
#[derive(Debug)]
pub struct HeldTransaction(Conn);

impl HeldTransaction {
    pub async fn begin(sql: &Sql) -> Self {
        let mut conn = mysql_connection(sql.url()).await.unwrap();
        conn.query_drop("BEGIN").await.unwrap();
        Self(conn)
    }

    /// Runs a statement in this transaction.
    pub async fn run(&mut self, sql: &str) {
        self.0.query_drop(sql).await.unwrap();
    }

    /// Runs a statement in this transaction that MySQL may refuse.
    pub async fn try_run(&mut self, sql: &str) -> Result<(), SqlRefusal> {
        self.0.query_drop(sql).await.map_err(refusal(sql))
    }

    pub async fn commit(mut self) {
        self.run("COMMIT").await;
        self.0.disconnect().await.unwrap();
    }
}
