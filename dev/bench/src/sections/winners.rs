//! CPU per winner and process until the row exists, throughput compared with design j and with
//! another build of the product, and how fast a backlog becomes rows.

use std::time::Instant;

use anyhow::{Result, ensure};
use firstcome_harness::{Role, Service};
use firstcome_load::answer::AnswerKind;
use firstcome_load::installation::Installation;
use firstcome_load::process::cpu_seconds;
use firstcome_load::rush::Workload;
use firstcome_load::terminal::step;

use super::Bench;
use crate::designs::Design;
use crate::quiet::ProcessorTime;
use crate::report::{FigureTarget, Measurement, median, ratios};

const PART: &str = "winners";
/// Number of turns of each side. They alternate, so that background load affects all.
const TURNS: usize = 7;
const CONNECTIONS: [usize; 2] = [64, 256];
/// A backlog is this many times as large as the crowd of a turn.
const BACKLOG: u32 = 4;

/// The processes that a winning claim uses.
const PROCESSES: [&str; 5] = ["API", "MySQL", "Kafka", "Redis", "consumer"];

/// One installation with its processes.
struct Side {
    installation: Installation,
    api: Service,
    consumer: Option<Service>,
    reconciler: Service,
    /// The turns of each number of connections.
    turns: [Vec<Turn>; CONNECTIONS.len()],
    /// Rows per second of each drained backlog.
    drains: Vec<f64>,
}

struct Turn {
    per_second: f64,
    /// CPU microseconds per winner, in the order of [`PROCESSES`].
    cpu: [f64; 5],
    /// The idle share of the processors while the crowd claimed.
    idle: f64,
}

/// Lets everyone win once. Returns the claims per second.
async fn everyone_wins(api: &Service, coupon: i64, people: u32, connections: usize) -> Result<f64> {
    let workload = Workload::once_each(api.address()?, coupon, people, connections);
    let tally = workload.run().await?;
    let won = tally.count(&[AnswerKind::Accepted]);
    ensure!(
        won == u64::from(people),
        "not everyone won: {:?}",
        tally.answers
    );
    Ok(tally.per_second)
}

impl Side {
    async fn start(installation: Installation) -> Result<Self> {
        let (reconciler, api, consumer) = tokio::try_join!(
            installation.start("reconciler", Role::Reconciler, &[]),
            installation.start("api", Role::Api, &[]),
            installation.start("consumer", Role::Consumer, &[])
        )?;
        Ok(Self {
            installation,
            api,
            consumer: Some(consumer),
            reconciler,
            turns: Default::default(),
            drains: Vec::new(),
        })
    }

    fn cpu(&self) -> Result<[f64; 5]> {
        let [mysql, redis, kafka] = self.installation.cpu();
        let consumer = self
            .consumer
            .as_ref()
            .map(|consumer| cpu_seconds(consumer.pid()));
        let consumer = consumer.transpose()?.unwrap_or(0.0);
        Ok([cpu_seconds(self.api.pid())?, mysql, kafka, redis, consumer])
    }

    /// Runs a turn in which every claim wins. It ends once the last row exists.
    async fn turn(&mut self, people: u32, which: usize) -> Result<()> {
        let coupon = self.installation.coupon(&self.api, people).await?;
        let before = self.cpu()?;
        let processors = ProcessorTime::now()?;
        let per_second = everyone_wins(&self.api, coupon.id, people, CONNECTIONS[which]).await?;
        let idle = ProcessorTime::now()?.idle_since(&processors);
        self.installation.every_row(coupon).await?;
        let after = self.cpu()?;
        let each = |at: usize| (after[at] - before[at]) * 1e6 / f64::from(people);
        self.turns[which].push(Turn {
            per_second,
            cpu: std::array::from_fn(each),
            idle,
        });
        Ok(())
    }

    /// Measures the time in which a new consumer turns a backlog into rows, from the moment at
    /// which it has its partitions.
    async fn drain(&mut self, people: u32) -> Result<()> {
        if let Some(consumer) = self.consumer.take() {
            consumer.stop().await?;
        }
        let coupon = self.installation.coupon(&self.api, people).await?;
        everyone_wins(&self.api, coupon.id, people, CONNECTIONS[1]).await?;
        self.consumer = Some(
            self.installation
                .start("consumer", Role::Consumer, &[])
                .await?,
        );
        let begun = Instant::now();
        self.installation.every_row(coupon).await?;
        let took = begun.elapsed().as_secs_f64();
        self.drains.push(f64::from(people) / took);
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        for service in self.consumer.into_iter().chain([self.api, self.reconciler]) {
            service.stop().await?;
        }
        Ok(())
    }

    fn each(&self, which: usize, pick: impl Fn(&Turn) -> f64) -> Vec<f64> {
        self.turns[which].iter().map(pick).collect()
    }

