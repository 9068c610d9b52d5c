//! The reconciler of Firstcome: compares every promise with every row, repairs differences, and
//! alerts operators.
//!
//! In order of a pass: `passes` takes the lock, `run` has the steps, `barrier` finds out how far
//! the consumer is, `read` reads, `reconcile` drives a coupon through what follows, at an open and
//! at a closed gate: `pass` compares a drop, `judge` decides (pure), `rows` inserts, `project`
//! writes Redis from rows, `promote` gives free slots away, `seal` ends drops. `owing` reports what
//! sealed drops still owe, and `sealed_letters` judges their dead letters. `urgent`
//! closes coupons with `gate`, and reopens them. `ledger` sums up what was found, `record` records,
//! `notify` mails.
#![warn(clippy::print_stdout, clippy::print_stderr)] // `say!` and `complain!` never end the program

pub mod args;
pub mod attach;
pub mod barrier;
mod claimants;
pub mod cli;
pub mod context;
pub mod daemon;
pub mod explain;
mod findings_csv;
mod gate;
pub mod http;
mod jobs;
pub mod judge;
mod judged;
pub mod ledger;
mod limit;
mod metrics;
pub mod once;
mod owing;
pub mod pass;
pub mod passes;
mod project;
mod promote;
mod queries;
mod read;
mod ready;
mod reconcile;
pub mod record;
mod retention;
mod revoke;
mod rows;
pub mod run;
mod seal;
mod sealed_letters;
mod settings;
pub mod start_check;
mod times;
pub mod topic;
mod urgent;

pub use firstcome_notifier as notify;
pub use firstcome_shared::report;
