//! The kinds of findings, in one table. Mails, the operations page, metrics and the command line
//! take every word about a kind from it.

use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

/// The kind of a finding: the name of the first difference that was seen. docs/OPERATIONS.md has a
/// section for each.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    IntoStaticStr,
    EnumString,
    VariantArray,
    ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Kind {
    /// A promise without a row.
    Unissued,
    /// An unresolved row of the dead-letter table.
    FailedClaim,
    /// A row whose user is unknown to Redis.
    MissingAdmission,
    /// Redis has another user on the slot of a row.
    SlotConflict,
    /// A slot above the quantity, or a second drop of a coupon that allows one in total.
    OverAdmitted,
    /// The counter is not the number of held and free slots, or a key cannot be read.
    CountMismatch,
    /// Settings, allow list, claimants or revocations in Redis differ.
    SettingsMismatch,
    /// Redis lost a drop, or may have lost data.
    RedisLost,
    /// Free slots although users wait, or at closing.
    Unfilled,
    /// A promise that could not be kept.
    BrokenPromise,
    /// Something makes no progress, cannot be reached, or no longer protects promises.
    Stalled,
}

/// How urgent a kind is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Users lack what they were promised, or nobody can claim.
    Critical,
    Warning,
    Information,
}

/// What a kind means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindFacts {
    /// One finding, and many.
    pub noun: [&'static str; 2],
    pub severity: Severity,
    /// Whether an unrepaired finding keeps its coupon closed.
    pub closes: bool,
    /// Whether its repair may take the slot that Redis shows from a user, and therefore counts for
    /// the repair limit.
    pub limited: bool,
    /// The effect on users if it is left.
    pub meaning: &'static str,
    /// What an operator does about it.
    pub to_do: &'static str,
    /// The section of docs/OPERATIONS.md.
    pub section: &'static str,
}

impl Kind {
    /// Returns everything that is said and decided about a kind.
    #[allow(clippy::too_many_lines, reason = "one table")]
    pub const fn facts(self) -> KindFacts {
        match self {
            Self::Unissued => KindFacts {
                noun: ["promise without a row", "promises without a row"],
                severity: Severity::Critical,
                closes: true,
                limited: false,
                meaning: "People were promised a coupon and have none yet.",
                to_do: "See the reason of each: the finding quotes MySQL. Correct what MySQL refuses; the next pass tries again.",
                section: "unissued",
            },
            Self::FailedClaim => KindFacts {
                noun: ["failed claim", "failed claims"],
                severity: Severity::Warning,
                closes: false,
                limited: false,
                meaning: "People may have been promised a coupon and have none.",
                to_do: "See the reason of each. Correct the claim on its page, and the next pass issues it. Discard a claim only if \
                        nobody was promised anything.",
                section: "failed_claim",
            },
            Self::MissingAdmission => KindFacts {
                noun: ["row without an admission", "rows without an admission"],
                severity: Severity::Warning,
                closes: true,
                limited: true,
                meaning: "Their slots may be given to others, who then have to wait.",
                to_do: "The next pass writes the drop to Redis again from its rows. If it keeps failing, see the reason.",
                section: "missing_admission",
            },
            Self::SlotConflict => KindFacts {
                noun: ["slot conflict", "slot conflicts"],
                severity: Severity::Warning,
                closes: true,
                limited: true,
                meaning: "The user with the row keeps the slot; the other one is first in line for the next.",
                to_do: "The next pass writes the drop to Redis again from its rows. If it keeps failing, see the reason.",
                section: "slot_conflict",
            },
            Self::OverAdmitted => KindFacts {
                noun: ["admission too many", "admissions too many"],
                severity: Severity::Critical,
                closes: true,
                limited: true,
                meaning: "More people were told yes than there are slots.",
                to_do: "Raise the quantity before the drop closes: the next pass gives each of them a coupon.",
                section: "over_admitted",
            },
            Self::CountMismatch => KindFacts {
                noun: [
                    "counter that does not add up",
                    "counters that do not add up",
                ],
                severity: Severity::Warning,
                closes: true,
                limited: false,
                meaning: "Claims to the drop get 503 until it is written again.",
                to_do: "The next pass writes the drop to Redis again from its rows. If it keeps failing, see the reason.",
                section: "count_mismatch",
            },
            Self::SettingsMismatch => KindFacts {
                noun: ["difference in settings", "differences in settings"],
                severity: Severity::Warning,
                closes: false,
                limited: false,
                meaning: "Redis follows older settings, or an older list.",
                to_do: "The next pass writes them again. If it keeps failing, see the reason.",
                section: "settings_mismatch",
            },
            Self::RedisLost => KindFacts {
                noun: ["loss of data in Redis", "losses of data in Redis"],
                severity: Severity::Critical,
                closes: true,
                limited: false,
                meaning: "Claims to closed coupons get 503; nobody loses a coupon.",
                to_do: "See what else is wrong with this coupon, and correct it. The next attempt, within seconds, opens what it can \
                        verify.",
                section: "redis_lost",
            },
            Self::Unfilled => KindFacts {
                noun: ["slot to fill", "slots to fill"],
                severity: Severity::Information,
                closes: false,
                limited: false,
                meaning: "People wait although slots are left.",
                to_do: "Nothing needs to be done: the next pass promotes them.",
                section: "unfilled",
            },
            Self::BrokenPromise => KindFacts {
                noun: ["broken promise", "broken promises"],
                severity: Severity::Critical,
                closes: false,
                limited: false,
                meaning: "They are first on its waiting list.",
                to_do: "Raise the quantity before the drop closes: the next pass gives each of them a coupon. (For a daily coupon, \
                        this raises every drop that is not closed.) If you can't, tell each of them, and note it in their story on \
                        the operations page; the last one ends this alert.",
                section: "broken_promise",
            },
            Self::Stalled => KindFacts {
                noun: ["stall", "stalls"],
                severity: Severity::Warning,
                closes: false,
                limited: false,
                meaning: "No promise is lost: passes issue what waits too long, so people get their codes late.",
                to_do: "Check that the consumers run, and that Kafka and MySQL can be reached. A mail says when it moves again.",
                section: "stalled",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_section_and_words() {
        for kind in Kind::VARIANTS {
            let facts = kind.facts();
            assert_eq!(facts.section, kind.as_str());
            assert!(facts.noun[0] != facts.noun[1] && facts.to_do.ends_with('.'));
            // Only what takes a slot counts for the limit, and that never stays open.
            assert!(!facts.limited || facts.closes, "{kind:?}");
        }
    }
}
