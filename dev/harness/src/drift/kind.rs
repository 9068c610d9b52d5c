//! The kinds of drift, by name.

use clap::ValueEnum;

/// The kinds that can be injected. The word before the colon is the kind of finding that usually
/// reports the damage. Some damage is reported as another kind, if a pass sees another difference
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Drift {
    /// Delete MySQL rows of users who were promised a coupon
    #[value(name = "unissued")]
    Unissued,
    /// Admit new users without publishing their claims to the topic
    #[value(name = "unissued:unpublished")]
    Unpublished,
    /// Move rows to the dead-letter table; each of them can still be issued on its slot
    #[value(name = "failed_claim")]
    FailedClaim,
    /// Add dead letters of users who already have their row
    #[value(name = "failed_claim:duplicate")]
    FailedDuplicate,
    /// Add dead letters of new users, for slots that others hold
    #[value(name = "failed_claim:slot_taken")]
    FailedSlotTaken,
    /// Add dead letters for slots that the drop does not have, which only an operator can resolve
    #[value(name = "failed_claim:unrepairable")]
    FailedUnrepairable,
    /// Delete from Redis the users who have rows
    #[value(name = "missing_admission")]
    MissingAdmission,
    /// Put new users on slots of users with rows
    #[value(name = "slot_conflict")]
    SlotConflict,
    /// Admit new users on slots beyond the quantity
    #[value(name = "over_admitted")]
    OverAdmitted,
    /// Shrink the drop below the number of its users
    #[value(name = "over_admitted:shrunk")]
    OverShrunk,
    /// Set the counter too low
    #[value(name = "count_mismatch")]
    CountLower,
    /// Set the counter too high
    #[value(name = "count_mismatch:higher")]
    CountHigher,
    /// Revoke claims in MySQL only, as if an API died before it updated Redis
    #[value(name = "settings_mismatch")]
    Revoked,
    /// Let new users wait although slots are left; take slots from users if none are
    #[value(name = "unfilled")]
    Unfilled,
    /// Delete the drop's keys in Redis
    #[value(name = "redis_lost")]
    RedisLost,
    /// Run FLUSHALL in Redis
    #[value(name = "redis_lost:flushed")]
    RedisFlushed,
    /// Delete the gates of all coupons from Redis, which closes admission, as after a restart
    #[value(name = "redis_lost:gate")]
    RedisGate,
}

impl Drift {
    /// Returns the kind and its variant in the format of the command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Lists one line per kind, with its name and effect.
    pub fn list() -> String {
        let line = |kind: &Self| {
            let value = kind.to_possible_value()?;
            let help = value
                .get_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            Some(format!("{:<26} {help}", value.get_name()))
        };
        let lines: Vec<_> = Self::value_variants().iter().filter_map(line).collect();
        lines.join("\n")
    }
}
