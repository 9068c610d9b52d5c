//! Constants that tests can override. They are not settings, and no runbook mentions them.
//!
//! Debug builds, and builds with the feature `crash-points`, read the variable `FIRSTCOME_TEST_`
//! plus the name, for example `FIRSTCOME_TEST_ALERT_PATIENCE_SECONDS=0`. Other builds always use the
//! constant.

use std::str::FromStr;

use strum::{EnumString, IntoStaticStr};

/// A constant. Its name contains its unit, if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum Tuning {
    /// Pause before a lasting problem is mailed again.
    AlertCooldownSeconds,
    /// Time that an outage must last before a mail is sent.
    AlertPatienceSeconds,
    /// Retention of ended alerts.
    AlertsKeptSeconds,
    /// Deadline of MySQL for claims that Kafka has not acknowledged.
    BackupDeadlineMs,
    /// Pause between two reads of the catalogue.
    CatalogueRefreshMs,
    /// Retention of runs with the same result as an earlier run.
    CleanRunsKeptSeconds,
    /// Number of claims at which a batch is full.
    ConsumeBatchMax,
    /// Time without progress after which a consumer is stuck.
    ConsumeStuckSeconds,
    /// Maximum connections of one pool to MySQL.
    DatabasePoolSize,
    /// Number of losers in a tenth of a second at which a drop is leased.
    CrowdOfLosers,
    /// Maximum duration of a call to MySQL.
    DatabaseTimeoutMs,
    /// Retention of resolved dead letters.
    FailedClaimsKeptSeconds,
    /// Pause between rounds of the jobs that run concurrently with passes.
    JobsSeconds,
    /// Time without heartbeats after which a consumer's partitions go to other consumers.
    KafkaSessionMs,
    /// Whether the API answers claims before its router.
    HasFastPath,
    /// Maximum wait for the head of a request.
    HeaderReadTimeoutMs,
    /// Retention of mails and webhook events.
    MailsKeptSeconds,
    /// Maximum concurrent claims of one API.
    MaxClaimsInHand,
    /// Retention of mended promises.
    MendedPromisesKeptSeconds,
    /// Retention of user ids of sealed drops.
    PeopleKeptSeconds,
    /// Maximum wait of `claims/me` for one answer of MySQL.
    QuestionTimeoutMs,
    /// Repairs that the repair limit always allows.
    #[strum(serialize = "RECONCILE_BRAKE_AT_LEAST")]
    RepairLimitAtLeast,
    /// Repair limit in percent of a drop.
    #[strum(serialize = "RECONCILE_BRAKE_PERCENT")]
    RepairLimitPercent,
    /// Maximum duration of a response.
    RequestTimeoutMs,
    /// Retention of other runs, and of findings.
    RunsKeptSeconds,
    /// Lifetime of a sealed drop's keys in Redis.
    SealedKeysTtlSeconds,
    /// Maximum wait for a store at start-up.
    StartupWaitSeconds,
}

impl Tuning {
    /// Returns the constant with this name, without the prefix of the variable.
    pub fn named(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    /// Returns the constant, unless a test has overridden it.
    pub fn or<N: FromStr>(self, constant: N) -> N {
        self.of_test().unwrap_or(constant)
    }

    /// Returns the value set by a test.
    pub fn of_test<N: FromStr>(self) -> Option<N> {
        of_test(self)?.parse().ok()
    }
}

#[cfg(any(debug_assertions, feature = "crash-points"))]
fn of_test(tuning: Tuning) -> Option<String> {
    scope::value(tuning)
        .or_else(|| std::env::var(format!("FIRSTCOME_TEST_{}", <&str>::from(tuning))).ok())
}

#[cfg(not(any(debug_assertions, feature = "crash-points")))]
fn of_test(_: Tuning) -> Option<String> {
    None
}

/// Overrides for tests that run a service in their own process, where variables cannot be set.
#[cfg(any(debug_assertions, feature = "crash-points"))]
pub mod scope {
    use std::cell::RefCell;

    use super::Tuning;

    thread_local! {
        static VALUES: RefCell<Vec<(Tuning, String)>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn value(tuning: Tuning) -> Option<String> {
        VALUES.with_borrow(|values| {
            let found = values.iter().find(|(name, _)| *name == tuning);
            found.map(|(_, value)| value.clone())
        })
    }

    /// Runs `read`, which reads settings, with these values in the current thread.
    pub fn with<T>(values: Vec<(Tuning, String)>, read: impl FnOnce() -> T) -> T {
        VALUES.set(values);
        let done = read();
        VALUES.take();
        done
    }
}
