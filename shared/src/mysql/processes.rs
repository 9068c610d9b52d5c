//! The registry of processes, with the settings on which programs that share data must agree, and
//! the locks between processes. In the whole system, only one pass, one reopening of the admission
//! gate and one promotion run at a time. Each lock is MySQL's `GET_LOCK` on a dedicated connection,
//! because on a pooled connection it would outlive the work. If the connection dies, its lock is
//! released, so the work ends.

use std::sync::Arc;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;
use parking_lot::RwLock;
use strum::IntoStaticStr;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::db::{LockState, get_lock};
use super::{Conn, Db, DbError, DbResult, DbSettings};
use crate::columns::{now, seconds_from_now};
use crate::kafka::KafkaSettings;
use crate::report::wording::line;
use crate::schema::processes;

/// Interval at which a process renews its row.
const EVERY: Duration = Duration::from_secs(10);

/// A process that has not renewed its row for this long counts as stopped.
const RUNNING_SECONDS: i64 = 60;

const DAY: i64 = 86_400;

/// The settings of one process.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = processes, treat_none_as_default_value = false)]
pub struct ProcessRow {
    pub role: String,
    /// Host and process id.
    pub owner: String,
    /// `None` for a consumer, which does not use Redis.
    pub redis_prefix: Option<String>,
    pub topic: String,
    pub consumer_group: String,
    pub publish_deadline_ms: i64,
    pub fallback_deadline_ms: i64,
}

/// Why stores refuse this process, in their own words. All parts of the process that notice a
/// refusal share this.
#[derive(Debug, Clone, Default)]
pub struct SeenProblems(Arc<RwLock<StoreProblems>>);

#[derive(Debug, Clone, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = processes, treat_none_as_default_value = false)]
pub struct StoreProblems {
    pub redis_problem: Option<String>,
    pub mysql_problem: Option<String>,
    pub kafka_problem: Option<String>,
}

impl SeenProblems {
    pub fn get(&self) -> StoreProblems {
        self.0.read().clone()
    }

    /// Changes what is known about the stores.
    pub fn note(&self, change: impl FnOnce(&mut StoreProblems)) {
        change(&mut self.0.write());
    }
}

/// Longest text of a problem, in characters.
const LONGEST: usize = 400;

/// Identifies this process by host and process id.
pub fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}

impl ProcessRow {
    /// Describes this process, as one that neither uses Redis nor answers claims.
    pub fn new(role: &str, kafka: &KafkaSettings) -> Self {
        Self {
            role: role.into(),
            owner: owner(),
            redis_prefix: None,
            topic: kafka.topic.clone(),
            consumer_group: kafka.group.clone(),
            publish_deadline_ms: 0,
            fallback_deadline_ms: 0,
        }
    }

    /// Describes the settings that prevent this process and `other` from sharing data. Returns
    /// `None` if they agree.
    pub fn disagreement(&self, other: &Self) -> Option<String> {
        // The API does not use the consumer group, and the consumer does not use Redis.
        let uses_group = self.role != "serve" && other.role != "serve";
        let uses_redis = self.redis_prefix.is_some() && other.redis_prefix.is_some();
        let differs = self.topic != other.topic
            || uses_group && self.consumer_group != other.consumer_group
            || uses_redis && self.redis_prefix != other.redis_prefix;
        let settings = |row: &Self| {
            let prefix = row.redis_prefix.as_deref().unwrap_or("none");
            format!("{}, {} and {prefix}", row.topic, row.consumer_group)
        };
        differs.then(|| {
            format!(
                "KAFKA_TOPIC, KAFKA_GROUP and REDIS_KEY_PREFIX are {} here, but {} in {} ({}) on \
                the same database: make them equal, and start this process again a minute after \
                the other has stopped",
                settings(self),
                settings(other),
                other.role,
                other.owner
            )
        })
    }
}

impl Db {
    async fn announce(&self, id: &str, row: &ProcessRow, seen: StoreProblems) -> DbResult<()> {
        let short = |problem: Option<String>| problem.map(|text| line(&text, LONGEST));
        let problems = StoreProblems {
            redis_problem: short(seen.redis_problem),
            mysql_problem: short(seen.mysql_problem),
            kafka_problem: short(seen.kafka_problem),
        };
        let renew = diesel::replace_into(processes::table).values((
            row.clone(),
            problems,
            processes::id.eq(id.to_owned()),
            processes::seen_at.eq(now()),
        ));
        self.write("announce process", renew).await?;
        let old = processes::table.filter(processes::seen_at.lt(seconds_from_now(-DAY)));
        self.write("forget processes", diesel::delete(old))
            .await
            .map(|_| ())
    }

