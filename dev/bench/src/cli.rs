use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::Serialize;

/// Measures Firstcome against other designs and against its own limits, on freshly started servers.
///
/// Figures are comparable only within one run.
#[derive(Debug, Parser)]
#[command(name = "firstcome-bench", version, max_term_width = 120)]
pub struct Cli {
    /// Part to measure; by default all of them, in one run
    #[arg(value_enum)]
    pub part: Option<Part>,
    /// Run for about a minute to check that everything works; the figures mean little
    #[arg(long)]
    pub quick: bool,
    /// Requests of the rush on every design
    #[arg(long, env = "REQUESTS")]
    requests: Option<u32>,
    /// Coupons in the rush
    #[arg(long, env = "QUANTITY")]
    quantity: Option<u32>,
    /// Connections
    #[arg(long, env = "CONNECTIONS")]
    connections: Option<usize>,
    /// Folder with the programs of another build. `winners` and `ceilings` measure it alternately
    /// with this one, `passes` after it
    #[arg(long, env = "AGAINST")]
    pub against: Option<PathBuf>,
    /// Folder for report.json
    #[arg(long, default_value = "target/bench")]
    pub out: PathBuf,
}

/// A part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The same rush on every design
    Designs,
    /// Sold-out claims beside a route that does nothing and design j; MySQL's CPU per row
    Ceilings,
    /// CPU per winner and process, alternating with design j and, with --against, another build
    Winners,
    /// A neighbour on the same MySQL, beside the rows of a drop at ROWS_PER_SECOND
    Pace,
    /// Passes of the reconciler: clean, repairing, over small coupons, after a loss of Redis
    Passes,
    /// Shops that use codes
    Uses,
}

/// The amount of each kind of work that is measured.
#[derive(Debug, Clone, Serialize)]
pub struct BenchSize {
    pub requests: u32,
    pub quantity: u32,
    pub connections: usize,
    /// Number of requests in sold-out and do-nothing runs.
    pub many_requests: u32,
    /// Number of claims that all win.
    pub winners: u32,
    /// Drop sizes for clean passes.
    pub passes: [u32; 3],
    /// Number of rows to repair.
    pub missing: u32,
    /// Numbers of small coupons.
    pub small: [u32; 2],
    /// Number of claims of a drop that Redis has lost.
    pub rebuilt: u32,
    /// Duration in seconds of the open loop, and of the neighbour's run beside an idle system.
    pub open_seconds: u32,
}

impl Cli {
    pub fn size(&self) -> BenchSize {
        let whole = BenchSize {
            requests: self.requests.unwrap_or(100_000),
            quantity: self.quantity.unwrap_or(100),
            connections: self.connections.unwrap_or(64),
            many_requests: 100_000,
            winners: 50_000,
            passes: [10_000, 100_000, 1_000_000],
            missing: 100_000,
            small: [2_000, 20_000],
            rebuilt: 3_000_000,
            open_seconds: 30,
        };
        if !self.quick {
            return whole;
        }
        BenchSize {
            requests: self.requests.unwrap_or(3_000),
            many_requests: 10_000,
            winners: 1_250,
            passes: [1_000, 10_000, 50_000],
            missing: 5_000,
            small: [50, 200],
            rebuilt: 10_000,
            open_seconds: 5,
            ..whole
        }
    }
}
