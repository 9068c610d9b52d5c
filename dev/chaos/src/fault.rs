//! The faults, with their durations.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of our processes.
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

/// One of the stores.
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

/// Behaviour of the proxy in front of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireFault {
    /// Every chunk of data is delayed by 150 ms.
    Delay,
    /// Every chunk of data is delayed beyond every timeout. Never drawn from a seed.
    LongDelay,
    /// Connections are closed, new ones are refused.
    Cut,
    /// Connections stay open but nothing passes; the data is delivered at the end.
    BlackHole,
    /// Requests reach the server, replies are discarded.
    DropReplies,
    /// The server's side of each connection is closed, the client's stays open.
    HalfClose,
}

/// Foreign data that somebody writes into a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Junk {
    /// Users with scores that are not slots.
    Scores,
    /// Admitted and waiting users with impossible names.
    Names,
    /// Invalid entries among the free slots.
    Free,
    /// Messages that are not claims.
    Messages,
    /// Dead letters that cannot become rows.
    DeadLetters,
}

/// A batch of messages from a foreign producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForeignBatch {
    /// Claims that already have rows, sent again by a mirror that compresses.
    Mirrored,
    /// Claims of unknown users, at instants outside the window.
    Forged,
    /// Messages that expand to a thousand times their size on the broker.
    Oversized,
    /// A batch corrupted on the broker's disk: no client can read it.
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
    Claimants,
}

impl DropKey {
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Count => "count",
            Self::Users => "users",
            Self::Free => "free",
            Self::Waiting => "waiting",
            Self::Claimants => "claimants",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// SIGKILL of one of our processes; restarted after `ms`. (Processes are numbered from 0.)
    Kill {
        role: ProcessRole,
        number: usize,
        ms: u64,
    },
    /// SIGSTOP, and SIGCONT after `ms`.
    Freeze {
        role: ProcessRole,
        number: usize,
        ms: u64,
    },
    /// Restarts one of our processes so that it dies at this point (a value of
    /// `FIRSTCOME_CRASH_AT`), then restarts it normally. It is killed if it does not reach the
    /// point within `ms`.
    Crash {
        role: ProcessRole,
        number: usize,
        point: String,
        ms: u64,
    },
    /// The clock of one process is this many seconds ahead for `ms`; behind if negative.
    Clock {
        role: ProcessRole,
        number: usize,
        seconds: i64,
        ms: u64,
    },
    /// Idle connections, and connections that keep requesting `/healthz`, use up a process's
    /// connection limit for `ms`. Probes must get through.
    Hogs {
        role: ProcessRole,
        number: usize,
        ms: u64,
    },
    /// All of our processes are killed and start while this server is unreachable, for `ms`.
    ColdStart {
        store: FaultyStore,
        ms: u64,
    },
    /// SIGKILL of a server, restarted after `ms`.
    KillServer {
        store: FaultyStore,
        ms: u64,
    },
    /// SIGSTOP of a server, SIGCONT after `ms`, which exceeds the publishing deadline in half of
    /// the schedules.
    FreezeServer {
        store: FaultyStore,
        ms: u64,
    },
    /// The connection to a server is disturbed for `ms`.
    Wire {
        store: FaultyStore,
        wire: WireFault,
        ms: u64,
    },
    /// The host of a server dies silently: open connections stay open without traffic, new ones
    /// hang for `ms`; then the address leads to another host. With `process`, the server's process
    /// dies with its host; otherwise only the network path is lost, and the server keeps its ends
    /// of the connections open.
    Silent {
        store: FaultyStore,
        process: bool,
        ms: u64,
    },
    /// Redis is killed and returns without this percentage of what the schedule wrote to its
    /// append-only file.
    TruncatedAof {
        percent: u64,
    },
    Flush,
    /// Redis is killed and returns with its data from `age_ms` before.
    OldCopy {
        age_ms: u64,
    },
    /// A replica whose link was cut `lag_ms` before is promoted to master.
    StaleReplica {
        lag_ms: u64,
    },
    /// The master takes over the data of a replica that stopped following `lag_ms` before, and is
    /// promoted again in the same process.
    Demotion {
        lag_ms: u64,
    },
    /// Redis's clock is this many seconds ahead for `ms`; behind if negative.
    RedisClock {
        seconds: i64,
        ms: u64,
    },
    /// Redis's disk is full (its files may not grow): Redis exits, and is restarted after `ms`.
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
    /// Another client locks the rows of the drop, so writers reach the lock wait timeout.
    MysqlLocks {
        ms: u64,
    },
    /// Another client's transactions deadlock with those of the product.
    MysqlDeadlocks {
        ms: u64,
    },
    /// Another client locks the table of rows. MySQL still answers pings, but no statement on it.
    MysqlTableHangs {
        ms: u64,
    },
    /// MySQL answers reads, but no writes.
    MysqlWritesHang {
        ms: u64,
    },
    /// MySQL's disk is full (its files may not grow).
    MysqlDiskFull {
        ms: u64,
    },
    /// Somebody writes garbage into a store. The product removes it or reports it by name; in the
    /// latter case a person removes it, but not before `ms`.
    Garbage {
        junk: Junk,
        ms: u64,
    },
    /// A foreign producer writes to the topic. Messages that are not claims are reported; then a
    /// person removes them, but not before `ms`.
    Batch {
        batch: ForeignBatch,
        ms: u64,
    },
    /// For `ms`, a reconciler of an earlier release is registered that reads only messages with a
    /// single claim. Meanwhile claims do not share messages.
    OldReader {
        ms: u64,
    },
    /// The topic gets more partitions.
    MorePartitions {
        partitions: usize,
    },
    /// The mail server permanently rejects every recipient, for `ms`.
    MailsRefused {
        ms: u64,
    },
    /// Somebody deletes one key of a drop or its coupon.
    KeyLost {
        key: DropKey,
    },
    /// Somebody deletes one member of a key.
    MemberLost {
        key: DropKey,
    },
    /// Somebody deletes one row of an issued coupon.
    RowLost,
    /// The keys of a coupon, as they were `age_ms` before, are restored into the running Redis.
    RestoredKeys {
        age_ms: u64,
    },
    /// The rows of a drop are restored as they were `age_ms` before; no other table is.
    OldRows {
        age_ms: u64,
    },
    /// MySQL loses the row of a drop.
    DropLost,
    /// An operator confirms repairs of every coupon without having read which ones wait.
    BlindConfirm,
    /// Somebody overwrites a key with another type. It is handled as `Garbage`.
    WrongType {
        key: DropKey,
        ms: u64,
    },
    /// Somebody deletes a row and its admission everywhere. Never drawn from a seed, since no
    /// design can keep that promise; it proves that the checker notices a lost promise.
    EveryCopyDeleted,
    /// On clusters: the primary of a coupon is killed, or suspended if `frozen`, and returns after
    /// `ms`, as a replica if its own replica has taken over. (Coupons are numbered from 0.)
    RedisPrimary {
        number: usize,
        frozen: bool,
        ms: u64,
    },
    /// On clusters: a broker is killed, or suspended if `frozen`, and returns after `ms`.
    Broker {
        id: i32,
        frozen: bool,
        ms: u64,
    },
    /// On clusters: MySQL's primary is killed, or cut off if `frozen`. After `ms` its replica takes
    /// over behind the same address, and the old primary returns as the replica.
    MysqlFailOver {
        frozen: bool,
        ms: u64,
    },
}

