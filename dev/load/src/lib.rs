//! The load generator, the demo and `make run`.
//!
//! - [`generator`] lets a [`crowd`] claim over a bounded number of [`client`] connections and sums
//!   up the answers in a [`tally`]; [`rush`] is the program around it, whose history is [`judged`].
//! - [`shops`] use the codes of a coupon.
//! - [`installation`] is a system of the harness with the servers that it uses.
//! - [`local`] contains the whole system on this machine: the demo, and `make run`.

pub mod answer;
pub mod client;
pub mod crowd;
pub mod generator;
pub mod identity;
pub mod installation;
pub mod judged;
pub mod local;
pub mod ops;
pub mod process;
pub mod rush;
pub mod shops;
pub mod tally;
pub mod terminal;

use std::process::ExitCode;

/// Returns the exit code of a program. Prints an error on one line, without a backtrace.
pub fn ended(program: &str, outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("{program}: {error:#}");
        ExitCode::FAILURE
    })
}
