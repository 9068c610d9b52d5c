//! The load generator, tools to start and meter a system, and the load tool `rush`.
//!
//! - [`generator`] lets a [`crowd`] claim over a bounded number of [`client`] connections and sums
//!   up the answers in a [`tally`]; [`workload`] does so in a separate process.
//! - [`rush`] is the load tool: it drives any running system and reports the answers.
//! - [`rows`] checks whether every promise became a row.
//! - [`local`] contains the whole system on this machine: the demo, and `make run`.
//! - [`launch`] starts the product's processes on private servers; [`measure`] meters them.

pub mod answer;
pub mod ceiling;
pub mod client;
pub mod clock;
pub mod crowd;
pub mod generator;
pub mod identity;
pub mod launch;
pub mod local;
pub mod measure;
pub mod ops;
pub mod rows;
pub mod rush;
pub mod table;
pub mod tally;
pub mod terminal;
pub mod workload;

use std::process::ExitCode;

/// Returns the exit code of a program. Prints an error on one line, without a backtrace.
pub fn ended(program: &str, outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("{program}: {error:#}");
        ExitCode::FAILURE
    })
}
