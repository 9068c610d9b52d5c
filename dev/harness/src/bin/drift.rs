//! `firstcome-drift` injects one kind of drift into a running system, such as that of `make run`,
//! whose settings are in target/run/env.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use firstcome_harness::drift::{Drift, Injector};
use firstcome_harness::{PrefixedKeys, Sql};

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
    /// Number of users to affect, or the error of a counter
    #[arg(long, env = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    #[arg(long, env = "DATABASE_URL", value_name = "URL")]
    database_url: String,
    #[arg(long, env = "REDIS_URL", value_name = "URL")]
    redis_url: String,
    #[arg(long, env = "REDIS_KEY_PREFIX", default_value = "fc")]
    redis_key_prefix: String,
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
    let sql = Sql::new(&cli.database_url);
    let redis = PrefixedKeys::new(&cli.redis_url, &cli.redis_key_prefix);
    let mut injector = Injector::new(sql, redis, cli.coupon, cli.drop).await?;
    let (coupon, drop) = injector.target();
    let done = injector.make(cli.kind, cli.count).await?;
    println!("{} in coupon {coupon}, drop {drop}", done.kind.name());
    for one in done.people.iter().take(20) {
        println!("  {} on slot {}", one.user, one.slot);
    }
    Ok(())
}
