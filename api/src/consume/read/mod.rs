//! From Kafka to batches of records.

pub(crate) mod batch;
pub(crate) mod decode;
pub(crate) mod group;
pub(crate) mod source;
