//! The statements that only the notifier runs.

pub mod alerts;
pub mod digest;
pub mod levels;
pub mod outbox;
