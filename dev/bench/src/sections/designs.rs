//! The same rush on every design and on Firstcome, each freshly started on the same servers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use firstcome_harness::{Role, Service};
use firstcome_load::installation::Installation;
use firstcome_load::rush::Workload;
use firstcome_load::tally::Tally;
use firstcome_load::terminal::step;
use tokio::time::sleep;

use super::Bench;
use super::meter::StatementMeter;
use crate::designs::Design;
use crate::report::{FigureTarget, Measurement, median};

const PART: &str = "designs";
/// Number of turns of a fast design. The median counts.
const TURNS: usize = 3;
/// A design whose turns have taken this long is not measured again.
const ENOUGH: Duration = Duration::from_secs(15);
/// Rows that have not arrived after this time count as lost.
const STILL: Duration = Duration::from_secs(12);

/// A rush, and the rows after it.
struct Turn {
    tally: Tally,
    rows: usize,
    duplicates: usize,
    promised_without_row: usize,
    statements: u64,
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let mut measurements = Vec::new();
    let mut rate_of_d = 0.0;
    for design in [Design::D, Design::I, Design::J, Design::Nothing] {
        let (rate, measurement) =
            turns(design.title(), async || other(bench, design).await).await?;
        if design == Design::D {
            rate_of_d = rate;
        }
        measurements.push(measurement);
    }
    let installation = bench.install("rush").await?;
    let turn = async || firstcome(bench, &installation).await;
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

/// Runs several turns. Returns the median rate, and the measurement of that turn.
async fn turns(
    title: &str,
    mut turn: impl AsyncFnMut() -> Result<Turn>,
) -> Result<(f64, Measurement)> {
    step(title);
    let begun = Instant::now();
    let mut turns: Vec<Turn> = Vec::new();
    while turns.len() < TURNS && (turns.is_empty() || begun.elapsed() < ENOUGH) {
        turns.push(turn().await?);
    }
    let rates: Vec<f64> = turns.iter().map(|turn| turn.tally.per_second).collect();
    let rate = median(rates.clone());
    let turn = turns
        .iter()
        .find(|turn| turn.tally.per_second.total_cmp(&rate).is_eq());
    let turn = turn.context("no turn")?;
    let (winners, others) = (&turn.tally.winners, &turn.tally.others);
    #[allow(clippy::cast_precision_loss, reason = "counts")]
    let inputs = [
        ("winners p50 ms", winners.p50_ms),
        ("p99", winners.p99_ms),
        ("others p50 ms", others.p50_ms),
        ("p99", others.p99_ms),
        ("rows", turn.rows as f64),
        ("duplicates", turn.duplicates as f64),
        ("promised, no row", turn.promised_without_row as f64),
        ("MySQL statements", turn.statements as f64),
    ];
    let measurement = Measurement::of(PART, title, rate, "/s").turns(&rates);
    let add = |measurement: Measurement, (name, value)| measurement.with(name, value);
    Ok((rate, inputs.into_iter().fold(measurement, add)))
}

async fn other(bench: &Bench, design: Design) -> Result<Turn> {
    let api = bench.design(design, bench.size.quantity).await?;
    let table = format!("bench.{}", design.table());
    let turn = rush(bench, &api, 1, &table).await?;
    // The other designs have no graceful shutdown.
    api.kill().await?;
    Ok(turn)
}

async fn firstcome(bench: &Bench, installation: &Installation) -> Result<Turn> {
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
    let turn = rush(bench, &api, coupon.id, &rows).await?;
    for service in [api, consumer, reconciler] {
        service.stop().await?;
    }
    Ok(turn)
}

/// Lets every user claim twice at once, as impatient users do, and waits for the rows.
async fn rush(bench: &Bench, api: &Service, coupon: i64, rows_of: &str) -> Result<Turn> {
    let people = bench.size.requests / 2;
    let once = Workload::once_each(api.address()?, coupon, people, bench.size.connections);
    let twice = Workload {
        requests_per_person: 2,
        ..once
    };
    let mut meter = StatementMeter::start(&bench.servers.mysql).await?;
    let tally = twice.run().await?;
    let begun = Instant::now();
    let users = loop {
        let users = meter.users(rows_of).await?;
        if users.len() >= tally.promises.len() || begun.elapsed() > STILL {
            break users;
        }
        sleep(Duration::from_millis(20)).await;
    };
    let holders: BTreeSet<&String> = users.iter().collect();
    let missing = tally.promises.keys().filter(|user| !holders.contains(user));
    Ok(Turn {
        rows: users.len(),
        duplicates: users.len() - holders.len(),
        promised_without_row: missing.count(),
        statements: meter.statements().await?,
        tally,
    })
}
