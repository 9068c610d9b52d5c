//! Ceilings: the HTTP server, the script and MySQL alone, and sold-out claims compared with the
//! HTTP server.

use anyhow::{Result, ensure};
use firstcome_load::launch::{Installation, InstallationCoupon, Service};
use firstcome_load::measure::server_cpu;
use firstcome_load::tally::{Latency, Tally};
use firstcome_load::terminal::step;
use firstcome_load::workload::Workload;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::redis::admission::MAX_BATCH;
use firstcome_shared::redis::keys::DropKeys;

use super::figures::{median, spread};
use crate::Bench;
use crate::ceiling::{admit_straight, insert_bare_rows, insert_rows, scan, script};
use crate::cli::BenchSize;
use crate::report::{FigureTarget, Measurement};

const PART: &str = "ceilings";
/// Number of turns of each of two servers. They alternate, so that background load affects both.
const TURNS: u32 = 11;
/// Number of connections of a second crowd. Its batches are larger because more users wait at once.
const MANY_CONNECTIONS: usize = 256;
/// Number of turns of the two tables.
const ROW_TURNS: u32 = 7;
/// Minimum number of rows, also in a quick run, because the CPU time of a process is counted in
/// steps of 10 ms.
const LEAST_ROWS: u32 = 50_000;
/// Number of turns in an open loop.
const CLOCK_TURNS: u32 = 5;

/// The answers of a crowd, and the server's CPU microseconds per request.
type Turn = (Tally, f64);

pub async fn measure(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    let installation = bench.install("ceilings").await?;
    let (reconciler, api) = tokio::try_join!(installation.reconciler(), installation.api())?;
    let mut measurements = sold_out(bench, &installation, &api, size).await?;
    step("the admission script alone");
    for people in [1, 16, MAX_BATCH] {
        measurements.extend(by_itself(&installation, &api, size, people).await?);
    }
    step("rows straight into MySQL");
    let coupon = installation.coupon(&api, size.missing).await?;
    let took = insert_rows(&installation, coupon, 1..=size.missing)
        .await?
        .as_secs_f64();
    let rate = f64::from(size.missing) / took;
    measurements.push(
        Measurement::of(
            PART,
            "multi-row inserts straight into issued_coupons",
            rate,
            "/s",
        )
        .with("seconds", took),
    );
    measurements.push(cost_of_a_row(&installation, &api, size).await?);
    step("both stores read, nothing compared");
    admit_straight(&installation, coupon, size.missing).await?;
    let took = scan(&installation, coupon).await?.0.as_secs_f64();
    let rate = f64::from(size.missing) / took;
    measurements.push(
        Measurement::of(
            PART,
            "claims read from both stores, nothing compared",
            rate,
            "/s",
        )
        .with("seconds", took),
    );
    api.stop().await?;
    reconciler.stop().await?;
    Ok(measurements)
}

/// Measures MySQL's CPU microseconds per row, compared with a table that has one unique key and
/// neither trigger nor foreign key.
async fn cost_of_a_row(
    installation: &Installation,
    api: &Service,
    size: &BenchSize,
) -> Result<Measurement> {
    step("MySQL's CPU per row");
    let cpu = || server_cpu(&installation.servers.stack)[0];
    let rows = size.missing.max(LEAST_ROWS);
    let each = |before: f64| (cpu() - before) * 1e6 / f64::from(rows);
    let mut own = Vec::new();
    let mut bare = Vec::new();
    for _ in 0..ROW_TURNS {
        let coupon = installation.coupon(api, rows).await?;
        let before = cpu();
        insert_rows(installation, coupon, 1..=rows).await?;
        own.push(each(before));
        let before = cpu();
        insert_bare_rows(installation, coupon).await?;
        bare.push(each(before));
    }
    let (least, most) = spread(&own);
    Ok(Measurement::of(
        PART,
        "MySQL's CPU per row of issued_coupons",
        median(own),
        "µs",
    )
    .with("µs with a primary key and one unique key", median(bare))
    .target(FigureTarget::AtMost(14.0))
    .note(format!(
        "1,000 rows per statement, median of {ROW_TURNS} turns ({least:.1} to {most:.1})"
    )))
}

/// Measures sold-out claims alternately with a route that does nothing, and then in an open loop at
/// half that rate.
async fn sold_out(
    bench: &Bench,
    installation: &Installation,
    api: &Service,
    size: &BenchSize,
) -> Result<Vec<Measurement>> {
    let nothing = bench.nothing().await?;
    let coupon = sold(installation, api, size).await?;
    let (few, rate) = in_turns(&nothing, api, coupon, size.many_requests, size.connections).await?;
    let (many, _) = in_turns(&nothing, api, coupon, size.many_requests, MANY_CONNECTIONS).await?;
    let by_the_clock = by_the_clock(api, &nothing, size, coupon, rate / 2.0).await?;
    nothing.kill().await?;
    Ok(vec![few, many, by_the_clock])
}

