//! Winning claims per second while anonymous clients request lists of coupons, the most expensive
//! request that needs no authentication: a million requests in five minutes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use firstcome_load::launch::{Installation, InstallationCoupon, Service, until};
use firstcome_load::terminal::step;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::figures::{Ratios, median};
use super::winning::{Winning, everyone_wins};
use crate::Bench;
use crate::cli::BenchSize;
use crate::report::{FigureTarget, Measurement};

const PART: &str = "anonymous";
/// Number of requests per second in total.
const RATE: u32 = 1_000_000 / 300;
const CONNECTIONS: u32 = 64;
/// Number of coupons in the list.
const LISTED: u32 = 300;
/// Number of turns with the requests, and as many without. They alternate, so that background load
/// affects both.
const TURNS: u32 = 15;

/// The lists that the clients request.
#[derive(Clone, Copy)]
enum Asked {
    /// Consecutive requests ask for different pages, so that the cache rarely helps.
    EachAnother,
    /// The requests ask for cached pages of all coupons, so that the responses are large.
    AllTheSame,
}

pub async fn measure(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    let installation = bench.install("anonymous").await?;
    let (reconciler, api) = tokio::try_join!(installation.reconciler(), installation.api())?;
    let consumer = installation.consumer().await?;
    let mut coupons = Vec::new();
    for _ in 0..4 * TURNS {
        coupons.push(installation.coupon(&api, size.winners / TURNS).await?);
    }
    for _ in coupons.len()..LISTED as usize {
        installation.coupon(&api, 1).await?;
    }
    let (first, second) = coupons.split_at(2 * TURNS as usize);
    let mut measurements = Vec::new();
    for (asked, coupons) in [(Asked::EachAnother, first), (Asked::AllTheSame, second)] {
        measurements.push(beside(&installation, &api, asked, coupons, size).await?);
    }
    consumer.stop().await?;
    api.stop().await?;
    reconciler.stop().await?;
    Ok(measurements)
}

async fn beside(
    installation: &Installation,
    api: &Service,
    asked: Asked,
    coupons: &[InstallationCoupon],
    size: &BenchSize,
) -> Result<Measurement> {
    let pages = match asked {
        Asked::EachAnother => "different pages",
        Asked::AllTheSame => "one page",
    };
    step(format!(
        "everyone wins with {RATE} lists of coupons per second, {pages}, in turns with claims alone"
    ));
    let mut alone = Vec::new();
    let mut beside = Vec::new();
    let seen = Arc::new(Seen::default());
    for pair in coupons.chunks_exact(2) {
        alone.push(everyone_wins(api, pair[0], size).await?);
        installation.every_row(pair[0]).await?;
        let mut asking = JoinSet::new();
        let before = seen.total();
        for number in 0..CONNECTIONS {
            asking.spawn(ask_again_and_again(
                api.address()?,
                asked,
                number,
                Arc::clone(&seen),
            ));
        }
        until("clients request lists", async || {
            Ok(seen.total() > before + u64::from(RATE))
        })
        .await?;
        seen.begin();
        beside.push(everyone_wins(api, pair[1], size).await?);
        seen.end();
        installation.every_row(pair[1]).await?;
        ensure!(
            asking.try_join_next().is_none(),
            "the clients that request lists stopped"
        );
    }
    let rates = |turns: &[Winning]| turns.iter().map(|turn| turn.per_second).collect::<Vec<_>>();
    let ratios = Ratios::of(&rates(&beside), &rates(&alone));
    let cpu = |turns: &[Winning]| turns.iter().map(|turn| turn.cpu_seconds).sum::<f64>();
    let each = (cpu(&beside) - cpu(&alone)) * 1e6 / seen.answered();
    let what = format!("everyone wins with {RATE} lists of coupons per second, {pages} ÷ alone");
    let (lists, refused, asked) = seen.a_second();
    ensure!(lists > 0.0, "not one list was answered");
    let measurement = Measurement::of(PART, what, ratios.median, "×")
        .with("with lists/s", median(rates(&beside)))
        .with("alone/s", median(rates(&alone)))
        .with("API CPU µs per request", each)
        .with("lists/s", lists)
        .with("refused/s", refused);
    Ok(measurement.target(FigureTarget::AtLeast(0.9)).note(format!(
        "median of {TURNS} turns ({ratios}); {asked:.0} requests per second on {CONNECTIONS} connections were \
         answered, lists of up to {LISTED} coupons; the clients use the same processors"
    )))
}

#[derive(Default)]
struct Seen {
    lists: AtomicU64,
    refused: AtomicU64,
    measured: parking_lot::Mutex<Counted>,
}

/// Requests that were counted during the measurement.
#[derive(Default)]
struct Counted {
    begun: Option<(Instant, u64, u64)>,
    seconds: f64,
    lists: u64,
    refused: u64,
}

impl Seen {
    fn now(&self) -> (u64, u64) {
        (
            self.lists.load(Ordering::Relaxed),
            self.refused.load(Ordering::Relaxed),
        )
    }

    fn total(&self) -> u64 {
        let (lists, refused) = self.now();
        lists + refused
    }

    fn begin(&self) {
        let (lists, refused) = self.now();
        self.measured.lock().begun = Some((Instant::now(), lists, refused));
    }

    fn end(&self) {
        let (lists, refused) = self.now();
        let mut measured = self.measured.lock();
        if let Some((begun, lists_before, refused_before)) = measured.begun.take() {
            measured.seconds += begun.elapsed().as_secs_f64();
            measured.lists += lists - lists_before;
            measured.refused += refused - refused_before;
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "millions")]
    fn answered(&self) -> f64 {
        let measured = self.measured.lock();
        (measured.lists + measured.refused) as f64
    }

    /// Returns lists, refusals and their sum, per second.
    #[allow(clippy::cast_precision_loss, reason = "millions")]
    fn a_second(&self) -> (f64, f64, f64) {
        let measured = self.measured.lock();
        let a_second = |count: u64| count as f64 / measured.seconds;
        (
            a_second(measured.lists),
            a_second(measured.refused),
            a_second(measured.lists + measured.refused),
        )
    }
}

/// Sends requests at a fixed rate on one connection until the future is dropped.
async fn ask_again_and_again(
    target: SocketAddr,
    asked: Asked,
    number: u32,
    seen: Arc<Seen>,
) -> Result<()> {
    let mut connection = BufReader::new(TcpStream::connect(target).await?);
    let mut clock = interval(Duration::from_secs(CONNECTIONS.into()) / RATE);
    // If the server is late, all requests that are due are sent immediately.
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut body = Vec::new();
    for turn in 0_u32.. {
        clock.tick().await;
        let after = match asked {
            Asked::EachAnother => (turn * CONNECTIONS + number) % LISTED,
            Asked::AllTheSame => 0,
        };
        let request =
            format!("GET /v1/coupons?limit=1000&after={after} HTTP/1.1\r\nhost: x\r\n\r\n");
        connection.get_mut().write_all(request.as_bytes()).await?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(
                connection.read_line(&mut head).await? > 0,
                "the server closed the connection after {head:?}"
            );
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        body.resize(length.context("no length")?.parse()?, 0);
        connection.read_exact(&mut body).await?;
        let count = match head.split(' ').nth(1) {
            Some("200") => &seen.lists,
            Some("503" | "429") => &seen.refused,
            _ => anyhow::bail!("{head}"),
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
