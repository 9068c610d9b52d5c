//! Context that the steps of a pass share: the stores, the settings, and the moment at which it
//! began.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use firstcome_attach::{Confirm, Stopped};
use firstcome_shared::StoreError;
use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::ops_actions::{Operator, OperatorAct};
use firstcome_shared::mysql::processes::ProcessRow;
use firstcome_shared::mysql::{Db, DbError, DbSettings};
use firstcome_shared::redis::project::Fenced;
use firstcome_shared::redis::refusing::{is_of_hash_slot, is_refusal, is_refused, text_of};
use firstcome_shared::redis::servers::{Clocks, Servers};
use firstcome_shared::redis::wrong_key::is_about_data;
use firstcome_shared::redis::{Redis, RedisError};
use futures_util::{Stream, StreamExt as _};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::gate::JudgedGates;
use crate::notify::{LAST_DIGEST, ScheduledRun};
use crate::queries::Scope;
use crate::queries::processes::Deadlines;
use crate::report::{FailureCause, Fingerprint, Outcome, Trigger};
use crate::topic::Topic;

/// Connections to every store. Cheap to clone.
#[derive(Clone)]
pub struct Stores {
    pub db: Db,
    /// Settings for dedicated connections to MySQL.
    pub db_settings: DbSettings,
    pub redis: Redis,
    pub topic: Topic,
}

impl Stores {
    /// Returns the stores for one pass. The connection to Redis ends when its server process ends,
    /// and rows are never read from a read-only MySQL.
    pub async fn pinned(&self) -> Result<Self, RedisError> {
        Ok(Self {
            redis: self.redis.pinned().await?,
            db: self.db.of_primary(),
            ..self.clone()
        })
    }

    /// Returns this process's entry in the registry of processes.
    pub(crate) fn process(&self) -> ProcessRow {
        ProcessRow {
            redis_prefix: Some(self.redis.prefix().to_owned()),
            ..ProcessRow::new("the reconciler", &self.topic.settings)
        }
    }
}

/// Settings of passes and jobs.
#[derive(Debug, Clone)]
pub struct PassSettings {
    /// Maximum times until a claim is on the topic and until a second store has it, if no API has
    /// announced longer ones.
    pub deadlines: Deadlines,
    pub retention_days: Option<u32>,
    /// The pace of rows.
    pub rows_per_second: Option<u32>,
}

/// How many rows a pass may still insert at open gates. The others count as in flight, and the next
/// pass inserts them. Without a number, there is no limit.
#[derive(Debug, Clone, Default)]
pub struct RowsLeft(Option<Arc<AtomicUsize>>);

impl RowsLeft {
    pub fn new(rows: usize) -> Self {
        Self(Some(Arc::new(AtomicUsize::new(rows))))
    }

    /// Returns how many of these rows may be inserted, and subtracts them if the caller `inserts`
    /// them.
    pub fn take(&self, wanted: usize, inserts: bool) -> usize {
        let Some(left) = &self.0 else { return wanted };
        let taken = if inserts { wanted } else { 0 };
        let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            Some(left.saturating_sub(taken))
        });
        before.unwrap_or_else(|unchanged| unchanged).min(wanted)
    }
}

/// The repairs that an operator has seen and confirms. No others are carried out.
#[derive(Debug, Clone, Default)]
pub enum Confirmation {
    #[default]
    None,
    /// Repairs of drops above the repair limit.
    HeldBack(Vec<Fingerprint>),
    /// Users of an attached system.
    Named(Confirm),
}

impl Confirmation {
    pub fn held_back(confirmed: Vec<Fingerprint>) -> Self {
        if confirmed.is_empty() {
            return Self::None;
        }
        Self::HeldBack(confirmed)
    }

    pub fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Says what an operator does whose confirmed repairs were not all made.
    pub(crate) fn if_not_made(&self) -> &'static str {
        if self.is_some() {
            "; not all confirmed repairs are made: once that is over, make a dry run and confirm what \
            it shows"
        } else {
            ""
        }
    }

    /// Whether repairs above the repair limit are confirmed.
    pub(crate) fn covers(&self, repairs: Fingerprint) -> bool {
        matches!(self, Self::HeldBack(confirmed) if confirmed.contains(&repairs))
    }
}

/// Who asks for a pass.
#[derive(Debug, Clone)]
pub enum Ask {
    /// The start of a daemon.
    Startup,
    /// A schedule. If another process has made the run since it was due, this one is left out.
    Cron {
        run: ScheduledRun,
        due: DateTime<Utc>,
    },
    /// An operator through the API.
    Operator {
        by: Operator,
        /// What is recorded about it.
        act: OperatorAct,
        /// Maximum wait for another pass to end.
        patience: Duration,
    },
    /// The command line.
    Cli { patience: Duration },
}

impl Ask {
    pub fn trigger(&self) -> Trigger {
        match self {
            Self::Startup => Trigger::Startup,
            Self::Cron { .. } => Trigger::Cron,
            Self::Operator { .. } => Trigger::Endpoint,
            Self::Cli { .. } => Trigger::Cli,
        }
    }

