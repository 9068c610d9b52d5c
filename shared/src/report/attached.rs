//! What the kinds mean in a campaign of `attach`, whose API and stores belong to another system: no
//! gate closes there, and no user loses a slot.

use super::{AlertKind, Kind, KindFacts, Remedy};
use crate::subject::Subject;

const BY_HAND: &str = "See the reason: it ends with the command that repairs it.";

impl AlertKind {
    /// Returns the facts of a kind for a drop or for a campaign.
    pub const fn facts_for(self, subject: Subject) -> KindFacts {
        match subject {
            Subject::Drop => self.facts(),
            Subject::Campaign => self.campaign_facts(),
        }
    }

    /// Returns what to do about a kind in a campaign whose mode is known.
    pub const fn campaign_to_do(self, is_repaired: bool) -> &'static str {
        match (self, is_repaired) {
            (Self::Left(Kind::Unissued), true) => {
                "See the reason. What the next pass can repair, it repairs."
            }
            (Self::Left(Kind::Unissued), false) => {
                "This campaign is only observed: repair it by hand, or write mode = \"repair\" \
                for it. See the reason."
            }
            (kind, _) => kind.campaign_facts().to_do,
        }
    }

    const fn campaign_facts(self) -> KindFacts {
        let facts = match self {
            Self::RedisUnreachable => Self::TheirsRedis.facts(),
            Self::MysqlUnreachable => Self::TheirsDatabase.facts(),
            Self::KafkaUnreachable => Self::TheirsKafka.facts(),
            other => other.facts(),
        };
        let (users, to_do) = match self {
            Self::Left(Kind::Unissued) => (
                "They were promised a coupon, and have none yet.",
                "See the reason. In mode repair the next pass writes what it may, and the rest \
                waits for a confirmation.",
            ),
            Self::Left(Kind::FailedClaim) => (
                "They may have been promised a coupon, and have none.",
                "See the reason of each. Those that came after the last coupon was given out can \
                be deleted.",
            ),
            Self::Left(Kind::MissingAdmission) => (
                "They have their coupons, and could claim a second one.",
                BY_HAND,
            ),
            Self::Left(Kind::CountMismatch) => {
                ("The counter may accept or refuse users wrongly.", BY_HAND)
            }
            Self::Left(Kind::OverAdmitted) => (
                "More users were promised a coupon than there are coupons.",
                "Raise the quantity, and confirm what the next pass shows; or tell each of them.",
            ),
            Self::Left(Kind::Stalled) => (
                "This campaign is not compared, and nothing of it is repaired. If its queue \
                stands, its users wait for their coupons.",
                "Correct what the sentence names: the file, a table, a right, or the consumer. \
                The other campaigns go on.",
            ),
            Self::Braked => (
                "These repairs were not made.",
                "See why. The file may name other keys or rows, or somebody may have stopped the \
                sale by hand. Otherwise list and confirm them (docs/ATTACH.md).",
            ),
            Self::RedisUnreachable
            | Self::RedisRefuses
            | Self::AdmissionClosed
            | Self::MysqlUnreachable
            | Self::MysqlRefuses
            | Self::KafkaUnreachable
            | Self::KafkaRefuses
            | Self::RunFailed
            | Self::RunMissed
            | Self::UnsafeSetting
            | Self::Forged
            | Self::ConsumerStands
            | Self::TheirsRedis
            | Self::TheirsDatabase
            | Self::TheirsKafka
            | Self::TheirsQueue
            | Self::Repaired
            | Self::Left(
                Kind::SlotConflict
                | Kind::Unfilled
                | Kind::SettingsMismatch
                | Kind::RedisLost
                | Kind::BrokenPromise
                | Kind::OverIssued
                | Kind::DuplicateRow
                | Kind::BadUse
                | Kind::Check
                | Kind::MissingDrop
                | Kind::NotReady,
            ) => (facts.users, facts.to_do),
        };
        // Such an alert is about the installation, and has no findings to list.
        let remedy = if self.is_outage() {
            Remedy::LookAtRuns
        } else {
            Remedy::Attached
        };
        KindFacts {
            users,
            to_do,
            remedy,
            ..facts
        }
    }
}
