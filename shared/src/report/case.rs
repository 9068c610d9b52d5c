//! Cases: the precise meaning of a finding, for programs. One kind (the word in API, tables and
//! metrics) has several cases, which need different texts and different actions.

use super::FailureCause;
use crate::redis::wrong_key::WrongKey;

/// The case of a finding. It is not recorded: mails are written right after the pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum FindingCase {
    /// The finding needs no further distinction within its kind.
    #[default]
    Plain,
    /// A failed claim whose slot another user holds, in a drop without a free slot.
    NoSlotLeft,
    /// A failed claim on a slot that the drop does not have.
    NoSuchSlot,
    /// A failed claim that names no user, for example because the message cannot be read.
    NamesNobody,
    /// The number of failed claims that name no drop in which a pass could issue them.
    NamesNoDrop(u64),
    /// The number of a drop's unresolved failed claims beyond those that are listed.
    MoreLeft(u64),
    /// Messages that no client of Kafka can read, or the consumer's dead letter for them.
    Unreadable,
    /// MySQL refuses the row, for this reason.
    RowRefused(String),
    /// A name in Redis that is not a valid user id.
    NoUserId,
    /// A key in Redis that does not have Firstcome's type.
    KeyOfWrongType {
        wrong: WrongKey,
        /// The key also records who won on earlier days of the coupon.
        knows_earlier_days: bool,
    },
    /// This store has data of the drop that no pass can read or write.
    Unworkable(StoreOfDrop),
    /// Another client of MySQL has locked the rows.
    RowsLocked,
    /// Settings of the drop differ between Redis and MySQL.
    SettingsDiffer,
    /// The allow list of the coupon differs between Redis and MySQL.
    AllowListDiffers,
    /// MySQL has lost the row of a drop that other stores name.
    DropLost,
    /// The error with which a run failed, as a finding.
    RunFailed(FailureCause),
    /// These partitions are read again from an earlier offset.
    ReadAgain(Vec<i32>),
    /// A drop that was rebuilt: how many users were restored, and how many the last run before the
    /// loss knew.
    Rebuilt { back: u64, known: Option<u64> },
    /// The consumers' offsets do not move although messages wait.
    ConsumerStands,
    /// Under a store's settings, promises or codes may be lost.
    Unsafe(UnsafePart),
    /// Number of users known to a run before the loss of Redis that were not restored.
    UsersMissing(u64),
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
    /// Distinguishes alerts and their contents: data, never texts, and nothing that changes over
    /// time.
    pub fn identity(&self) -> String {
        let name = match self {
            // Their kind, place and action are enough. The stored hashes of open alerts depend on
            // these words.
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
            Self::KeyOfWrongType { wrong, .. } => {
                return format!("key of wrong type {}", wrong.key);
            }
            Self::RowsLocked => "rows locked",
            Self::ReadAgain(partitions) => return format!("read again {partitions:?}"),
            Self::Rebuilt { .. } => "rebuilt",
            Self::ConsumerStands => "consumer stands",
            Self::Unsafe(UnsafePart::Redis) => "unsafe Redis",
            Self::Unsafe(UnsafePart::Topic) => "unsafe topic",
            Self::Unsafe(UnsafePart::CodeKey) => "unsafe key of codes",
            Self::DropLost => "drop lost",
            Self::UsersMissing(people) => return format!("users missing {people}"),
        };
        name.to_owned()
    }

    /// Returns how many findings it stands for.
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