    /// Reads the running processes. A process that runs renews its row: a row whose time lies far
    /// ahead of now was written before MySQL's clock was set back.
    pub async fn processes(&self) -> DbResult<Vec<ProcessRow>> {
        let running = processes::table
            .filter(processes::seen_at.gt(seconds_from_now(-RUNNING_SECONDS)))
            .filter(processes::seen_at.le(seconds_from_now(RUNNING_SECONDS)))
            .limit(10_000)
            .select(ProcessRow::as_select());
        self.rows("list processes", running).await
    }

    /// Reads the problems with stores that running processes have reported, without repetitions.
    pub async fn store_problems(&self) -> DbResult<Vec<StoreProblems>> {
        let lasts = EVERY.as_secs().cast_signed() * 2;
        let has_problem = processes::redis_problem
            .is_not_null()
            .or(processes::mysql_problem.is_not_null())
            .or(processes::kafka_problem.is_not_null());
        let refused = processes::table
            .filter(processes::seen_at.gt(seconds_from_now(-lasts)))
            .filter(processes::seen_at.le(seconds_from_now(lasts)))
            .filter(has_problem)
            .limit(100)
            .select(StoreProblems::as_select())
            .distinct();
        self.rows("list problems of processes", refused).await
    }
}

/// Announces this process with its problems, and renews the announcement until `shutdown`. Logs
/// settings that disagree. In that case, the reconciler refuses to work.
pub async fn announce(
    db: Db,
    own: ProcessRow,
    problems: SeenProblems,
    shutdown: CancellationToken,
) {
    let id = format!("{:032x}", rand::random::<u128>());
    let mut is_known = announce_once(&db, &id, &own, &problems).await;
    match db.processes().await {
        Ok(others) => {
            for sentence in others.iter().filter_map(|other| own.disagreement(other)) {
                tracing::error!("{sentence}");
            }
        }
        Err(error) => tracing::warn!(%error, "cannot read the settings of other processes"),
    }
    tokio::spawn(async move {
        while timeout(EVERY, shutdown.cancelled()).await.is_err() {
            // While commits hang, each attempt would leave another session that waits for its
            // commit.
            if is_known || !db.commits_hang().await.unwrap_or(false) {
                is_known = announce_once(&db, &id, &own, &problems).await;
            }
        }
    });
}

/// Returns whether it succeeded.
async fn announce_once(db: &Db, id: &str, own: &ProcessRow, problems: &SeenProblems) -> bool {
    let announced = db.announce(id, own, problems.get()).await;
    if let Err(error) = &announced {
        tracing::warn!(%error, "cannot announce this process in MySQL");
    }
    announced.is_ok()
}

/// Interval of checks whether the connection still holds the lock.
const BEAT: Duration = Duration::from_secs(1);

/// The kinds of work, each of which only one process may do at a time. The strings are the names of
/// the locks, without the name of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
pub enum Work {
    #[strum(serialize = "firstcome-pass:")]
    Pass,
    /// Reopening of the admission gate, concurrently with passes.
    #[strum(serialize = "firstcome-reopening:")]
    Reopening,
    /// Gives the slots that are left to users who wait, concurrently with both.
    #[strum(serialize = "firstcome-promoting:")]
    Promoting,
}

/// The right to do one kind of [`Work`]. Dropping it releases the lock.
pub struct PassLock {
    working: CancellationToken,
    release: DropGuard,
    keeper: tokio::task::JoinHandle<()>,
}

