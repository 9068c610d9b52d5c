//! Runs MySQL calls in separate tasks, so that cancellation cannot corrupt a connection. If a
//! query's future is dropped before completion, the reply stays on the connection, and the next
//! query reads the wrong rows (seen with diesel-async 0.9.2 and mysql_async 0.36; a system test
//! reproduces it). Callers only await the task, and a connection that timed out is closed.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool::Runtime;
use deadpool::managed::{Object, Pool, PoolError, Timeouts};
use diesel::sql_types::{Bool, Integer, Nullable, Text};
use diesel::{
    ConnectionError, ConnectionResult, OptionalExtension as _, QueryResult, QueryableByName,
    sql_query,
};
use diesel_async::methods::{ExecuteDsl, LoadQuery};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;

use super::codes::CodeKey;
use super::connect::{Conn, Connecting, establish, open};
use super::refusal::{
    DataRefusal, in_logs, is_deadlock, is_denied, is_lock_wait, refusal, why_refused,
};
use crate::columns::now;
use crate::tls::StoreAddress;

/// No retention is longer: earlier times may have no date.
const CENTURY: Duration = Duration::from_secs(100 * 366 * 86_400);

/// An async closure whose future is `Send`, so that [`Db::run`] accepts `async |conn| …`.
/// diesel-async's equivalent trait is private.
pub trait AsyncFunc<T, R>:
    AsyncFnOnce(T) -> R + FnOnce(T) -> <Self as AsyncFunc<T, R>>::Fut
{
    type Fut: Future<Output = R>;
}

impl<F, T, Fut, R> AsyncFunc<T, R> for F
where
    F: AsyncFnOnce(T) -> R + FnOnce(T) -> Fut,
    Fut: Future<Output = R>,
{
    type Fut = Fut;
}

