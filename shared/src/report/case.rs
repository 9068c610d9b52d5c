//! Cases: the precise meaning of a finding, for programs. One kind (the word in API, tables and
//! metrics) has several cases, which need different texts and different actions.

use super::FailureCause;
use crate::redis::wrong_key::WrongKey;

/// The case of a finding. It is not stored, because mails are written right after the pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum FindingCase {
    /// The kind is precise enough.
    #[default]
    Plain,
    /// A failed claim whose slot another user holds, in a drop without a free slot.
    NoSlotLeft,
    /// A failed claim on a slot that the drop does not have.
    NoSuchSlot,
    /// A failed claim without a user, for example because the message cannot be read.
    NamesNobody,
    /// The number of failed claims without a drop in which a pass could issue them.
    NamesNoDrop(u64),
    /// The number of findings that are only counted, beyond those that are listed.
    MoreLeft(u64),
    /// Messages that no client of Kafka can read, or the consumer's dead letter for them.
    Unreadable,
    /// MySQL refuses the row, for this reason.
    RowRefused(String),
    /// A name in Redis that is not a valid user id.
    NoUserId,
    /// A key in Redis that does not have Firstcome's type.
    KeyOfWrongType(WrongKey),
    /// Data of the drop in this store that no pass can read or write.
    Unworkable(StoreOfDrop),
    /// Another client of MySQL has locked the rows.
    RowsLocked,
    /// Settings of the drop differ between Redis and MySQL.
    SettingsDiffer,
    /// The allow list of the coupon differs between Redis and MySQL.
    AllowListDiffers,
    /// The error that made a run fail, as a finding.
    RunFailed(FailureCause),
    /// These partitions are read again from an earlier offset.
    ReadAgain(Vec<i32>),
    /// The consumers' offsets do not advance although messages are waiting.
    ConsumerStands,
    /// A store's settings allow promises or codes to be lost.
    Unsafe(UnsafePart),
}

/// A store of a drop's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreOfDrop {
    Redis,
    Mysql,
}

/// The part with unsafe settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsafePart {
    Redis,
    Topic,
    CodeKey,
}

impl FindingCase {
    /// Returns text that distinguishes alerts and their contents. It contains only data, never
    /// texts for operators, and nothing that changes over time.
    pub fn identity(&self) -> String {
        let name = match self {
            // These are identified by kind, place and action alone. The stored hashes of open
            // alerts depend on the words below.
            Self::Plain
            | Self::MoreLeft(_)
            | Self::Unworkable(_)
            | Self::SettingsDiffer
            | Self::AllowListDiffers
            | Self::RunFailed(_) => "",
            Self::NoSlotLeft => "no slot left",
            Self::NoSuchSlot => "no such slot",
            Self::NamesNobody => "names nobody",
            Self::NamesNoDrop(_) => "names no drop",
            Self::Unreadable => "unreadable",
            Self::RowRefused(_) => "row refused",
            Self::NoUserId => "no user id",
            Self::KeyOfWrongType(wrong) => {
                return format!("key of wrong type {}", wrong.key);
            }
            Self::RowsLocked => "rows locked",
            Self::ReadAgain(partitions) => return format!("read again {partitions:?}"),
            Self::ConsumerStands => "consumer stands",
            Self::Unsafe(UnsafePart::Redis) => "unsafe Redis",
            Self::Unsafe(UnsafePart::Topic) => "unsafe topic",
            Self::Unsafe(UnsafePart::CodeKey) => "unsafe key of codes",
        };
        name.to_owned()
    }

    /// Returns the number of findings that it represents.
    pub fn number(&self) -> u64 {
        match self {
            Self::NamesNoDrop(number) | Self::MoreLeft(number) => *number,
            _ => 1,
        }
    }

    /// Whether a store prevented any comparison of the drop.
    pub fn is_unworkable(&self) -> bool {
        matches!(
            self,
            Self::KeyOfWrongType { .. } | Self::Unworkable(_) | Self::RowsLocked
        )
    }

    /// Whether both are the same case, regardless of its values.
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}
