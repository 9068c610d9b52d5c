//! `firstcome-demo`: the whole system, a rush, faults, and the proof. `make demo` runs it.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use firstcome_load::ended;
use firstcome_load::local::demo::{DemoSize, run};
use firstcome_load::local::system::{SystemOptions, stopped};
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
    /// Show five coupon systems of others instead, with the attached reconciler
    #[arg(long)]
    attach: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("firstcome-demo", work(Cli::parse()).await)
}

async fn work(cli: Cli) -> Result<ExitCode> {
    if cli.attach {
        firstcome_load::local::attach::run().await?;
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        cli.people >= cli.quantity,
        "PEOPLE must be at least QUANTITY, or not everything can be given away"
    );
    let size = DemoSize {
        quantity: cli.quantity,
        people: cli.people,
        requests_per_person: 3,
        connections: 256,
    };
    let options = SystemOptions {
        apis: 2,
        consumers: 2,
        reconcile_cron: "*/3 * * * * *".to_owned(),
        mail_folder: None,
        log_folder: None,
        usual_ports: false,
        pages: false,
    };
    let outcome = tokio::select! {
        // Dropping the future drops all processes that it started.
        outcome = run(&size, &options) => outcome?,
        signal = stopped() => {
            step(format!("{}: stopping and cleaning up", signal?));
            return Ok(ExitCode::from(130));
        }
    };
    println!("{}{}", outcome.mails_as_text(), outcome.table());
    for complaint in &outcome.complaints {
        println!("{complaint}");
    }
    for user_id in outcome.proof.promised_without_row.iter().take(20) {
        println!("promised, has no row: {user_id}");
    }
    if outcome.success() {
        println!("exactly {}", size.quantity);
        return Ok(ExitCode::SUCCESS);
    }
    println!("NOT exactly {}: {} rows", size.quantity, outcome.proof.rows);
    Ok(ExitCode::FAILURE)
}
