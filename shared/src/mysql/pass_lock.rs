//! One pass, and one reopening of the admission gate, at a time in the whole system: MySQL's
//! `GET_LOCK` on a connection of its own that never goes back to a pool (the lock would outlive the
//! pass there) and whose death ends the pass (the lock is gone with it).

use std::fmt;
use std::time::Duration;

use super::connect::IS_PRIMARY;
use super::db::get_lock;
use super::{Conn, Db, DbError, DbSettings};
use chrono::NaiveDateTime;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Datetime, Nullable, Text};
use diesel_async::RunQueryDsl;
use tokio_util::sync::CancellationToken;

/// How often the lock's connection is tried out.
const BEAT: Duration = Duration::from_secs(1);

/// What is done by one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    Pass,
    /// Reopening of the admission gate, beside passes.
    Reopening,
}

impl Work {
    /// The lock's name, in front of the database's.
    fn prefix(self) -> &'static str {
        match self {
            Self::Pass => "firstcome-pass:",
            Self::Reopening => "firstcome-reopening:",
        }
    }
}

/// The right to run a pass. Dropping it gives it back.
pub struct PassLock {
    lost: CancellationToken,
    release: CancellationToken,
    keeper: tokio::task::JoinHandle<()>,
}

impl PassLock {
    /// Takes the lock, waiting at most `wait`; `None` while another holds it.
    pub async fn take(settings: &DbSettings, work: Work, wait: Duration) -> Result<Option<Self>, DbError> {
        let mut conn = Db::dedicated(settings).await?;
        let seconds = i32::try_from(wait.as_secs()).unwrap_or(i32::MAX);
        let limit = wait + settings.limit;
        // A future dropped here takes its connection with it.
        let what = "take the pass lock";
        let got = tokio::time::timeout(limit, get_lock(&mut conn, work.prefix(), seconds))
            .await
            .map_err(|_| DbError::TimedOut { what, limit })?
            .map_err(|source| DbError::Query { what, source })?;
        if !got {
            return Ok(None);
        }
        let (lost, release) = (CancellationToken::new(), CancellationToken::new());
        let keeper = keep(conn, work, settings.limit, lost.clone(), release.clone());
        let keeper = tokio::spawn(keeper);
        Ok(Some(Self { lost, release, keeper }))
    }

    /// Cancelled when the lock is lost: work under it must stop.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Gives the lock back and waits until it is free.
    pub async fn release(mut self) {
        self.release.cancel();
        if let Err(error) = (&mut self.keeper).await {
            tracing::error!(%error, "the keeper of the pass lock failed");
        }
    }
}

impl Drop for PassLock {
    fn drop(&mut self) {
        self.release.cancel();
    }
}

/// Who holds the pass lock.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct PassHolder {
    #[diesel(sql_type = BigInt)]
    connection: i64,
    #[diesel(sql_type = Nullable<Text>)]
    run_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    owner: Option<String>,
    #[diesel(sql_type = Nullable<Datetime>)]
    started_at: Option<NaiveDateTime>,
}

impl fmt::Display for PassHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connection, run_id, owner, started_at } = self;
        match (run_id, owner, started_at) {
            (Some(run), Some(owner), Some(at)) => {
                write!(
                    f,
                    "a pass has been running since {} (run {run} of process {owner})",
                    at.format("%Y-%m-%d %H:%M:%S UTC")
                )
            }
            _ => write!(f, "MySQL's connection {connection} holds the pass lock, and runs no pass"),
        }
    }
}

impl Db {
    /// Who holds the pass lock, in any process.
    pub async fn pass_holder(&self) -> Result<Option<PassHolder>, DbError> {
        self.run("holder of the pass lock", async |conn| {
            diesel::sql_query(
                "SELECT CAST(held.connection AS SIGNED) AS connection, r.id AS run_id, r.owner, r.started_at \
                 FROM (SELECT IS_USED_LOCK(LEFT(CONCAT('firstcome-pass:', DATABASE()), 64)) AS connection) held \
                 LEFT JOIN reconcile_runs r ON r.status = 'running' \
                 WHERE held.connection IS NOT NULL ORDER BY r.started_at DESC LIMIT 1",
            )
            .get_result(conn)
            .await
            .optional()
        })
        .await
    }
}

/// Asks again and again whether this connection still holds the lock, until it is released or lost:
/// with its connection, or alone, as behind a proxy that gave the session another connection. On a
/// primary that was demoted it is worth nothing: others take theirs elsewhere.
async fn keep(mut conn: Conn, work: Work, limit: Duration, lost: CancellationToken, release: CancellationToken) {
    loop {
        tokio::select! {
            () = release.cancelled() => break,
            () = tokio::time::sleep(BEAT) => {}
        }
        let why = match tokio::time::timeout(limit, is_held(&mut conn, work)).await {
            Ok(Ok(true)) => continue,
            Ok(Ok(false)) => "MySQL says that another connection holds it, or none, or that it is read-only".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("MySQL does not answer within {limit:?}"),
        };
        tracing::warn!(why, "the pass lock is lost");
        lost.cancel();
        return;
    }
    // Asked for, so that the next one finds it free at once. Where this fails, the connection ends
    // here and the lock with it.
    let give_back = diesel::sql_query("DO RELEASE_LOCK(LEFT(CONCAT(?, DATABASE()), 64))")
        .bind::<Text, _>(work.prefix())
        .execute(&mut conn);
    if !matches!(tokio::time::timeout(limit, give_back).await, Ok(Ok(_))) {
        tracing::debug!("the pass lock goes with its connection");
    }
}

#[derive(QueryableByName)]
struct Held {
    #[diesel(sql_type = Nullable<BigInt>)]
    held: Option<i64>,
}

async fn is_held(conn: &mut Conn, work: Work) -> QueryResult<bool> {
    let sql = format!(
        "SELECT CAST(IS_USED_LOCK(LEFT(CONCAT(?, DATABASE()), 64)) = CONNECTION_ID() AND {IS_PRIMARY} AS SIGNED) AS held"
    );
    let asked = diesel::sql_query(sql).bind::<Text, _>(work.prefix());
    Ok(asked.get_result::<Held>(conn).await?.held == Some(1))
}

#[cfg(test)]
mod tests {
    use diesel_async::SimpleAsyncConnection as _;
    use firstcome_stack::{MysqlOptions, MysqlServer};

    use super::*;

    /// Longer than many beats.
    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_lock_that_is_lost_on_a_connection_that_lives_is_noticed() {
        let server = MysqlServer::start(MysqlOptions::default()).await.unwrap();
        let settings =
            DbSettings { url: server.database_url("firstcome").into(), pool_size: 1, limit: Duration::from_secs(10) };
        for loss in ["DO RELEASE_ALL_LOCKS()", "SET GLOBAL super_read_only = ON"] {
            let mut conn = Db::dedicated(&settings).await.unwrap();
            assert!(get_lock(&mut conn, Work::Pass.prefix(), 5).await.unwrap());
            assert!(is_held(&mut conn, Work::Pass).await.unwrap());
            conn.batch_execute(loss).await.unwrap();
            let lost = CancellationToken::new();
            let keeping = keep(conn, Work::Pass, settings.limit, lost.clone(), CancellationToken::new());
            assert!(tokio::time::timeout(LIMIT, keeping).await.is_ok() && lost.is_cancelled(), "{loss}");
        }
    }
}
