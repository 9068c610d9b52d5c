//! What the consumer says about itself, and what ends it when it is stuck.

pub(crate) mod health;
pub(crate) mod lag;
pub(crate) mod watchdog;
