//! Cases: what programs need to know about a finding beyond its kind.

use super::{Doubt, FailureCause, StoreRefusal};

/// The case of a finding. It is not stored, because mails are written right after the pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum FindingCase {
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
    /// A store answers and refuses.
    Refused(StoreRefusal),
    /// A message on the topic is not signed by an API of this installation.
    Forged,
    /// A store of an attached system is away.
    Away(FailureCause),
    /// There may be no difference, or its repair may be wrong.
    Doubted(Doubt),
    /// All coupons are given out, because a user has a second row.
    SecondRow,
}

/// The part with unsafe settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsafePart {
    Redis,
    Topic,
}

impl FindingCase {
    /// Returns the word that distinguishes alerts of one kind about the same coupon or drop. It
    /// depends neither on a text for operators nor on anything that changes over time.
    pub fn identity(&self) -> &'static str {
        match self {
            Self::Plain | Self::MoreLeft(_) => "",
            Self::RowRefused => "row_refused",
            Self::RunFailed(cause) => cause.as_str(),
            Self::ConsumerStands => "consumer_stands",
            Self::Forged => "forged",
            Self::Unsafe(UnsafePart::Redis) => "unsafe_redis",
            Self::Unsafe(UnsafePart::Topic) => "unsafe_topic",
            Self::Refused(refusal) => refusal.alert().word(),
            Self::Away(store) => store.as_str(),
            Self::Doubted(doubt) => doubt.as_str(),
            Self::SecondRow => "second_row",
        }
    }

    /// Returns the number of findings that it represents.
    pub fn number(&self) -> u64 {
        match self {
            Self::MoreLeft(number) => *number,
            Self::Plain
            | Self::RowRefused
            | Self::RunFailed(_)
            | Self::ConsumerStands
            | Self::Forged
            | Self::Unsafe(_)
            | Self::Refused(_)
            | Self::Away(_)
            | Self::Doubted(_)
            | Self::SecondRow => 1,
        }
    }
}
