//! What is asked of a pass and by which settings it works, and why there is none, or no whole one.

use std::time::Duration;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::processes::{Deadlines, Work};
use firstcome_shared::mysql::runs::Retention;
use firstcome_shared::quoted::without_values;
use firstcome_shared::redis::RedisError;
use firstcome_shared::redis::reads::WrongKey;

use crate::collect::CollectError;
use crate::execute::ExecuteError;
use crate::plan::RepairPolicy;
use crate::report::{FailureCause, Trigger};

/// What is asked of a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What set it off.
    pub trigger: Trigger,
    pub coupon: Option<CouponId>,
    pub drop: Option<DropId>,
    pub dry_run: bool,
    /// Compare sealed drops too.
    pub deep: bool,
    /// Which of the passes that may run beside each other: a reopening compares only coupons that
    /// are closed.
    pub work: Work,
    /// An operator confirms: no repair limit.
    pub confirm: bool,
    /// Who asked by the endpoint.
    pub by: Option<Operator>,
    /// How long to wait for another pass to end.
    pub patience: Duration,
    /// The schedule that is due.
    pub due: Option<Due>,
}

/// A schedule's run that is due, in every process that has the schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// When the schedule's run last ended, as far as the process knew; `None` where it runs anyway.
    pub last: Option<DateTime<Utc>>,
    /// The schedules that have run with it, by their names in `reconciler_state`; its own first.
    pub counts_for: &'static [&'static str],
}

impl Request {
    /// A pass over everything that is not sealed.
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

    /// Whether it compares every drop that is not sealed.
    pub fn covers_everything(&self) -> bool {
        self.coupon.is_none() && self.drop.is_none() && self.work == Work::Pass
    }

    /// Whether somebody waits for the answer. Then the pass waits for admissions that are too young
    /// to be judged, too.
    pub fn is_awaited(&self) -> bool {
        matches!(self.trigger, Trigger::Endpoint | Trigger::Cli)
    }
}

/// Why there was no pass at all.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error("another pass is running")]
    Busy,
    /// Another process has made the run that was due.
    #[error("another process has made it")]
    Made,
    /// No such drop or coupon.
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

/// Why one drop can't be worked on while the others can; with what the store said.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// Redis holds what can't be read.
    Redis(String),
    /// A key in Redis has another type than Firstcome gives it.
    KeyOfWrongType {
        wrong: WrongKey,
        knows_earlier_days: bool,
    },
    /// MySQL holds what can't be read, or refuses a repair.
    Mysql(String),
    /// Another client of MySQL has its rows locked.
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

    /// What is wrong with one drop, where the others can be worked on.
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

/// What may be repaired and when, and how long things are kept.
#[derive(Debug, Clone)]
pub struct PassSettings {
    pub policy: RepairPolicy,
    /// How long keys of sealed drops stay in Redis.
    pub sealed_keys_ttl: Duration,
    /// How long resolved dead letters are kept.
    pub failed_claims_kept: Duration,
    /// How long people of sealed drops are named; for ever, if it is not said.
    pub people_kept: Option<Duration>,
    /// How long things are kept in the tables of passes and mails.
    pub kept: Retention,
    /// A consumer whose offsets stand still for longer, with messages unread, is reported.
    pub stall_after: Duration,
    /// Slots compared at a time.
    pub page_slots: i64,
}

impl PassSettings {
    pub(super) fn publish_deadline(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.policy.publish_deadline_ms).unwrap_or_default())
    }

    /// Longest time that a claim is in flight between Redis and the topic or the dead-letter table.
    pub(super) fn longest_in_flight(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.policy.in_flight_ms).unwrap_or_default())
    }

    /// The same with the deadlines of the slowest process of the API.
    pub(super) fn with_deadlines(&self, slowest: Deadlines) -> Self {
        let mut settings = self.clone();
        settings.policy.publish_deadline_ms =
            settings.policy.publish_deadline_ms.max(slowest.publish_ms);
        settings.policy.in_flight_ms = settings.policy.in_flight_ms.max(slowest.in_flight_ms);
        settings
    }
}
