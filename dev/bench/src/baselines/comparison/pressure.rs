//! Measures a design while its MySQL is stalled, killed or shared with a shop. First every claim
//! wins, then every claim is too late.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use firstcome_load::answer::AnswerKind;
use firstcome_load::launch::Servers;
use firstcome_load::measure::server_cpu;
use firstcome_load::tally::Tally;
use firstcome_load::terminal::step;
use firstcome_load::workload::Workload;
use firstcome_stack::mysql_connection;
use tokio::time::{Instant, sleep};

use super::lost;
use super::processes::Processes;
use super::shop::{Shop, ShopLatency};
use crate::baselines::designs::Design;

/// Duration of an open-loop crowd in seconds.
const SECONDS: u32 = 10;
/// Time from the crowd's first request to the fault.
const BEFORE: Duration = Duration::from_secs(2);
const STALL: Duration = Duration::from_secs(5);
/// Time from the kill to the restart.
const DOWN: Duration = Duration::from_secs(1);
/// Number of connections of an open-loop crowd. Many of them wait while MySQL is down.
const CONNECTIONS: usize = 512;
/// Time limit for the rows after the last fault.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// Closed loop: each client sends the next request as soon as it gets a response.
    FullSpeed,
    FullSpeedShared,
    /// Open loop: the same number of users per second for every design.
    Clock,
    Shared,
    Stalled,
    Killed,
}

impl Pressure {
    pub const ALL: [Self; 6] = [
        Self::FullSpeed,
        Self::FullSpeedShared,
        Self::Clock,
        Self::Shared,
        Self::Stalled,
        Self::Killed,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::FullSpeed => "full speed",
            Self::FullSpeedShared => "full speed, shared with a shop",
            Self::Clock => "open loop",
            Self::Shared => "open loop, shared with a shop",
            Self::Stalled => "open loop, MySQL stalled for 5 s",
            Self::Killed => "open loop, MySQL killed and restarted",
        }
    }

    fn is_full_speed(self) -> bool {
        matches!(self, Self::FullSpeed | Self::FullSpeedShared)
    }

    fn has_shop(self) -> bool {
        matches!(self, Self::FullSpeedShared | Self::Shared)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct PressureSize {
    /// Number of winners, and also of latecomers, at full speed.
    pub people: u32,
    pub connections: usize,
    /// Number of users per second in the open loop.
    pub rate: u32,
}

pub struct PressedRun {
    pub winners: Tally,
    pub losers: Tally,
    /// CPU microseconds that MySQL uses per winner until the rows exist, if MySQL did nothing else.
    pub mysql_us: Option<f64>,
    /// Number of users who were promised a coupon but have no row.
    pub promised_without_row: u64,
    /// Number of rows beyond the quantity, and of additional rows of a user.
    pub wrong_rows: u64,
    pub shop: Option<ShopLatency>,
}

impl PressedRun {
    /// Returns the number of requests that were not accepted, although there were enough coupons
    /// for all users.
    pub fn turned_away(&self) -> u64 {
        self.winners.requests - self.winners.count(AnswerKind::Accepted)
    }
}

/// Measures the latency of the shop's orders while nothing else runs.
pub async fn shop_alone(servers: &Servers) -> Result<ShopLatency> {
    let shop = Shop::open(&servers.stack.mysql).await?;
    sleep(Duration::from_secs(SECONDS.into())).await;
    shop.close().await
}

pub async fn run(
    servers: &Arc<Servers>,
    design: Design,
    pressure: Pressure,
    size: PressureSize,
) -> Result<PressedRun> {
    step(format!("{}: {}", design.word(), pressure.title()));
    let crowd = |running: &Processes, prefix: &str| -> Result<Workload> {
        let address = running.api.address()?;
        let workload = if pressure.is_full_speed() {
            Workload::once_each(address, running.coupon, size.people, size.connections)
        } else {
            let people = size.rate * SECONDS;
            Workload::once_each(address, running.coupon, people, CONNECTIONS)
                .by_the_clock(size.rate.into())
        };
        Ok(workload.named(prefix))
    };
    let people = if pressure.is_full_speed() {
        size.people
    } else {
        size.rate * SECONDS
    };
    // In an open loop, each connection sends one request before the measurement.
    let first = if pressure.is_full_speed() {
        0
    } else {
        u32::try_from(CONNECTIONS)?.min(people)
    };
    let running = Processes::start(servers, design, people + first).await?;
    let shop = if pressure.has_shop() {
        Some(Shop::open(&servers.stack.mysql).await?)
    } else {
        None
    };

    let before = server_cpu(&servers.stack)[0];
    let winners = under(servers, pressure, crowd(&running, "w-")?).await?;
    let shop = match shop {
        Some(shop) => Some(shop.close().await?),
        None => None,
    };
    let promised: HashSet<String> = winners.promises.keys().cloned().collect();
    until_rows(servers, &running, promised.len() as u64 + u64::from(first)).await?;
    let cpu = server_cpu(&servers.stack)[0] - before;
    let is_alone = shop.is_none() && pressure != Pressure::Killed;
    let mysql_us = is_alone.then(|| cpu * 1e6 / f64::from(people + first));

    // The units that are left after the fault are given out first.
    let rest = u32::try_from(winners.requests)?
        - u32::try_from(winners.count(AnswerKind::Accepted))?
        + first;
    let address = running.api.address()?;
    let last = Workload::once_each(address, running.coupon, rest + 1, size.connections)
        .named("r-")
        .run()
        .await?;
    let losers = under(servers, pressure, crowd(&running, "l-")?).await?;
    ensure!(
        losers.count(AnswerKind::Accepted) == 0,
        "not sold out: {:?}",
        losers.answers
    );
    let promised = promised.len() + last.promises.len();
    until_rows(servers, &running, promised as u64).await?;
    let rows = running.rows_by_person().await?;
    let all: u64 = rows.values().sum();
    let promised_without_row = lost(winners.promises.keys().chain(last.promises.keys()), &rows);
    running.stop().await;
    Ok(PressedRun {
        winners,
        losers,
        mysql_us,
        promised_without_row,
        wrong_rows: all.saturating_sub(u64::from(people + first)) + (all - rows.len() as u64),
        shop,
    })
}

/// Runs a crowd, and injects the fault in the middle.
async fn under(servers: &Arc<Servers>, pressure: Pressure, workload: Workload) -> Result<Tally> {
    let asking = tokio::spawn(async move { workload.run().await });
    let mysql = &servers.stack.mysql;
    match pressure {
        Pressure::Stalled => {
            sleep(BEFORE).await;
            mysql.freeze().await?;
            sleep(STALL).await;
            mysql.thaw().await?;
        }
        Pressure::Killed => {
            sleep(BEFORE).await;
            mysql.kill().await?;
            sleep(DOWN).await;
            mysql.start_again().await?;
        }
        _ => {}
    }
    asking.await?
}

/// Waits for this many rows. Polls rarely, because counting also uses MySQL's CPU.
async fn until_rows(servers: &Servers, running: &Processes, wanted: u64) -> Result<()> {
    let mut conn = mysql_connection(&servers.stack.mysql.url()).await?;
    let begun = Instant::now();
    while running.count(&mut conn).await? < wanted && begun.elapsed() < PATIENCE {
        sleep(Duration::from_millis(200)).await;
    }
    Ok(conn.disconnect().await?)
}
