//! Scale-out on one machine: 1, 2 and 4 APIs and consumers, one hot coupon and eight, one Redis and
//! a cluster of three primaries. docs/SCALING.md derives the limits of each part from it.

use anyhow::{Context as _, Result};
use firstcome_load::launch::{ANY_PORT, Installation, InstallationCoupon, Service, until};
use firstcome_load::measure::{cpu_seconds, server_cpu};
use firstcome_load::terminal::step;
use firstcome_load::workload::Workload;
use firstcome_stack::RedisCluster;
use futures_util::future::try_join_all;
use mysql_async::prelude::Queryable as _;
use tokio::time::Instant;

use super::figures::{median, spread};
use crate::Bench;
use crate::cli::BenchSize;
use crate::report::Measurement;

const PART: &str = "scaling";
/// Number of turns of each shape. They alternate, so that background load affects all of them.
const TURNS: usize = 3;
/// Number of APIs, and also of consumers.
const PROCESSES: [usize; 3] = [1, 2, 4];
const COUPONS: [usize; 2] = [1, 8];

/// The processes of a winning claim whose CPU is shown.
const PARTS: [&str; 5] = ["API", "MySQL", "Kafka", "Redis", "consumer"];

#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    processes: usize,
    coupons: usize,
    cluster: bool,
}

struct Turn {
    claims: f64,
    rows: f64,
    /// CPU microseconds per winner, in the order of [`PARTS`].
    cpu: [f64; 5],
}

pub async fn measure(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    let cluster = RedisCluster::start().await?;
    let single = bench.install("scaling").await?;
    let mut clustered = bench.install("scaling_cluster").await?;
    clustered.settings.extend(cluster.env());
    let shapes = [false, true].into_iter().flat_map(|cluster| {
        COUPONS.into_iter().flat_map(move |coupons| {
            PROCESSES.into_iter().map(move |processes| Shape {
                processes,
                coupons,
                cluster,
            })
        })
    });
    let mut turns: Vec<(Shape, Vec<Turn>)> = shapes.map(|shape| (shape, Vec::new())).collect();
    for turn in 0..TURNS {
        step(format!(
            "everyone wins, by 1, 2 and 4 APIs and consumers, turn {} of {TURNS}",
            turn + 1
        ));
        for (shape, taken) in &mut turns {
            let (installation, on_cluster) = if shape.cluster {
                (&clustered, Some(&cluster))
            } else {
                (&single, None)
            };
            taken.push(one(installation, on_cluster, *shape, size).await?);
        }
    }
    Ok(turns
        .into_iter()
        .map(|(shape, turns)| shown(shape, &turns))
        .collect())
}

fn shown(shape: Shape, turns: &[Turn]) -> Measurement {
    let of = |pick: &dyn Fn(&Turn) -> f64| median(turns.iter().map(pick).collect());
    let claims: Vec<f64> = turns.iter().map(|turn| turn.claims).collect();
    let (least, most) = spread(&claims);
    let coupons = if shape.coupons == 1 {
        "one coupon".to_owned()
    } else {
        format!("{} coupons", shape.coupons)
    };
    let redis = if shape.cluster {
        "a Redis Cluster"
    } else {
        "one Redis"
    };
    let what = format!(
        "{} APIs and consumers, {coupons}, {redis}: admitted",
        shape.processes
    );
    let measurement = Measurement::of(PART, what, median(claims), "claims/s")
        .with("rows/s", of(&|turn| turn.rows));
    let measurement = (0..PARTS.len()).fold(measurement, |measurement, part| {
        measurement.with(&format!("{} µs", PARTS[part]), of(&|turn| turn.cpu[part]))
    });
    measurement.note(format!(
        "median of {TURNS} turns ({least:.0} to {most:.0}); CPU per winner of all processes of a kind together; the crowd and \
         all servers share the machine's processors"
    ))
}

