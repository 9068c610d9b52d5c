//! The same rush on every design and on Firstcome, each freshly started on the same servers. Each
//! rush runs once more beside a neighbour on the same MySQL, which also uses CPU time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use firstcome_harness::{Role, Service};
use firstcome_load::installation::Installation;
use firstcome_load::rush::Workload;
use firstcome_load::tally::Tally;
use firstcome_load::terminal::step;
use tokio::time::sleep;

use super::Bench;
use super::meter::StatementMeter;
use super::neighbour::Neighbour;
use crate::designs::{Design, prepare};
use crate::report::{self, FigureTarget, Measurement};

const PART: &str = "designs";
/// Number of turns of a fast design. The median counts.
const TURNS: usize = 3;
/// A design whose turns have taken this long gets no further turn, except the one beside a
/// neighbour.
const ENOUGH: Duration = Duration::from_secs(15);
/// How long the neighbour is measured alone.
const ALONE: Duration = Duration::from_secs(5);
/// Rows that have not arrived after this time count as lost.
const STILL: Duration = Duration::from_secs(12);

/// The other user of the same MySQL during a rush.
#[derive(Clone, Copy)]
enum Beside {
    Nobody,
    Neighbour,
}

/// A rush, and the rows after it.
struct Turn {
    tally: Tally,
    rows: usize,
    duplicates: usize,
    promised_without_row: usize,
    statements: u64,
    /// The 99th percentile of a neighbour's requests during the rush, if there was one, in
    /// milliseconds.
    neighbour_ms: Option<f64>,
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    prepare(&bench.servers.mysql, Design::D, 1).await?;
    let neighbour = start_neighbour(bench).await?;
    sleep(ALONE).await;
    let alone = neighbour.stop().await?;
    let what = "a neighbour's p99 alone";
    let mut measurements = vec![Measurement::of(PART, what, alone, "ms")];
    let mut rate_of_d = 0.0;
    for design in Design::value_variants() {
        let turn = async |beside| other(bench, *design, beside).await;
        let (rate, measurement) = turns(design.title(), turn).await?;
        if *design == Design::D {
            rate_of_d = rate;
        }
        measurements.push(measurement);
    }
    let installation = bench.install("rush").await?;
    let turn = async |beside| firstcome(bench, &installation, beside).await;
    let (rate, measurement) = turns("Firstcome", turn).await?;
    measurements.push(measurement);
    let ratio = Measurement::ratio(
        PART,
        "whole rush ÷ d",
        ("Firstcome/s", rate),
        ("d/s", rate_of_d),
    );
    measurements.push(ratio.target(FigureTarget::AtLeast(10.0)));
    Ok(measurements)
}

async fn start_neighbour(bench: &Bench) -> Result<Neighbour> {
    Neighbour::start(&bench.servers.mysql.database_url("bench")).await
}

/// Runs several turns, and one more beside a neighbour. Returns the median rate, and a measurement
/// with the figures of the median turn.
async fn turns(
    title: &str,
    mut turn: impl AsyncFnMut(Beside) -> Result<Turn>,
) -> Result<(f64, Measurement)> {
    step(title);
    let begun = Instant::now();
    let mut turns: Vec<Turn> = Vec::new();
    while turns.len() < TURNS && (turns.is_empty() || begun.elapsed() < ENOUGH) {
        turns.push(turn(Beside::Nobody).await?);
    }
    let beside = turn(Beside::Neighbour).await?;
    let neighbour_ms = beside.neighbour_ms.context("no neighbour")?;
    let rates: Vec<f64> = turns.iter().map(|turn| turn.tally.per_second).collect();
    let rate = report::median(rates.clone());
    let median = turns
        .iter()
        .find(|turn| turn.tally.per_second.total_cmp(&rate).is_eq())
        .context("no turn")?;
    let winners = &median.tally.winners;
    let others = &median.tally.others;
    #[allow(clippy::cast_precision_loss, reason = "counts")]
    let inputs = [
        ("winners p50 ms", winners.p50_ms),
        ("p99", winners.p99_ms),
        ("others p50 ms", others.p50_ms),
        ("p99", others.p99_ms),
        ("rows", median.rows as f64),
        ("duplicates", median.duplicates as f64),
        ("promised, no row", median.promised_without_row as f64),
        ("MySQL statements", median.statements as f64),
        ("neighbour p99 ms", neighbour_ms),
    ];
    let measurement = Measurement::of(PART, title, rate, "/s").turns(&rates);
    let add = |measurement: Measurement, (name, value)| measurement.with(name, value);
    Ok((rate, inputs.into_iter().fold(measurement, add)))
}

async fn other(bench: &Bench, design: Design, beside: Beside) -> Result<Turn> {
    let api = bench.design(design, bench.size.quantity).await?;
    let table = format!("bench.{}", design.table());
    let turn = rush(bench, &api, 1, &table, beside).await?;
    // The other designs have no graceful shutdown.
    api.kill().await?;
    Ok(turn)
}

async fn firstcome(bench: &Bench, installation: &Installation, beside: Beside) -> Result<Turn> {
    let (reconciler, api, consumer) = tokio::try_join!(
        installation.start("reconciler", Role::Reconciler, &[]),
        installation.start("api", Role::Api, &[]),
        installation.start("consumer", Role::Consumer, &[])
    )?;
    let coupon = installation.coupon(&api, bench.size.quantity).await?;
    let rows = format!(
        "firstcome_rush.issued_coupons WHERE drop_id = {}",
        coupon.drop
    );
    let turn = rush(bench, &api, coupon.id, &rows, beside).await?;
    for service in [api, consumer, reconciler] {
        service.stop().await?;
    }
    Ok(turn)
}

/// Lets every user claim twice at once, as impatient users do, and waits for the rows.
async fn rush(
    bench: &Bench,
    api: &Service,
    coupon: i64,
    rows_of: &str,
    beside: Beside,
) -> Result<Turn> {
    let people = bench.size.requests / 2;
    let once = Workload::once_each(api.address()?, coupon, people, bench.size.connections);
    let twice = Workload {
        requests_per_person: 2,
        ..once
    };
    let mut meter = StatementMeter::start(&bench.servers.mysql).await?;
    let (tally, neighbour_ms) = match beside {
        Beside::Nobody => (twice.run().await?, None),
        Beside::Neighbour => {
            let neighbour = start_neighbour(bench).await?;
            let tally = twice.run().await?;
            (tally, Some(neighbour.stop().await?))
        }
    };
    let begun = Instant::now();
    let users = loop {
        let users = meter.users(rows_of).await?;
        if users.len() >= tally.promised.len() || begun.elapsed() > STILL {
            break users;
        }
        sleep(Duration::from_millis(20)).await;
    };
    let holders: BTreeSet<&String> = users.iter().collect();
    let missing = tally.promised.iter().filter(|user| !holders.contains(user));
    Ok(Turn {
        rows: users.len(),
        duplicates: users.len() - holders.len(),
        promised_without_row: missing.count(),
        statements: meter.statements().await?,
        neighbour_ms,
        tally,
    })
}
