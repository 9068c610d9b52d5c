//! Locations of garbage, by which an operator can find and remove it.

#[derive(Clone)]
pub(crate) enum GarbagePlace {
    /// A key of another type, of this drop or its coupon.
    Type {
        name: String,
        kind: &'static str,
        drop: i64,
    },
    /// Dead letters that match this condition.
    DeadLetters(String),
    /// The dead letter of the garbled batch, or none if the broker has removed the batch.
    Garbled(String),
}
