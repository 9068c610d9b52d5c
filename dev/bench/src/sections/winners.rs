//! CPU per winner and process until the row exists, and throughput compared with design j and with
//! another build of the product.

use std::collections::BTreeMap;

use anyhow::Result;
use firstcome_load::launch::{Installation, Service};
use firstcome_load::measure::{cpu_seconds, server_cpu};
use firstcome_load::terminal::step;
use firstcome_load::workload::Workload;

use super::backlog;
use super::figures::{Ratios, median, spread};
use crate::Bench;
use crate::baselines::Design;
use crate::baselines::comparison::Processes;
use crate::cli::BenchSize;
use crate::quiet::ProcessorTime;
use crate::report::{FigureTarget, Measurement};

const PART: &str = "winners";
/// Number of turns of each side. They alternate, so that background load affects both.
const TURNS: usize = 7;
const CONNECTIONS: [usize; 2] = [64, 256];

/// The processes that a winning claim uses.
const PROCESSES: [&str; 5] = ["API", "MySQL", "Kafka", "Redis", "consumer"];

/// One installation with its processes.
struct Side {
    installation: Installation,
    api: Service,
    consumer: Service,
    reconciler: Service,
    /// The turns by number of connections.
    turns: BTreeMap<usize, Vec<Turn>>,
}

struct Turn {
    per_second: f64,
    /// CPU microseconds per winner, in the order of [`PROCESSES`].
    cpu: [f64; 5],
    /// The idle share of the processors while the crowd claimed.
    idle: f64,
}

impl Side {
    async fn start(installation: Installation) -> Result<Self> {
        let (reconciler, api) = tokio::try_join!(installation.reconciler(), installation.api())?;
        let consumer = installation.consumer().await?;
        Ok(Self {
            installation,
            api,
            consumer,
            reconciler,
            turns: BTreeMap::new(),
        })
    }

    fn cpu(&self) -> Result<[f64; 5]> {
        let [mysql, redis, kafka] = server_cpu(&self.installation.servers.stack);
        Ok([
            cpu_seconds(self.api.pid())?,
            mysql,
            kafka,
            redis,
            cpu_seconds(self.consumer.pid())?,
        ])
    }

    /// Runs a turn in which every claim wins. It ends once the last row exists.
    async fn turn(&mut self, people: u32, connections: usize) -> Result<()> {
        let coupon = self.installation.coupon(&self.api, people).await?;
        let before = self.cpu()?;
        let processors = ProcessorTime::now()?;
        let tally = Workload::once_each(self.api.address()?, coupon.id, people, connections)
            .run()
            .await?;
        let idle = ProcessorTime::now()?.idle_since(&processors);
        tally.everyone_won()?;
        self.installation.every_row(coupon).await?;
        let after = self.cpu()?;
        let cpu = std::array::from_fn(|process| {
            (after[process] - before[process]) * 1e6 / f64::from(people)
        });
        self.turns.entry(connections).or_default().push(Turn {
            per_second: tally.per_second,
            cpu,
            idle,
        });
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        self.consumer.stop().await?;
        self.api.stop().await?;
        self.reconciler.stop().await
    }

    /// Returns the median turn of each process and of their sum.
    fn cost(&self, connections: usize) -> ([f64; 5], f64) {
        let turns = self.turns.get(&connections).map_or(&[][..], Vec::as_slice);
        let of = |process: usize| median(turns.iter().map(|turn| turn.cpu[process]).collect());
        (
            std::array::from_fn(of),
            median(turns.iter().map(|turn| turn.cpu.iter().sum()).collect()),
        )
    }

    fn idle(&self, connections: usize) -> f64 {
        let turns = self.turns.get(&connections).into_iter().flatten();
        median(turns.map(|turn| turn.idle).collect())
    }

    fn rates(&self, connections: usize) -> Vec<f64> {
        self.turns
            .get(&connections)
            .into_iter()
            .flatten()
            .map(|turn| turn.per_second)
            .collect()
    }
}

/// Runs a turn of design j, which has no other process than its API and MySQL.
async fn design_j(bench: &Bench, people: u32, connections: usize) -> Result<f64> {
    let running = Processes::start(&bench.servers, Design::J, people).await?;
    let address = running.api.address()?;
    let crowd = Workload::once_each(address, running.coupon, people, connections);
    let tally = crowd.run().await?;
    tally.everyone_won()?;
    running.stop().await;
    Ok(tally.per_second)
}

/// What is measured in turns.
#[derive(Debug, Clone, Copy)]
enum Contestant {
    ThisBuild,
    OtherBuild,
    DesignJ,
}

