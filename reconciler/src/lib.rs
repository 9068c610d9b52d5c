//! The reconciler of Firstcome: compares every promise with every row, repairs differences, and
//! alerts operators.
//!
//! A pass goes through `collect` (reads), `plan` (decides), `execute` (writes), a second
//! comparison, `record` and `notify`.

pub mod args;
pub mod cli;
pub mod collect;
pub mod daemon;
mod erase;
pub mod execute;
pub mod explain;
pub mod http;
mod metrics;
pub mod once;
pub mod pass;
pub mod passes;
pub mod plan;
pub mod record;
pub mod stores;
mod terminal;
pub mod topic;
mod traces;

pub use firstcome_notifier as notify;
pub use firstcome_shared::report;