    pub(crate) fn patience(&self) -> Duration {
        match self {
            Self::Operator { patience, .. } | Self::Cli { patience } => *patience,
            Self::Startup | Self::Cron { .. } => Duration::ZERO,
        }
    }

    /// Whether somebody waits for the pass.
    pub(crate) fn is_awaited(&self) -> bool {
        matches!(self, Self::Operator { .. } | Self::Cli { .. })
    }

    /// The schedules that have run once this pass ends, by their keys in `reconciler_state`.
    pub(crate) fn counts_for(&self) -> &'static [&'static str] {
        match self {
            Self::Startup => counts_for(ScheduledRun::Reconcile),
            Self::Cron { run, .. } => counts_for(*run),
            Self::Operator { .. } | Self::Cli { .. } => &[],
        }
    }
}

/// Returns the schedules that have run once this run ends in any process, by their keys in
/// `reconciler_state`. The first key is the run's own. A deep pass also covers the normal one.
pub(crate) const fn counts_for(run: ScheduledRun) -> &'static [&'static str] {
    match run {
        ScheduledRun::Deep => &["last_run:deep", "last_run:reconcile"],
        ScheduledRun::Reconcile => &["last_run:reconcile"],
        ScheduledRun::Digest => &[LAST_DIGEST],
    }
}

/// A request for a pass.
#[derive(Debug, Clone)]
pub struct PassRequest {
    pub ask: Ask,
    pub scope: Scope,
    pub dry_run: bool,
    /// Whether to examine everything, including empty and sealed drops.
    pub deep: bool,
    pub confirms: Confirmation,
}

impl PassRequest {
    /// Creates a request for a pass over everything that is not sealed.
    pub fn new(ask: Ask) -> Self {
        Self {
            ask,
            scope: Scope::default(),
            dry_run: false,
            deep: false,
            confirms: Confirmation::None,
        }
    }

    /// Creates the request of an operator, which is recorded.
    pub(crate) fn by_operator(
        by: Operator,
        scope: Scope,
        detail: Value,
        patience: Duration,
    ) -> Self {
        let act = OperatorAct::new("reconcile", scope.coupon, scope.drop, detail);
        Self {
            scope,
            ..Self::new(Ask::Operator { by, act, patience })
        }
    }
}

/// Context that the steps of a pass share.
pub struct PassContext {
    /// The stores. The connection to Redis ends when its server process ends, and rows are never
    /// read from a read-only MySQL.
    pub stores: Stores,
    pub settings: Arc<PassSettings>,
    pub run_id: String,
    pub dry_run: bool,
    pub deep: bool,
    pub confirms: Confirmation,
    /// The Redis servers when the pass began.
    pub servers: Servers,
    /// Redis's clocks, read before the end offsets.
    pub clocks: Clocks,
    /// Whether MySQL has everything that the topic had just after these clocks were read.
    pub is_read: bool,
    /// Whether no consumer has attended to unread messages for a minute, or the topic cannot be
    /// read.
    pub is_unattended: bool,
    pub rows_left: RowsLeft,
    pub(crate) judged_gates: JudgedGates,
    /// Why the topic cannot be read, if it cannot.
    pub topic_error: Option<String>,
    /// Maximum times, since the admission, until a claim is on the topic and until a second store
    /// has it.
    pub publish_ms: i64,
    pub in_flight_ms: i64,
    /// This pass's own: also the first error that ends it cancels this.
    pub stop: CancellationToken,
}

impl PassContext {
    /// Returns an error if the process or the lock's holder has to stop. Called between two
    /// repairs, so that none is cut off.
    pub fn must_go_on(&self) -> Result<(), PassError> {
        if self.stop.is_cancelled() {
            return Err(PassError::Stopped);
        }
        Ok(())
    }

    /// The outcome of a repair that this pass carries out, or that it only plans.
    pub fn outcome(&self) -> Outcome {
        if self.dry_run {
            Outcome::Planned
        } else {
            Outcome::Applied
        }
    }

    /// Returns why a coupon cannot be worked on, if the error concerns it alone, so that the others
    /// can be: bad data ([`PassError::about_data`]), a query that took too long although MySQL
    /// answers others, or a server of Redis that refuses, does not serve the coupon's hash slot, or
    /// does not answer although others do.
    pub(crate) async fn about_coupon(&self, coupon: CouponId, error: PassError) -> Step<String> {
        match &error {
            PassError::Mysql(DbError::TimedOut { .. }) if self.stores.db.ping().await.is_ok() => {
                Ok(error.to_string())
            }
            PassError::Redis(of_redis) if error.is_of_redis() => {
                if is_refused(of_redis) || self.stores.redis.servers().await?.lack_server_of(coupon)
                {
                    return Ok(error.to_string());
                }
                Err(error)
            }
            _ => error.about_data(),
        }
    }

    /// Redis's clock for a coupon, read before the end offsets.
    pub(crate) fn clock_ms(&self, coupon: CouponId) -> i64 {
        self.clocks.at(coupon)
    }
}

