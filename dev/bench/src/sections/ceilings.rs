//! Ceilings: sold-out claims in turns with a route that does nothing, design j and possibly another
//! build; and MySQL's CPU per row.

use anyhow::Result;
use firstcome_harness::{Role, Service};
use firstcome_load::installation::Installation;
use firstcome_load::process::cpu_seconds;
use firstcome_load::rush::Workload;
use firstcome_load::tally::{Latency, Tally};
use firstcome_load::terminal::step;

use super::Bench;
use crate::designs::Design;
use crate::report::{FigureTarget, Measurement, median, ratios};
use crate::stores::insert_rows;

const PART: &str = "ceilings";
/// Number of turns of each server. They alternate, so that background load affects all.
const TURNS: usize = 7;
/// Number of connections of a second crowd. Its batches are larger because more users wait at once.
const MANY_CONNECTIONS: usize = 256;
/// Number of turns in which MySQL's CPU per row is measured.
const ROW_TURNS: usize = 7;
/// Minimum number of rows, also in a quick run, because the CPU time of a process is counted in
/// steps of 10 ms.
const LEAST_ROWS: u32 = 50_000;
/// Number of turns in an open loop, and its connections.
const CLOCK_TURNS: u32 = 15;
const CLOCK_CONNECTIONS: usize = 512;

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let installation = bench.install("ceilings").await?;
    let (reconciler, api) = tokio::try_join!(
        installation.start("reconciler", Role::Reconciler, &[]),
        installation.start("api", Role::Api, &[])
    )?;
    let quantity = bench.size.quantity;
    let nothing = SoldOut {
        service: bench.design(Design::Nothing, 0).await?,
        coupon: 1,
    };
    let own = SoldOut {
        coupon: installation.coupon(&api, quantity).await?.id,
        service: api,
    };
    let design_j = SoldOut {
        service: bench.design(Design::J, quantity).await?,
        coupon: 1,
    };
    let mut sides = vec![nothing, own, design_j];
    let mut passes = vec![reconciler];
    if let Some(build) = &bench.other_build {
        let before = Installation::named(&bench.servers, "before", Some(build)).await?;
        let (reconciler, service) = tokio::try_join!(
            before.start("reconciler", Role::Reconciler, &[]),
            before.start("api", Role::Api, &[])
        )?;
        let coupon = before.coupon(&service, quantity).await?.id;
        sides.push(SoldOut { service, coupon });
        passes.push(reconciler);
    }
    for side in &sides[OWN..] {
        let address = side.service.address()?;
        let buyers = Workload::once_each(address, side.coupon, quantity * 2, 64);
        buyers.run().await?;
    }
    let contest = Contest {
        installation: &installation,
        sides,
        people: bench.size.many_requests,
    };
    let mut measurements = Vec::new();
    let mut rate = 0.0;
    for connections in [bench.size.connections, MANY_CONNECTIONS] {
        let (of_connections, sold_out) = contest.in_turns(connections).await?;
        measurements.extend(of_connections);
        if connections == bench.size.connections {
            rate = sold_out / 2.0;
        }
    }
    let seconds = bench.size.open_seconds;
    measurements.push(contest.by_the_clock(rate, seconds).await?);
    let api = &contest.sides[OWN].service;
    let rows = bench.size.missing.max(LEAST_ROWS);
    measurements.push(cost_of_a_row(&installation, api, rows).await?);
    for SoldOut { service, .. } in contest.sides {
        service.kill().await?;
    }
    for reconciler in passes {
        reconciler.stop().await?;
    }
    Ok(measurements)
}

/// A server that answers every measured claim `sold_out`.
struct SoldOut {
    service: Service,
    coupon: i64,
}

/// A crowd at one server.
struct Turn {
    tally: Tally,
    /// CPU microseconds of the server per claim.
    own: f64,
    /// CPU microseconds of Redis per claim.
    redis: f64,
}

/// The sides of the contest: a route that does nothing, this build, design j, and possibly another
/// build.
const NOTHING: usize = 0;
const OWN: usize = 1;
const DESIGN_J: usize = 2;
const OTHER: usize = 3;

struct Contest<'a> {
    installation: &'a Installation,
    sides: Vec<SoldOut>,
    people: u32,
}

