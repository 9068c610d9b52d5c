//! Firstcome compared with the designs that keep everything in MySQL: at full speed, and while
//! MySQL is stalled, killed or shared with a shop.

use anyhow::Result;
use firstcome_load::terminal::number;

use crate::Bench;
use crate::baselines::Design;
use crate::baselines::comparison::pressure::{self, PressedRun, Pressure, PressureSize};
use crate::cli::BenchSize;
use crate::report::Measurement;

const PART: &str = "mysql";
/// Minimum number of users, also in a quick run, because the CPU time of a process is counted in
/// steps of 10 ms.
const LEAST: u32 = 5_000;

pub async fn measure(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    let people = (size.requests / 2).max(LEAST);
    let rate = (size.requests / 50).max(LEAST / 20);
    let size = PressureSize {
        people,
        connections: size.connections,
        rate,
    };
    let alone = pressure::shop_alone(&bench.servers).await?;
    let what = "p99 of a shop's orders, alone";
    let mut measurements =
        vec![Measurement::of(PART, what, alone.p99_ms, "ms").with("p50 ms", alone.p50_ms)];
    for pressure in Pressure::ALL {
        for design in [Design::I, Design::J, Design::H] {
            let run = pressure::run(&bench.servers, design, pressure, size).await?;
            measurements.push(measurement(design, pressure, &run));
        }
    }
    Ok(measurements)
}

#[allow(clippy::cast_precision_loss, reason = "small counts")]
fn measurement(design: Design, pressure: Pressure, run: &PressedRun) -> Measurement {
    let what = format!("winners: {}, {}", design.word(), pressure.title());
    let won = (run.winners.requests - run.turned_away()) as f64 / run.winners.seconds;
    let measurement = Measurement::of(PART, what, won, "/s")
        .with("p50 ms", run.winners.winners.p50_ms)
        .with("p99 ms", run.winners.winners.p99_ms)
        .with("turned away", run.turned_away() as f64)
        .with("losers/s", run.losers.per_second)
        .with("losers' p99 ms", run.losers.latency.p99_ms)
        .with("promised, no row", run.promised_without_row as f64)
        .with("surplus or duplicate rows", run.wrong_rows as f64);
    let measurement = match run.mysql_us {
        Some(cpu) => measurement.with("µs of MySQL's CPU per winner", cpu),
        None => measurement,
    };
    match run.shop {
        Some(shop) => measurement
            .with("shop p50 ms", shop.p50_ms)
            .with("shop p99 ms", shop.p99_ms)
            .note(format!("{} orders of the shop", number(shop.orders as f64))),
        None => measurement,
    }
}
