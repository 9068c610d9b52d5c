//! The request for a pass, its settings, and the reasons why a pass could not run or finish.

use std::time::Duration;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::processes::{Deadlines, Work};
use firstcome_shared::mysql::runs::Retention;
use firstcome_shared::quoted::without_values;
use firstcome_shared::redis::RedisError;
use firstcome_shared::redis::wrong_key::WrongKey;

use crate::collect::CollectError;
use crate::execute::ExecuteError;
use crate::plan::RepairPolicy;
use crate::report::{FailureCause, Trigger};

/// A request for a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub trigger: Trigger,
    pub coupon: Option<CouponId>,
    pub drop: Option<DropId>,
    pub dry_run: bool,
    /// Whether to compare sealed drops as well.
    pub deep: bool,
    /// The kind of pass. Passes of different kinds may run concurrently. A reopening compares only
    /// closed coupons.
    pub work: Work,
    /// Whether an operator confirms the repairs, so that the repair limit does not apply.
    pub confirm: bool,
    /// The operator who requested the pass through the API.
    pub by: Option<Operator>,
    /// Maximum wait for another pass to end.
    pub patience: Duration,
    /// The schedule that is due, if any.
    pub due: Option<Due>,
}

/// A due run of a schedule. It is due in every process that has this schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// When the schedule's run last ended, as known to this process. If `None`, the pass runs even
    /// if another process has already completed it.
    pub last: Option<DateTime<Utc>>,
    /// The schedules for which this run counts, by their keys in `reconciler_state`. The first is
    /// the schedule that is due.
    pub counts_for: &'static [&'static str],
}

impl Request {
    /// Creates a request for a pass over everything that is not sealed.
    pub fn new(trigger: Trigger) -> Self {
        Self {
            trigger,
            coupon: None,
            drop: None,
            dry_run: false,
            deep: false,
            work: Work::Pass,
            confirm: false,
            by: None,
            patience: Duration::ZERO,
            due: None,
        }
    }

    /// Whether the pass compares every drop that is not sealed.
    pub fn covers_everything(&self) -> bool {
        self.coupon.is_none() && self.drop.is_none() && self.work == Work::Pass
    }

    /// Whether a caller waits for the result. Such a pass also waits for admissions that are too
    /// recent to judge.
    pub fn is_awaited(&self) -> bool {
        matches!(self.trigger, Trigger::Endpoint | Trigger::Cli)
    }
}

/// Why no pass ran.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error("another pass is running")]
    Busy,
    /// Another process has completed the due run.
    #[error("another process has made it")]
    Made,
    /// The drop or coupon does not exist.
    #[error("{0}")]
    NotFound(String),
}

/// Why a pass could not be finished.
#[derive(Debug, thiserror::Error)]
pub(super) enum Aborted {
    #[error(transparent)]
    Collect(#[from] CollectError),
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    #[error("Redis cannot be reached: {}", without_values(.0))]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Mysql(#[from] DbError),
    #[error(
        "the pass lost its lock: its connection to MySQL broke, and another pass may have begun"
    )]
    LockLost,
    #[error("the process was told to stop")]
    Stopped,
    #[error(
        "Redis lost data, or was replaced, while the pass was running: what it read is out of date"
    )]
    AnotherLife,
}

/// Why one drop cannot be processed while others can, with the store's error.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// Redis has unreadable data.
    Redis(String),
    /// A key in Redis has a different type than Firstcome uses.
    KeyOfWrongType(WrongKey),
    /// MySQL has unreadable data, or rejects a repair.
    Mysql(String),
    /// Another client of MySQL has locked the drop's rows.
    Locked(String),
}

impl Aborted {
    pub(super) fn cause(&self) -> FailureCause {
        match self {
            Self::Collect(CollectError::Redis(_) | CollectError::Crowded { .. })
            | Self::Execute(ExecuteError::Redis(_))
            | Self::Redis(_)
            | Self::AnotherLife => FailureCause::Redis,
            Self::Collect(CollectError::Mysql(_))
            | Self::Execute(ExecuteError::Mysql(_))
            | Self::Mysql(_)
            | Self::LockLost => FailureCause::Mysql,
            Self::Execute(ExecuteError::Stopped) | Self::Stopped => FailureCause::Other,
        }
    }

    /// Returns the obstacle if the error concerns only one drop, so that the others can be
    /// processed.
    pub(super) fn of_one_drop(&self) -> Option<Obstacle> {
        match self {
            Self::Execute(ExecuteError::Mysql(error)) | Self::Mysql(error)
                if error.is_lock_wait() =>
            {
                Some(Obstacle::Locked(error.to_string()))
            }
            Self::Execute(ExecuteError::Mysql(error))
            | Self::Collect(CollectError::Mysql(error))
            | Self::Mysql(error) => error
                .is_about_data()
                .then(|| Obstacle::Mysql(error.to_string())),
            Self::Execute(error) => error.about_data().map(Obstacle::Redis),
            Self::Collect(error) => error.about_data().map(Obstacle::Redis),
            _ => None,
        }
    }
}

/// Settings of repairs and retention.
#[derive(Debug, Clone)]
pub struct PassSettings {
    pub policy: RepairPolicy,
    /// How long keys of sealed drops stay in Redis.
    pub sealed_keys_ttl: Duration,
    /// Retention of resolved dead letters.
    pub failed_claims_kept: Duration,
    /// Retention of user IDs in sealed drops. `None` keeps them forever.
    pub people_kept: Option<Duration>,
    /// Retention in the tables of passes and mails.
    pub kept: Retention,
    /// Time without progress after which a consumer with unread messages is reported.
    pub stall_after: Duration,
    /// Number of slots compared per page.
    pub page_slots: i64,
}

impl PassSettings {
    pub(super) fn publish_deadline(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.policy.publish_deadline_ms).unwrap_or_default())
    }

    /// Returns the maximum time that a claim can be in flight between Redis and the topic or the
    /// dead-letter table.
    pub(super) fn longest_in_flight(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.policy.in_flight_ms).unwrap_or_default())
    }

    /// Returns the settings with the deadlines of the slowest API process.
    pub(super) fn with_deadlines(&self, slowest: Deadlines) -> Self {
        let mut settings = self.clone();
        settings.policy.publish_deadline_ms =
            settings.policy.publish_deadline_ms.max(slowest.publish_ms);
        settings.policy.in_flight_ms = settings.policy.in_flight_ms.max(slowest.in_flight_ms);
        settings
    }
}
