//! A rehearsal: a crowd against a system that runs somewhere, and what came of it as table, JSON and page.

mod html;
mod options;
mod report;
mod rows;
mod series;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, interval, sleep};

pub use self::options::Options;
pub use self::report::Report;
pub use self::rows::{Rows, Watch};
pub use self::series::{Point, Series};
use crate::ceiling;
use crate::client::Target;
use crate::crowd::Crowd;
use crate::identity::Identity;
use crate::live::{Live, grouped, step};
use crate::load::{Plan, rush};
use crate::ops::Ops;
use crate::table;
use crate::tally::{Progress, Tally};

/// How often the crowd is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a coupon that was made a moment ago may take to be known everywhere.
const KNOWN_LIMIT: Duration = Duration::from_secs(15);

/// Does all of it: checks what was asked for, finds or makes the coupon, measures the tool, lets the crowd ask, looks at the
/// rows where it may, and writes what came of it.
pub async fn run(options: &Options) -> Result<ExitCode> {
    options.check().await?;
    let outputs = report::Outputs::open(options)?;
    let prefix = options.prefix();
    let crowd =
        Crowd::gather_mixed(&prefix, options.people, options.requests_per_person, options.repeat_share, options.seed)?;
    let identity = Identity::new(&options.identity, &crowd)?;
    let mut watch = match &options.database_url {
        Some(url) => Some(Watch::open(url).await?),
        None => None,
    };
    let targets = options.targets()?;
    let (coupon_id, made) = coupon(options, &targets, &prefix).await?;
    step(format!("measuring this tool's own ceiling over {} connections", options.connections));
    let ceiling = ceiling::measure(options.connections).await?.per_second;
    let plan = Plan {
        targets,
        coupon_id,
        crowd,
        connections: options.connections,
        identity,
        rate: options.rate,
        patience: Duration::from_secs(options.patience),
    };
    let (tally, series) = watched(plan, watch.as_mut()).await?;
    let rows = match &mut watch {
        Some(watch) => Some(watch.rows(coupon_id, &tally.promises, Duration::from_secs(options.patience)).await?),
        None => None,
    };
    let report = Report::new(options, (coupon_id, made), ceiling, tally, series, rows);
    outputs.write(&report)?;
    Ok(if report.good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The crowd, looked at every now and then.
async fn watched(plan: Plan, mut watch: Option<&mut Watch>) -> Result<(Tally, Series)> {
    let (progress, mut live, mut series) = (Arc::new(Progress::default()), Live::new(), Series::default());
    let expected = plan.crowd.requests() as u64;
    let mut rushing = std::pin::pin!(rush(plan, progress.clone()));
    let mut ticks = interval(LOOK);
    let tally = loop {
        tokio::select! {
            tally = &mut rushing => break tally?,
            _ = ticks.tick() => {
                series.look(&progress, watch.as_deref_mut()).await;
                live.show(&table::progress(&progress, expected));
            }
        }
    };
    series.look(&progress, watch).await;
    live.finish(&table::progress(&progress, expected));
    Ok((tally, series))
}

/// The coupon to ask for, and whether it was made for this.
async fn coupon(options: &Options, targets: &[Target], prefix: &str) -> Result<(i64, bool)> {
    let (id, made) =
        match (options.coupon, options.ops_token.as_deref().filter(|token| !token.is_empty()), targets.first()) {
            (Some(id), _, _) => (id, false),
            (None, Some(token), Some(target)) => (make(target, token, options.quantity).await?, true),
            _ => bail!("give --coupon, or --ops-token to make one"),
        };
    let begun = Instant::now();
    for target in targets {
        loop {
            let shown = shown(target, id).await?;
            let state = shown["current_drop"]["state"].as_str().unwrap_or("none");
            if made && state != "open" && begun.elapsed() < KNOWN_LIMIT {
                sleep(LOOK).await;
                continue;
            }
            ensure!(!shown["id"].is_null(), "there is no coupon {id} at {target}");
            let next = !shown["next_drop"].is_null();
            ensure!(matches!(state, "open" | "scheduled" | "sold_out") || next, "coupon {id} is {state} at {target}");
            break;
        }
    }
    if made {
        step(format!("made coupon {id}: {} to give away, open now", grouped(options.quantity.into())));
    } else {
        step(format!("coupon {id} is given to people named {prefix}…: they hold it afterwards as anybody would"));
    }
    Ok((id, made))
}

/// A coupon as a target shows it; `null` where it does not know it.
async fn shown(target: &Target, id: i64) -> Result<Value> {
    let ops = Ops { target: target.clone(), token: String::new() };
    let (status, text) = ops.get_text(&format!("/v1/coupons/{id}")).await?;
    match status.as_u16() {
        404 => Ok(Value::Null),
        200 => serde_json::from_str(&text).with_context(|| format!("{target} is no Firstcome: {}", start_of(&text))),
        _ => bail!("{target} answered {status} when asked for coupon {id}: {}", start_of(&text)),
    }
}

async fn make(target: &Target, token: &str, quantity: u32) -> Result<i64> {
    let now = chrono::Utc::now();
    let body = json!({
        "name": "Rehearsal", "quantity": quantity, "once_per": "coupon", "waiting_list": 0,
        "schedule": {"type": "once", "opens_at": now, "closes_at": now + chrono::TimeDelta::hours(1)},
    });
    let ops = Ops { target: target.clone(), token: token.to_owned() };
    let (status, coupon) = ops.try_post("/v1/coupons", &body).await?;
    let hint = if status.as_u16() == 401 { ": is --ops-token that of the API?" } else { "" };
    ensure!(status.is_success(), "{target} answered {status} when asked to make a coupon{hint} {coupon}");
    coupon["id"].as_i64().with_context(|| format!("{target} is no Firstcome: the new coupon has no id"))
}

fn start_of(text: &str) -> String {
    text.chars().take(120).collect()
}
