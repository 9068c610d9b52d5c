//! The kinds of drift, by name.

use clap::ValueEnum;

/// What can be made. The word before the colon is the reconciler's name of the finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Drift {
    /// Rows are deleted from MySQL; their people were promised a coupon
    #[value(name = "unissued")]
    Unissued,
    /// New people are admitted, and no message of theirs reaches the topic
    #[value(name = "unissued:unpublished")]
    Unpublished,
    /// Rows move to the dead-letter table: each can be issued in its slot
    #[value(name = "failed_claim")]
    FailedClaim,
    /// Dead letters of people who hold their row already
    #[value(name = "failed_claim:duplicate")]
    FailedDuplicate,
    /// Dead letters of new people, for slots that others hold
    #[value(name = "failed_claim:slot_taken")]
    FailedSlotTaken,
    /// Dead letters for slots the drop does not have: only a person can decide
    #[value(name = "failed_claim:unrepairable")]
    FailedUnrepairable,
    /// Redis forgets people, who have their rows
    #[value(name = "missing_admission")]
    MissingAdmission,
    /// Only the coupon's list of claimants forgets people
    #[value(name = "missing_admission:claimants")]
    MissingClaimants,
    /// Redis has people on other slots, which nobody else holds, than their rows
    #[value(name = "missing_admission:moved")]
    MissingMoved,
    /// The counter is too low
    #[value(name = "count_mismatch")]
    CountLower,
    /// The counter is too high
    #[value(name = "count_mismatch:higher")]
    CountHigher,
    /// Slots were skipped: given out by the counter, held by nobody
    #[value(name = "count_mismatch:gap")]
    CountGap,
    /// New people stand on slots of people with rows
    #[value(name = "slot_conflict")]
    SlotConflict,
    /// Redis has people on the slots of others, beside them
    #[value(name = "slot_conflict:moved")]
    ConflictMoved,
    /// Redis has pairs of people on each other's slot
    #[value(name = "slot_conflict:exchanged")]
    ConflictExchanged,
    /// New people stand on slots above the quantity
    #[value(name = "over_admitted")]
    OverAdmitted,
    /// The drop has become smaller than the number of people in it
    #[value(name = "over_admitted:shrunk")]
    OverShrunk,
    /// People hold a slot in two drops of a coupon that allows one
    #[value(name = "over_admitted:two_drops")]
    OverTwoDrops,
    /// Claims are revoked, and Redis does not follow: as when an API dies between the two
    #[value(name = "revoked_admission")]
    RevokedAdmission,
    /// Redis forgets whose claims are revoked
    #[value(name = "revoked_admission:forgotten")]
    RevokedForgotten,
    /// Claims are revoked whose rows stay
    #[value(name = "revoked_row")]
    RevokedRow,
    /// Slots are free although people wait
    #[value(name = "unfilled")]
    Unfilled,
    /// The drop has closed below its quantity
    #[value(name = "unfilled:closed")]
    UnfilledClosed,
    /// Redis loses the drop's keys
    #[value(name = "redis_lost")]
    RedisLost,
    /// Redis loses everything, as by FLUSHALL
    #[value(name = "redis_lost:flushed")]
    RedisFlushed,
    /// Redis loses its gates, which closes admission, as after a restart
    #[value(name = "redis_lost:licence")]
    RedisGate,
    /// Messages wait on the topic while the consumer can't write
    #[value(name = "stalled")]
    Stalled,
}

impl Drift {
    /// The kind and its variant, as on the command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// The reconciler's name of the finding, without the variant.
    pub fn finding(self) -> String {
        self.name().split(':').next().unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_is_named_after_a_finding() {
        let findings = [
            "unissued",
            "failed_claim",
            "missing_admission",
            "count_mismatch",
            "slot_conflict",
            "over_admitted",
            "revoked_admission",
            "revoked_row",
            "unfilled",
            "redis_lost",
            "stalled",
        ];
        for kind in Drift::value_variants() {
            assert!(
                findings.contains(&kind.finding().as_str()),
                "{}",
                kind.name()
            );
        }
        for finding in findings {
            assert!(
                Drift::from_str(finding, false).is_ok(),
                "{finding} alone is a kind"
            );
        }
    }
}
