//! A crowd for Firstcome: it asks for coupons as fast as a machine can, keeps every yes, and checks afterwards that each of
//! them became a row. The load tool, the demo and `make run` are made of it.
//!
//! - [`rehearse`] is the load tool `rush`: it drives a running system anywhere, and [`chart`]s what came of it.
//! - [`load`] drives a running system: a [`crowd`] of people over a bounded number of [`client`] connections; what came back
//!   is a [`tally`].
//! - [`system`] starts the whole system: private servers and the product's own processes.
//! - [`demo`] puts both together, makes [`trouble`], waits, and lets [`proof`] decide.

pub mod answer;
pub mod ceiling;
pub mod chart;
pub mod client;
pub mod clock;
pub mod crowd;
pub mod demo;
pub mod identity;
pub mod live;
pub mod load;
pub mod ops;
pub mod outcome;
pub mod proof;
pub mod rehearse;
pub mod system;
pub mod table;
pub mod tally;
pub mod trouble;

use std::process::ExitCode;
use std::time::Duration;

/// Awaits `work` and calls `look` every now and then meanwhile.
pub async fn watch<T>(work: impl Future<Output = T>, mut look: impl FnMut()) -> T {
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => look(),
        }
    }
}

/// How a program ends: an error is said in one line, without a backtrace.
pub fn ended(program: &str, outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("{program}: {error:#}");
        ExitCode::FAILURE
    })
}
