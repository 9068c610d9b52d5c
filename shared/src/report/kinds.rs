//! The kinds of findings and of alerts, in one table. Mails, the operations page and the command
//! line take every word about a kind from it; docs/OPERATIONS.md has a section for each.

use serde::{Deserialize, Serialize};
use strum::{EnumIter, EnumString, IntoEnumIterator as _, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use super::FailureCause;

/// The kind of a finding: the name of the first difference that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(IntoStaticStr, EnumString, VariantArray, ToSchema)]
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
    /// A slot above the quantity, or of a user who has a row in another drop of a coupon that
    /// allows one in total.
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
    /// A row beyond the quantity of an attached campaign, whose schema does not refuse it.
    OverIssued,
    /// A user with several rows of an attached campaign.
    DuplicateRow,
    /// A code is used, and its coupon has no row.
    BadUse,
    /// A row that a check of an attached system returns.
    Check,
    /// A drop that the schedule requires cannot be created.
    MissingDrop,
    /// A drop opens within half an hour, and something that its claims need is missing.
    NotReady,
}

/// The kind of an alert: what one mail is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, IntoStaticStr, EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum AlertKind {
    /// Redis does not answer.
    RedisUnreachable,
    /// Redis answers, and refuses writes, commands or connections.
    RedisRefuses,
    /// Redis answers, but coupons stay closed.
    AdmissionClosed,
    MysqlUnreachable,
    /// MySQL answers, and refuses writes or connections.
    MysqlRefuses,
    KafkaUnreachable,
    /// Kafka answers, and refuses messages.
    KafkaRefuses,
    /// Passes fail for a reason that is not an unreachable store.
    RunFailed,
    /// A scheduled run is late.
    RunMissed,
    /// The repairs exceed the repair limit.
    Braked,
    /// A store's settings allow promises to be lost.
    UnsafeSetting,
    /// Messages on the topic are not signed by an API of this installation.
    Forged,
    /// The stored positions do not advance although messages are waiting.
    ConsumerStands,
    /// The Redis of the attached system does not answer or refuses.
    TheirsRedis,
    TheirsDatabase,
    TheirsKafka,
    /// A queue of the attached system does not move although messages are in it.
    TheirsQueue,
    /// Repairs that passes made by themselves.
    Repaired,
    /// Findings of this kind that the pass did not repair: the repair failed, or an operator must
    /// act.
    #[strum(disabled)]
    Left(Kind),
}

/// How urgent a kind is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Users lack what they were promised, or a part of the system does not work. New cases are
    /// mailed even if there are many others.
    Critical,
    Warning,
    Information,
}

/// What an operator does: the link and the command of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Look at the first screen of the operations page.
    Look,
    /// Look at the last runs.
    LookAtRuns,
    /// Run a pass.
    Pass,
    /// Confirm the repairs that are held back, or pause the coupon.
    Confirm,
    /// Raise the quantity by the number of users concerned.
    Raise,
    /// Correct or discard dead letters.
    DeadLetters,
    /// Run `attach --once`.
    Attached,
}

/// What a kind means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindFacts {
    /// Singular and plural.
    pub noun: [&'static str; 2],
    pub severity: Severity,
    /// What users notice.
    pub users: &'static str,
    /// What happens by itself, or what an operator does.
    pub to_do: &'static str,
    pub remedy: Remedy,
    /// Whether the alert is about the installation and not about what a pass found in it: its mail
    /// has the form of a mail about an outage.
    pub is_outage: bool,
}

/// The default facts: those of a warning.
const WARNING: KindFacts = KindFacts {
    noun: ["", ""],
    severity: Severity::Warning,
    users: "",
    to_do: "",
    remedy: Remedy::Pass,
    is_outage: false,
};

/// The default facts of an outage.
const OUTAGE: KindFacts = KindFacts {
    severity: Severity::Critical,
    remedy: Remedy::Look,
    is_outage: true,
    ..WARNING
};

/// What to do about a drop that differs from its rows.
const WRITTEN_AGAIN: &str =
    "The next pass writes the drop to Redis again from its rows. If this stays, see the reason.";

impl AlertKind {
    pub fn all() -> impl Iterator<Item = Self> {
        Self::iter().chain(Kind::VARIANTS.iter().copied().map(Self::Left))
    }

