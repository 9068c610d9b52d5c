//! The consumer: messages that can't become rows, and a loop that stands still.

pub(crate) mod messages;
mod stuck;