pub async fn measure(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    let mut own = Side::start(bench.install("winners").await?).await?;
    let mut other = match &bench.other_build {
        Some(build) => Some(
            Side::start(Installation::named(&bench.servers, "before", Some(build)).await?).await?,
        ),
        None => None,
    };
    let mut j: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    let people = size.winners / 4;
    for turn in 0..TURNS {
        step(format!("everyone wins, turn {} of {TURNS}", turn + 1));
        for connections in CONNECTIONS {
            let mut order = [
                Contestant::ThisBuild,
                Contestant::OtherBuild,
                Contestant::DesignJ,
            ];
            let first = turn % order.len();
            order.rotate_left(first);
            for contestant in order {
                match (contestant, &mut other) {
                    (Contestant::ThisBuild, _) => own.turn(people, connections).await?,
                    (Contestant::OtherBuild, Some(other)) => {
                        other.turn(people, connections).await?;
                    }
                    (Contestant::OtherBuild, None) => {}
                    (Contestant::DesignJ, _) => {
                        let rate = design_j(bench, people, connections).await?;
                        j.entry(connections).or_default().push(rate);
                    }
                }
            }
        }
    }
    let mut measurements = Vec::new();
    for connections in CONNECTIONS {
        measurements.push(cost(&own, "", connections));
        let rates = own.rates(connections);
        measurements.push(
            compared("design j", &rates, &j[&connections], connections)
                .target(FigureTarget::AtLeast(0.95)),
        );
        let Some(other) = &other else {
            continue;
        };
        measurements.push(cost(other, "the other build: ", connections));
        let other_rates = other.rates(connections);
        measurements.push(compared(
            "the other build",
            &rates,
            &other_rates,
            connections,
        ));
        measurements.push(compared_cost(&own, other, connections));
    }
    own.stop().await?;
    if let Some(other) = other {
        other.stop().await?;
        measurements.push(drains(bench, size).await?);
    }
    Ok(measurements)
}

fn cost(side: &Side, whose: &str, connections: usize) -> Measurement {
    let (by_process, all) = side.cost(connections);
    let rates = side.rates(connections);
    let (least, most) = spread(&rates);
    let what = format!("{whose}CPU per winner until the row exists, {connections} connections");
    let measurement = Measurement::of(PART, what, all, "µs")
        .with("admitted/s", median(rates))
        .with("idle % during claims", side.idle(connections) * 100.0);
    let measurement = PROCESSES
        .iter()
        .zip(by_process)
        .fold(measurement, |measurement, (name, cpu)| {
            measurement.with(name, cpu)
        });
    measurement.note(format!(
        "all processes except the crowd; median of {TURNS} turns; {least:.0} to {most:.0} admitted/s"
    ))
}

fn compared(whom: &str, own: &[f64], other: &[f64], connections: usize) -> Measurement {
    let ratios = Ratios::of(own, other);
    let what = format!("everyone wins ÷ {whom}, {connections} connections");
    Measurement::of(PART, what, ratios.median, "×")
        .with("own/s", median(own.to_vec()))
        .with("other/s", median(other.to_vec()))
        .note(format!("median of {TURNS} turns, alternating ({ratios})"))
}

fn compared_cost(own: &Side, other: &Side, connections: usize) -> Measurement {
    let what = format!("CPU per winner ÷ the other build, {connections} connections");
    let measurement = Measurement::ratio(
        PART,
        what,
        ("own µs", own.cost(connections).1),
        ("other µs", other.cost(connections).1),
    );
    measurement.target(FigureTarget::AtMost(if connections == CONNECTIONS[0] {
        0.72
    } else {
        0.87
    }))
}

/// Measures alternately the time in which each build turns a backlog into rows.
async fn drains(bench: &Bench, size: &BenchSize) -> Result<Measurement> {
    let own = bench.install("drain").await?;
    let Some(build) = &bench.other_build else {
        anyhow::bail!("no other build")
    };
    let other = Installation::named(&bench.servers, "drain_before", Some(build)).await?;
    let mut own_rates = Vec::new();
    let mut other_rates = Vec::new();
    for turn in 0..TURNS {
        step(format!(
            "a backlog of {} becomes rows, turn {} of {TURNS}",
            size.winners,
            turn + 1
        ));
        let mut sides = [(&own, &mut own_rates), (&other, &mut other_rates)];
        sides.rotate_left(turn % 2);
        for (installation, rates) in sides {
            let (reconciler, api) =
                tokio::try_join!(installation.reconciler(), installation.api())?;
            let coupon = installation.coupon(&api, size.winners).await?;
            api.stop().await?;
            reconciler.stop().await?;
            backlog::publish(installation, coupon).await?;
            rates.push(backlog::consume(installation, coupon).await?);
        }
    }
    let ratios = Ratios::of(&own_rates, &other_rates);
    Ok(Measurement::of(
        PART,
        "drain of a backlog ÷ the other build",
        ratios.median,
        "×",
    )
    .with("own rows/s", median(own_rates))
    .with("other rows/s", median(other_rates))
    .target(FigureTarget::AtLeast(1.2))
    .note(format!("median of {TURNS} turns ({ratios})")))
}
