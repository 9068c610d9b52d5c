//! `firstcome-demo`: the whole system, a rush, faults, and the proof. `make demo` runs it.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use firstcome_load::ended;
use firstcome_load::local::system::stopped;
use firstcome_load::local::{attach, demo};
use firstcome_load::terminal::step;

/// Starts the whole system on private servers, lets a crowd rush a coupon, injects faults
/// meanwhile, and checks that the total is exact. Exits with 0 only if it is. Ctrl-C stops and
/// deletes everything.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Number of coupons
    #[arg(long, env = "QUANTITY", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    quantity: u32,
    /// Number of users
    #[arg(long, env = "PEOPLE", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    people: u32,
    /// Show coupon systems of others instead, with the attached reconciler
    #[arg(long)]
    attach: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("firstcome-demo", work(Cli::parse()).await)
}

async fn work(cli: Cli) -> Result<ExitCode> {
    let Cli {
        quantity, people, ..
    } = cli;
    if cli.attach {
        attach::run().await?;
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        people >= quantity,
        "PEOPLE must be at least QUANTITY, or not everything can be given away"
    );
    let is_exact = tokio::select! {
        // Dropping the future drops all processes that it started.
        is_exact = demo::run(quantity, people) => is_exact?,
        signal = stopped() => {
            step(format!("{}: stopping and cleaning up", signal?));
            return Ok(ExitCode::from(130));
        }
    };
    if is_exact {
        println!("exactly {quantity}, each used once");
        return Ok(ExitCode::SUCCESS);
    }
    println!("NOT exactly {quantity}, each used once");
    Ok(ExitCode::FAILURE)
}