/// Waits, unless the process or the lock's holder has to stop.
pub(crate) async fn sleep(wait: Duration, stop: &CancellationToken) -> Step<()> {
    tokio::select! {
        () = tokio::time::sleep(wait) => Ok(()),
        () = stop.cancelled() => Err(PassError::Stopped),
    }
}

/// Hands over every result of concurrent work, also of what ends after an error: its repairs are
/// made. The first error, which may come with what was done before it, cancels `stop`, so that the
/// rest ends between two repairs, and is returned.
pub(crate) async fn drain<T>(
    stop: &CancellationToken,
    results: impl Stream<Item = Step<T>>,
    mut done: impl FnMut(T) -> Step<()>,
) -> Step<()> {
    let mut results = std::pin::pin!(results);
    let mut ended = Ok(());
    while let Some(result) = results.next().await {
        if let Err(error) = result.and_then(&mut done) {
            stop.cancel();
            ended = ended.and(Err(error));
        }
    }
    ended
}

/// The result of a step of a pass.
pub type Step<T> = Result<T, PassError>;

/// Why a pass, or its work on one coupon, could not begin or finish.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error("another pass is running")]
    Busy,
    #[error("{}", about_redis(.0))]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Mysql(#[from] DbError),
    #[error(
        "the pass lost its lock: its connection to MySQL broke, and another pass may have begun"
    )]
    LockLost,
    #[error("the process was told to stop")]
    Stopped,
    #[error("Redis was replaced while the pass was running: what it read is out of date")]
    Replaced,
    /// The coupon has begun a later era: another reconciler does the rest.
    #[error("another process works on it")]
    Stale,
    /// Why this coupon cannot be opened yet.
    #[error("{0}")]
    StaysClosed(String),
}

/// Says what Redis refuses, that it does not serve a hash slot, or that it does not answer.
fn about_redis(error: &RedisError) -> String {
    let text = text_of(error);
    if is_refusal(error) {
        format!("Redis refuses: {text}")
    } else if is_of_hash_slot(error) {
        format!("Redis is moving a hash slot: {text}")
    } else {
        format!("Redis cannot be reached: {text}")
    }
}

impl From<StoreError> for PassError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Db(error) => Self::Mysql(error),
            StoreError::Redis(error) => Self::Redis(error),
        }
    }
}

impl From<Stopped> for PassError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl PassError {
    pub fn cause(&self) -> FailureCause {
        match self {
            Self::Redis(_) | Self::Replaced => FailureCause::Redis,
            Self::Mysql(_) | Self::LockLost => FailureCause::Mysql,
            _ => FailureCause::Other,
        }
    }

    /// Whether a server of Redis refuses or is away.
    pub(crate) fn is_of_redis(&self) -> bool {
        matches!(self, Self::Redis(error) if !is_about_data(error))
    }

    /// Turns `Stopped` into `LockLost` if `stop` is not cancelled: the loss of the lock, not the
    /// end of the process, stopped the work.
    pub(crate) fn or_lock_lost(self, stop: &CancellationToken) -> Self {
        match self {
            Self::Stopped if !stop.is_cancelled() => Self::LockLost,
            other => other,
        }
    }

    /// Returns the sentence if the error concerns one coupon, so that the others can be processed.
    /// Otherwise, returns the error.
    pub fn about_data(self) -> Result<String, Self> {
        match &self {
            Self::Mysql(error) if error.is_about_data() => Ok(error.to_string()),
            Self::Redis(error) if is_about_data(error) => Ok(text_of(error)),
            Self::Stale | Self::StaysClosed(_) => Ok(self.to_string()),
            _ => Err(self),
        }
    }
}

/// Converts the milliseconds of a setting or a table to a duration.
pub(crate) fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}

/// Returns the result of a fenced change, or an error if its fence is stale.
pub fn fenced<T>(change: Fenced<T>) -> Result<T, PassError> {
    match change {
        Fenced::Done(result) => Ok(result),
        Fenced::Stale => Err(PassError::Stale),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn all_looks_are_handed_over_and_the_first_error_stops_the_rest() {
        let stop = CancellationToken::new();
        let rest = async |seen: u8| match seen {
            2 => Ok((seen, Err(PassError::Replaced))),
            _ if seen > 3 && stop.is_cancelled() => Err(PassError::Stopped),
            _ => Ok((seen, Ok(()))),
        };
        let mut looks = Vec::new();
        let results = stream::iter(1..6).then(rest);
        let ended = drain(&stop, results, |(seen, ended)| {
            looks.push(seen);
            ended
        });
        let ended = ended.await;
        assert!(matches!(ended, Err(PassError::Replaced)), "{ended:?}");
        assert_eq!(looks, [1, 2, 3]);
    }

    #[test]
    fn rows_left_limit_every_look_and_are_reduced_only_by_inserts() {
        let rows = RowsLeft::new(30);
        let taken = [(20, true), (20, false), (20, true), (20, true), (1, false)];
        let taken = taken.map(|(wanted, inserts)| rows.take(wanted, inserts));
        assert_eq!(taken, [20, 10, 10, 0, 0]);
        assert_eq!(RowsLeft::default().take(5_000, true), 5_000, "no limit");
    }
}
