//! Throughput of winning claims, compared with a route that does only the necessary work.

use anyhow::Result;
use firstcome_load::launch::{Installation, Service};
use firstcome_load::tally::Tally;
use firstcome_load::terminal::step;
use firstcome_load::workload::Workload;

use super::figures::median;
use crate::Bench;
use crate::cli::BenchSize;
use crate::report::{FigureTarget, Measurement};

const PART: &str = "claims";
/// Number of turns. The sides alternate, so that background load affects both.
const TURNS: u32 = 3;

pub async fn measure(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    let installation = bench.install("claims").await?;
    let (reconciler, api) = tokio::try_join!(installation.reconciler(), installation.api())?;
    let consumer = installation.consumer().await?;
    let mut measurements = everyone_wins(bench, &installation, &api, size).await?;
    measurements.extend(fsync(bench, &installation, &api, size).await?);
    consumer.stop().await?;
    api.stop().await?;
    reconciler.stop().await?;
    Ok(measurements)
}

/// Measures Firstcome and the bare route alternately, with AOF `always`. In both cases a consumer
/// writes rows, so that both get the same share of the machine.
async fn everyone_wins(
    bench: &Bench,
    installation: &Installation,
    api: &Service,
    size: &BenchSize,
) -> Result<Vec<Measurement>> {
    step("everyone wins, in turns with a route that does only the necessary work");
    let nothing = bench.nothing().await?;
    let mut own = Vec::new();
    let mut bare = Vec::new();
    let mut idle = Vec::new();
    for _ in 0..TURNS {
        own.push(
            wins(
                installation,
                api,
                size,
                size.winners / TURNS,
                size.connections,
            )
            .await?,
        );
        bare.push(bare_wins(bench, installation, api, size).await?);
        let workload = Workload::once_each(
            nothing.address()?,
            1,
            size.winners / TURNS,
            size.connections,
        );
        idle.push(workload.run_metered(nothing.pid()).await?);
    }
    nothing.kill().await?;
    let cpu = |turns: &[(Tally, f64)]| median(turns.iter().map(|(_, cpu)| *cpu).collect());
    let own_cpu = cpu(&own);
    let bare_cpu = cpu(&bare);
    let [own, bare, idle] = [own, bare, idle].map(|turns: Vec<(Tally, f64)>| {
        median(turns.iter().map(|(tally, _)| tally.per_second).collect())
    });
    let what = "everyone wins (always, rows flowing) ÷ bare route with one script and one produce";
    let to_idle = Measurement::ratio(
        PART,
        "everyone wins ÷ do-nothing route",
        ("Firstcome/s", own),
        ("nothing/s", idle),
    );
    Ok(vec![
        Measurement::ratio(PART, what, ("Firstcome/s", own), ("bare/s", bare)).target(FigureTarget::AtLeast(1.2)).note(
            format!(
                "both write to the same topic, and the same consumer writes the rows of both; a claim takes \
                 {own_cpu:.1} µs of the API's CPU, a request of the bare route {bare_cpu:.1} µs"
            ),
        ),
        to_idle
            .target(FigureTarget::Shown)
            .note("limited by the disk: each admission is on disk and in Kafka before its answer"),
    ])
}

/// Measures the cost of `appendfsync always`, with few and with many connections.
async fn fsync(
    bench: &Bench,
    installation: &Installation,
    api: &Service,
    size: &BenchSize,
) -> Result<Vec<Measurement>> {
    let mut measurements = Vec::new();
    for connections in [64, 512] {
        let mut rates = Vec::new();
        for policy in ["always", "everysec"] {
            bench.fsync(policy).await?;
            rates.push(
                wins(installation, api, size, size.winners / TURNS, connections)
                    .await?
                    .0
                    .per_second,
            );
        }
        let what = format!("everyone wins: always ÷ everysec at {connections} connections");
        let measurement =
            Measurement::ratio(PART, what, ("always/s", rates[0]), ("everysec/s", rates[1]));
        // One flush serves all requests that wait at that moment, which is at most one per
        // connection.
        let each = f64::from(u16::try_from(connections).unwrap_or(u16::MAX)) / rates[0] * 1e3;
        measurements.push(measurement.target(FigureTarget::Shown).note(format!(
            "Redis writes to disk before it answers, once for all who wait; a round of {connections} took {each:.1} ms"
        )));
    }
    bench.fsync("always").await?;
    Ok(measurements)
}

async fn wins(
    installation: &Installation,
    api: &Service,
    size: &BenchSize,
    people: u32,
    connections: usize,
) -> Result<(Tally, f64)> {
    let coupon = installation.coupon(api, size.winners).await?;
    let workload = Workload::once_each(api.address()?, coupon.id, people, connections);
    let (tally, cpu) = workload.run_metered(api.pid()).await?;
    tally.everyone_won()?;
    Ok((tally, cpu))
}

async fn bare_wins(
    bench: &Bench,
    installation: &Installation,
    api: &Service,
    size: &BenchSize,
) -> Result<(Tally, f64)> {
    let coupon = installation.coupon(api, size.winners).await?;
    let id = coupon.id.to_string();
    let drop = coupon.drop.to_string();
    let args = ["bare", "--coupon", &id, "--drop", &drop];
    let bare = bench.baseline(&args, &installation.settings).await?;
    let people = size.winners / TURNS;
    let workload = Workload::once_each(bare.address()?, coupon.id, people, size.connections);
    let (tally, cpu) = workload.run_metered(bare.pid()).await?;
    bare.kill().await?;
    tally.everyone_won()?;
    Ok((tally, cpu))
}
