use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::baselines::RushSize;

/// Measures Firstcome against other designs and against its own limits, on freshly started servers.
///
/// Figures are comparable only within one run.
#[derive(Debug, Parser)]
#[command(name = "firstcome-bench", version, max_term_width = 120)]
pub struct Cli {
    /// Part to measure
    #[arg(value_enum)]
    pub part: Part,
    #[command(flatten)]
    pub options: BenchOptions,
}

/// A part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Everything, in one run
    All,
    /// The same rush on every design
    Designs,
    /// The HTTP server, the script and MySQL alone, compared with sold-out claims
    Ceilings,
    /// CPU per winner and process, alternating with design j and, with --against, another build
    Winners,
    /// Passes of the reconciler: clean, repairing, and with many sealed drops
    Passes,
}

impl Part {
    /// Returns the part itself, or every part for `all`.
    pub fn parts(self) -> Vec<Self> {
        let every = Self::value_variants().iter().copied();
        every
            .filter(|part| *part != Self::All && (self == Self::All || *part == self))
            .collect()
    }
}

/// Options of the measurement.
#[derive(Debug, Clone, Args)]
pub struct BenchOptions {
    /// Run for about a minute to check that everything works; the figures mean little
    #[arg(long)]
    pub quick: bool,
    /// Requests of the rush on every design
    #[arg(long, env = "REQUESTS")]
    pub requests: Option<u32>,
    /// Coupons in the rush
    #[arg(long, env = "QUANTITY")]
    pub quantity: Option<u32>,
    /// Connections
    #[arg(long, env = "CONNECTIONS")]
    pub connections: Option<usize>,
    /// Folder with the programs of another build, which is measured alternately with this one
    #[arg(long, env = "AGAINST")]
    pub against: Option<PathBuf>,
    /// Folder for report.json
    #[arg(long, default_value = "target/bench")]
    pub out: PathBuf,
}

/// The amount of each kind of work that is measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BenchSize {
    pub requests: u32,
    pub quantity: u32,
    pub connections: usize,
    /// Number of requests in sold-out and do-nothing runs, and of calls of the script.
    pub many_requests: u32,
    /// Number of claims that all win, and of claims in a backlog.
    pub winners: u32,
    /// Number of coupons in the rushes in which a process is killed.
    pub killed: u32,
    /// Drop sizes for clean passes.
    pub passes: [u32; 3],
    /// Number of rows to repair.
    pub missing: u32,
    /// Number of sealed drops, compared with ten open ones.
    pub sealed: u32,
    /// Number of small coupons.
    pub small: u32,
    /// Number of claims of a drop that Redis has lost.
    pub rebuilt: u32,
    /// Duration of the open loop in seconds.
    pub open_seconds: u32,
}

impl BenchSize {
    /// Returns the size of the rush on every design.
    pub fn rush(&self) -> RushSize {
        let Self {
            requests,
            quantity,
            connections,
            killed,
            ..
        } = *self;
        RushSize {
            requests,
            quantity,
            connections,
            killed,
        }
    }

    /// Returns the usual sizes, or those of a quick run.
    pub fn of(quick: bool) -> Self {
        let whole = BenchSize {
            requests: 100_000,
            quantity: 100,
            connections: 64,
            many_requests: 100_000,
            winners: 200_000,
            killed: 2_000,
            passes: [10_000, 100_000, 1_000_000],
            missing: 100_000,
            sealed: 1_000,
            small: 2_000,
            rebuilt: 3_000_000,
            open_seconds: 30,
        };
        if quick {
            BenchSize {
                requests: 3_000,
                many_requests: 10_000,
                winners: 5_000,
                killed: 300,
                passes: [1_000, 10_000, 50_000],
                missing: 5_000,
                sealed: 100,
                small: 50,
                rebuilt: 10_000,
                open_seconds: 5,
                ..whole
            }
        } else {
            whole
        }
    }
}

impl BenchOptions {
    pub fn size(&self) -> BenchSize {
        let base = BenchSize::of(self.quick);
        BenchSize {
            requests: self.requests.unwrap_or(base.requests),
            quantity: self.quantity.unwrap_or(base.quantity),
            connections: self.connections.unwrap_or(base.connections),
            ..base
        }
    }
}
