//! The faults, with their durations.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A kind of process of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessRole {
    Api,
    Consumer,
    Reconciler,
}

impl ProcessRole {
    pub const ALL: [Self; 3] = [Self::Api, Self::Consumer, Self::Reconciler];

    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Consumer => "consumer",
            Self::Reconciler => "reconciler",
        }
    }
}

/// A kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultyStore {
    Redis,
    Mysql,
    Kafka,
}

impl FaultyStore {
    pub const ALL: [Self; 3] = [Self::Redis, Self::Mysql, Self::Kafka];

    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Mysql => "mysql",
            Self::Kafka => "kafka",
        }
    }
}

/// The behaviour of the proxy in front of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireFault {
    /// Delays every chunk of data by 150 ms.
    Delay,
    /// Delays every chunk of data beyond every timeout. Never drawn from a seed.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Garbage {
    /// Messages that are not claims.
    Messages,
    /// Dead letters that cannot become rows.
    DeadLetters,
}

/// A table that MySQL loses with all its rows, as if it was restored from an empty dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LostTable {
    Drops,
    SlotLimits,
    TopicPositions,
    FailedClaims,
}

impl LostTable {
    pub(crate) const ALL: [Self; 4] = [
        Self::Drops,
        Self::SlotLimits,
        Self::TopicPositions,
        Self::FailedClaims,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Drops => "drops",
            Self::SlotLimits => "slot_limits",
            Self::TopicPositions => "topic_positions",
            Self::FailedClaims => "failed_claims",
        }
    }
}

/// A batch of messages from a foreign producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForeignBatch {
    /// Claims that already have rows, sent again by a mirror that compresses them.
    Mirrored,
    /// Claims of unknown users, at times outside the window.
    Forged,
    /// Messages that decompress to a thousand times their size on the broker.
    Oversized,
    /// A batch that is corrupted on the broker's disk, so that no client can read it.
    Garbled,
}

/// A key of a drop or its coupon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropKey {
    Meta,
    Count,
    Users,
    Free,
    Waiting,
    Times,
    Claimants,
    Revoked,
    Allowed,
    AllowList,
    Revision,
    Gate,
}

