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
    /// The dead letter of this message, which the consumer may not have read yet.
    Message {
        /// Matches the letter.
        letter: String,
        partition: i32,
        offset: i64,
    },
    /// The dead letter of the garbled batch, or none if the broker has removed the batch.
    Garbled(String),
}

impl GarbagePlace {
    pub(crate) fn message(partition: i32, offset: i64) -> Self {
        Self::Message {
            letter: format!("source_partition = {partition} AND source_offset = {offset}"),
            partition,
            offset,
        }
    }
}