/// Why a database call failed.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// No connection could be obtained: MySQL does not answer, or all connections are in use. A
    /// later attempt may succeed.
    #[error("MySQL cannot be reached: {0}")]
    Unreachable(String),
    /// MySQL refused the login or the connection, or the address is wrong. Retrying does not help.
    #[error("MySQL does not let this process in: {0}")]
    Refused(String),
    /// The call took longer than the limit; its connection was closed. It may have taken effect.
    #[error("MySQL did not answer {what} within {limit:?}")]
    TimedOut { what: &'static str, limit: Duration },
    /// MySQL, or the connection to it, answered with an error.
    #[error("MySQL: {what}: {}", in_logs(source))]
    Query {
        what: &'static str,
        source: diesel::result::Error,
    },
    /// The server is read-only, perhaps a demoted primary with stale rows ([`Db::of_primary`]). A
    /// write may have taken effect.
    #[error(
        "MySQL: {what}: this server is read-only; DATABASE_URL must lead to the one that takes writes"
    )]
    ReadOnly { what: &'static str },
    /// The task of the call panicked: a bug.
    #[error("MySQL: {what}: the task failed")]
    Panicked { what: &'static str },
}

impl DbError {
    fn query_error(&self) -> Option<&diesel::result::Error> {
        match self {
            Self::Query { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Returns why the schema refused the write, if it did. In that case nothing was written, and
    /// retrying does not help.
    pub fn refusal(&self) -> Option<DataRefusal> {
        self.query_error().and_then(refusal)
    }

    /// Returns the reason why the schema refused a row, without the values of the row.
    pub fn why_refused(&self) -> Option<String> {
        self.query_error().and_then(why_refused)
    }

    /// Whether another transaction held a lock on a row for too long.
    pub fn is_lock_wait(&self) -> bool {
        self.query_error().is_some_and(is_lock_wait)
    }

    /// Whether MySQL ended the transaction because of a deadlock. It can be repeated at once.
    pub fn is_deadlock(&self) -> bool {
        self.query_error().is_some_and(is_deadlock)
    }

    /// Whether this login lacks the right for the statement.
    pub fn is_denied(&self) -> bool {
        self.query_error().is_some_and(is_denied)
    }

    /// Whether the error concerns only the data of this call: other rows can still be read and
    /// written.
    pub fn is_about_data(&self) -> bool {
        use diesel::result::Error::{DeserializationError, SerializationError};
        self.refusal().is_some()
            || self.is_lock_wait()
            || self.is_deadlock()
            || self
                .query_error()
                .is_some_and(|e| matches!(e, DeserializationError(_) | SerializationError(_)))
    }
}

/// The result of a call.
pub type DbResult<T> = Result<T, DbError>;

/// Settings of [`Db`].
#[derive(Debug, Clone)]
pub struct DbSettings {
    /// `mysql://user:password@host:port/database`, and how connections are encrypted.
    pub url: StoreAddress,
    pub pool_size: usize,
    /// Maximum wait for a free connection, for a new one, and for the end of the call.
    pub limit: Duration,
}

/// A pool of MySQL connections. Each call runs in a separate task and has a time limit. Locks use
/// [`Db::dedicated`] connections instead.
#[derive(Clone)]
pub struct Db {
    pool: Pool<Connecting>,
    /// Limit of a call.
    limit: Duration,
    connects_within: Duration,
    of_primary: bool,
    pub(super) code_key: Arc<OnceCell<CodeKey>>,
}

impl Db {
    /// Creates a pool that connects on first use.
    pub fn new(settings: &DbSettings) -> anyhow::Result<Self> {
        let pool = Pool::builder(Connecting::new(settings.url.clone()))
            .max_size(settings.pool_size)
            .runtime(Runtime::Tokio1)
            .build()?;
        Ok(Self {
            pool,
            limit: settings.limit,
            connects_within: settings.limit,
            of_primary: false,
            code_key: Arc::default(),
        })
    }

    /// Returns the name of the database.
    pub fn database(&self) -> String {
        self.pool.manager().address.database()
    }

    /// Returns a pool whose results all come from a primary: if the server is read-only at the end
    /// of a call, the call fails with [`DbError::ReadOnly`]. Passes use it, because they must not
    /// treat stale rows as current.
    #[must_use]
    pub fn of_primary(&self) -> Self {
        Self {
            of_primary: true,
            ..self.clone()
        }
    }

    /// Returns the same pool with another time limit, for long calls.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        Self {
            limit,
            ..self.clone()
        }
    }

    /// Runs `op` on a pooled connection in a separate task, which continues if the caller is
    /// dropped. `what` names the call in errors.
    ///
    /// # Errors
    /// [`DbError`]; after an error that may have left a reply on the connection, the connection is
    /// closed.
    pub async fn run<T, F>(&self, what: &'static str, op: F) -> DbResult<T>
    where
        for<'r> F: AsyncFnOnce(&'r mut Conn) -> QueryResult<T>
            + AsyncFunc<&'r mut Conn, QueryResult<T>, Fut: Send>
            + Send
            + 'static,
        T: Send + 'static,
    {
        self.call(what, erased(op)).await
    }

    /// Like [`Db::run`], in a transaction.
    pub async fn transaction<T, F>(&self, what: &'static str, op: F) -> DbResult<T>
    where
        for<'r> F: AsyncFnOnce(&'r mut Conn) -> QueryResult<T>
            + AsyncFunc<&'r mut Conn, QueryResult<T>, Fut: Send>
            + Send
            + 'static,
        T: Send + 'static,
    {
        let op = erased(op);
        let whole: Op = Box::new(|conn| {
            async move { conn.transaction(async |conn| op(conn).await).await }.boxed()
        });
        self.call(what, whole).await
    }

    async fn call<T: 'static>(&self, what: &'static str, op: Op) -> DbResult<T> {
        let task = tokio::spawn(attempt(self.clone(), what, op));
        let answer = task
            .await
            .unwrap_or(Err(DbError::Panicked { what }))?
            .downcast()
            .map(|answer| *answer);
        answer.map_err(|_| DbError::Panicked { what })
    }

    /// Reads all rows of a query.
    pub async fn rows<T, Q>(&self, what: &'static str, query: Q) -> DbResult<Vec<T>>
    where
        T: Send + 'static,
        Q: LoadQuery<'static, Conn, T> + Send + 'static,
    {
        self.run(what, async move |conn| query.load(conn).await)
            .await
    }

    /// Reads the first row of a query, if there is one.
    pub async fn row<T, Q>(&self, what: &'static str, query: Q) -> DbResult<Option<T>>
    where
        T: Send + 'static,
        Q: LoadQuery<'static, Conn, T> + Send + 'static,
    {
        self.run(what, async move |conn| {
            query.get_result(conn).await.optional()
        })
        .await
    }

    /// Returns the time `kept` ago (at most a century), by the clock that is behind: MySQL's or this
    /// host's. What is deleted or erased does not come back, so one wrong clock must not decide it.
    pub async fn time_before(&self, kept: Duration) -> DbResult<DateTime<Utc>> {
        let now: Option<DateTime<Utc>> = self.row("MySQL's time", diesel::select(now())).await?;
        Ok(before(kept, [now.unwrap_or_default(), Utc::now()]))
    }

    /// Runs a statement, and returns how many rows it matched.
    pub async fn write<Q>(&self, what: &'static str, statement: Q) -> DbResult<usize>
    where
        Q: ExecuteDsl<Conn> + Send + 'static,
    {
        self.run(what, async move |conn| statement.execute(conn).await)
            .await
    }

    /// Returns the names of all tables of the database.
    pub async fn tables(&self) -> DbResult<Vec<String>> {
        let tables = sql_query(
            "SELECT TABLE_NAME AS name FROM information_schema.TABLES \
             WHERE TABLE_SCHEMA = DATABASE()",
        );
        let tables: Vec<TableName> = self.rows("list tables", tables).await?;
        Ok(tables.into_iter().map(|table| table.name).collect())
    }

    /// Checks that MySQL answers.
    pub async fn ping(&self) -> DbResult<()> {
        self.write("ping", sql_query("DO 0")).await.map(|_| ())
    }
}

/// A table.
#[derive(QueryableByName)]
struct TableName {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Maximum duration of a pooled connection's check before use. If the host died without closing its
/// connections, a caller waits only this long for each, and not for the whole time limit.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

type AnyValue = Box<dyn Any + Send>;

/// A type-erased call, so that all calls share one task type: the code of tokio and deadpool around
/// it is compiled once, not once per query.
type Op = Box<dyn for<'c> FnOnce(&'c mut Conn) -> BoxFuture<'c, QueryResult<AnyValue>> + Send>;

fn erased<T, F>(op: F) -> Op
where
    for<'r> F: AsyncFnOnce(&'r mut Conn) -> QueryResult<T>
        + AsyncFunc<&'r mut Conn, QueryResult<T>, Fut: Send>
        + Send
        + 'static,
    T: Send + 'static,
{
    Box::new(move |conn| async move { Ok(Box::new(op(conn).await?) as AnyValue) }.boxed())
}

async fn attempt(db: Db, what: &'static str, op: Op) -> DbResult<AnyValue> {
    let limit = db.limit;
    // The wait for a free connection does not shorten the attempt to create one: if MySQL does not
    // answer, each caller would otherwise begin an attempt shortly before its own limit.
    let timeouts = Timeouts {
        wait: Some(limit),
        create: Some(db.connects_within),
        recycle: Some(ANSWERS_WITHIN.min(db.connects_within)),
    };
    let mut pooled = match db.pool.timeout_get(&timeouts).await {
        Ok(pooled) => pooled,
        Err(PoolError::Backend(error)) => return Err(no_connection(&error)),
        Err(PoolError::Timeout(_)) => return Err(no_connection_within(limit)),
        Err(error) => return Err(DbError::Unreachable(error.to_string())),
    };
    let answer = async {
        let value = op(&mut pooled.conn).await?;
        // Check afterwards: if the server accepts writes now, its rows were current when it
        // returned them.
        let is_believed = !db.of_primary || pooled.takes_writes().await?;
        Ok((value, is_believed))
    };
    let error = match tokio::time::timeout(limit, answer).await {
        Ok(Ok((value, true))) => return Ok(value),
        Ok(Ok((_, false))) => DbError::ReadOnly { what },
        Ok(Err(source)) if leaves_connection_usable(&source) => {
            return Err(DbError::Query { what, source });
        }
        Ok(Err(source)) => DbError::Query { what, source },
        Err(_) => DbError::TimedOut { what, limit },
    };
    drop(Object::take(pooled));
    Err(error)
}

fn no_connection(error: &ConnectionError) -> DbError {
    match error {
        ConnectionError::InvalidConnectionUrl(reason) => DbError::Refused(reason.clone()),
        other => DbError::Unreachable(other.to_string()),
    }
}

/// Errors after which the connection is certainly ready for the next command. Any other error may
/// hide an I/O error.
fn leaves_connection_usable(error: &diesel::result::Error) -> bool {
    use diesel::result::Error::{NotFound, RollbackTransaction};
    matches!(error, NotFound | RollbackTransaction)
        || refusal(error).is_some()
        || is_lock_wait(error)
        || is_deadlock(error)
}

/// Takes a lock that lasts as long as its connection. Returns whether it was obtained within
/// `seconds`. Locks are per server, so the lock's name includes the database's.
pub(super) async fn get_lock(conn: &mut Conn, name: &str, seconds: i32) -> QueryResult<bool> {
    let get = sql_query("SELECT GET_LOCK(LEFT(CONCAT(?, DATABASE()), 64), ?) AS is_held")
        .bind::<Text, _>(name)
        .bind::<Integer, _>(seconds);
    let lock: LockState = get.get_result(conn).await?;
    Ok(lock.is_held == Some(true))
}

/// Whether this connection holds a lock; `None` after an error, or if nobody holds it.
#[derive(QueryableByName)]
pub(super) struct LockState {
    #[diesel(sql_type = Nullable<Bool>)]
    pub(super) is_held: Option<bool>,
}

impl Db {
    /// Opens a dedicated connection outside the pool, for locks that last as long as their
    /// connection (`GET_LOCK`).
    pub async fn dedicated(settings: &DbSettings) -> DbResult<Conn> {
        within(settings, establish(&settings.url)).await
    }

    /// Opens a connection without Firstcome's session settings, which other products than MySQL may
    /// refuse. It counts only the rows that a statement changes.
    pub async fn plain(settings: &DbSettings) -> DbResult<mysql_async::Conn> {
        within(settings, open(&settings.url, Vec::new(), false)).await
    }
}

/// Limits the time to connect.
async fn within<T>(
    settings: &DbSettings,
    connecting: impl Future<Output = ConnectionResult<T>>,
) -> DbResult<T> {
    match tokio::time::timeout(settings.limit, connecting).await {
        Ok(done) => done.map_err(|error| no_connection(&error)),
        Err(_) => Err(no_connection_within(settings.limit)),
    }
}

fn no_connection_within(limit: Duration) -> DbError {
    DbError::Unreachable(format!("no connection within {limit:?}"))
}

fn before(kept: Duration, clocks: [DateTime<Utc>; 2]) -> DateTime<Utc> {
    let [one, other] = clocks;
    one.min(other) - kept.min(CENTURY)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn time_before_now_is_by_the_clock_that_is_behind() {
        let day = Duration::from_secs(86_400);
        let now = Utc::now();
        assert_eq!(before(day, [now, now]), now - day);
        assert_eq!(before(day, [now + 400 * day, now]), now - day);
        assert_eq!(before(day, [now, now + 400 * day]), now - day);
        assert_eq!(before(Duration::MAX, [now, now]), now - CENTURY);
    }

    #[tokio::test]
    async fn unresponsive_mysql_gets_few_connection_attempts() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("mysql://root@{}/x", silent.local_addr().unwrap());
        let connections = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok(Ok(one)) =
                tokio::time::timeout(Duration::from_secs(1), silent.accept()).await
            {
                open.push(one);
            }
            open.len()
        });
        let limit = Duration::from_millis(200);
        let db = Db::new(&DbSettings {
            url: url.into(),
            pool_size: 2,
            limit,
        })
        .unwrap();
        let begun = Instant::now();
        let crowd = (0..100_u64).map(async |number| {
            tokio::time::sleep(Duration::from_millis(number * 2)).await;
            while begun.elapsed() < Duration::from_secs(1) {
                assert!(matches!(db.ping().await, Err(DbError::Unreachable(_))));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        futures_util::future::join_all(crowd).await;
        let connections = connections.await.unwrap();
        assert!(connections <= 14, "{connections}");
    }
}
