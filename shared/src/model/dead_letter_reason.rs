//! Why a claim became a dead letter.

use strum::{EnumIter, IntoStaticStr};

use crate::coupon::ClaimFault;

/// The reason of a dead letter. Its text is stored in the table, and is the label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum DeadLetterReason {
    /// The message does not have Firstcome's format.
    Undecodable,
    /// The message has a version of the format that this process does not know.
    WrongVersion,
    /// The message has no signature by a key that this process knows: no API of this installation
    /// wrote it, or one with another key.
    Forged,
    /// No Kafka client can read the message.
    Unreadable,
    UnknownDrop,
    SlotOutOfRange,
    AlreadyHasOne,
    SlotTaken,
    SealedDrop,
    OutsideWindow,
    /// MySQL refuses the row because of its data.
    BadData,
    /// Another client of MySQL has locked rows of the drop.
    RowLocked,
    /// An operator has corrected and confirmed the claim.
    Corrected,
}

impl DeadLetterReason {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether the consumer writes dead letters with this reason.
    pub fn is_of_consumer(self) -> bool {
        self != Self::Corrected
    }
}

impl From<ClaimFault> for DeadLetterReason {
    fn from(fault: ClaimFault) -> Self {
        match fault {
            ClaimFault::SealedDrop => Self::SealedDrop,
            ClaimFault::OutsideWindow => Self::OutsideWindow,
        }
    }
}
