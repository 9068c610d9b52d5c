//! Reads messages from Kafka, decodes them, and gathers them into batches.

pub(crate) mod batch;
pub(crate) mod group;
pub(crate) mod record;
pub(crate) mod source;
mod unreadable;
