//! The same rush on every design.

mod figures;
mod running;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use firstcome_rush::live::step;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

pub use self::figures::figures;
use self::running::start;
use crate::cli::Size;
use crate::designs::Design;
use crate::load::{Plan, Seen, crowd};
use crate::meter::{Cost, Meter};
use crate::world::{World, address};

const PART: &str = "designs";
/// The shortest time between two looks at MySQL's counters.
const SAMPLE: Duration = Duration::from_millis(100);
/// A slow design is looked at so often in all, since each look costs MySQL a millisecond too.
const LOOKS: u32 = 50;

/// A fast design is measured so often, and the run in the middle counts.
const TURNS: usize = 3;
/// A slow one is measured no more after this.
const ENOUGH: Duration = Duration::from_secs(15);

/// What a rush on one design came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DesignRun {
    pub design: Design,
    /// What the crowd was told.
    pub seen: Seen,
    pub rows: u64,
    /// Rows above the quantity.
    pub too_many: u64,
    /// Rows missing to the quantity although more people asked.
    pub too_few: u64,
    /// Rows of people who have another one.
    pub twice: u64,
    /// People told `accepted` or `already_claimed` who have no row.
    pub yes_without_row: u64,
    /// People told `accepted` who have no row after the consumer was killed in the middle of another rush; only for designs
    /// that have one.
    pub lost_by_consumer_kill: Option<u64>,
    /// The same after MySQL was killed in the middle of it and came back.
    pub lost_by_mysql_crash: Option<u64>,
    /// What it cost the servers, until the last row stood.
    pub cost: Cost,
    /// MySQL statements so far, by seconds.
    pub statements: Vec<(f64, u64)>,
}

/// Trouble in the middle of a rush.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Consumer,
    Mysql,
}

pub async fn run(world: &World, design: Design, size: &Size) -> Result<DesignRun> {
    step(format!("{}: {}", design.word(), design.title()));
    let mut runs = Vec::new();
    let begun = Instant::now();
    while runs.len() < TURNS && (runs.is_empty() || begun.elapsed() < ENOUGH) {
        runs.push(rush(world, design, size).await?);
    }
    let mut done = middle(runs, |run| run.seen.per_second).context("no run")?;
    if design.has_consumer() {
        done.lost_by_consumer_kill = Some(trouble(world, design, size, Trouble::Consumer).await?);
        done.lost_by_mysql_crash = Some(trouble(world, design, size, Trouble::Mysql).await?);
    }
    Ok(done)
}

/// The one in the middle.
fn middle<T>(mut runs: Vec<T>, by: impl Fn(&T) -> f64) -> Option<T> {
    runs.sort_by(|a, b| by(a).total_cmp(&by(b)));
    let at = runs.len() / 2;
    runs.into_iter().nth(at)
}

/// The rush on a design that was started anew.
async fn rush(world: &World, design: Design, size: &Size) -> Result<DesignRun> {
    let running = start(world, design, size.quantity).await?;
    let plan = Plan::rush(address(&running.api)?, running.coupon, size.requests, size.connections);
    let mut meter = Meter::start(world).await?;
    let (seen, statements) = sampled(&plan, &mut meter).await?;
    let looks = running.settle(seen.accepted.len() as u64).await?;
    meter.leave_out(looks);
    let cost = meter.stop(world).await?;
    let held = running.held().await?;
    let mut done = judge(design, size.quantity, seen, &held);
    (done.cost, done.statements) = (cost, statements);
    running.stop().await;
    Ok(done)
}

/// The crowd, with MySQL's statements over time.
async fn sampled(plan: &Plan, meter: &mut Meter) -> Result<(Seen, Vec<(f64, u64)>)> {
    let begun = Instant::now();
    let mut series = vec![(0.0, 0)];
    let mut asking = std::pin::pin!(crowd(plan));
    let seen = loop {
        let pause = SAMPLE.max(begun.elapsed() / LOOKS);
        tokio::select! {
            seen = &mut asking => break seen?,
            () = sleep(pause) => series.push((begun.elapsed().as_secs_f64(), meter.statements().await?)),
        }
    };
    series.push((begun.elapsed().as_secs_f64(), meter.statements().await?));
    Ok((seen, series))
}

fn judge(design: Design, quantity: u32, mut seen: Seen, held: &HashMap<String, u64>) -> DesignRun {
    let rows: u64 = held.values().sum();
    let yes_without_row = lost(seen.yes.keys(), held);
    // The report has no use for names.
    seen.yes.clear();
    seen.accepted.clear();
    let wanted = u64::from(quantity);
    DesignRun {
        design,
        rows,
        too_many: rows.saturating_sub(wanted),
        too_few: wanted.saturating_sub(rows),
        twice: rows - held.len() as u64,
        yes_without_row,
        lost_by_consumer_kill: None,
        lost_by_mysql_crash: None,
        cost: Cost::default(),
        statements: Vec::new(),
        seen,
    }
}

fn lost<'a>(told: impl Iterator<Item = &'a String>, held: &HashMap<String, u64>) -> u64 {
    told.filter(|user| !held.contains_key(*user)).count() as u64
}

/// A rush in which something is killed once a third of the rows stand; people told `accepted` who have no row afterwards.
async fn trouble(world: &World, design: Design, size: &Size, what: Trouble) -> Result<u64> {
    let mut running = start(world, design, size.trouble).await?;
    let plan = Plan::rush(address(&running.api)?, running.coupon, size.trouble * 4, size.connections);
    let asking = tokio::spawn(async move { crowd(&plan).await });
    running.until_rows(u64::from(size.trouble / 3)).await?;
    match what {
        Trouble::Consumer => {
            let killed = running.consumer.take().context("no consumer")?;
            killed.kill().await?;
            running.consumer = Some(running.new_consumer(design).await?);
        }
        Trouble::Mysql => {
            world.stack.mysql.kill().await?;
            sleep(Duration::from_secs(1)).await;
            world.stack.mysql.start_again().await?;
        }
    }
    let seen = asking.await??;
    running.settle(seen.accepted.len() as u64).await?;
    let missing = lost(seen.accepted.iter(), &running.held().await?);
    running.stop().await;
    Ok(missing)
}

/// The same crowd and a route that does nothing.
pub async fn nothing(world: &World, size: &Size) -> Result<Seen> {
    step("a route that does nothing");
    let service = world.spawn("nothing", world.own(&["nothing"])?, "").await?;
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        turns.push(crowd(&Plan::rush(address(&service)?, 1, size.requests, size.connections)).await?);
    }
    service.kill().await?;
    let mut seen = middle(turns, |seen| seen.per_second).context("no run")?;
    seen.yes.clear();
    seen.accepted.clear();
    Ok(seen)
}
