//! Causes: why a finding exists, as data. Alerts, the merging of findings and mails compare causes,
//! and never the words of a detail, so a reworded sentence is never a new problem.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::FailureCause;

/// Why a finding exists, beyond its kind. Stored with the finding as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, IntoStaticStr, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Cause {
    /// The kind is precise enough.
    #[default]
    Plain,
    /// The number of findings that are only counted, beyond those that are listed.
    MoreLeft(u64),
    /// MySQL refuses the row.
    RowRefused,
    /// The error that made a run fail, as a finding.
    RunFailed(FailureCause),
    /// The stored positions do not advance although messages are waiting.
    ConsumerStands,
    /// A store's settings allow promises to be lost.
    Unsafe(UnsafePart),
    /// A message on the topic is not signed by an API of this installation.
    Forged,
    /// A store of an attached system is away.
    Away(FailureCause),
    /// The drop, the campaign or its dead letters cannot be compared; the detail quotes why.
    NotCompared,
    /// Their MySQL refuses a statement of the campaign with this error number.
    StatementRefused(u16),
    /// A sealed drop has fewer rows than when it was sealed.
    LacksRows { sealed_with: u64, rows: u64 },
    /// MySQL has lost a coupon that Redis has.
    LostCoupon,
    /// MySQL has lost changes of a coupon's settings up to this revision.
    LostSettings { revision: u64 },
    /// Keys of the coupon are gone from Redis, or have another type.
    LostKeys,
    /// Users who hold a slot are not among the claimants in Redis.
    LostClaimants,
    /// Settings of drops in Redis differ.
    Settings,
    /// The allow list in Redis differs; the number of users on it, once it is written again.
    AllowList { users: Option<u64> },
    /// Revocations, or their ends, were not in Redis.
    Revocations(u64),
    /// MySQL has lost revocations that Redis has.
    LostRevocations(u64),
    /// The coupon is or stays closed; the detail quotes why.
    Closed,
    /// The coupon opened again after it was verified.
    Reopened,
    /// Another process works on the coupon.
    LeftToOthers,
}

/// The part with unsafe settings.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, IntoStaticStr, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum UnsafePart {
    Redis,
    Topic,
}

impl Cause {
    /// Returns the words that distinguish findings and alerts that are equal in everything else.
    /// They contain no number, because numbers change while a problem lasts.
    pub fn identity(&self) -> [&'static str; 2] {
        let part = match self {
            Self::RunFailed(store) | Self::Away(store) => store.as_str(),
            Self::Unsafe(part) => part.into(),
            Self::MoreLeft(_) => return Self::Plain.identity(),
            Self::Plain
            | Self::RowRefused
            | Self::ConsumerStands
            | Self::Forged
            | Self::NotCompared
            | Self::StatementRefused(_)
            | Self::LacksRows { .. }
            | Self::LostCoupon
            | Self::LostSettings { .. }
            | Self::LostKeys
            | Self::LostClaimants
            | Self::Settings
            | Self::AllowList { .. }
            | Self::Revocations(_)
            | Self::LostRevocations(_)
            | Self::Closed
            | Self::Reopened
            | Self::LeftToOthers => "",
        };
        [self.into(), part]
    }

    /// Returns the number of findings that it represents.
    pub const fn number(&self) -> u64 {
        if let Self::MoreLeft(number) = self {
            *number
        } else {
            1
        }
    }

    /// Returns the text for the table; empty for the plain cause, which most findings have.
    pub fn to_stored(&self) -> String {
        match self {
            Self::Plain => String::new(),
            other => serde_json::json!(other).to_string(),
        }
    }

    /// The inverse of [`Self::to_stored`]. Returns the text if a later version wrote it.
    pub fn from_stored(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Plain),
            other => serde_json::from_str(other).map_err(|_| other.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_cause_is_read_back_and_one_of_a_later_version_is_named() {
        for cause in [
            Cause::Plain,
            Cause::MoreLeft(20_000),
            Cause::RunFailed(FailureCause::Kafka),
            Cause::LacksRows {
                sealed_with: u64::MAX,
                rows: u64::MAX - 1,
            },
            Cause::Unsafe(UnsafePart::Topic),
        ] {
            let text = cause.to_stored();
            assert!(text.len() <= 255, "{text}");
            assert_eq!(Cause::from_stored(&text), Ok(cause));
        }
        let later = r#"{"eclipsed":1}"#;
        assert_eq!(Cause::from_stored(later), Err(later.to_owned()));
    }

    #[test]
    fn identity_of_a_cause_ignores_numbers_and_keeps_stores_apart() {
        let left = |slots| Cause::LacksRows {
            sealed_with: 9,
            rows: slots,
        };
        assert_eq!(left(1).identity(), left(2).identity());
        assert_eq!(Cause::MoreLeft(3).identity(), Cause::Plain.identity());
        let away = |store| Cause::Away(store).identity();
        assert_ne!(away(FailureCause::Redis), away(FailureCause::Mysql));
    }
}
