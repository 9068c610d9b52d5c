//! The consumer: its group, messages that cannot become rows, and a loop that is stuck.

mod batches;
mod flood;
mod members;
pub(crate) mod messages;
pub(crate) mod positions;
mod stuck;
