//! Places of garbage, as a person finds and removes it.

/// Where garbage is.
#[derive(Clone)]
pub(crate) enum GarbagePlace {
    /// A member of a sorted set.
    Member {
        key: String,
        name: Vec<u8>,
    },
    /// A member on a score that is no slot.
    Score {
        key: String,
        name: &'static str,
    },
    Type {
        name: String,
        kind: &'static str,
    },
    /// Dead letters of which this holds.
    DeadLetters(String),
}
