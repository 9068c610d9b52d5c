//! Ceilings: the HTTP server, the script and MySQL alone, and sold-out claims compared with the
//! HTTP server.

use anyhow::{Result, ensure};
use firstcome_harness::{Role, Service};
use firstcome_load::installation::{Installation, InstallationCoupon};
use firstcome_load::process::cpu_seconds;
use firstcome_load::rush::Workload;
use firstcome_load::tally::{Latency, Tally};
use firstcome_load::terminal::step;
use firstcome_shared::redis::admission::MAX_BATCH;

use super::Bench;
use crate::designs::Design;
use crate::report::{FigureTarget, Measurement, median, ratios};
use crate::stores::{insert_rows, keys, script};

const PART: &str = "ceilings";
/// Number of turns of each of two servers. They alternate, so that background load affects both.
const TURNS: usize = 11;
/// Number of connections of a second crowd. Its batches are larger because more users wait at once.
const MANY_CONNECTIONS: usize = 256;
/// Number of turns of rows.
const ROW_TURNS: usize = 7;
/// Minimum number of rows, also in a quick run, because the CPU time of a process is counted in
/// steps of 10 ms.
const LEAST_ROWS: u32 = 50_000;
/// Number of turns in an open loop, and its connections.
const CLOCK_TURNS: u32 = 5;
const CLOCK_CONNECTIONS: usize = 512;

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let installation = bench.install("ceilings").await?;
    let (reconciler, api) = tokio::try_join!(
        installation.start("reconciler", Role::Reconciler, &[]),
        installation.start("api", Role::Api, &[])
    )?;
    let nothing = bench.design(Design::Nothing, 0).await?;
    let coupon = installation.coupon(&api, bench.size.quantity).await?;
    let buyers = bench.size.quantity * 2;
    let buyers = Workload::once_each(api.address()?, coupon.id, buyers, 64);
    buyers.run().await?;
    let pair = Pair {
        nothing: &nothing,
        api: &api,
        coupon: coupon.id,
        people: bench.size.many_requests,
    };
    let mut measurements = Vec::new();
    let mut rate = 0.0;
    for connections in [bench.size.connections, MANY_CONNECTIONS] {
        let (measurement, sold_out) = pair.in_turns(connections).await?;
        measurements.push(measurement);
        if connections == bench.size.connections {
            rate = sold_out / 2.0;
        }
    }
    measurements.push(pair.by_the_clock(rate, bench.size.open_seconds).await?);
    nothing.kill().await?;
    step("the admission script alone");
    for people in [1, 16, MAX_BATCH] {
        let claims = bench.size.many_requests;
        measurements.extend(by_itself(&installation, &api, claims, people).await?);
    }
    let rows = bench.size.missing.max(LEAST_ROWS);
    measurements.push(cost_of_a_row(&installation, &api, rows).await?);
    api.stop().await?;
    reconciler.stop().await?;
    Ok(measurements)
}

/// An API with a sold-out coupon, and a route that does nothing.
struct Pair<'a> {
    nothing: &'a Service,
    api: &'a Service,
    coupon: i64,
    people: u32,
}

impl Pair<'_> {
    /// Runs both in a turn, and alternates which goes first. `[nothing, api]`.
    async fn turn(&self, turn: usize, workload: &Workload) -> Result<[(Tally, f64); 2]> {
        let mut results = [None, None];
        let mut order = [(0, self.nothing), (1, self.api)];
        order.rotate_left(turn % 2);
        for (which, service) in order {
            let prefix = format!("{}{which}-{turn}-", workload.prefix);
            let target = service.address()?;
            let workload = Workload {
                target,
                prefix,
                ..workload.clone()
            };
            let before = cpu_seconds(service.pid())?;
            let tally = workload.run().await?;
            let cpu = cpu_seconds(service.pid())? - before;
            results[which] = Some((tally, cpu * 1e6 / f64::from(workload.people)));
        }
        match results {
            [Some(nothing), Some(api)] => Ok([nothing, api]),
            _ => anyhow::bail!("a turn is missing"),
        }
    }

    /// Returns the ratio, and the sold-out claims per second.
    async fn in_turns(&self, connections: usize) -> Result<(Measurement, f64)> {
        step(format!("sold-out claims over {connections} connections"));
        let target = self.api.address()?;
        let workload = Workload::once_each(target, self.coupon, self.people, connections);
        let mut turns = Vec::new();
        for turn in 0..TURNS {
            turns.push(self.turn(turn, &workload).await?);
        }
        let all = |pick: fn(&[(Tally, f64); 2]) -> f64| turns.iter().map(pick).collect::<Vec<_>>();
        let [idle, lost] = [
            all(|turn| turn[0].0.per_second),
            all(|turn| turn[1].0.per_second),
        ];
        let ratios = ratios(&lost, &idle);
        let what = format!("sold-out claims ÷ do-nothing route, {connections} connections");
        let measurement = Measurement::of(PART, what, median(ratios.clone()), "×")
            .with("sold out/s", median(lost.clone()))
            .with("nothing/s", median(idle))
            .with("µs of the API's CPU", median(all(|turn| turn[1].1)))
            .with("of the other's", median(all(|turn| turn[0].1)))
            .target(FigureTarget::AtLeast(0.75))
            .turns(&ratios);
        Ok((measurement, median(lost)))
    }

    /// Measures an open loop. Latency that both have comes from the machine and the generator's
    /// timer.
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
        let target = self.api.address()?;
        let workload = Workload {
            rate: Some(rate),
            prefix: "open".to_owned(),
            ..Workload::once_each(target, self.coupon, people, CLOCK_CONNECTIONS)
        };
        let mut turns = Vec::new();
        for turn in 0..CLOCK_TURNS {
            turns.push(self.turn(turn as usize, &workload).await?);
        }
        let all = |which: usize, pick: fn(&Latency) -> f64| {
            let latencies = turns.iter().map(|turn| &turn[which].0.others);
            latencies.map(pick).collect::<Vec<_>>()
        };
        let p99 = all(1, |latency| latency.p99_ms);
        let what = "p99 of sold-out claims at half the maximum rate, open loop";
        Ok(Measurement::of(PART, what, median(p99.clone()), "ms")
            .target(FigureTarget::AtMost(10.0))
            .with("rate/s", rate)
            .with("p50 ms", median(all(1, |latency| latency.p50_ms)))
            .with("p99.9 ms", median(all(1, |latency| latency.p999_ms)))
            .with(
                "do-nothing p99 ms",
                median(all(0, |latency| latency.p99_ms)),
            )
            .turns(&p99))
    }
}

/// Measures the claims per second that the script admits, and those that it refuses once sold out.
async fn by_itself(
    installation: &Installation,
    api: &Service,
    claims: u32,
    people: usize,
) -> Result<[Measurement; 2]> {
    let coupon: InstallationCoupon = installation.coupon(api, claims).await?;
    let measured = async |what: &str| {
        let (rate, cpu) = script(installation, coupon, claims, people, what).await?;
        let what = format!("the script alone, {what}, {people} people per call");
        anyhow::Ok(Measurement::of(PART, what, rate, "/s").with("µs of Redis's CPU per claim", cpu))
    };
    let measurements = [
        measured("everyone wins").await?,
        measured("sold out").await?,
    ];
    let mut count = redis::cmd("ZCARD");
    count.arg(keys(installation, coupon).users);
    let admitted: u32 = count.query_async(&mut installation.redis().await?).await?;
    ensure!(admitted == claims, "the script admitted {admitted}");
    Ok(measurements)
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
