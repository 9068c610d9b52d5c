//! Constants that tests can override. They are not settings, and no runbook mentions them.
//!
//! Debug builds, and builds with the feature `crash-points`, read the variable `FIRSTCOME_TEST_`
//! plus the name, for example `FIRSTCOME_TEST_ALERT_PATIENCE_SECONDS=0`. Release builds always use
//! the constant.

use std::str::FromStr;

macro_rules! tunings {
    ($($variant:ident $name:literal $doc:literal),+ $(,)?) => {
        /// A constant with its unit in its name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Tuning {
            $(#[doc = $doc] $variant,)+
        }

        impl Tuning {
            /// All constants, so that a test cannot set one that does not exist.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Returns the constant with this name, without the prefix of the variable.
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// Returns the variable that a test sets.
            pub const fn variable(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("FIRSTCOME_TEST_", $name),)+
                }
            }
        }
    };
}

tunings! {
    AlertCooldownSeconds "ALERT_COOLDOWN_SECONDS" "Pause before a lasting problem is mailed again.",
    AlertPatienceSeconds "ALERT_PATIENCE_SECONDS" "Time for which passes must fail before a mail is sent.",
    AlertsKeptSeconds "ALERTS_KEPT_SECONDS" "Retention of ended alerts.",
    BackupDeadlineMs "BACKUP_DEADLINE_MS" "Deadline of MySQL for one claim that Kafka has not acknowledged.",
    CatalogueRefreshMs "CATALOGUE_REFRESH_MS" "Pause between two reads of the catalogue.",
    CleanRunsKeptSeconds "CLEAN_RUNS_KEPT_SECONDS" "Retention of runs that found nothing.",
    ConsumeBatchMax "CONSUME_BATCH_MAX" "Maximum claims in one transaction.",
    ConsumeStuckSeconds "CONSUME_STUCK_SECONDS" "Time without progress after which a consumer is stuck.",
    ConsumerStallSeconds "CONSUMER_STALL_SECONDS" "Time without progress of the consumers after which a pass reports it.",
    DatabasePoolSize "DATABASE_POOL_SIZE" "Maximum connections of one process to MySQL.",
    DatabaseTimeoutMs "DATABASE_TIMEOUT_MS" "Maximum duration of a call to MySQL.",
    FailedClaimsKeptSeconds "FAILED_CLAIMS_KEPT_SECONDS" "Retention of resolved dead letters.",
    JobsSeconds "JOBS_SECONDS" "Pause between the jobs beside the passes.",
    KeysRefreshSeconds "JWT_JWKS_REFRESH_SECONDS" "Pause between two reads of a JWK Set.",
    HeaderReadTimeoutMs "HEADER_READ_TIMEOUT_MS" "Maximum wait for the head of a request.",
    MailsKeptSeconds "MAILS_KEPT_SECONDS" "Retention of mails.",
    MaxClaimsInHand "MAX_CLAIMS_IN_HAND" "Maximum concurrent claims of one API.",
    MaxConnections "MAX_CONNECTIONS" "Maximum concurrent connections of one API.",
    MendedPromisesKeptSeconds "MENDED_PROMISES_KEPT_SECONDS" "Retention of mended promises.",
    MissedAfterSeconds "MISSED_AFTER_SECONDS" "Delay after which a scheduled run counts as missed.",
    PeopleKeptSeconds "PEOPLE_KEPT_SECONDS" "Retention of user ids in rows.",
    QuestionTimeoutMs "QUESTION_TIMEOUT_MS" "Maximum duration of a read from MySQL.",
    ReconcileOverdueMs "RECONCILE_OVERDUE_MS" "Time on the topic after which the reconciler issues a claim.",
    ReconcilePageSlots "RECONCILE_PAGE_SLOTS" "Slots of one page of a pass.",
    RepairLimitAtLeast "RECONCILE_BRAKE_AT_LEAST" "Repairs that the repair limit always allows.",
    RepairLimitPercent "RECONCILE_BRAKE_PERCENT" "Repair limit in percent of a drop.",
    RequestTimeoutMs "REQUEST_TIMEOUT_MS" "Maximum duration of a response.",
    RunsKeptSeconds "RUNS_KEPT_SECONDS" "Retention of runs with findings.",
    SealedKeysTtlSeconds "SEALED_KEYS_TTL_SECONDS" "Lifetime of a sealed drop's keys in Redis.",
    SmtpTimeoutMs "SMTP_TIMEOUT_MS" "Maximum duration of sending one mail, up to its content.",
    WebhookTimeoutMs "WEBHOOK_TIMEOUT_MS" "Maximum duration of one webhook.",
    StartupWaitSeconds "STARTUP_WAIT_SECONDS" "Maximum wait for a store at start-up.",
}

impl Tuning {
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
    scope::value(tuning).or_else(|| std::env::var(tuning.variable()).ok())
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn tuning_variables_are_distinct() {
        let names: HashSet<_> = Tuning::ALL.iter().map(|one| one.variable()).collect();
        assert_eq!(names.len(), Tuning::ALL.len());
    }

    #[test]
    fn tuning_keeps_its_default_unless_a_test_sets_it() {
        let cooldown = || Tuning::AlertCooldownSeconds.or(14_400_u64);
        let shortened = vec![(Tuning::AlertCooldownSeconds, "1".to_owned())];
        assert_eq!(scope::with(shortened, cooldown), 1);
        assert_eq!(cooldown(), 14_400);
    }
}