impl DropKey {
    pub(crate) const ALL: [Self; 12] = [
        Self::Meta,
        Self::Count,
        Self::Users,
        Self::Free,
        Self::Waiting,
        Self::Times,
        Self::Claimants,
        Self::Revoked,
        Self::Allowed,
        Self::AllowList,
        Self::Revision,
        Self::Gate,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Count => "count",
            Self::Users => "users",
            Self::Free => "free",
            Self::Waiting => "waiting",
            Self::Times => "times",
            Self::Claimants => "claimants",
            Self::Revoked => "revoked",
            Self::Allowed => "allowed",
            Self::AllowList => "allow_list",
            Self::Revision => "revision",
            Self::Gate => "gate",
        }
    }

    /// Whether the key belongs to the coupon and not to one of its drops.
    pub fn is_of_coupon(self) -> bool {
        match self {
            Self::Meta | Self::Count | Self::Users | Self::Free | Self::Waiting | Self::Times => {
                false
            }
            Self::Claimants
            | Self::Revoked
            | Self::Allowed
            | Self::AllowList
            | Self::Revision
            | Self::Gate => true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// Kills a process of the product with SIGKILL and restarts it after `ms`. (Processes are
    /// numbered from 0.)
    Kill {
        role: ProcessRole,
        number: usize,
        ms: u64,
    },
    /// Sends SIGSTOP, and SIGCONT after `ms`.
    Freeze {
        role: ProcessRole,
        number: usize,
        ms: u64,
    },
    /// Restarts a process of the product so that it dies at this point (a value of
    /// `FIRSTCOME_CRASH_AT`), then restarts it normally. It is killed if it does not reach the
    /// point within `ms`.
    Crash {
        role: ProcessRole,
        number: usize,
        point: String,
        ms: u64,
    },
    /// Sets the clock of one process ahead by this number of seconds for `ms`. Negative values set
    /// it back.
    Clock {
        role: ProcessRole,
        number: usize,
        seconds: i64,
        ms: u64,
    },
    /// Exhausts a process's connection limit for `ms` with idle connections and connections that
    /// keep requesting `/healthz`. Probes must still succeed.
    Hogs {
        role: ProcessRole,
        number: usize,
        ms: u64,
    },
    /// Kills all processes of the product, which then start while this server is unreachable for
    /// `ms`.
    ColdStart {
        store: FaultyStore,
        ms: u64,
    },
    /// Kills a server with SIGKILL and restarts it after `ms`.
    KillServer {
        store: FaultyStore,
        ms: u64,
    },
    /// Sends SIGSTOP to a server, and SIGCONT after `ms`, which exceeds the publishing deadline in
    /// half of the schedules.
    FreezeServer {
        store: FaultyStore,
        ms: u64,
    },
    /// Disturbs the connection to a server for `ms`.
    Wire {
        store: FaultyStore,
        wire: WireFault,
        ms: u64,
    },
    /// The host of a server dies silently: open connections stay open without traffic, and new ones
    /// hang for `ms`. Then the address leads to another host. With `process`, the server's process
    /// dies with its host. Otherwise only the network path is lost, and the server keeps its ends
    /// of the connections open.
    Silent {
        store: FaultyStore,
        process: bool,
        ms: u64,
    },
    /// Redis is killed and restarts without this percentage of the data that the schedule wrote to
    /// its append-only file.
    TruncatedAof {
        percent: u64,
    },
    Flush,
    /// Redis is killed and restarts with its data from `age_ms` before.
    OldCopy {
        age_ms: u64,
    },
    /// A replica is promoted to master. Its link was cut `lag_ms` before.
    StaleReplica {
        lag_ms: u64,
    },
    /// The master takes over the data of a replica that stopped following it `lag_ms` before, and
    /// is promoted again in the same process.
    Demotion {
        lag_ms: u64,
    },
    /// Sets Redis's clock ahead by this number of seconds for `ms`. Negative values set it back.
    RedisClock {
        seconds: i64,
        ms: u64,
    },
    /// Redis's disk is full (its files may not grow). Redis exits, and is restarted after `ms`.
    RedisDiskFull {
        ms: u64,
    },
    /// Redis has no memory for new keys.
    RedisMemory {
        ms: u64,
    },
    /// MySQL refuses writes.
    MysqlReadOnly {
        ms: u64,
    },
    /// Another client locks the rows of the drop, so writers run into the lock wait timeout.
    MysqlLocks {
        ms: u64,
    },
    /// Another client's transactions deadlock with those of the product.
    MysqlDeadlocks {
        ms: u64,
    },
    /// Another client locks the table of rows. MySQL still answers pings, but statements on the
    /// table hang.
    MysqlTableHangs {
        ms: u64,
    },
    /// MySQL answers reads, but writes hang.
    MysqlWritesHang {
        ms: u64,
    },
    /// MySQL's disk is full (its files may not grow).
    MysqlDiskFull {
        ms: u64,
    },
    /// Garbage is written into a store. The product removes it, or reports it by name. In the
    /// second case an operator removes it, but not before `ms`.
    Garbage {
        garbage: Garbage,
        ms: u64,
    },
    /// A foreign producer writes to the topic. Messages that are not claims are reported. An
    /// operator then removes them, but not before `ms`.
    Batch {
        batch: ForeignBatch,
        ms: u64,
    },
    /// Adds partitions to the topic.
    MorePartitions {
        partitions: usize,
    },
    /// The mail server permanently rejects every recipient, for `ms`.
    MailsRefused {
        ms: u64,
    },
    /// One key of a drop or its coupon is deleted.
    KeyLost {
        key: DropKey,
    },
    /// All keys of a drop are deleted.
    DropKeysLost,
    /// Restores the keys of a coupon into the running Redis as they were `age_ms` before.
    RestoredKeys {
        age_ms: u64,
    },
    /// Restores the table of rows as it was `age_ms` before, except for returned slots. No other
    /// table changes.
    OldRows {
        age_ms: u64,
    },
    /// MySQL is killed and restarts with all its data from `age_ms` before.
    OldDatabase {
        age_ms: u64,
    },
    /// MySQL loses all rows of a table.
    TableLost {
        table: LostTable,
    },
    /// The stored positions of all partitions are moved by a number of messages.
    PositionsMoved {
        by: i64,
    },
    /// The topic is deleted and created again.
    TopicRecreated,
    /// An operator confirms repairs of every coupon without having read which repairs are held
    /// back.
    BlindConfirm,
    /// A key is overwritten with a key of another type. It is handled like `Garbage`.
    WrongType {
        key: DropKey,
        ms: u64,
    },
    /// A row and its admission are deleted in every store. Never drawn from a seed, because no
    /// design can keep that promise. It proves that the checker notices a lost promise.
    EveryCopyDeleted,
}

impl Fault {
    /// Returns the kind of process that the fault affects.
    pub fn role(&self) -> Option<ProcessRole> {
        match self {
            Self::Kill { role, .. }
            | Self::Freeze { role, .. }
            | Self::Crash { role, .. }
            | Self::Clock { role, .. }
            | Self::Hogs { role, .. } => Some(*role),
            _ => None,
        }
    }

    /// Whether Redis may lose admissions.
    pub fn forgets_admissions(&self) -> bool {
        matches!(
            self,
            Self::TruncatedAof { .. }
                | Self::Flush
                | Self::OldCopy { .. }
                | Self::StaleReplica { .. }
                | Self::Demotion { .. }
                | Self::RestoredKeys { .. }
                | Self::DropKeysLost
                | Self::KeyLost {
                    key: DropKey::Users
                }
                | Self::WrongType { .. }
                | Self::Silent {
                    store: FaultyStore::Redis,
                    ..
                }
        )
    }

    /// Whether MySQL loses rows, or MySQL or Kafka loses or skips what they are made from. If Redis
    /// also loses its admissions, no copy is left.
    pub fn forgets_rows(&self) -> bool {
        matches!(
            self,
            Self::OldRows { .. }
                | Self::OldDatabase { .. }
                | Self::TopicRecreated
                | Self::PositionsMoved { by: 1.. }
                | Self::TableLost {
                    table: LostTable::Drops | LostTable::FailedClaims
                }
        )
    }

    /// Names the fault for statistics, without durations.
    pub fn name(&self) -> String {
        match self {
            Self::Kill { role, .. } => format!("kill {}", role.name()),
            Self::Freeze { role, .. } => format!("freeze {}", role.name()),
            Self::Crash { role, .. } => format!("crash point in {}", role.name()),
            Self::Clock { role, .. } => format!("clock step of {}", role.name()),
            Self::Hogs { role, .. } => format!("connection hogs at {}", role.name()),
            Self::ColdStart { store, .. } => format!("cold start without {}", store.name()),
            Self::KillServer { store, .. } => format!("kill {}", store.name()),
            Self::FreezeServer { store, .. } => format!("freeze {}", store.name()),
            Self::Wire { store, wire, .. } => {
                let what = match wire {
                    WireFault::Delay => "delayed",
                    WireFault::LongDelay => "delayed for long",
                    WireFault::Cut => "cut",
                    WireFault::BlackHole => "black hole",
                    WireFault::DropReplies => "replies dropped",
                    WireFault::HalfClose => "half closed",
                };
                format!("{} wire {what}", store.name())
            }
            Self::Silent {
                store,
                process: true,
                ..
            } => format!("{} host silently dead", store.name()),
            Self::Silent {
                store,
                process: false,
                ..
            } => format!("{} host out of reach", store.name()),
            Self::Demotion { .. } => "redis demoted and promoted again".into(),
            Self::RedisClock { .. } => "clock step of redis".into(),
            Self::MysqlTableHangs { .. } => "mysql table hangs".into(),
            Self::MysqlWritesHang { .. } => "mysql writes hang".into(),
            Self::Garbage { garbage, .. } => match garbage {
                Garbage::Messages => "garbage on the topic".into(),
                Garbage::DeadLetters => "garbage among dead letters".into(),
            },
            Self::Batch { batch, .. } => match batch {
                ForeignBatch::Mirrored => "batch of a mirror".into(),
                ForeignBatch::Forged => "batch of a forger".into(),
                ForeignBatch::Oversized => "oversized batch".into(),
                ForeignBatch::Garbled => "garbled batch".into(),
            },
            Self::MorePartitions { .. } => "more partitions".into(),
            Self::MailsRefused { .. } => "mails refused".into(),
            Self::WrongType { .. } => "key of another type".into(),
            Self::KeyLost { .. } => "one key lost".into(),
            Self::DropKeysLost => "all keys of a drop lost".into(),
            Self::OldRows { .. } => "older rows restored into mysql".into(),
            Self::OldDatabase { .. } => "mysql back from an old copy".into(),
            Self::TableLost { table } => format!("table {} lost", table.name()),
            Self::PositionsMoved { .. } => "stored positions moved".into(),
            Self::TopicRecreated => "topic recreated".into(),
            Self::BlindConfirm => "repairs confirmed unread".into(),
            Self::RestoredKeys { .. } => "older keys restored into a running redis".into(),
            Self::TruncatedAof { .. } => "redis append-only file truncated".into(),
            Self::Flush => "redis FLUSHALL".into(),
            Self::OldCopy { .. } => "redis back from an old copy".into(),
            Self::StaleReplica { .. } => "stale redis replica promoted".into(),
            Self::RedisDiskFull { .. } => "redis disk full".into(),
            Self::RedisMemory { .. } => "redis out of memory".into(),
            Self::MysqlReadOnly { .. } => "mysql read-only".into(),
            Self::MysqlLocks { .. } => "mysql rows locked".into(),
            Self::MysqlDeadlocks { .. } => "mysql deadlocks".into(),
            Self::MysqlDiskFull { .. } => "mysql disk full".into(),
            Self::EveryCopyDeleted => "every copy deleted".into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.name())?;
        match self {
            Self::Kill { number, ms, .. }
            | Self::Freeze { number, ms, .. }
            | Self::Hogs { number, ms, .. } => {
                write!(out, " {number} for {ms} ms")
            }
            Self::Crash { number, point, .. } => write!(out, " {number} at {point}"),
            Self::Clock {
                number,
                seconds,
                ms,
                ..
            } => write!(out, " {number} by {seconds} s for {ms} ms"),
            Self::TruncatedAof { percent } => write!(out, " by {percent} %"),
            Self::OldCopy { age_ms }
            | Self::RestoredKeys { age_ms }
            | Self::OldRows { age_ms }
            | Self::OldDatabase { age_ms } => write!(out, " of {age_ms} ms before"),
            Self::KeyLost { key } => write!(out, ": `{}`", key.name()),
            Self::StaleReplica { lag_ms } | Self::Demotion { lag_ms } => {
                write!(out, ", {lag_ms} ms behind")
            }
            Self::RedisClock { seconds, ms } => write!(out, " by {seconds} s for {ms} ms"),
            Self::WrongType { key, ms } => {
                write!(out, " in place of `{}` for {ms} ms or more", key.name())
            }
            Self::Garbage { ms, .. } | Self::Batch { ms, .. } => {
                write!(out, " for {ms} ms or more")
            }
            Self::MorePartitions { partitions } => write!(out, ": {partitions}"),
            Self::Flush
            | Self::EveryCopyDeleted
            | Self::DropKeysLost
            | Self::TableLost { .. }
            | Self::TopicRecreated
            | Self::BlindConfirm => Ok(()),
            Self::PositionsMoved { by } => write!(out, " by {by}"),
            Self::ColdStart { ms, .. }
            | Self::KillServer { ms, .. }
            | Self::FreezeServer { ms, .. }
            | Self::Wire { ms, .. }
            | Self::Silent { ms, .. }
            | Self::MailsRefused { ms }
            | Self::MysqlTableHangs { ms }
            | Self::MysqlWritesHang { ms }
            | Self::RedisDiskFull { ms }
            | Self::RedisMemory { ms }
            | Self::MysqlReadOnly { ms }
            | Self::MysqlLocks { ms }
            | Self::MysqlDeadlocks { ms }
            | Self::MysqlDiskFull { ms } => write!(out, " for {ms} ms"),
        }
    }
}