/// Measures a turn in which every claim wins. It ends once the last row exists.
async fn one(
    installation: &Installation,
    cluster: Option<&RedisCluster>,
    shape: Shape,
    size: &BenchSize,
) -> Result<Turn> {
    let reconciler = installation.reconciler().await?;
    let mut apis = Vec::new();
    let mut consumers = Vec::new();
    for number in 0..shape.processes {
        apis.push(
            installation
                .api_at(&format!("api-{number}"), ANY_PORT)
                .await?,
        );
        consumers.push(
            installation
                .consumer_at(&format!("consumer-{number}"), ANY_PORT)
                .await?,
        );
    }
    let people = size.winners / 4;
    let crowds = shape.processes.max(shape.coupons);
    let each = people / u32::try_from(crowds)?;
    let mut coupons = Vec::new();
    for _ in 0..shape.coupons {
        let of_coupon = each * u32::try_from(crowds / shape.coupons)?;
        coupons.push(installation.coupon(&apis[0], of_coupon).await?);
    }
    until_open(installation, &apis, &coupons).await?;
    let before = cpu(installation, cluster, &apis, &consumers)?;
    let begun = Instant::now();
    let crowds = try_join_all((0..crowds).map(async |number| {
        let api = &apis[number % apis.len()];
        let coupon = coupons[number % coupons.len()];
        let connections = (size.connections / crowds).max(1);
        let crowd = Workload::once_each(api.address()?, coupon.id, each, connections)
            .named(&format!("p{number}-"));
        let tally = crowd.run().await?;
        tally.everyone_won()?;
        Ok::<_, anyhow::Error>(begun.elapsed())
    }))
    .await?;
    let admitted = crowds.into_iter().max().context("no crowd")?;
    let mut conn = installation.mysql().await?;
    let drops = coupons
        .iter()
        .map(|coupon| coupon.drop.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    let rows = format!("SELECT COUNT(*) FROM issued_coupons WHERE drop_id IN ({drops})");
    let people: u32 = coupons.iter().map(|coupon| coupon.quantity).sum();
    until("every row", async || {
        Ok(conn.query_first(&rows).await? == Some(people))
    })
    .await?;
    let issued = begun.elapsed();
    conn.disconnect().await?;
    let after = cpu(installation, cluster, &apis, &consumers)?;
    for service in apis.into_iter().chain(consumers) {
        service.stop().await?;
    }
    reconciler.stop().await?;
    let people = f64::from(people);
    Ok(Turn {
        // The crowds end at different times. The last one counts.
        claims: people / admitted.as_secs_f64(),
        rows: people / issued.as_secs_f64(),
        cpu: std::array::from_fn(|part| (after[part] - before[part]) * 1e6 / people),
    })
}

/// Waits until every API shows every coupon as open.
pub(super) async fn until_open(
    installation: &Installation,
    apis: &[Service],
    coupons: &[InstallationCoupon],
) -> Result<()> {
    for api in apis {
        until("every API shows every coupon as open", async || {
            knows(installation, api, coupons).await
        })
        .await?;
    }
    Ok(())
}

async fn knows(
    installation: &Installation,
    api: &Service,
    coupons: &[InstallationCoupon],
) -> Result<bool> {
    installation.until_ready(api).await?;
    for coupon in coupons {
        let shown = installation
            .ops(api)?
            .get(&format!("/v1/coupons/{}", coupon.id))
            .await?;
        if shown["current_drop"]["state"] != "open" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the CPU seconds used so far, in the order of [`PARTS`].
fn cpu(
    installation: &Installation,
    cluster: Option<&RedisCluster>,
    apis: &[Service],
    consumers: &[Service],
) -> Result<[f64; 5]> {
    let all = |services: &[Service]| {
        services
            .iter()
            .map(|one| cpu_seconds(one.pid()))
            .sum::<Result<f64>>()
    };
    let [mysql, one_redis, kafka] = server_cpu(&installation.servers.stack);
    let redis = match cluster {
        Some(cluster) => cluster
            .nodes()
            .iter()
            .filter_map(|node| cpu_seconds(node.pid()?).ok())
            .sum(),
        None => one_redis,
    };
    Ok([all(apis)?, mysql, kafka, redis, all(consumers)?])
}
