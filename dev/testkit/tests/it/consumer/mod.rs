//! The consumer: its group, messages that cannot become rows, and a loop that is stuck.

mod batches;
pub(crate) mod messages;
mod stuck;