    /// Returns the word in tables, in the API, and as the heading of a section of
    /// docs/OPERATIONS.md.
    pub fn word(self) -> &'static str {
        match self {
            Self::Left(kind) => kind.as_str(),
            own => own.into(),
        }
    }

    /// The inverse of [`AlertKind::word`].
    pub fn from_word(word: &str) -> Option<Self> {
        Self::all().find(|kind| kind.word() == word)
    }

    pub const fn is_outage(self) -> bool {
        self.facts().is_outage
    }

    /// Returns the wording, the severity and the remedy of a kind.
    #[allow(clippy::too_many_lines, reason = "one table")]
    pub const fn facts(self) -> KindFacts {
        match self {
            Self::RedisUnreachable => KindFacts {
                noun: ["outage of Redis", "outages of Redis"],
                users: "Claims get 503 if the APIs cannot reach it either. Nobody loses a coupon.",
                to_do: "Bring Redis back, or the connection to it. Each coupon opens by itself \
                    once it is verified.",
                ..OUTAGE
            },
            Self::RedisRefuses => KindFacts {
                noun: ["refusal of Redis", "refusals of Redis"],
                users: "Claims get 503. Nobody loses a coupon.",
                to_do: "Remove what the sentence names. Each coupon opens by itself once it is \
                    verified.",
                ..OUTAGE
            },
            Self::AdmissionClosed => KindFacts {
                noun: ["closure of admission", "closures of admission"],
                users: "Claims to closed coupons get 503. Nobody loses a coupon.",
                to_do: "Each coupon opens by itself once it is verified. If it stays closed, \
                    remove the reason.",
                ..OUTAGE
            },
            Self::MysqlUnreachable => KindFacts {
                noun: ["outage of MySQL", "outages of MySQL"],
                users: "Claims go on as long as Redis and Kafka take them; codes come later. No \
                    promise is lost.",
                to_do: "Bring MySQL back. Everything then continues by itself.",
                ..OUTAGE
            },
            Self::MysqlRefuses => KindFacts {
                noun: ["refusal of MySQL", "refusals of MySQL"],
                users: "Claims go on as long as Redis and Kafka take them; codes come later. No \
                    promise is lost.",
                to_do: "Remove what the sentence names. Everything then continues by itself.",
                ..OUTAGE
            },
            Self::KafkaUnreachable => KindFacts {
                noun: ["outage of Kafka", "outages of Kafka"],
                severity: Severity::Warning,
                users: "Claims go on; the first ones take about 2 s longer. The API issues them \
                    itself, so codes come at once. No promise is lost.",
                to_do: "Bring Kafka back. Until then passes count as failed, and a coupon that \
                    closes stays closed.",
                ..OUTAGE
            },
            Self::KafkaRefuses => KindFacts {
                noun: ["refusal of Kafka", "refusals of Kafka"],
                severity: Severity::Warning,
                users: "Claims go on: the API writes them to MySQL. No promise is lost.",
                to_do: "Remove what the sentence names. Everything then continues by itself.",
                ..OUTAGE
            },
            Self::RunFailed => KindFacts {
                noun: ["failure of passes", "failures of passes"],
                users: "No promise is lost, but nothing is compared, and codes may come late.",
                to_do: "Remove the reason. The next pass examines everything again.",
                remedy: Remedy::LookAtRuns,
                ..OUTAGE
            },
            Self::RunMissed => KindFacts {
                noun: ["late run", "late runs"],
                severity: Severity::Warning,
                users: "No promise is lost, but meanwhile nothing was compared.",
                to_do: "It runs as soon as it can. Find out why it was late: the reconciler was \
                    stopped, its host slept, or another pass blocks it. A pass that runs for \
                    half an hour hangs: end its process.",
                remedy: Remedy::LookAtRuns,
                ..OUTAGE
            },
            Self::Braked => KindFacts {
                noun: [
                    "repair that waits for a confirmation",
                    "repairs that wait for a confirmation",
                ],
                users: "Nothing was changed in Redis. The coupon is open, and may give slots to \
                    users who then lose them.",
                to_do: "If you don't know the cause, pause the coupon and wait for somebody who \
                    does. If you know it, and MySQL is complete, list the repairs and confirm \
                    them.",
                remedy: Remedy::Confirm,
                ..WARNING
            },
            Self::UnsafeSetting => KindFacts {
                noun: ["unsafe setting", "unsafe settings"],
                users: "Users notice nothing yet: a fault of this store could lose promises.",
                to_do: "Change the setting as the sentence says, in the running server and in \
                    its file.",
                ..WARNING
            },
            Self::Forged => KindFacts {
                noun: [
                    "message without our signature",
                    "messages without our signature",
                ],
                users: "Users notice nothing: nothing was issued for such a message.",
                to_do: "Find who can write to the topic, take that right away, and discard the \
                    messages. If they come from an API of yours with another KAFKA_SIGNING_KEY, \
                    set the same key everywhere: passes issue its claims from Redis.",
                remedy: Remedy::DeadLetters,
                ..WARNING
            },
            Self::ConsumerStands => KindFacts {
                noun: ["standstill of consumers", "standstills of consumers"],
                users: "Codes come late. No promise is lost: passes issue what waits longer than \
                    a minute.",
                to_do: "Check that consumers run, and that they reach Kafka and MySQL.",
                ..WARNING
            },
            Self::TheirsRedis => KindFacts {
                noun: ["outage of their Redis", "outages of their Redis"],
                users: "Your users get errors if your API needs this Redis. Nothing is compared, \
                    and nothing is repaired.",
                to_do: "Bring it back, or the connection to it. The next pass compares everything.",
                ..OUTAGE
            },
            Self::TheirsDatabase => KindFacts {
                noun: ["outage of their database", "outages of their database"],
                users: "Your users get errors if your API needs this database, and their coupons \
                    come late. Nothing is compared, and nothing is repaired.",
                to_do: "Bring it back, or the connection to it: the sentence says whether it is \
                    that of the file or of DATABASE_URL. The next pass compares everything.",
                ..OUTAGE
            },
            Self::TheirsKafka => KindFacts {
                noun: ["outage of their Kafka", "outages of their Kafka"],
                users: "Your users get errors if your API waits for this Kafka, and their coupons \
                    come late. Campaigns whose queue is a topic are not compared if something \
                    differs.",
                to_do: "Bring it back, or the connection to it. The next pass compares everything.",
                ..OUTAGE
            },
            Self::TheirsQueue => KindFacts {
                noun: ["queue that stands", "queues that stand"],
                users: "Their users wait for what is in the queue.",
                to_do: "Start its consumer, or find out what it waits for.",
                remedy: Remedy::Attached,
                ..WARNING
            },
            Self::Repaired => KindFacts {
                noun: ["repair", "repairs"],
                severity: Severity::Information,
                users: "Users notice nothing any more: it is repaired.",
                to_do: "If this comes often, find out what makes repairs necessary.",
                remedy: Remedy::LookAtRuns,
                ..WARNING
            },
            Self::Left(Kind::Unissued) => KindFacts {
                noun: ["promise without a row", "promises without a row"],
                severity: Severity::Critical,
                users: "Their users were promised a coupon and have no code yet.",
                to_do: "The reason quotes MySQL. Correct what it refuses; the next pass tries again.",
                ..WARNING
            },
            Self::Left(Kind::FailedClaim) => KindFacts {
                noun: ["failed claim", "failed claims"],
                users: "Their users may have been promised a coupon and have none.",
                to_do: "See the reason of each and correct it; the next pass issues it. Discard \
                    a claim only if its user's story (Search) shows no promise.",
                remedy: Remedy::DeadLetters,
                ..WARNING
            },
            Self::Left(Kind::MissingAdmission) => KindFacts {
                noun: ["row without an admission", "rows without an admission"],
                users: "They keep their coupons, but their slots may be given to others, who \
                    then have to wait.",
                to_do: WRITTEN_AGAIN,
                ..WARNING
            },
            Self::Left(Kind::SlotConflict) => KindFacts {
                noun: ["slot conflict", "slot conflicts"],
                users: "The user with the row keeps the slot; the other one is first in line for \
                    the next.",
                to_do: WRITTEN_AGAIN,
                ..WARNING
            },
            Self::Left(Kind::OverAdmitted) => KindFacts {
                noun: ["admission too many", "admissions too many"],
                severity: Severity::Critical,
                users: "More users were promised a slot than there are slots.",
                to_do: "Raise the quantity before the drop closes: the next pass gives each of \
                    them a coupon.",
                remedy: Remedy::Raise,
                ..WARNING
            },
            Self::Left(Kind::CountMismatch) => KindFacts {
                noun: ["wrong counter", "wrong counters"],
                users: "Claims to the drop get 503 until it is written again; a sealed drop only \
                    lacks rows.",
                to_do: WRITTEN_AGAIN,
                ..WARNING
            },
            Self::Left(Kind::SettingsMismatch) => KindFacts {
                noun: ["difference in settings", "differences in settings"],
                users: "Redis follows older settings, or an older list.",
                to_do: "The next pass writes them again. If this stays, see the reason.",
                ..WARNING
            },
            Self::Left(Kind::RedisLost) => KindFacts {
                noun: ["loss of data in Redis", "losses of data in Redis"],
                severity: Severity::Critical,
                users: "Claims to the closed coupon get 503. Nobody loses a coupon.",
                to_do: "Remove the reason. The next attempt, within seconds, opens what it can verify.",
                ..WARNING
            },
            Self::Left(Kind::Unfilled) => KindFacts {
                noun: ["slot to fill", "slots to fill"],
                severity: Severity::Information,
                users: "People wait although slots are left.",
                to_do: "The next pass promotes them. If the drop has closed, decide whether they \
                    get the slots.",
                ..WARNING
            },
            Self::Left(Kind::BrokenPromise) => KindFacts {
                noun: ["broken promise", "broken promises"],
                severity: Severity::Critical,
                users: "They were promised a coupon and have none; they are first on the waiting list.",
                to_do: "Raise the quantity before the drop closes: the next pass gives them a \
                    coupon. (Of a daily coupon, that raises each drop that has not closed.) Or \
                    tell them, and note it in their story; the last note ends this alert.",
                remedy: Remedy::Raise,
                ..WARNING
            },
            Self::Left(Kind::Stalled) => KindFacts {
                noun: ["stall", "stalls"],
                users: "Codes come late. No promise is lost: passes issue what waits longer than \
                    a minute.",
                to_do: "Check that consumers run, and that they reach Kafka and MySQL.",
                ..WARNING
            },
            Self::Left(Kind::OverIssued) => KindFacts {
                noun: ["row beyond the quantity", "rows beyond the quantity"],
                severity: Severity::Critical,
                users: "More people hold a coupon than there are.",
                to_do: "Decide for each of the last rows: raise the quantity, or take the coupon \
                    back and tell its user. No pass deletes a row.",
                ..WARNING
            },
            Self::Left(Kind::BadUse) => KindFacts {
                noun: ["use without its coupon", "uses without their coupon"],
                users: "A shop gave something for a code that nobody holds.",
                to_do: "See whether its row was lost: passes write it again. If the coupon was \
                        revoked, settle it with the shop, then undo the use by SQL.",
                ..WARNING
            },
            Self::Left(Kind::Check) => KindFacts {
                noun: ["row of a check", "rows of checks"],
                users: "The team's own check says what users notice.",
                to_do: "The sentence says what to do. It is over once the check returns no such \
                    row.",
                ..WARNING
            },
            Self::Left(Kind::MissingDrop) => KindFacts {
                noun: ["day without a drop", "days without a drop"],
                severity: Severity::Critical,
                users: "Claims get 503 from the hour on at which the coupon should open.",
                to_do: "Remove what MySQL says. The drop is then created within 20 seconds.",
                remedy: Remedy::Look,
                ..WARNING
            },
            Self::Left(Kind::NotReady) => KindFacts {
                noun: ["opening that is not ready", "openings that are not ready"],
                users: "Nothing yet. If it stays so, claims get 503 or codes come late.",
                to_do: "Mend each part that the sentence names before the drop opens.",
                remedy: Remedy::Look,
                ..WARNING
            },
            Self::Left(Kind::DuplicateRow) => KindFacts {
                noun: ["user with several rows", "users with several rows"],
                users: "They hold several coupons where one is meant, and others may go without.",
                to_do: "Decide which row stays, delete the others, and add a unique key. No pass \
                    deletes a row.",
                ..WARNING
            },
        }
    }
}