impl Fault {
    /// The kind of process that the fault affects.
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

    /// Whether Redis may forget admissions.
    pub fn forgets_admissions(&self) -> bool {
        matches!(
            self,
            Self::TruncatedAof { .. }
                | Self::Flush
                | Self::OldCopy { .. }
                | Self::StaleReplica { .. }
                | Self::Demotion { .. }
                | Self::RestoredKeys { .. }
                | Self::WrongType { .. }
                | Self::Silent {
                    store: FaultyStore::Redis,
                    ..
                }
        )
    }

    /// Whether MySQL forgets rows. If Redis forgets their admissions too, no copy is left.
    pub fn forgets_rows(&self) -> bool {
        matches!(self, Self::RowLost | Self::OldRows { .. })
    }

    /// A name for statistics, without durations.
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
            Self::Garbage { junk, .. } => {
                let what = match junk {
                    Junk::Scores => "on odd scores",
                    Junk::Names => "in names",
                    Junk::Free => "among free slots",
                    Junk::Messages => "on the topic",
                    Junk::DeadLetters => "among dead letters",
                };
                format!("garbage {what}")
            }
            Self::Batch { batch, .. } => match batch {
                ForeignBatch::Mirrored => "batch of a mirror".into(),
                ForeignBatch::Forged => "batch of a forger".into(),
                ForeignBatch::Oversized => "oversized batch".into(),
                ForeignBatch::Garbled => "garbled batch".into(),
            },
            Self::OldReader { .. } => "reader of an earlier release".into(),
            Self::MorePartitions { .. } => "more partitions".into(),
            Self::MailsRefused { .. } => "mails refused".into(),
            Self::WrongType { .. } => "key of another type".into(),
            Self::KeyLost { .. } => "one key lost".into(),
            Self::MemberLost { .. } => "one member lost".into(),
            Self::RowLost => "one row lost".into(),
            Self::OldRows { .. } => "older rows restored into mysql".into(),
            Self::DropLost => "row of a drop lost".into(),
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
            Self::RedisPrimary { frozen, .. } => format!("{} redis primary", broken_off(*frozen)),
            Self::Broker { frozen, .. } => format!("{} broker", broken_off(*frozen)),
            Self::MysqlFailOver { frozen, .. } => format!("{} mysql primary", broken_off(*frozen)),
        }
    }
}

fn broken_off(frozen: bool) -> &'static str {
    if frozen { "freeze" } else { "kill" }
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
            Self::OldCopy { age_ms } | Self::RestoredKeys { age_ms } | Self::OldRows { age_ms } => {
                write!(out, " of {age_ms} ms before")
            }
            Self::KeyLost { key } | Self::MemberLost { key } => write!(out, ": `{}`", key.name()),
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
            | Self::RowLost
            | Self::DropLost
            | Self::BlindConfirm => Ok(()),
            Self::RedisPrimary { number, ms, .. } => write!(out, " of coupon {number} for {ms} ms"),
            Self::Broker { id, ms, .. } => write!(out, " {id} for {ms} ms"),
            Self::ColdStart { ms, .. }
            | Self::KillServer { ms, .. }
            | Self::FreezeServer { ms, .. }
            | Self::Wire { ms, .. }
            | Self::Silent { ms, .. }
            | Self::MailsRefused { ms }
            | Self::OldReader { ms }
            | Self::MysqlTableHangs { ms }
            | Self::MysqlWritesHang { ms }
            | Self::RedisDiskFull { ms }
            | Self::RedisMemory { ms }
            | Self::MysqlReadOnly { ms }
            | Self::MysqlLocks { ms }
            | Self::MysqlDeadlocks { ms }
            | Self::MysqlDiskFull { ms }
            | Self::MysqlFailOver { ms, .. } => write!(out, " for {ms} ms"),
        }
    }
}
