//! Locations of garbage, by which an operator can find and remove it.

#[derive(Clone)]
pub(crate) enum GarbagePlace {
    /// A member of a sorted set.
    Member {
        key: String,
        name: Vec<u8>,
    },
    /// A member whose score is not a slot.
    Score {
        key: String,
        name: &'static str,
    },
    Type {
        name: String,
        kind: &'static str,
    },
    /// Dead letters that match this condition.
    DeadLetters(String),
    /// The dead letter of the garbled batch, or none if the broker has removed the batch.
    Garbled(String),
}
