//! Runs the same rush against every design and Firstcome, each freshly started on the same servers.

mod processes;
mod table;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use firstcome_load::launch::Servers;
use firstcome_load::measure::{Cost, Meter};
use firstcome_load::tally::Tally;
use firstcome_load::terminal::step;
use firstcome_load::workload::Workload;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

pub(crate) use self::processes::Processes;
use self::processes::program;
use crate::baselines::designs::Design;

/// Number of turns of a fast design. The median counts.
const TURNS: usize = 3;
/// A design whose turns have taken this long is not measured again.
const ENOUGH: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RushSize {
    pub requests: u32,
    pub quantity: u32,
    pub connections: usize,
    /// The quantity of the rushes in which a process is killed.
    pub killed: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Comparison {
    pub size: RushSize,
    /// Number of cores of the machine.
    pub cores: usize,
    /// The result of the same crowd against a route that does nothing.
    pub nothing: Option<Nothing>,
    pub runs: Vec<DesignRun>,
}

/// The median turn, and the range of all turns.
#[derive(Debug, Serialize, Deserialize)]
pub struct Nothing {
    pub tally: Tally,
    pub spread: Spread,
}

/// The slowest and the fastest turn, in requests per second.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Spread(pub f64, pub f64);

impl Spread {
    fn of(rates: impl Iterator<Item = f64>) -> Self {
        rates.fold(Self(f64::INFINITY, 0.0), |Self(least, most), rate| {
            Self(least.min(rate), most.max(rate))
        })
    }

    /// Whether the two ranges overlap, so that the difference may be noise.
    pub fn overlaps(self, other: Self) -> bool {
        self.0 <= other.1 && other.0 <= self.1
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DesignRun {
    pub design: Design,
    pub tally: Tally,
    /// The range of all turns. `None` if there was only one turn.
    pub spread: Option<Spread>,
    pub rows: u64,
    /// Number of rows beyond the quantity.
    pub too_many: u64,
    /// Number of missing rows although enough users claimed.
    pub too_few: u64,
    /// Number of additional rows of users who already had one.
    pub twice: u64,
    /// Number of users who got `accepted` or `already_claimed` but have no row.
    pub promised_without_row: u64,
    /// Number of users who got `accepted` but have no row after the consumer was killed in the
    /// middle of another rush. Only for designs with a consumer.
    pub lost_by_consumer_kill: Option<u64>,
    /// The same count after MySQL was killed during a rush and restarted. Also for designs that
    /// commit many claims at once.
    pub lost_by_mysql_crash: Option<u64>,
    /// Resources that the servers used until the last row was written.
    pub cost: Cost,
}

/// The process that is killed in the middle of a rush.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Consumer,
    Mysql,
}

pub async fn run(servers: &Arc<Servers>, design: Design, size: &RushSize) -> Result<DesignRun> {
    step(format!("{}: {}", design.word(), design.title()));
    let mut runs = Vec::new();
    let begun = Instant::now();
    while runs.len() < TURNS && (runs.is_empty() || begun.elapsed() < ENOUGH) {
        runs.push(rush(servers, design, size).await?);
    }
    let spread = (runs.len() > 1).then(|| Spread::of(runs.iter().map(|run| run.tally.per_second)));
    let mut done = middle(runs, |run| run.tally.per_second).context("no run")?;
    done.spread = spread;
    if design == Design::H {
        done.lost_by_consumer_kill =
            Some(lost_when_killed(servers, design, size, Victim::Consumer).await?);
    }
    if design.may_lose_by_mysql() {
        done.lost_by_mysql_crash =
            Some(lost_when_killed(servers, design, size, Victim::Mysql).await?);
    }
    Ok(done)
}

fn middle<T>(mut runs: Vec<T>, by: impl Fn(&T) -> f64) -> Option<T> {
    runs.sort_by(|a, b| by(a).total_cmp(&by(b)));
    let at = runs.len() / 2;
    runs.into_iter().nth(at)
}

/// Runs the rush on a freshly started design.
async fn rush(servers: &Arc<Servers>, design: Design, size: &RushSize) -> Result<DesignRun> {
    let running = Processes::start(servers, design, size.quantity).await?;
    let workload = Workload::rush(
        running.api.address()?,
        running.coupon,
        size.requests,
        size.connections,
    );
    let mut meter = Meter::start(&servers.stack).await?;
    let tally = workload.run().await?;
    let statements_of_ours = running.settle(tally.accepted.len() as u64).await?;
    meter.leave_out(statements_of_ours);
    let cost = meter.stop(&servers.stack).await?;
    let rows_by_person = running.rows_by_person().await?;
    let mut done = judge(design, size.quantity, tally, &rows_by_person);
    done.cost = cost;
    running.stop().await;
    Ok(done)
}

fn judge(
    design: Design,
    quantity: u32,
    mut tally: Tally,
    rows_by_person: &HashMap<String, u64>,
) -> DesignRun {
    let rows: u64 = rows_by_person.values().sum();
    let promised_without_row = lost(tally.promises.keys(), rows_by_person);
    tally.forget_names();
    let wanted = u64::from(quantity);
    DesignRun {
        design,
        spread: None,
        rows,
        too_many: rows.saturating_sub(wanted),
        too_few: wanted.saturating_sub(rows),
        twice: rows - rows_by_person.len() as u64,
        promised_without_row,
        lost_by_consumer_kill: None,
        lost_by_mysql_crash: None,
        cost: Cost::default(),
        tally,
    }
}

fn lost<'a>(
    promised: impl Iterator<Item = &'a String>,
    rows_by_person: &HashMap<String, u64>,
) -> u64 {
    promised
        .filter(|user| !rows_by_person.contains_key(*user))
        .count() as u64
}

/// Runs a rush in which a process is killed once a third of the rows are written. Returns how many
/// users got `accepted` but have no row afterwards.
async fn lost_when_killed(
    servers: &Arc<Servers>,
    design: Design,
    size: &RushSize,
    victim: Victim,
) -> Result<u64> {
    let mut running = Processes::start(servers, design, size.killed).await?;
    let workload = Workload::rush(
        running.api.address()?,
        running.coupon,
        size.killed * 4,
        size.connections,
    );
    let asking = tokio::spawn(async move { workload.run().await });
    running.until_rows(u64::from(size.killed / 3)).await?;
    match victim {
        Victim::Consumer => {
            let killed = running.consumer.take().context("no consumer")?;
            killed.kill().await?;
            running.consumer = Some(running.new_consumer().await?);
        }
        Victim::Mysql => {
            servers.stack.mysql.kill().await?;
            sleep(Duration::from_secs(1)).await;
            servers.stack.mysql.start_again().await?;
        }
    }
    let tally = asking.await??;
    running.settle(tally.accepted.len() as u64).await?;
    let missing = lost(tally.accepted.iter(), &running.rows_by_person().await?);
    running.stop().await;
    Ok(missing)
}

/// Runs the same crowd against a route that does nothing.
pub async fn nothing(servers: &Arc<Servers>, size: &RushSize) -> Result<Nothing> {
    step("a route that does nothing");
    let service = servers
        .spawn("nothing", &mut program("nothing", &[])?, "")
        .await?;
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        turns.push(
            Workload::rush(service.address()?, 1, size.requests, size.connections)
                .run()
                .await?,
        );
    }
    service.kill().await?;
    let spread = Spread::of(turns.iter().map(|tally| tally.per_second));
    let mut tally = middle(turns, |tally| tally.per_second).context("no run")?;
    tally.forget_names();
    Ok(Nothing { tally, spread })
}