/// Returns the ratio, and the sold-out claims per second.
async fn in_turns(
    nothing: &Service,
    api: &Service,
    coupon: InstallationCoupon,
    people: u32,
    connections: usize,
) -> Result<(Measurement, f64)> {
    let mut idle: Vec<Turn> = Vec::new();
    let mut lost: Vec<Turn> = Vec::new();
    for turn in 0..TURNS {
        let mut order = [(nothing, "n", &mut idle), (api, "l", &mut lost)];
        // The server that goes first alternates.
        order.rotate_left(turn as usize % 2);
        for (service, prefix, turns) in order {
            let workload = Workload::once_each(service.address()?, coupon.id, people, connections);
            turns.push(
                workload
                    .named(&format!("{prefix}{turn}-"))
                    .run_metered(service.pid())
                    .await?,
            );
        }
    }
    let middle = |turns: &[Turn], pick: fn(&Turn) -> f64| median(turns.iter().map(pick).collect());
    let lost_rate = middle(&lost, |t| t.0.per_second);
    let idle_rate = middle(&idle, |t| t.0.per_second);
    let lost_cpu = middle(&lost, |t| t.1);
    let idle_cpu = middle(&idle, |t| t.1);
    let crowd_share = middle(&idle, |t| t.0.cpu_seconds / t.0.seconds);
    let ratios: Vec<f64> = lost
        .iter()
        .zip(&idle)
        .map(|(lost, idle)| lost.0.per_second / idle.0.per_second)
        .collect();
    let (least, most) = spread(&ratios);
    let what = format!("sold-out claims ÷ do-nothing route, {connections} connections");
    let ratio = Measurement::of(PART, what, median(ratios), "×")
        .with("sold out/s", lost_rate)
        .with("nothing/s", idle_rate)
        .with("cores used by the crowd", crowd_share)
        .target(FigureTarget::AtLeast(0.75))
        .note(format!(
            "median of {TURNS} turns ({least:.2} to {most:.2}), alternating; a claim takes {lost_cpu:.1} µs of the API's CPU, a \
             request of the route that does nothing {idle_cpu:.1} µs"
        ));
    Ok((ratio, lost_rate))
}

/// Creates a coupon that is sold out.
async fn sold(
    installation: &Installation,
    api: &Service,
    size: &BenchSize,
) -> Result<InstallationCoupon> {
    let coupon = installation.coupon(api, size.quantity).await?;
    let buyers = Workload::once_each(
        api.address()?,
        coupon.id,
        size.quantity * 2,
        size.connections,
    )
    .named("buyer-");
    buyers.run().await?;
    Ok(coupon)
}

/// Measures sold-out claims in an open loop, alternately with the route that does nothing. Latency
/// that both have comes from the machine and the generator's timer.
async fn by_the_clock(
    api: &Service,
    nothing: &Service,
    size: &BenchSize,
    coupon: InstallationCoupon,
    rate: f64,
) -> Result<Measurement> {
    step(format!(
        "sold-out claims in an open loop, {rate:.0} per second"
    ));
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive rate"
    )]
    let people = rate as u32 * size.open_seconds / CLOCK_TURNS;
    let mut lost = Vec::new();
    let mut idle = Vec::new();
    for turn in 0..CLOCK_TURNS {
        let mut order = [(nothing, &mut idle), (api, &mut lost)];
        order.rotate_left(turn as usize % 2);
        for (service, seen) in order {
            let workload =
                Workload::once_each(service.address()?, coupon.id, people, 512).by_the_clock(rate);
            let latency = workload.named(&format!("open{turn}-")).run().await?.others;
            ensure!(latency.count > 0, "no claim was answered `sold_out`");
            seen.push(latency);
        }
    }
    let middle =
        |seen: &[Latency], pick: fn(&Latency) -> f64| median(seen.iter().map(pick).collect());
    let (least, most) = spread(&lost.iter().map(|l| l.p99_ms).collect::<Vec<_>>());
    let measurement = Measurement::of(
        PART,
        "p99 of sold-out claims at half the maximum rate, open loop",
        middle(&lost, |l| l.p99_ms),
        "ms",
    );
    Ok(measurement
        .target(FigureTarget::AtMost(10.0))
        .with("rate/s", rate)
        .with("p50 ms", middle(&lost, |l| l.p50_ms))
        .with("p99.9 ms", middle(&lost, |l| l.p999_ms))
        .with("do-nothing p99 ms", middle(&idle, |l| l.p99_ms))
        .note(format!(
            "latency counts from the intended start; the crowd's timer adds up to 1 ms; median of {CLOCK_TURNS} turns \
             ({least:.1} to {most:.1})"
        )))
}

/// Measures the claims per second that the script admits, and those that it refuses once sold out.
async fn by_itself(
    installation: &Installation,
    api: &Service,
    size: &BenchSize,
    people: usize,
) -> Result<[Measurement; 2]> {
    let coupon = installation.coupon(api, size.many_requests).await?;
    let measured = async |what: &str| {
        let (rate, cpu) = script(installation, coupon, size.many_requests, people, what).await?;
        let what = format!("the script alone, {what}, {people} people per call");
        anyhow::Ok(Measurement::of(PART, what, rate, "/s").with("µs of Redis's CPU per claim", cpu))
    };
    let measurements = [
        measured("everyone wins").await?,
        measured("sold out").await?,
    ];
    let mut redis = installation.redis().await?;
    let keys = DropKeys::new(
        installation.setting("REDIS_KEY_PREFIX"),
        CouponId(coupon.id),
        DropId(coupon.drop),
    );
    let admitted: u32 = redis::cmd("ZCARD")
        .arg(&keys.users)
        .query_async(&mut redis)
        .await?;
    ensure!(
        admitted == size.many_requests,
        "the script admitted {admitted} of {}",
        size.many_requests
    );
    Ok(measurements)
}
