//! The faults, with their durations, and what they may destroy.

use std::fmt;

pub use firstcome_harness::Role as ProcessRole;
use firstcome_shared::crash::Point;
use serde::{Deserialize, Serialize};

/// A kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultyStore {
    Redis,
    Mysql,
    Kafka,
}

impl FaultyStore {
    pub const ALL: [Self; 3] = [Self::Redis, Self::Mysql, Self::Kafka];
}

/// The behaviour of the proxy in front of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireFault {
    /// Delays every chunk of data by 150 ms.
    Delay,
    /// Delays every chunk of data by 1.6 s, which is longer than the timeouts of the stores in
    /// [`crate::schedule::IMPATIENT`]. Never drawn from a seed.
    LongDelay,
    /// Closes connections and refuses new ones.
    Cut,
    /// Keeps connections open but forwards nothing. The data is delivered at the end.
    BlackHole,
    /// Forwards requests to the server and discards replies.
    DropReplies,
    /// Closes the server's side of each connection and keeps the client's side open.
    HalfClose,
}

/// Foreign data that is written into a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Garbage {
    /// Messages that are not claims.
    Messages,
    /// Dead letters that cannot become rows.
    DeadLetters,
    /// Claims that a foreign producer sends, with slots and times that Redis never gave.
    Forged,
    /// Messages that decompress to a thousand times their size on the broker.
    Oversized,
    /// A batch that is corrupted on the broker's disk, so that no client can read it.
    Garbled,
}

/// The keys of a drop.
pub const DROP_KEYS: [&str; 6] = ["meta", "count", "users", "free", "waiting", "times"];

/// The keys of a coupon.
pub const COUPON_KEYS: [&str; 6] = [
    "claimants",
    "revoked",
    "allowed",
    "allow_list",
    "revision",
    "gate",
];

/// The tables of which MySQL may lose all rows, as if they were restored from an empty dump.
pub const TABLES: [&str; 4] = ["drops", "slot_limits", "topic_positions", "failed_claims"];

/// Processes of each kind, and coupons, are numbered from 0. A fault with a duration is undone
/// after `ms`.
#[rustfmt::skip]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// Kills a process of the product with SIGKILL, and restarts it.
    Kill { role: ProcessRole, number: usize, ms: u64 },
    /// Sends SIGSTOP to a process, and later SIGCONT.
    Freeze { role: ProcessRole, number: usize, ms: u64 },
    /// Restarts a process so that it dies at this point (a value of `FIRSTCOME_CRASH_AT`), then
    /// restarts it normally. It is killed if it does not reach the point within `ms`.
    Crash { role: ProcessRole, number: usize, point: String, ms: u64 },
    /// Sets the clock of one process ahead by this number of seconds. Negative values set it back.
    Clock { role: ProcessRole, number: usize, seconds: i64, ms: u64 },
    /// Kills all processes of the product, which then start while this server is unreachable.
    ColdStart { store: FaultyStore, ms: u64 },

    /// Kills a server with SIGKILL, and restarts it.
    KillServer { store: FaultyStore, ms: u64 },
    /// Sends SIGSTOP to a server, and later SIGCONT.
    FreezeServer { store: FaultyStore, ms: u64 },
    /// Disturbs the connection to a server.
    Wire { store: FaultyStore, wire: WireFault, ms: u64 },
    /// The host of a server dies silently: open connections stay open without traffic, and new ones
    /// hang. Then the address leads to another host. With `process`, the server's process dies with
    /// its host. Otherwise the server keeps its ends of the connections open.
    Silent { store: FaultyStore, process: bool, ms: u64 },

    /// Redis is killed and restarts without this percentage of the data that the schedule wrote to
    /// its append-only file.
    TruncatedAof { percent: u64 },
    Flush,
    /// Redis is killed and restarts with its data from `age_ms` before.
    OldCopy { age_ms: u64 },
    /// A replica is promoted to master. Its link was cut `lag_ms` before.
    StaleReplica { lag_ms: u64 },
    /// The master takes over the data of a replica that stopped following it `lag_ms` before, and
    /// is promoted again in the same process.
    Demotion { lag_ms: u64 },
    /// Sets Redis's clock ahead by `shift_ms`, and then back again. Negative values set it back
    /// first.
    RedisClock { shift_ms: i64, ms: u64 },
    /// Redis's disk is full (its files may not grow). Redis exits, and is restarted.
    RedisDiskFull { ms: u64 },
    /// Redis refuses commands that need memory.
    RedisMemory { ms: u64 },
    /// A snapshot of Redis fails, so that it refuses every write (MISCONF).
    RedisSnapshotFails { ms: u64 },
    /// One key of a drop or its coupon is deleted.
    KeyLost { key: String },
    /// All keys of a drop are deleted.
    DropKeysLost,
    /// A key is replaced with one of another type. As with `Garbage`, the product removes or
    /// reports it.
    WrongType { key: String, ms: u64 },
    /// Restores the keys of a coupon into the running Redis as they were `age_ms` before. Keys that
    /// were created meanwhile stay.
    RestoredKeys { age_ms: u64 },

    /// MySQL refuses writes.
    MysqlReadOnly { ms: u64 },
    /// Another client locks the slot limits of the drop, so writers of its rows run into the lock
    /// wait timeout.
    MysqlLocks { ms: u64 },
    /// Another client's transactions deadlock with those of the product.
    MysqlDeadlocks { ms: u64 },
    /// MySQL still answers pings, but statements on the table of rows hang. With `writes`, all
    /// writes hang instead.
    MysqlHangs { writes: bool, ms: u64 },
    /// MySQL's disk is full (its files may not grow). MySQL is then restarted.
    MysqlDiskFull { ms: u64 },
    /// Restores the table of rows as it was `age_ms` before, except for returned slots. No other
    /// table changes.
    OldRows { age_ms: u64 },
    /// MySQL is killed and restarts with all its data from `age_ms` before.
    OldDatabase { age_ms: u64 },
    /// MySQL loses all rows of a table.
    TableLost { table: String },

    /// The stored positions of all partitions are moved by a number of messages.
    PositionsMoved { by: i64 },
    /// The topic is deleted and created again.
    TopicRecreated,
    /// Adds partitions to the topic.
    MorePartitions { partitions: usize },
    /// Garbage is written into a store. The product removes it, or reports it by name. In the
    /// second case an operator removes it, but not before `ms`.
    Garbage { garbage: Garbage, ms: u64 },
    /// The mail server permanently rejects every recipient.
    MailsRefused { ms: u64 },
    /// An operator confirms, for every coupon, repairs that an earlier run has shown.
    BlindConfirm,
    /// A row is deleted from MySQL and its admission from Redis, after the consumer has read its
    /// message. Never drawn from a seed, because no design can keep a promise of which no copy is
    /// left. It proves that the checker notices a lost promise.
    EveryCopyDeleted,
}

