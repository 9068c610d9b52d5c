//! Their MySQL: one connection, a time limit for each statement, and a limit of rows per second.
//! Only [`quoted`] quotes identifiers; values of columns are always parameters.

use std::time::Duration;

use firstcome_shared::mysql::{Db, DbSettings};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error, Params, Row, Value};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{Answer, AttachError};

/// `STRICT_ALL_TABLES`: a user's name that is too long is refused, never cut.
/// `autocommit`: some servers begin sessions without it, and then a single statement would be lost.
/// READ COMMITTED: after a lock is taken, a count sees what others committed before.
const SESSION: &str = "SET SESSION sql_mode = 'STRICT_ALL_TABLES', SESSION \
    innodb_lock_wait_timeout = 2, SESSION autocommit = 1";
const ISOLATION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";

/// Time limit of a statement, as a multiple of the limit for our own MySQL: their tables may be
/// large, or lack an index.
const PATIENCE: u32 = 5;

/// A connection to their MySQL. After an error that may have left an answer unread, it is closed
/// and stays closed: a statement of a transaction must never run on another connection.
pub struct Sql {
    conn: Option<Conn>,
    limit: Duration,
    rows_per_second: u32,
    /// The time at which the rows so far fit into the limit.
    paid_at: Instant,
}

impl Sql {
    pub async fn connect(settings: &DbSettings, rows_per_second: u32) -> Answer<Self> {
        let conn = Db::plain(settings).await.map_err(|error| {
            let why = error.to_string();
            AttachError::Mysql(why.replace("DATABASE_URL", "`database` of the file"))
        })?;
        let mut sql = Self {
            conn: Some(conn),
            limit: settings.limit * PATIENCE,
            rows_per_second,
            paid_at: Instant::now(),
        };
        // Without this limit, a SELECT that nobody waits for any longer would go on. It is shorter
        // than our own wait, so that the server says that the statement was slow. MariaDB skips
        // this comment.
        let limit = sql.limit.mul_f64(0.9).as_millis();
        let limit = format!("/*!50708 , SESSION max_execution_time = {limit} */");
        sql.command(&format!("{SESSION} {limit}")).await?;
        sql.command(ISOLATION).await?;
        Ok(sql)
    }

    /// Runs a statement, prepared unless `values` is `None`, and returns its rows and how many it
    /// changed. Only a prepared statement returns numbers as numbers.
    async fn run(&mut self, sql: &str, values: Option<Vec<Value>>) -> Answer<(Vec<Row>, u64)> {
        let mut conn = self
            .conn
            .take()
            .ok_or_else(|| AttachError::Lost("the connection broke".to_owned()))?;
        let asked = async {
            let Some(values) = values else {
                let rows = conn.query::<Row, _>(sql).await?;
                return Ok::<_, Error>((rows, conn.affected_rows()));
            };
            let params = if values.is_empty() {
                Params::Empty
            } else {
                Params::Positional(values)
            };
            // Closed at once: the connection has no cache, so each would stay open, and their
            // server has a limit for all its clients together (`max_prepared_stmt_count`).
            let statement = conn.prep(sql).await?;
            let rows = conn.exec::<Row, _, _>(&statement, params).await;
            let changed = conn.affected_rows();
            conn.close(statement).await?;
            Ok((rows?, changed))
        };
        match timeout(self.limit, asked).await {
            Ok(Ok((rows, changed))) => {
                self.conn = Some(conn);
                self.spend(rows.len() as u64 + changed).await;
                Ok((rows, changed))
            }
            Ok(Err(Error::Server(error))) => {
                self.conn = Some(conn);
                Err(AttachError::Refused {
                    code: error.code,
                    why: error.message,
                })
            }
            Ok(Err(error)) => Err(AttachError::Lost(error.to_string())),
            Err(_) => Err(AttachError::Lost(format!(
                "no answer to a statement within {:?}: a lock on its table, or a slow count",
                self.limit
            ))),
        }
    }

    pub async fn rows(&mut self, sql: &str, values: Vec<Value>) -> Answer<Vec<Row>> {
        Ok(self.run(sql, Some(values)).await?.0)
    }

    /// Returns how many rows were changed.
    pub async fn change(&mut self, sql: &str, values: Vec<Value>) -> Answer<u64> {
        Ok(self.run(sql, Some(values)).await?.1)
    }

    pub async fn command(&mut self, sql: &str) -> Answer<()> {
        self.run(sql, None).await.map(drop)
    }

    /// Returns the one number that a statement selects; `None` without a row or if it is NULL.
    pub async fn number(&mut self, sql: &str, values: Vec<Value>) -> Answer<Option<i64>> {
        let rows = self.rows(sql, values).await?;
        let Some(row) = rows.into_iter().next() else {
            return Ok(None);
        };
        Ok(row
            .get_opt::<Option<i64>, _>(0)
            .and_then(Result::ok)
            .flatten())
    }

    /// Sets the time zone of the session: the campaign's, or else the server's.
    pub async fn set_zone(&mut self, offset: Option<&str>) -> Answer<()> {
        let zone = offset.map_or("@@GLOBAL.time_zone".to_owned(), |it| format!("'{it}'"));
        self.command(&format!("SET SESSION time_zone = {zone}"))
            .await
    }

    /// Returns the one number of the one row that a statement of the file selects.
    pub async fn only_number(&mut self, sql: &str) -> Answer<u64> {
        let rows = self.rows(sql, Vec::new()).await?;
        let misfit = |why: String| AttachError::Misfit(format!("quantity_sql {why}"));
        let [row] = rows.as_slice() else {
            let why = format!(
                "selects {} rows: write a WHERE that selects one",
                rows.len()
            );
            return Err(misfit(why));
        };
        // SUM() is a DECIMAL, which comes as text.
        let number = row
            .get_opt::<i64, _>(0)
            .and_then(Result::ok)
            .or_else(|| text(row, 0).parse().ok())
            .and_then(|number| u32::try_from(number).ok());
        number
            .map(u64::from)
            .ok_or_else(|| misfit("selects no number from 0 on".to_owned()))
    }

    /// Refuses a read-only server, which is probably a replica: its data may be old, and a row that
    /// is inserted there could break replication.
    pub async fn must_be_primary(&mut self) -> Answer<()> {
        let is_read_only = "SELECT CAST(@@GLOBAL.read_only OR @@GLOBAL.innodb_read_only AS SIGNED)";
        if self.number(is_read_only, Vec::new()).await? == Some(0) {
            return Ok(());
        }
        let why = "database: this MySQL is read-only, as a replica is; repairs need its primary";
        Err(AttachError::Misfit(why.to_owned()))
    }

    /// Counts these rows against the limit. If they are many, waits until they fit into it.
    async fn spend(&mut self, rows: u64) {
        let price = Duration::from_secs(rows) / self.rows_per_second;
        self.paid_at = self.paid_at.max(Instant::now()) + price;
        // Small statements do not wait, so that a transaction does not hold its locks for longer.
        if rows > 100 {
            sleep_until(self.paid_at).await;
        }
    }
}

/// Returns a column as text, and NULL as an empty text.
pub fn text(row: &Row, at: usize) -> String {
    let text = row
        .get_opt::<Option<Vec<u8>>, _>(at)
        .and_then(Result::ok)
        .flatten();
    String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
}

pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}
