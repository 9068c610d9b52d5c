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
    /// Sealed drops of `history`
    #[arg(long, env = "SEALED_DROPS")]
    sealed_drops: Option<u32>,
    /// Rows of these sealed drops
    #[arg(long, env = "SEALED_ROWS")]
    sealed_rows: Option<u32>,
    /// Old revocations of `history`
    #[arg(long, env = "REVOCATIONS")]
    revocations: Option<u32>,
    /// Coupons of `history`
    #[arg(long, env = "COUPONS")]
    coupons: Option<u32>,
    /// Rows of the drop that `history` lowers
    #[arg(long, env = "GIVEN_OUT")]
    given_out: Option<u32>,
    /// Winners who ask for their codes in `history`
    #[arg(long, env = "ASKING")]
    asking: Option<u32>,
    /// Folder with the programs of another build. `winners` and `ceilings` measure it alternately
    /// with this one, `passes` and `history` after it
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
    /// Sold-out claims beside a route that does nothing and design j; the script and MySQL alone
    Ceilings,
    /// CPU per winner and process, alternating with design j and, with --against, another build
    Winners,
    /// A neighbour on the same MySQL, beside the rows of a drop at ROWS_PER_SECOND
    Pace,
    /// Passes of the reconciler: clean, repairing, and with many sealed drops
    Passes,
    /// The part of `passes` about many small coupons, with the commands that watch them
    Small,
    /// What a long history costs: passes, reopening, an idle hour, reading codes, lowering
    History,
    /// Shops that use codes
    Uses,
}

/// The amount of each kind of work that is measured.
#[derive(Debug, Clone, Serialize)]
pub struct BenchSize {
    pub requests: u32,
    pub quantity: u32,
    pub connections: usize,
    /// Number of requests in sold-out and do-nothing runs, and of claims in runs of the script.
    pub many_requests: u32,
    /// Number of claims that all win.
    pub winners: u32,
    /// Drop sizes for clean passes.
    pub passes: [u32; 3],
    /// Number of rows to repair.
    pub missing: u32,
    /// Number of sealed drops beside ten open ones.
    pub sealed: u32,
    /// Numbers of small coupons.
    pub small: [u32; 2],
    /// Number of claims of a drop that Redis has lost.
    pub rebuilt: u32,
    /// Duration in seconds of the open loop, and of the neighbour's run beside an idle system.
    pub open_seconds: u32,
    /// The history: sealed drops, their rows, old revocations, and coupons.
    pub sealed_drops: u32,
    pub sealed_rows: u32,
    pub revocations: u32,
    pub coupons: u32,
    /// Number of rows of a drop whose quantity is lowered.
    pub given_out: u32,
    /// Number of winners who ask for their codes.
    pub asking: u32,
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
            sealed: 1_000,
            small: [2_000, 20_000],
            rebuilt: 3_000_000,
            open_seconds: 30,
            sealed_drops: self.sealed_drops.unwrap_or(10_000),
            sealed_rows: self.sealed_rows.unwrap_or(5_000_000),
            revocations: self.revocations.unwrap_or(1_000_000),
            coupons: self.coupons.unwrap_or(10_000),
            given_out: self.given_out.unwrap_or(3_000_000),
            asking: self.asking.unwrap_or(50_000),
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
            sealed: 100,
            small: [50, 200],
            rebuilt: 10_000,
            open_seconds: 5,
            sealed_drops: self.sealed_drops.unwrap_or(100),
            sealed_rows: self.sealed_rows.unwrap_or(10_000),
            revocations: self.revocations.unwrap_or(2_000),
            coupons: self.coupons.unwrap_or(50),
            given_out: self.given_out.unwrap_or(30_000),
            asking: self.asking.unwrap_or(1_000),
            ..whole
        }
    }
}