impl Kind {
    /// Returns the wording, the severity and the remedy of a kind.
    pub const fn facts(self) -> KindFacts {
        AlertKind::Left(self).facts()
    }
}

impl FailureCause {
    /// Returns the kind of the alert about passes that fail for this cause.
    pub const fn alert(self) -> AlertKind {
        match self {
            Self::Mysql => AlertKind::MysqlUnreachable,
            Self::Redis => AlertKind::RedisUnreachable,
            Self::Kafka => AlertKind::KafkaUnreachable,
            Self::Other => AlertKind::RunFailed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_kind_has_its_own_words_and_a_section_in_operations() {
        let operations = include_str!("../../../docs/OPERATIONS.md");
        let mut words = HashSet::new();
        for kind in AlertKind::all() {
            let facts = kind.facts();
            let word = kind.word();
            let heading = format!("### {word}");
            assert!(operations.lines().any(|line| line == heading), "{heading}");
            assert!(words.insert(word) && facts.noun[0] != facts.noun[1]);
            assert!(
                facts.users.ends_with('.') && facts.to_do.ends_with('.'),
                "{kind:?}"
            );
            assert_eq!(AlertKind::from_word(word), Some(kind));
        }
    }

    /// Prometheus pages the operator for problems that must not wait.
    #[test]
    fn prometheus_rules_list_all_critical_kinds_and_losses_are_among_them() {
        for kind in [Kind::RedisLost, Kind::BrokenPromise, Kind::Unissued] {
            assert_eq!(kind.facts().severity, Severity::Critical);
        }
        let rules = include_str!("../../../deploy/prometheus/rules.yml");
        let is_critical = |kind: &AlertKind| kind.facts().severity == Severity::Critical;
        let critical = AlertKind::all().filter(is_critical);
        let critical: Vec<&str> = critical.map(AlertKind::word).collect();
        for operator in ["=~", "!~"] {
            let kinds = format!(
                "{{kind{operator}\"{}\",state=\"firing\"}}",
                critical.join("|")
            );
            assert!(rules.contains(&kinds), "{kinds}");
        }
    }
}
