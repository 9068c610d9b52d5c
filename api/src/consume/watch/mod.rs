//! Health and metrics, and the watchdog that ends a stuck process.

pub(crate) mod lag;
pub(crate) mod report;
pub(crate) mod traces;
pub(crate) mod watchdog;
