//! The load generator, what it needs to start and to meter a system, and the load tool `rush`.
//!
//! - [`generator`] lets a [`crowd`] claim over a bounded number of [`client`] connections and sums
//!   the answers up in a [`tally`]; [`workload`] does so in a process of its own.
//! - [`rush`] is the load tool: it drives a running system anywhere and reports the answers.
//! - [`rows`] judges whether every promise became a row.
//! - [`local`] is the whole system on this machine: the demo, and `make run`.
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

/// How a program ends: an error is one line, without a backtrace.
pub fn ended(program: &str, outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("{program}: {error:#}");
        ExitCode::FAILURE
    })
}
