//! The effect of a drop on other users of the same MySQL. A neighbour reads and updates its own
//! table while the system is idle, while rows are written at a pace, and while they are written
//! without one.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use firstcome_harness::{Role, Service};
use firstcome_load::answer::AnswerKind;
use firstcome_load::installation::{Installation, InstallationCoupon};
use firstcome_load::rush::Workload;
use firstcome_load::terminal::step;
use mysql_async::prelude::Queryable as _;

use super::Bench;
use super::neighbour::Neighbour;
use crate::quiet::settle;
use crate::report::{FigureTarget, Measurement};

const PART: &str = "pace";
const CONNECTIONS: usize = 64;
/// Seconds that writing the rows of a drop takes at the pace, and the slowest pace in rows per
/// second. A message is written whole, which at a slower pace would look like an excess.
const LASTS: u32 = 100;
const SLOWEST: u32 = 50;
/// Length of the busiest span.
const SPAN_SECONDS: u32 = 60;
/// Interval at which the rows are counted. A count of 50,000 rows takes MySQL 10 ms, so more
/// frequent counts would slow the neighbour.
const COUNTED_EVERY: Duration = Duration::from_secs(5);

/// A drop whose winners all have rows.
struct DropRun {
    /// The 99th percentile of the neighbour's requests while rows were written, in milliseconds.
    neighbour_ms: f64,
    /// Rows per second from the last answer to the last row.
    per_second: f64,
    /// Rows per second in the busiest minute.
    busiest: f64,
    /// Rows that passes wrote.
    by_passes: u32,
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let people = bench.size.winners;
    let limit = (people / LASTS).max(SLOWEST);
    let idle = {
        let installation = bench.install("idle").await?;
        let services = start_services(&installation).await?;
        let neighbour = Neighbour::start(&installation.setting("DATABASE_URL")).await?;
        let seconds = bench.size.open_seconds;
        step(format!(
            "a neighbour beside an idle system, for {seconds} s"
        ));
        tokio::time::sleep(Duration::from_secs(seconds.into())).await;
        let idle = neighbour.stop().await?;
        for service in services {
            service.stop().await?;
        }
        idle
    };
    step(format!("{people} winners at {limit} rows a second"));
    let paced = drop_of_winners(bench, people, limit).await?;
    let rows = Measurement::ratio(
        PART,
        "rows in the busiest minute ÷ limit",
        ("rows/s", paced.busiest),
        ("limit", f64::from(limit)),
    );
    let beside = Measurement::ratio(
        PART,
        "a neighbour's p99 beside rows at the pace ÷ beside an idle system",
        ("p99 ms beside rows", paced.neighbour_ms),
        ("p99 ms beside an idle system", idle),
    );
    Ok(vec![
        rows.with("rows/s, all", paced.per_second)
            .with("rows by passes", paced.by_passes.into())
            .target(FigureTarget::AtMost(1.02)),
        beside.target(FigureTarget::AtMost(1.3)),
    ])
}

/// Starts the consumer, the API and the reconciler. Returns them in the order in which they are
/// stopped.
async fn start_services(installation: &Installation) -> Result<[Service; 3]> {
    let (consumer, api, reconciler) = tokio::try_join!(
        installation.start("consumer", Role::Consumer, &[]),
        installation.start("api", Role::Api, &[]),
        installation.start("reconciler", Role::Reconciler, &[])
    )?;
    Ok([consumer, api, reconciler])
}

/// Lets everyone win, and measures a neighbour from the last answer to the last row.
async fn drop_of_winners(bench: &Bench, people: u32, limit: u32) -> Result<DropRun> {
    let installation = bench.install("paced").await?;
    installation.set("ROWS_PER_SECOND", &limit.to_string())?;
    installation.set("RECONCILE_CRON", "*/30 * * * * *")?;
    let services = start_services(&installation).await?;
    let [_, api, _] = &services;
    let coupon = installation.coupon(api, people).await?;
    settle().await?;
    let workload = Workload::once_each(api.address()?, coupon.id, people, CONNECTIONS);
    let tally = workload.run().await?;
    let won = tally.count(&[AnswerKind::Accepted]);
    ensure!(won == u64::from(people), "{:?}", tally.answers);
    let neighbour = Neighbour::start(&installation.setting("DATABASE_URL")).await?;
    let begun = Instant::now();
    let mut conn = installation.mysql().await?;
    let count = "SELECT COUNT(*) FROM issued_coupons WHERE drop_id = ?";
    let first: u32 = conn.exec_first(count, (coupon.drop,)).await?.unwrap_or(0);
    let mut rows = first;
    ensure!(
        rows < people,
        "no row was left to write beside the neighbour"
    );
    while rows < people {
        tokio::time::sleep(COUNTED_EVERY).await;
        rows = conn.exec_first(count, (coupon.drop,)).await?.unwrap_or(0);
        ensure!(
            begun.elapsed() < 5 * Duration::from_secs(LASTS.into()),
            "{rows} rows"
        );
    }
    let took = begun.elapsed().as_secs_f64();
    let neighbour_ms = neighbour.stop().await?;
    let busiest = busiest(&mut conn, coupon).await?;
    let by_passes =
        "SELECT COUNT(*) FROM issued_coupons WHERE drop_id = ? AND issued_by <> 'consumer'";
    let by_passes: Option<u32> = conn.exec_first(by_passes, (coupon.drop,)).await?;
    conn.disconnect().await?;
    for service in services {
        service.stop().await?;
    }
    Ok(DropRun {
        neighbour_ms,
        per_second: f64::from(people.saturating_sub(first)) / took,
        busiest,
        by_passes: by_passes.context("no count")?,
    })
}

/// Returns the rows per second in the busiest minute.
async fn busiest(conn: &mut mysql_async::Conn, coupon: InstallationCoupon) -> Result<f64> {
    let seconds = "SELECT CAST(FLOOR(UNIX_TIMESTAMP(issued_at)) AS SIGNED), CAST(COUNT(*) AS SIGNED) \
                   FROM issued_coupons WHERE drop_id = ? GROUP BY 1 ORDER BY 1";
    let seconds: Vec<(i64, u32)> = conn.exec(seconds, (coupon.drop,)).await?;
    let window = |(from, _): &(i64, u32)| {
        let within = seconds
            .iter()
            .filter(|(at, _)| (*from..from + i64::from(SPAN_SECONDS)).contains(at));
        within.map(|(_, rows)| *rows).sum::<u32>()
    };
    let most = seconds.iter().map(window).max();
    Ok(f64::from(most.context("no rows")?) / f64::from(SPAN_SECONDS))
}
