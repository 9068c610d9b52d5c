//! `firstcome-drift` injects one kind of drift into a running system. `KIND=… cargo xtask drift`
//! runs it against `make run`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use firstcome_testkit::drift::{Drift, DriftStoreArgs, Injector};

/// Injects drift into a running Firstcome, so that you can watch the reconciler find and repair it.
///
/// Never point it at a production system: it bypasses every rule.
#[derive(Parser)]
#[command(name = "firstcome-drift", version, max_term_width = 120)]
struct Cli {
    /// Kind to inject; `?` lists the kinds
    #[arg(
        value_enum,
        env = "KIND",
        default_value = "unissued",
        hide_possible_values = true
    )]
    kind: Drift,
    /// Coupon; by default the newest with rows
    #[arg(long, env = "COUPON", value_name = "ID")]
    coupon: Option<i64>,
    /// Drop; by default the newest with rows
    #[arg(long, env = "DROP", value_name = "ID")]
    drop: Option<i64>,
    /// Number of users or messages to affect, or the error of a counter
    #[arg(long, env = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Duration of `stalled` in seconds
    #[arg(long, env = "SECONDS_STALLED", default_value_t = 90, value_name = "N")]
    seconds: u64,
    #[command(flatten)]
    stores: DriftStoreArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let asked = std::env::args()
        .nth(1)
        .or_else(|| std::env::var("KIND").ok());
    if asked.as_deref() == Some("?") {
        println!("{}", Drift::list());
        return ExitCode::SUCCESS;
    }
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("firstcome-drift: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    let mut injector = Injector::new(&cli.stores, cli.coupon, cli.drop).await?;
    if cli.coupon.is_none() && cli.drop.is_none() {
        let (coupon, drop) = injector.target();
        println!(
            "selected coupon {coupon}, drop {drop} (the newest with rows, if any); COUPON=ID or DROP=ID selects another"
        );
    }
    let done = injector.make(cli.kind, cli.count).await?;
    println!("{}: {}", done.kind.name(), done.summary);
    if let Some(stall) = done.stall {
        println!("active for {} s; Ctrl-C ends it earlier", cli.seconds);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(cli.seconds)) => {}
            signal = tokio::signal::ctrl_c() => signal?,
        }
        stall.end().await?;
        println!("over");
    }
    Ok(())
}