impl Fault {
    /// Whether Redis may lose admissions.
    pub fn forgets_admissions(&self) -> bool {
        let silent = matches!(self, Self::Silent { store, .. } if *store == FaultyStore::Redis);
        silent || matches!(self, Self::KeyLost { key } if key == "users") || self.is_redis_lost()
    }

    /// Whether Redis loses or reverts data, other than by [`Fault::KeyLost`] or [`Fault::Silent`].
    pub(crate) fn is_redis_lost(&self) -> bool {
        matches!(
            self,
            Self::TruncatedAof { .. }
                | Self::Flush
                | Self::OldCopy { .. }
                | Self::StaleReplica { .. }
                | Self::Demotion { .. }
                | Self::RestoredKeys { .. }
                | Self::DropKeysLost
                | Self::WrongType { .. }
        )
    }

    /// Whether MySQL loses rows, or MySQL or Kafka loses or skips the data that rows are made from.
    /// If Redis also loses its admissions, no copy is left.
    pub fn forgets_rows(&self) -> bool {
        match self {
            Self::TableLost { table } => table == "drops" || table == "failed_claims",
            Self::PositionsMoved { by } => *by > 0,
            _ => matches!(
                self,
                Self::OldRows { .. } | Self::OldDatabase { .. } | Self::TopicRecreated
            ),
        }
    }

    /// Whether the fault may delay a pass: it affects a store or a reconciler.
    pub(crate) fn may_delay_passes(&self) -> bool {
        let of_another_process = matches!(
            self,
            Self::Kill { role, .. }
                | Self::Freeze { role, .. }
                | Self::Crash { role, .. }
                | Self::Clock { role, .. }
                if *role != ProcessRole::Reconciler
        );
        let is_harmless = matches!(
            self,
            Self::Garbage { .. } | Self::MailsRefused { .. } | Self::BlindConfirm
        );
        !of_another_process && !is_harmless
    }

    /// Returns the point at which a process dies. `None` if no point has this name.
    pub fn crash_point(&self) -> Option<Point> {
        let Self::Crash { point, .. } = self else {
            return None;
        };
        let name = point.split(':').next();
        Point::ALL
            .iter()
            .copied()
            .find(|point| Some(point.name()) == name)
    }

    /// Names the fault for statistics: its kind and its target, without numbers.
    pub fn name(&self) -> String {
        let text = format!("{self:?}").replace('"', "");
        let (kind, fields) = text.split_once(" { ").unwrap_or((&text, ""));
        let fields = fields.trim_end_matches(" }").split(", ");
        let mut name = kind.to_owned();
        for (field, value) in fields.filter_map(|field| field.split_once(": ")) {
            match value {
                "true" => name.extend([" with ", field]),
                "false" => {}
                _ if value.parse::<i64>().is_ok() => {}
                // The number of times that the point is reached follows a colon.
                _ if field == "point" => name.extend([" ", value.split(':').next().unwrap_or("")]),
                _ => name.extend([" ", value]),
            }
        }
        name
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self:?}")
    }
}

/// A location of garbage, by which an operator can find and remove it.
#[derive(Debug, Clone)]
pub(crate) enum GarbagePlace {
    /// A key of this drop or its coupon that is a list. No key of the product is a list.
    List { name: String, drop: i64 },
    /// Dead letters that match this condition.
    DeadLetters(String),
    /// A message, whose dead letter matches the condition once the consumer has read it.
    Message {
        letter: String,
        partition: i32,
        offset: i64,
    },
    /// The dead letter of the garbled batch, which matches this condition. There is none if the
    /// broker has removed the batch.
    Garbled(String),
}
