//! The load tool `rush` sends a crowd to any running system and reports its answers as a table and
//! as JSON.

mod options;
mod report;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chrono::{TimeDelta, Utc};
use serde_json::Value;
use tokio::time::{Instant, interval, sleep};

pub use self::options::RushOptions;
pub use self::report::RushReport;
use crate::ceiling;
use crate::client::Target;
use crate::crowd::Crowd;
use crate::generator::{self, CrowdPlan};
use crate::identity::CrowdIdentity;
use crate::measure::Database;
use crate::ops::{Ops, RefusedRequest};
use crate::rows::RowCheck;
use crate::table;
use crate::tally::{CrowdProgress, Tally};
use crate::terminal::{ProgressLine, grouped, step};

/// Sampling interval of the counts.
const SAMPLE: Duration = Duration::from_millis(20);
/// Time limit until every API shows a new coupon.
const KNOWN_LIMIT: Duration = Duration::from_secs(15);

/// Runs the program: checks the options, finds or creates the coupon, measures the generator's
/// limit, lets the crowd claim, compares the answers with the rows if a database is given, and
/// writes the report.
pub async fn run(options: &RushOptions) -> Result<ExitCode> {
    options.check().await?;
    let outputs = report::Outputs::open(options)?;
    // The prefix is new each time, so that a second rush has different users.
    let prefix = format!("u{:06x}-", rand::random::<u32>() >> 8);
    let crowd = Crowd::gather(options.people, &prefix, options.requests_per_person, 1)?;
    let identity = CrowdIdentity::new(&options.identity, &crowd)?;
    let mut database = match &options.database_url {
        Some(url) => Some(Database::open(url).await?),
        None => None,
    };
    let (coupon_id, made) = coupon(options, &prefix).await?;
    step(format!(
        "measuring the limit of this tool over {} connections",
        options.connections
    ));
    let ceiling = ceiling::measure(options.connections).await?.per_second;
    let patience = Duration::from_secs(options.patience);
    let plan = CrowdPlan::new(options.url.clone(), coupon_id, crowd, options.connections);
    let plan = CrowdPlan {
        identity,
        rate: options.rate,
        patience,
        ..plan
    };
    let tally = shown(plan).await?;
    let mut statements = None;
    let mut rows = None;
    if let Some(database) = &mut database {
        statements = Some(database.statements().await?);
        rows = Some(RowCheck::wait(database, coupon_id, &tally.promises, patience).await?);
    }
    let report = RushReport::new(options, coupon_id, made, ceiling, tally, statements, rows);
    outputs.write(&report)?;
    Ok(if report.good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the crowd and shows its progress.
async fn shown(plan: CrowdPlan) -> Result<Tally> {
    let progress = Arc::new(CrowdProgress::default());
    let mut live = ProgressLine::new();
    let expected = plan.crowd.requests() as u64;
    let mut rushing = std::pin::pin!(generator::run(plan, progress.clone()));
    let mut ticks = interval(SAMPLE);
    let tally = loop {
        tokio::select! {
            tally = &mut rushing => break tally?,
            _ = ticks.tick() => live.show(&table::progress(&progress, expected)),
        }
    };
    live.finish(&table::progress(&progress, expected));
    Ok(tally)
}

/// Returns the coupon to claim, and whether it was created for this rush.
async fn coupon(options: &RushOptions, prefix: &str) -> Result<(i64, bool)> {
    let (id, made) = match (
        options.coupon,
        options.ops_token.as_deref(),
        options.url.first(),
    ) {
        (Some(id), _, _) => (id, false),
        (None, Some(token), Some(target)) => (make(target, token, options.quantity).await?, true),
        _ => bail!("give --coupon, or --ops-token to create one"),
    };
    let begun = Instant::now();
    for target in &options.url {
        loop {
            let shown = coupon_at(target, id).await?;
            let state = shown["current_drop"]["state"].as_str().unwrap_or("none");
            if made && state != "open" && begun.elapsed() < KNOWN_LIMIT {
                sleep(SAMPLE).await;
                continue;
            }
            ensure!(
                !shown["id"].is_null(),
                "there is no coupon {id} at {target}"
            );
            let next = !shown["next_drop"].is_null();
            ensure!(
                matches!(state, "open" | "scheduled" | "sold_out") || next,
                "coupon {id} is {state} at {target}"
            );
            break;
        }
    }
    if made {
        step(format!(
            "created coupon {id}: {} to give away, open now",
            grouped(options.quantity.into())
        ));
    } else {
        step(format!(
            "coupon {id} is really given away, to users named {prefix}…"
        ));
    }
    Ok((id, made))
}

/// Reads a coupon from a target. Returns `null` if the target does not have it.
async fn coupon_at(target: &Target, id: i64) -> Result<Value> {
    let ops = Ops {
        target: target.clone(),
        token: String::new(),
    };
    match ops.get(&format!("/v1/coupons/{id}")).await {
        Err(error) if RefusedRequest::status_of(&error) == Some(404) => Ok(Value::Null),
        found => found.with_context(|| format!("{target} was asked for coupon {id}")),
    }
}

async fn make(target: &Target, token: &str, quantity: u32) -> Result<i64> {
    let ops = Ops {
        target: target.clone(),
        token: token.to_owned(),
    };
    let made = ops
        .make_coupon("Rehearsal", quantity, Utc::now(), TimeDelta::hours(1))
        .await;
    let coupon = made.map_err(|error| {
        let is_unauthorized = RefusedRequest::status_of(&error) == Some(401);
        let hint = if is_unauthorized {
            ": is --ops-token that of the API?"
        } else {
            ""
        };
        error.context(format!("{target} did not create a coupon{hint}"))
    })?;
    coupon["id"]
        .as_i64()
        .with_context(|| format!("{target} is no Firstcome: the new coupon has no id"))
}
