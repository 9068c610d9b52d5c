//! The registry of processes, with the settings on which programs that share data must agree, and
//! the locks between processes. In the whole system, only one pass and one reopening of the admission
//! gate run at a time. Each lock is MySQL's `GET_LOCK` on a dedicated connection,
//! because on a pooled connection it would outlive the work. If the connection dies, its lock is
//! released, so the work ends.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Bool, Text};
use diesel_async::RunQueryDsl;
use strum::IntoStaticStr;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::db::{LockState, get_lock};
use super::{Conn, Db, DbError, DbResult, DbSettings};
use crate::columns::{At, now, seconds_from_now};
use crate::kafka::KafkaSettings;
use crate::process_state::{ProcessState, SeenState};
use crate::report::COMMITS_HANG;
use crate::schema::{processes, reconcile_runs};
use crate::subject::Subject;

/// Interval at which a process renews its row.
const EVERY: Duration = Duration::from_secs(10);

/// A process that has not renewed its row for this long counts as stopped.
const RUNNING_SECONDS: i64 = 60;

const DAY: i64 = 86_400;

/// What a process that has been silent for this many seconds knows is unknown.
const FRESH: i64 = 25;

/// The roles of the processes that evaluate alerts.
pub const DAEMON: &str = "the reconciler";
pub const ATTACH: &str = "attach";

/// The settings of one process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
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
            topic: kafka.topic.clone(),
            consumer_group: kafka.group.clone(),
            ..Self::default()
        }
    }

    /// Describes the daemon of `attach`, which shares nothing but this database.
    pub fn of_attach() -> Self {
        Self {
            role: ATTACH.into(),
            owner: owner(),
            ..Self::default()
        }
    }

    /// Describes the settings that prevent this process and `other` from sharing data. Returns
    /// `None` if they agree.
    pub fn disagreement(&self, other: &Self) -> Option<String> {
        if self.role == ATTACH || other.role == ATTACH {
            return None;
        }
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
    /// Writes the row of a process, with what it knows and whether anybody gets what it mails.
    pub async fn announce(
        &self,
        id: &str,
        row: &ProcessRow,
        state: &ProcessState,
        has_readers: bool,
    ) -> DbResult<()> {
        let renew = diesel::replace_into(processes::table).values((
            row.clone(),
            processes::state.eq(serde_json::json!(state).to_string()),
            processes::has_readers.eq(has_readers),
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
}

/// A process as the evaluation of alerts sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FreshProcess {
    pub role: String,
    pub owner: String,
    pub state: ProcessState,
    /// Whether anybody gets what it mails.
    pub reads: bool,
}

impl FreshProcess {
    /// Whether it decides what is mailed.
    pub fn evaluates(&self) -> bool {
        self.role == DAEMON || self.role == ATTACH
    }
}

/// The row of a process, as the evaluation reads it.
#[derive(Queryable, Selectable)]
#[diesel(table_name = processes)]
struct StateRow {
    role: String,
    owner: String,
    state: Option<String>,
    has_readers: bool,
}

/// Reads the processes that matter for a subject and have written their rows within the last 25 s.
pub async fn fresh(
    conn: &mut Conn,
    subject: Subject,
    now: DateTime<Utc>,
) -> QueryResult<Vec<FreshProcess>> {
    let [from, to] = [-FRESH, FRESH].map(|seconds| At(now + TimeDelta::seconds(seconds)));
    let rows: Vec<StateRow> = processes::table
        .filter(processes::seen_at.between(from, to))
        .order((processes::role, processes::owner))
        .limit(10_000)
        .select(StateRow::as_select())
        .load(conn)
        .await?;
    let fresh = rows.into_iter().filter(|row| match subject {
        Subject::Drop => row.role != ATTACH,
        Subject::Campaign => row.role == ATTACH,
    });
    Ok(fresh
        .map(|row| FreshProcess {
            role: row.role,
            owner: row.owner,
            // A process of another version may say more, or nothing.
            state: row
                .state
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default(),
            reads: row.has_readers,
        })
        .collect())
}

/// Announces this process and what it knows every ten seconds, and at once when that changes, until
/// `shutdown`. Logs settings that disagree: then the reconciler refuses to work.
pub async fn announce(
    db: Db,
    own: ProcessRow,
    seen: SeenState,
    reads: bool,
    shutdown: CancellationToken,
) {
    let id = format!("{:032x}", rand::random::<u128>());
    announce_once(&db, &id, &own, &seen, reads).await;
    match db.processes().await {
        Ok(others) => {
            for sentence in others.iter().filter_map(|other| own.disagreement(other)) {
                tracing::error!("{sentence}");
            }
        }
        Err(error) => tracing::warn!(%error, "cannot read the settings of other processes"),
    }
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
                () = seen.changed() => {}
            }
            // While commits hang, each attempt would leave another session that waits for its
            // commit.
            let hangs = db.commits_hang().await.unwrap_or(false);
            if hangs {
                seen.note_written(Err(COMMITS_HANG.to_owned()));
            } else {
                announce_once(&db, &id, &own, &seen, reads).await;
            }
        }
    });
}

async fn announce_once(db: &Db, id: &str, own: &ProcessRow, seen: &SeenState, reads: bool) {
    let announced = db.announce(id, own, &seen.get(), reads).await;
    if let Err(error) = &announced {
        tracing::warn!(%error, "cannot announce this process in MySQL");
    }
    seen.note_written(announced.map_err(|error| error.to_string()));
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
    /// The start of a daemon of `attach`.
    #[strum(serialize = "firstcome-start:")]
    Start,
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

/// The pass that holds the pass lock.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = reconcile_runs)]
pub struct LockHolder {
    #[diesel(column_name = id)]
    pub run_id: String,
    pub owner: String,
    #[diesel(column_name = started_at)]
    pub since: DateTime<Utc>,
}

/// Returns the pass that holds the pass lock, in any process.
pub async fn pass_holder(conn: &mut Conn) -> QueryResult<Option<LockHolder>> {
    // The run of a process that died may still have this status, but its lock is free.
    let is_locked =
        sql::<Bool>("IS_USED_LOCK(LEFT(CONCAT('firstcome-pass:', DATABASE()), 64)) IS NOT NULL");
    reconcile_runs::table
        .filter(reconcile_runs::status.eq("running"))
        .filter(is_locked)
        .order(reconcile_runs::started_at.desc())
        .select(LockHolder::as_select())
        .first(conn)
        .await
        .optional()
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