impl PassLock {
    /// Takes the lock, waiting at most `wait`. Returns `None` if it is not free within that time,
    /// or if `stop` is cancelled.
    pub async fn take(
        settings: &DbSettings,
        work: Work,
        wait: Duration,
        stop: &CancellationToken,
    ) -> DbResult<Option<Self>> {
        // If this future is dropped, its connection is closed, which releases the lock.
        let get = async {
            let mut conn = Db::dedicated(settings).await?;
            let seconds = i32::try_from(wait.as_secs()).unwrap_or(i32::MAX);
            let limit = wait + settings.limit;
            let what = "take the pass lock";
            let got = timeout(limit, get_lock(&mut conn, work.into(), seconds))
                .await
                .map_err(|_| DbError::TimedOut { what, limit })?
                .map_err(|source| DbError::Query { what, source })?;
            Ok(got.then_some(conn))
        };
        let Some(conn) = stop.run_until_cancelled(get).await.transpose()?.flatten() else {
            return Ok(None);
        };
        let working = stop.child_token();
        let release = CancellationToken::new();
        let keeper = keep(conn, work, settings.limit, working.clone(), release.clone());
        Ok(Some(Self {
            working,
            release: release.drop_guard(),
            keeper: tokio::spawn(keeper),
        }))
    }

    /// Cancelled if the lock is lost or the process stops. Work that needs the lock must then stop.
    pub fn working(&self) -> &CancellationToken {
        &self.working
    }

    /// Releases the lock and waits until it is free.
    pub async fn release(self) {
        drop(self.release);
        if let Err(error) = self.keeper.await {
            tracing::error!(%error, "the keeper of the pass lock failed");
        }
    }
}

/// Checks repeatedly whether this connection still holds the lock, until the lock is released or
/// lost. The lock can be lost with the connection, or alone if a proxy gave the session another
/// connection. On a demoted primary, the lock has no effect, because other processes take it on the
/// new primary.
async fn keep(
    mut conn: Conn,
    work: Work,
    limit: Duration,
    working: CancellationToken,
    release: CancellationToken,
) {
    while timeout(BEAT, release.cancelled()).await.is_err() {
        let why = match timeout(limit, is_held(&mut conn, work)).await {
            Ok(Ok(true)) => continue,
            Ok(Ok(false)) => {
                "MySQL says that another connection holds it, or none, or that it is read-only"
                    .to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("MySQL does not answer within {limit:?}"),
        };
        tracing::warn!(why, "the pass lock is lost");
        working.cancel();
        return;
    }
    // Release explicitly, so that the next process gets the lock at once. If this fails, the
    // connection is closed here, which releases the lock.
    let give_back = sql_query("DO RELEASE_LOCK(LEFT(CONCAT(?, DATABASE()), 64))")
        .bind::<Text, _>(<&str>::from(work))
        .execute(&mut conn);
    if !matches!(timeout(limit, give_back).await, Ok(Ok(_))) {
        tracing::debug!("the pass lock goes with its connection");
    }
}

async fn is_held(conn: &mut Conn, work: Work) -> QueryResult<bool> {
    let held = sql_query(
        "SELECT IS_USED_LOCK(LEFT(CONCAT(?, DATABASE()), 64)) = CONNECTION_ID() \
         AND @@global.read_only = 0 AND @@global.innodb_read_only = 0 AS is_held",
    )
    .bind::<Text, _>(<&str>::from(work));
    let lock: LockState = held.get_result(conn).await?;
    Ok(lock.is_held == Some(true))
}

#[cfg(test)]
mod tests {
    use diesel_async::SimpleAsyncConnection as _;
    use firstcome_stack::{MysqlOptions, MysqlServer};

    use super::*;

    /// Several times the interval of checks.
    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn released_lock_and_read_only_server_are_detected_on_a_live_connection() {
        let server = MysqlServer::start(MysqlOptions::default()).await.unwrap();
        let settings = DbSettings {
            url: server.database_url("firstcome").into(),
            pool_size: 1,
            limit: Duration::from_secs(10),
        };
        for loss in ["DO RELEASE_ALL_LOCKS()", "SET GLOBAL super_read_only = ON"] {
            let mut conn = Db::dedicated(&settings).await.unwrap();
            assert!(get_lock(&mut conn, Work::Pass.into(), 5).await.unwrap());
            assert!(is_held(&mut conn, Work::Pass).await.unwrap());
            conn.batch_execute(loss).await.unwrap();
            let lost = CancellationToken::new();
            let keeping = keep(
                conn,
                Work::Pass,
                settings.limit,
                lost.clone(),
                CancellationToken::new(),
            );
            assert!(
                timeout(LIMIT, keeping).await.is_ok() && lost.is_cancelled(),
                "{loss}"
            );
        }
    }
}
