//! `rush`: a crowd against a running system.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use firstcome_rush::answer::Kind;
use firstcome_rush::client::Target;
use firstcome_rush::crowd::Crowd;
use firstcome_rush::live::{Live, grouped};
use firstcome_rush::load::{Plan, rush};
use firstcome_rush::ops::Ops;
use firstcome_rush::tally::{Progress, Tally};
use firstcome_rush::{ended, table, watch};

/// Lets a crowd ask a running Firstcome for a coupon, and says what it was told.
///
/// Exits 0 when everybody was answered in the end, every answer was understood and none contradicts another.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Address of an API, `http://host:port`; several times for several, the crowd is spread over them
    #[arg(long, env = "API_URL", required = true, value_delimiter = ',')]
    url: Vec<Target>,
    /// Coupon to ask for; without it one is made, which needs the ops token
    #[arg(long, env = "COUPON", required_unless_present = "ops_token")]
    coupon: Option<i64>,
    /// Ops token of the API, to make a coupon
    #[arg(long, env = "OPS_TOKEN", hide_env_values = true)]
    ops_token: Option<String>,
    /// How many the made coupon has
    #[arg(long, env = "QUANTITY", default_value_t = 100)]
    quantity: u32,
    /// People
    #[arg(long, env = "PEOPLE", default_value_t = 10_000)]
    people: u32,
    /// Requests each person sends
    #[arg(long, default_value_t = 3)]
    requests_per_person: u32,
    /// Connections, which is how many ask at the same instant
    #[arg(long, default_value_t = 256)]
    connections: usize,
    /// Seconds, from the beginning, that people go on asking while the coupon is not open or the system is unavailable
    #[arg(long, default_value_t = 30)]
    patience: u64,
    /// What user ids begin with; the default is new each time, so that a second rush is a second crowd
    #[arg(long)]
    user_prefix: Option<String>,
    /// Order of the requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("rush", work(Cli::parse()).await)
}

async fn work(cli: Cli) -> Result<ExitCode> {
    let prefix = cli.user_prefix.clone().unwrap_or_else(|| format!("u{:06x}-", rand::random::<u32>() >> 8));
    let crowd = Crowd::gather(&prefix, cli.people, cli.requests_per_person, cli.seed)?;
    let coupon_id = match cli.coupon {
        Some(coupon) => coupon,
        None => make_coupon(&cli).await?,
    };
    let patience = Duration::from_secs(cli.patience);
    let plan = Plan { targets: cli.url, coupon_id, crowd, connections: cli.connections, patience };
    let progress = Arc::new(Progress::default());
    let mut live = Live::new();
    let expected = plan.crowd.requests() as u64;
    let rushing = rush(plan, progress.clone());
    let tally = watch(rushing, || live.show(&table::progress(&progress, expected))).await?;
    live.finish(&table::progress(&progress, expected));
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&tally)?);
    } else {
        println!("{}", table::of_tally(&tally));
    }
    Ok(verdict(&tally))
}

async fn make_coupon(cli: &Cli) -> Result<i64> {
    let Some((token, target)) = cli.ops_token.clone().zip(cli.url.first().cloned()) else { bail!("no ops token") };
    let now = chrono::Utc::now();
    let body = serde_json::json!({
        "name": "Rush", "quantity": cli.quantity, "once_per": "coupon", "waiting_list": 0,
        "schedule": {"type": "once", "opens_at": now, "closes_at": now + chrono::TimeDelta::hours(1)},
    });
    let coupon = Ops { target, token }.post("/v1/coupons", &body).await?;
    let id = coupon["id"].as_i64().context("the new coupon has no id")?;
    eprintln!("made coupon {id}: {} to give away, open now", grouped(cli.quantity.into()));
    Ok(id)
}

fn verdict(tally: &Tally) -> ExitCode {
    let unclear = tally.count(Kind::Failed) + tally.count(Kind::Refused) + tally.gave_up;
    if unclear == 0 && tally.contradictions.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
