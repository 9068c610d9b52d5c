//! The table of times: who observes a kind, how long it must last before it is mailed, and how long
//! it must be gone until it is over.

use chrono::TimeDelta;
use firstcome_shared::report::{AlertKind, Kind};

/// Where a kind is observed. A source that nobody knows about neither begins nor ends anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Heartbeats of processes, by store.
    Redis,
    Kafka,
    Mysql,
    /// The watches of daemons over the gates.
    Gates,
    /// The jobs of daemons.
    Settings,
    Consumers,
    /// Looks of passes and lanes: what they judged stays until another look judges it.
    Looks,
    /// The clock and the last runs.
    Schedules,
    /// Tables that are read as they are.
    Tables,
}

impl Source {
    /// Whether it is about a store: the first mail does not wait for the budget.
    pub const fn is_store(self) -> bool {
        matches!(self, Self::Redis | Self::Kafka | Self::Mysql)
    }
}

/// Limits on how often mails are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The time after which a problem that lasts is mailed again, the first time.
    pub repeat: TimeDelta,
    /// How long an outage must last before it is mailed. Shorter ones come from restarts.
    pub patience: TimeDelta,
    /// Nobody evaluates again soon: what is so now is mailed without patience.
    pub is_last: bool,
}

/// Where a kind is observed.
pub fn source(kind: AlertKind) -> Source {
    match kind {
        AlertKind::RedisUnreachable | AlertKind::RedisRefuses => Source::Redis,
        AlertKind::KafkaUnreachable | AlertKind::KafkaRefuses => Source::Kafka,
        AlertKind::MysqlUnreachable | AlertKind::MysqlRefuses => Source::Mysql,
        AlertKind::AdmissionClosed => Source::Gates,
        AlertKind::UnsafeSetting => Source::Settings,
        AlertKind::ConsumerStands => Source::Consumers,
        AlertKind::RunMissed => Source::Schedules,
        AlertKind::Repaired | AlertKind::Left(Kind::BrokenPromise) => Source::Tables,
        AlertKind::RunFailed
        | AlertKind::TheirsRedis
        | AlertKind::TheirsDatabase
        | AlertKind::TheirsKafka
        | AlertKind::TheirsQueue
        | AlertKind::Braked
        | AlertKind::Forged
        | AlertKind::Left(_) => Source::Looks,
    }
}

/// Whether the end of a kind is mailed.
pub(crate) fn says_over(kind: AlertKind) -> bool {
    kind != AlertKind::Repaired
}

impl Policy {
    /// A cause that was gone for less than this may be back in a moment.
    pub const fn settle(&self) -> TimeDelta {
        TimeDelta::milliseconds(self.patience.num_milliseconds() * 2)
    }

    /// How long a kind must be gone until it is over.
    pub fn gone_for(&self, kind: AlertKind) -> TimeDelta {
        match source(kind) {
            Source::Redis
            | Source::Kafka
            | Source::Mysql
            | Source::Gates
            | Source::Settings
            | Source::Consumers => self.settle(),
            // What looks and tables prove is over at once.
            Source::Looks | Source::Schedules | Source::Tables => TimeDelta::zero(),
        }
    }

    /// How long a kind must last, unexplained, until it is mailed; for looks, the time between two.
    pub fn patience(&self, kind: AlertKind) -> TimeDelta {
        match kind {
            AlertKind::RedisUnreachable
            | AlertKind::RedisRefuses
            | AlertKind::KafkaUnreachable
            | AlertKind::KafkaRefuses
            | AlertKind::MysqlUnreachable
            | AlertKind::MysqlRefuses
            | AlertKind::AdmissionClosed
            // A campaign that cannot be compared may have met a short failover, a new coupon is
            // loaded within seconds, and who is owed a slot gets one that is left within seconds.
            | AlertKind::RunFailed
            | AlertKind::TheirsRedis
            | AlertKind::TheirsDatabase
            | AlertKind::TheirsKafka
            | AlertKind::Left(Kind::Stalled | Kind::NotReady | Kind::BrokenPromise) => self.patience,
            AlertKind::Left(Kind::RedisLost) => self.settle(),
            AlertKind::TheirsQueue => TimeDelta::minutes(10),
            AlertKind::UnsafeSetting
            | AlertKind::ConsumerStands
            | AlertKind::RunMissed
            | AlertKind::Repaired
            | AlertKind::Braked
            | AlertKind::Forged
            | AlertKind::Left(_) => TimeDelta::zero(),
        }
    }
}
