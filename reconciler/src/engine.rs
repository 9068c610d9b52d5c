//! What every pass needs: connections, policy, and what earlier passes saw.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::{Db, DbSettings};
use firstcome_shared::redis::Redis;
use tokio::time::Instant;

use crate::collect::Collector;
use crate::execute::fencing::LossClock;
use crate::plan::Policy;
use crate::report::{Run, Trigger};

/// What is asked of a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What set it off.
    pub trigger: Trigger,
    pub coupon: Option<CouponId>,
    pub drop: Option<DropId>,
    pub dry_run: bool,
    /// Look at sealed drops too.
    pub deep: bool,
    /// An operator confirms: no repair limit.
    pub confirm: bool,
    /// How long to wait for another pass to end.
    pub patience: Duration,
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
            confirm: false,
            patience: Duration::ZERO,
        }
    }

    /// Whether it looks at every drop that is not sealed: only then may the gate be opened.
    pub fn covers_everything(&self) -> bool {
        self.coupon.is_none() && self.drop.is_none()
    }

    /// Somebody waits for the answer, so what is too young to be judged is waited for and looked at again.
    pub fn is_awaited(&self) -> bool {
        matches!(self.trigger, Trigger::Endpoint | Trigger::Cli)
    }
}

/// Connections and policy. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub db: Db,
    /// MySQL, for connections of their own.
    pub db_settings: DbSettings,
    pub redis: Redis,
    pub collector: Collector,
    /// What may be repaired, and when.
    pub policy: Policy,
    /// How long after admission a claim can still be on its way to the topic or the backup table.
    pub settled_after: Duration,
    /// How long keys of sealed drops stay in Redis.
    pub sealed_keys_ttl: Duration,
    /// How long runs that found nothing are kept in the table of runs.
    pub clean_runs_kept: Duration,
    /// A consumer whose offsets stand still for longer, with messages unread, is reported.
    pub stall_after: Duration,
    /// Since when Redis is known to have lost something.
    pub losses: LossClock,
    /// Runs that could not be recorded yet, since MySQL was away.
    pub unrecorded: Arc<Mutex<Vec<(Run, bool)>>>,
    /// How far the pass is that runs now.
    pub progress: Arc<Progress>,
    /// The consumer's offsets when they last moved.
    pub consumer_seen: Arc<Mutex<Option<ConsumerSeen>>>,
}

/// How far a pass is, for who watches it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Drops to look at in this round.
    pub drops: AtomicU64,
    pub drops_done: AtomicU64,
    /// People and rows compared.
    pub compared: AtomicU64,
}

/// Where the consumer was, and since when it has been there.
#[derive(Debug, Clone)]
pub struct ConsumerSeen {
    /// Committed offset by partition.
    pub committed: Vec<(i32, i64)>,
    pub since: Instant,
}

impl Engine {
    /// For how long the consumer has stood still although messages wait.
    pub fn consumer_stands_since(&self, committed: &[(i32, i64)], unread: u64) -> Duration {
        let mut seen = self.consumer_seen.lock();
        match seen.as_ref() {
            Some(last) if unread > 0 && last.committed == committed => last.since.elapsed(),
            _ => {
                *seen = Some(ConsumerSeen { committed: committed.to_vec(), since: Instant::now() });
                Duration::ZERO
            }
        }
    }

    pub fn publish_deadline(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.policy.publish_deadline_ms).unwrap_or_default())
    }

    /// Who this is, for the run's row: host and process.
    pub fn owner() -> String {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        format!("{}:{}", host.trim(), std::process::id())
    }
}
