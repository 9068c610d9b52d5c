//! The table of times: who observes a kind, how long it must last before it is mailed, and how long
//! it must be gone until it is over.

use chrono::TimeDelta;

use crate::report::{AlertKind, Kind};

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

/// How a kind is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    pub source: Source,
    /// How long it must last, unexplained, until it is mailed; for looks, the time between two.
    pub patience: TimeDelta,
    /// How long it must be gone until it is over.
    pub gone_for: TimeDelta,
    /// Whether its end is mailed.
    pub says_over: bool,
    /// Whether it is about a store: its mail does not wait for the budget.
    pub is_store: bool,
}

/// Limits on how often mails are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The time after which a problem that lasts is mailed again, the first time.
    pub repeat: TimeDelta,
    /// How long an outage must last before it is mailed. Shorter ones come from restarts.
    pub patience: TimeDelta,
}

/// Where a kind is observed.
pub fn source(kind: AlertKind) -> Source {
    let policy = Policy {
        repeat: TimeDelta::zero(),
        patience: TimeDelta::zero(),
    };
    policy.times(kind).source
}

impl Policy {
    /// A cause that was gone for less than this may be back in a moment.
    pub const fn settle(&self) -> TimeDelta {
        TimeDelta::milliseconds(self.patience.num_milliseconds() * 2)
    }

    /// Returns how a kind is told.
    pub fn times(&self, kind: AlertKind) -> Times {
        let looks = Times {
            source: Source::Looks,
            patience: TimeDelta::zero(),
            gone_for: TimeDelta::zero(),
            says_over: true,
            is_store: false,
        };
        let watched = |source| Times {
            source,
            patience: self.patience,
            gone_for: self.settle(),
            ..looks
        };
        let store = |source| Times {
            is_store: true,
            ..watched(source)
        };
        match kind {
            AlertKind::RedisUnreachable | AlertKind::RedisRefuses => store(Source::Redis),
            AlertKind::KafkaUnreachable | AlertKind::KafkaRefuses => store(Source::Kafka),
            AlertKind::MysqlUnreachable
            | AlertKind::MysqlRefuses
            | AlertKind::AlertsNotRecorded => store(Source::Mysql),
            AlertKind::AdmissionClosed => watched(Source::Gates),
            AlertKind::UnsafeSetting => Times {
                patience: TimeDelta::zero(),
                ..watched(Source::Settings)
            },
            AlertKind::ConsumerStands => Times {
                patience: TimeDelta::zero(),
                ..watched(Source::Consumers)
            },
            // A campaign that cannot be compared may have met a short failover, and a new coupon is
            // loaded within seconds.
            AlertKind::RunFailed
            | AlertKind::TheirsRedis
            | AlertKind::TheirsMysql
            | AlertKind::TheirsKafka
            | AlertKind::Left(Kind::Stalled | Kind::NotReady) => Times {
                patience: self.patience,
                ..looks
            },
            AlertKind::Left(Kind::RedisLost) => Times {
                patience: self.settle(),
                ..looks
            },
            AlertKind::TheirsQueue => Times {
                patience: TimeDelta::minutes(10),
                ..looks
            },
            AlertKind::RunMissed => Times {
                source: Source::Schedules,
                ..looks
            },
            AlertKind::Left(Kind::BrokenPromise) => Times {
                source: Source::Tables,
                ..looks
            },
            AlertKind::Repaired => Times {
                source: Source::Tables,
                says_over: false,
                ..looks
            },
            AlertKind::Braked
            | AlertKind::Forged
            | AlertKind::Left(
                Kind::Unissued
                | Kind::FailedClaim
                | Kind::MissingAdmission
                | Kind::SlotConflict
                | Kind::OverAdmitted
                | Kind::CountMismatch
                | Kind::SettingsMismatch
                | Kind::Unfilled
                | Kind::OverIssued
                | Kind::DuplicateRow
                | Kind::Check
                | Kind::MissingDrop
                | Kind::BadUse,
            ) => looks,
        }
    }
}
