//! What can go wrong, each with how long it lasts.

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
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Consumer => "consumer",
            Self::Reconciler => "reconciler",
        }
    }
}

/// One of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultyStore {
    Redis,
    Mysql,
    Kafka,
}

impl FaultyStore {
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Mysql => "mysql",
            Self::Kafka => "kafka",
        }
    }
}

/// What the proxy before a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireFault {
    /// Every piece of data waits 150 ms.
    Delay,
    /// Every piece of data waits longer than anybody waits for an answer. No seed draws it.
    LongDelay,
    /// Connections are closed, new ones refused.
    Cut,
    /// Connections stay, nothing passes; what was kept back passes at the end.
    BlackHole,
    /// Requests reach the server, replies are thrown away.
    DropReplies,
    /// The server's side of each connection is closed, the client's is not.
    HalfClose,
}

/// What somebody puts into a store by hand that is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Junk {
    /// People on scores that are no slots.
    Scores,
    /// People, on slots and in line, with names that nobody can have.
    Names,
    /// Free slots that are none.
    Free,
    /// Messages that are no claims.
    Messages,
    /// Dead letters of which no row can be made.
    DeadLetters,
}

/// A batch of messages that is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForeignBatch {
    /// Claims that have rows, sent again by a mirror that compresses.
    Mirrored,
    /// Claims of strangers, at instants outside the window.
    Forged,
    /// Messages that expand to a thousand times what the broker stores.
    Oversized,
    /// One that the broker's disk has changed: no client can read it.
    Garbled,
}

/// A key of a drop or of its coupon.
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
    /// SIGKILL of a process of ours; it is started again after `ms`. (Processes are numbered from
    /// 0.)
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
    /// A process of ours is started again such that it dies at this point (as `FIRSTCOME_CRASH_AT`
    /// has it), then as usual. It is killed when it does not get there within `ms`.
    Crash {
        role: ProcessRole,
        number: usize,
        point: String,
        ms: u64,
    },
    /// The clock of one process is wrong by so many seconds, forward or (negative) backward, for
    /// `ms`.
    Clock {
        role: ProcessRole,
        number: usize,
        seconds: i64,
        ms: u64,
    },
    /// Connections that ask for nothing, or politely for `/healthz`, take what a process has for
    /// `ms`. Probes must get through.
    Hogs {
        role: ProcessRole,
        number: usize,
        ms: u64,
    },
    /// Every process of ours is killed and starts while this server cannot be reached, for `ms`.
    ColdStart {
        store: FaultyStore,
        ms: u64,
    },
    /// SIGKILL of a server, started again after `ms`.
    KillServer {
        store: FaultyStore,
        ms: u64,
    },
    /// SIGSTOP of a server, SIGCONT after `ms`. For Kafka, this is longer than the publishing
    /// deadline half of the time.
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
    /// The host of a server dies without a word: connections stay open and silent for ever, new
    /// ones hang for `ms`; then the address leads to another host. With `process` the server's
    /// process is gone with its host; else only the way to it, and it keeps its ends of the
    /// connections open.
    Silent {
        store: FaultyStore,
        process: bool,
        ms: u64,
    },
    /// Redis is killed and comes back without so many percent of what the schedule wrote to its
    /// append-only file.
    TruncatedAof {
        percent: u64,
    },
    Flush,
    /// Redis is killed and comes back with what it had `age_ms` before.
    OldCopy {
        age_ms: u64,
    },
    /// A replica whose link was cut `lag_ms` before takes the place of the master.
    StaleReplica {
        lag_ms: u64,
    },
    /// The master takes over the data of a replica that stopped following `lag_ms` before, and is
    /// promoted again in the same process.
    Demotion {
        lag_ms: u64,
    },
    /// Redis's clock is wrong by so many seconds for `ms`.
    RedisClock {
        seconds: i64,
        ms: u64,
    },
    /// Redis's disk is full (its files may not grow): it ends itself, and is started again after
    /// `ms`.
    RedisDiskFull {
        ms: u64,
    },
    /// Redis has no memory left for new keys.
    RedisMemory {
        ms: u64,
    },
    /// MySQL takes no writes.
    MysqlReadOnly {
        ms: u64,
    },
    /// Another client holds locks on the rows of the drop: writers run into lock wait timeouts.
    MysqlLocks {
        ms: u64,
    },
    /// Another client's transactions deadlock with those of the product.
    MysqlDeadlocks {
        ms: u64,
    },
    /// MySQL answers a ping, and no statement on the table of rows. (Another client has locked it.)
    MysqlTableHangs {
        ms: u64,
    },
    /// MySQL answers questions, and no statement that writes.
    MysqlWritesHang {
        ms: u64,
    },
    /// MySQL's disk is full (its files may not grow).
    MysqlDiskFull {
        ms: u64,
    },
    /// Somebody puts garbage into a store. The product removes it, or names it; then a person
    /// removes it, but not before `ms`.
    Garbage {
        junk: Junk,
        ms: u64,
    },
    /// Another producer writes to the topic. What is no claim is named; then a person removes it,
    /// but not before `ms`.
    Batch {
        batch: ForeignBatch,
        ms: u64,
    },
    /// A reconciler of a release that reads one claim a message says that it runs, for `ms`: claims
    /// stop sharing messages, and share them again.
    OldReader {
        ms: u64,
    },
    /// The topic gets more partitions.
    MorePartitions {
        partitions: usize,
    },
    /// The mail server refuses every recipient for good, for `ms`.
    MailsRefused {
        ms: u64,
    },
    /// Somebody overwrites a key with one of another type; then as above.
    WrongType {
        key: DropKey,
        ms: u64,
    },
    /// Somebody's row and admission are deleted by hand, everywhere. No seed draws it: nothing can
    /// be promised against it. It is there to show that the judge sees a lost promise.
    EveryCopyDeleted,
    /// On clusters: the primary of a coupon is killed, or with `frozen` stands still, and is back
    /// after `ms`; as a replica, if its own has taken over by then. (Coupons are numbered from 0.)
    RedisPrimary {
        number: usize,
        frozen: bool,
        ms: u64,
    },
    /// On clusters: a broker is killed, or with `frozen` stands still, and is back after `ms`.
    Broker {
        id: i32,
        frozen: bool,
        ms: u64,
    },
    /// On clusters: MySQL's primary is killed, or with `frozen` out of reach. After `ms` its
    /// replica takes over behind the same address, and it comes back as the replica.
    MysqlFailOver {
        frozen: bool,
        ms: u64,
    },
}

impl Fault {
    /// The kind of process that it happens to.
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

    /// A name for counting, without durations.
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
            } => format!("{} host dead without a word", store.name()),
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
            Self::OldCopy { age_ms } => write!(out, " of {age_ms} ms before"),
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
            Self::Flush | Self::EveryCopyDeleted => Ok(()),
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
