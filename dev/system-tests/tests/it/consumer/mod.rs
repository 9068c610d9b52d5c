//! The consumer: its group, messages that can't become rows, and a loop that stands still.

mod batches;
mod flood;
mod members;
pub(crate) mod messages;
mod stuck;
pub(crate) mod versions;
