//! Cases: findings of one kind that need different words, and a different repair by a person.

use firstcome_shared::redis::reads::WrongKey;

use crate::wording::count;

/// What a finding is a case of. It is not recorded: mails are written right after the pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum FindingCase {
    /// Nothing sets it apart from others of its kind.
    #[default]
    Plain,
    /// A failed claim whose slot another user holds, in a drop without a free slot.
    NoSlotLeft,
    /// A failed claim on a slot that the drop does not have.
    NoSuchSlot,
    /// A failed claim that names no user: the message cannot be read, say.
    NamesNobody,
    /// A failed claim that names no drop in which a pass could issue it.
    NamesNoDrop,
    /// Messages that no client of Kafka can read, or the dead letter that a consumer keeps of them.
    Unreadable,
    /// MySQL refuses the row. The detail ends with the reason.
    RowRefused(String),
    /// A name in Redis that is no user id.
    NoUserId,
    /// A key of another type than Firstcome's.
    KeyOfWrongType {
        wrong: WrongKey,
        /// It also knows who won on earlier days of the coupon.
        knows_earlier_days: bool,
    },
    /// Another client of MySQL has locked the rows.
    RowsLocked,
    /// The offsets of the consumers are beyond the end of these partitions.
    MessagesLost(Vec<i32>),
    /// A drop that was rebuilt: how many users are back, and how many the last run before the loss
    /// knew.
    Rebuilt { back: u64, known: Option<u64> },
    /// The consumers' offsets stand still although messages wait.
    ConsumerStands,
    /// A store is set so that it may lose promises, or codes.
    Unsafe(UnsafePart),
    /// So many users whom a run knew before the loss of Redis are not back.
    UsersMissing(u64),
}

/// What is set unsafely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsafePart {
    Redis,
    Topic,
    CodeKey,
}

impl FindingCase {
    /// What tells alerts and their contents apart: data, never words, and nothing that changes by
    /// itself.
    pub(crate) fn identity(&self) -> String {
        let name = match self {
            Self::Plain => "",
            Self::NoSlotLeft => "no slot left",
            Self::NoSuchSlot => "no such slot",
            Self::NamesNobody => "names nobody",
            Self::NamesNoDrop => "names no drop",
            Self::Unreadable => "unreadable",
            Self::RowRefused(_) => "row refused",
            Self::NoUserId => "no user id",
            Self::KeyOfWrongType { wrong, .. } => {
                return format!("key of wrong type {}", wrong.key);
            }
            Self::RowsLocked => "rows locked",
            Self::MessagesLost(partitions) => return format!("messages lost {partitions:?}"),
            Self::Rebuilt { .. } => "rebuilt",
            Self::ConsumerStands => "consumer stands",
            Self::Unsafe(UnsafePart::Redis) => "unsafe Redis",
            Self::Unsafe(UnsafePart::Topic) => "unsafe topic",
            Self::Unsafe(UnsafePart::CodeKey) => "unsafe key of codes",
            Self::UsersMissing(people) => return format!("users missing {people}"),
        };
        name.to_owned()
    }

    /// One line about `n` findings of this case.
    pub(crate) fn summary(&self, n: usize) -> Option<String> {
        Some(match self {
            Self::Plain | Self::Rebuilt { .. } | Self::ConsumerStands | Self::Unsafe(_) => {
                return None;
            }
            Self::NoSlotLeft => failed_claims(n, "no slot is left"),
            Self::NoSuchSlot => failed_claims(n, "the drop has no such slot"),
            Self::NamesNobody => failed_claims(n, "no user is named"),
            Self::NamesNoDrop => failed_claims(n, "no live drop is named"),
            Self::Unreadable => format!(
                "Kafka holds {} that cannot be read",
                count(n, "batch", "batches")
            ),
            Self::RowRefused(_) => format!("MySQL refuses {}", count(n, "row", "rows")),
            Self::NoUserId => count(
                n,
                "name in Redis is no user id",
                "names in Redis are no user ids",
            ),
            Self::KeyOfWrongType { .. } => "a key in Redis has the wrong type".to_owned(),
            Self::RowsLocked => "another client of MySQL has locked rows".to_owned(),
            Self::MessagesLost(partitions) => {
                format!(
                    "Kafka has lost messages of {}",
                    count(partitions.len(), "partition", "partitions")
                )
            }
            Self::UsersMissing(people) => {
                let people = usize::try_from(*people).unwrap_or(usize::MAX);
                count(people, "person is", "people are") + " not back after a loss of Redis"
            }
        })
    }

    /// Whether both are the same case, whatever its values.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

fn failed_claims(n: usize, why: &str) -> String {
    format!(
        "{}: {why}",
        count(n, "unrepaired failed claim", "unrepaired failed claims")
    )
}
