//! From Kafka to batches of decoded messages.

pub(crate) mod batch;
pub(crate) mod group;
pub(crate) mod membership;
pub(crate) mod record;
pub(crate) mod source;
mod unreadable;