impl Contest<'_> {
    /// Lets a crowd claim at each of the first `sides` sides, and alternates which goes first.
    /// Returns their turns in the order of the sides.
    async fn turn(&self, turn: usize, sides: usize, workload: &Workload) -> Result<Vec<Turn>> {
        let mut turns = Vec::new();
        for step in 0..sides {
            let which = (step + turn) % sides;
            let SoldOut { service, coupon } = &self.sides[which];
            let workload = Workload {
                target: service.address()?,
                coupon: *coupon,
                prefix: format!("{}{which}-{turn}-", workload.prefix),
                ..workload.clone()
            };
            let redis = || self.installation.cpu()[1];
            let before = [cpu_seconds(service.pid())?, redis()];
            let tally = workload.run().await?;
            let after = [cpu_seconds(service.pid())?, redis()];
            let each = |at: usize| (after[at] - before[at]) * 1e6 / f64::from(workload.people);
            let done = Turn {
                tally,
                own: each(0),
                redis: each(1),
            };
            turns.push((which, done));
        }
        turns.sort_by_key(|(which, _)| *which);
        Ok(turns.into_iter().map(|(_, turn)| turn).collect())
    }

    /// Returns the measurements, and this build's sold-out claims per second.
    async fn in_turns(&self, connections: usize) -> Result<(Vec<Measurement>, f64)> {
        step(format!("sold-out claims over {connections} connections"));
        let target = self.sides[OWN].service.address()?;
        let workload = Workload::once_each(target, 0, self.people, connections);
        let mut turns = Vec::new();
        for turn in 0..TURNS {
            turns.push(self.turn(turn, self.sides.len(), &workload).await?);
        }
        let all = |side: usize, pick: fn(&Turn) -> f64| {
            let turns = turns.iter().map(|sides| pick(&sides[side]));
            turns.collect::<Vec<f64>>()
        };
        let rates = |side| all(side, |turn| turn.tally.per_second);
        let nothing = rates(NOTHING);
        let of_side = |side: usize| {
            let own = rates(side);
            let to_nothing = ratios(&own, &nothing);
            let what = format!("sold-out claims ÷ do-nothing route, {connections} connections");
            Measurement::of(PART, what, median(to_nothing.clone()), "×")
                .with("sold out/s", median(own))
                .with("nothing/s", median(nothing.clone()))
                .with("µs of the API's CPU", median(all(side, |turn| turn.own)))
                .with("of Redis's", median(all(side, |turn| turn.redis)))
                .with("of the other's", median(all(NOTHING, |turn| turn.own)))
                .turns(&to_nothing)
        };
        let to_j = ratios(&rates(OWN), &rates(DESIGN_J));
        let what = format!("sold-out claims ÷ design j, {connections} connections");
        let beside_j = Measurement::of(PART, what, median(to_j.clone()), "×")
            .with("j/s", median(rates(DESIGN_J)))
            .with("µs of j's CPU", median(all(DESIGN_J, |turn| turn.own)))
            .turns(&to_j);
        let beside_nothing = of_side(OWN).target(FigureTarget::AtLeast(0.85));
        let mut measurements = vec![beside_nothing, beside_j];
        if self.sides.len() > OTHER {
            measurements.push(of_side(OTHER).of_other_build());
        }
        Ok((measurements, median(rates(OWN))))
    }

    /// Measures an open loop at this build and at the do-nothing route. Latency that both show
    /// comes from the machine and the generator's timer.
    async fn by_the_clock(&self, rate: f64, seconds: u32) -> Result<Measurement> {
        step(format!(
            "sold-out claims in an open loop, {rate:.0} per second"
        ));
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive rate"
        )]
        let people = rate as u32 * seconds / CLOCK_TURNS;
        let target = self.sides[OWN].service.address()?;
        let workload = Workload {
            rate: Some(rate),
            prefix: "open".to_owned(),
            ..Workload::once_each(target, 0, people, CLOCK_CONNECTIONS)
        };
        let mut turns = Vec::new();
        for turn in 0..CLOCK_TURNS {
            turns.push(self.turn(turn as usize, OWN + 1, &workload).await?);
        }
        let all = |which: usize, pick: fn(&Latency) -> f64| {
            let latencies = turns.iter().map(|turn| &turn[which].tally.others);
            latencies.map(pick).collect::<Vec<_>>()
        };
        let [own, nothing] = [OWN, NOTHING].map(|side| all(side, |latency| latency.p99_ms));
        let to_nothing = ratios(&own, &nothing);
        let what = "p99 of sold-out claims at half the maximum rate ÷ do-nothing route's";
        Ok(Measurement::of(PART, what, median(to_nothing.clone()), "×")
            .target(FigureTarget::AtMost(1.3))
            .with("rate/s", rate)
            .with("p99 ms", median(own))
            .with("do-nothing p99 ms", median(nothing))
            .with("p50 ms", median(all(OWN, |latency| latency.p50_ms)))
            .with("p99.9 ms", median(all(OWN, |latency| latency.p999_ms)))
            .turns(&to_nothing))
    }
}

/// Measures MySQL's CPU microseconds per row.
async fn cost_of_a_row(
    installation: &Installation,
    api: &Service,
    rows: u32,
) -> Result<Measurement> {
    step("MySQL's CPU per row");
    let cpu = || installation.cpu()[0];
    let each = |before: f64| (cpu() - before) * 1e6 / f64::from(rows);
    let mut own = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..ROW_TURNS {
        let coupon = installation.coupon(api, rows).await?;
        let before = cpu();
        let took = insert_rows(installation, coupon, rows).await?;
        own.push(each(before));
        rates.push(f64::from(rows) / took.as_secs_f64());
    }
    let what = "MySQL's CPU per row of issued_coupons, 1,000 rows per statement";
    Ok(Measurement::of(PART, what, median(own.clone()), "µs")
        .with("rows/s", median(rates))
        .target(FigureTarget::AtMost(14.0))
        .turns(&own))
}
