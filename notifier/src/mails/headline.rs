//! Decides what the line about a problem says. Two places print it: `summary` in `problem.rs`, for the
//! subject and the lists of alerts, and `title` in `mails/summary.rs`.

use crate::report::{AlertKind, Finding, Kind};
use crate::wording;

/// What the line about a problem says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Headline {
    /// What does not work; the title adds for how long.
    Outage,
    /// The text of the only finding, which needs no addition.
    Sentence,
    /// The text of the first finding; the title counts the cases instead.
    Example,
    /// How many users would lose their slot by the repairs that wait.
    HeldBack(u64),
    /// How many cases there are.
    Number,
    Forged,
    /// How many cases no pass has repaired.
    NotRepaired,
}

impl Headline {
    pub(crate) fn decide(kind: AlertKind, findings: &[Finding], held_back: Option<u64>) -> Self {
        let if_whole = |one, several| match findings {
            [found] if found.is_whole() => one,
            _ => several,
        };
        match kind {
            AlertKind::RedisUnreachable
            | AlertKind::RedisRefuses
            | AlertKind::AdmissionClosed
            | AlertKind::MysqlUnreachable
            | AlertKind::MysqlRefuses
            | AlertKind::KafkaUnreachable
            | AlertKind::KafkaRefuses
            | AlertKind::AlertsNotRecorded
            | AlertKind::RunFailed
            | AlertKind::RunMissed
            | AlertKind::TheirsRedis
            | AlertKind::TheirsMysql
            | AlertKind::TheirsKafka => Self::Outage,
            AlertKind::Braked => held_back.map_or(Self::Number, Self::HeldBack),
            AlertKind::Forged => Self::Forged,
            AlertKind::Repaired | AlertKind::Left(Kind::BrokenPromise) => Self::Number,
            AlertKind::ConsumerStands
            | AlertKind::TheirsQueue
            | AlertKind::UnsafeSetting
            | AlertKind::Left(Kind::Stalled) => if_whole(Self::Sentence, Self::Example),
            // Its sentence alone does not say that nothing has repaired it.
            AlertKind::Left(Kind::FailedClaim) => if_whole(Self::Example, Self::NotRepaired),
            AlertKind::Left(
                Kind::Unissued
                | Kind::MissingAdmission
                | Kind::SlotConflict
                | Kind::OverAdmitted
                | Kind::CountMismatch
                | Kind::SettingsMismatch
                | Kind::RedisLost
                | Kind::Unfilled
                | Kind::OverIssued
                | Kind::DuplicateRow
                | Kind::BadUse
                | Kind::Check
                | Kind::MissingDrop
                | Kind::NotReady,
            ) => if_whole(Self::Sentence, Self::NotRepaired),
        }
    }
}

/// Such as "60 users would lose their slot, if confirmed".
pub(crate) fn would_lose(users: u64) -> String {
    let users = wording::count(users, "user", "users");
    format!("{users} would lose their slot, if confirmed")
}