    fn rates(&self, which: usize) -> Vec<f64> {
        self.each(which, |turn| turn.per_second)
    }

    fn cost(&self, which: usize) -> Measurement {
        let connections = CONNECTIONS[which];
        let what = format!("CPU per winner until the row exists, {connections} connections");
        let rates = self.rates(which);
        let idle = median(self.each(which, |turn| turn.idle)) * 100.0;
        let measurement = Measurement::of(PART, what, self.cpu_per_winner(which), "µs")
            .with("admitted/s", median(rates.clone()))
            .with("idle % during claims", idle)
            .turns(&rates);
        (0..PROCESSES.len()).fold(measurement, |measurement, at| {
            measurement.with(PROCESSES[at], median(self.each(which, |turn| turn.cpu[at])))
        })
    }

    fn cpu_per_winner(&self, which: usize) -> f64 {
        median(self.each(which, |turn| turn.cpu.iter().sum()))
    }
}

/// Runs a turn of design j, which has no other process than its API and MySQL.
async fn design_j(bench: &Bench, connections: usize) -> Result<f64> {
    let people = bench.size.winners;
    let api = bench.design(Design::J, people).await?;
    let rate = everyone_wins(&api, 1, people, connections).await?;
    api.kill().await?;
    Ok(rate)
}

/// What is measured in turns.
#[derive(Debug, Clone, Copy)]
enum Contestant {
    ThisBuild,
    OtherBuild,
    DesignJ,
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let mut own = Side::start(bench.install("winners").await?).await?;
    let mut other = match &bench.other_build {
        Some(build) => {
            let build = Installation::named(&bench.servers, "before", Some(build)).await?;
            Some(Side::start(build).await?)
        }
        None => None,
    };
    let mut j: [Vec<f64>; CONNECTIONS.len()] = Default::default();
    let people = bench.size.winners;
    for turn in 0..TURNS {
        step(format!("everyone wins, turn {} of {TURNS}", turn + 1));
        for which in 0..CONNECTIONS.len() {
            let mut order = [
                Contestant::ThisBuild,
                Contestant::OtherBuild,
                Contestant::DesignJ,
            ];
            order.rotate_left(turn % 3);
            for contestant in order {
                match (contestant, &mut other) {
                    (Contestant::ThisBuild, _) => own.turn(people, which).await?,
                    (Contestant::OtherBuild, Some(other)) => other.turn(people, which).await?,
                    (Contestant::OtherBuild, None) => {}
                    (Contestant::DesignJ, _) => {
                        j[which].push(design_j(bench, CONNECTIONS[which]).await?);
                    }
                }
            }
        }
    }
    for turn in 0..TURNS {
        step(format!(
            "a backlog becomes rows, turn {} of {TURNS}",
            turn + 1
        ));
        let mut sides: Vec<_> = [&mut own].into_iter().chain(&mut other).collect();
        if turn % 2 == 1 {
            sides.reverse();
        }
        for side in sides {
            side.drain(people * BACKLOG).await?;
        }
    }
    let measurements = measurements(&own, other.as_ref(), &j);
    own.stop().await?;
    if let Some(other) = other {
        other.stop().await?;
    }
    Ok(measurements)
}

fn measurements(own: &Side, other: Option<&Side>, j: &[Vec<f64>; 2]) -> Vec<Measurement> {
    let mut measurements = Vec::new();
    for (which, connections) in CONNECTIONS.into_iter().enumerate() {
        let name = |what: &str| format!("{what}, {connections} connections");
        let rates = own.rates(which);
        measurements.push(own.cost(which));
        let what = name("everyone wins ÷ design j");
        measurements.push(compared(&what, &rates, &j[which]).target(FigureTarget::AtLeast(0.95)));
        if let Some(other) = other {
            measurements.push(other.cost(which).of_other_build());
            let what = name("everyone wins ÷ the other build");
            measurements.push(compared(&what, &rates, &other.rates(which)));
            let cost = [own, other].map(|side| side.cpu_per_winner(which));
            let what = name("CPU per winner ÷ the other build");
            let cost = [("own µs", cost[0]), ("other µs", cost[1])];
            measurements.push(Measurement::ratio(PART, what, cost[0], cost[1]));
        }
    }
    let what = "drain of a backlog";
    let rate = median(own.drains.clone());
    measurements.push(Measurement::of(PART, what, rate, "rows/s").turns(&own.drains));
    if let Some(other) = other {
        let what = "drain of a backlog ÷ the other build";
        measurements.push(compared(what, &own.drains, &other.drains));
    }
    measurements
}

fn compared(what: &str, own: &[f64], other: &[f64]) -> Measurement {
    let ratios = ratios(own, other);
    Measurement::of(PART, what, median(ratios.clone()), "×")
        .with("own/s", median(own.to_vec()))
        .with("other/s", median(other.to_vec()))
        .turns(&ratios)
}
