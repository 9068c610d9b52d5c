//! A backlog in which every claim came twice: everybody clicked at two APIs at once, and each API
//! published the claim.

use anyhow::{Result, ensure};
use firstcome_load::launch::{ANY_PORT, Installation, Service, until};
use firstcome_load::measure::server_cpu;
use firstcome_load::terminal::step;
use firstcome_load::workload::Workload;
use tokio::time::Instant;

use super::figures::{Ratios, median, spread};
use crate::Bench;
use crate::cli::BenchSize;
use crate::report::{FigureTarget, Measurement};

const PART: &str = "doubles";
/// Number of turns of each build. They alternate, so that background load affects both.
const TURNS: usize = 5;

#[derive(Default)]
struct Turns {
    rows_per_second: Vec<f64>,
    /// MySQL's CPU microseconds per row.
    mysql_us: Vec<f64>,
}

pub async fn measure(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    let own = bench.install("doubles").await?;
    let other = match &bench.other_build {
        Some(build) => {
            Some(Installation::named(&bench.servers, "doubles_before", Some(build)).await?)
        }
        None => None,
    };
    let people = size.winners / 2;
    let mut own_turns = Turns::default();
    let mut other_turns = Turns::default();
    for number in 0..TURNS {
        step(format!(
            "a backlog of {people} claims that came twice, turn {} of {TURNS}",
            number + 1
        ));
        let mut sides = [
            (Some(&own), &mut own_turns),
            (other.as_ref(), &mut other_turns),
        ];
        sides.rotate_left(number % 2);
        for (installation, turns) in sides {
            if let Some(installation) = installation {
                turn(installation, turns, people, size.connections).await?;
            }
        }
    }
    let mut measurements = own_turns.measurements("").to_vec();
    measurements[1].target = Some(FigureTarget::AtMost(30.0));
    if other.is_some() {
        let ratios = Ratios::of(&own_turns.rows_per_second, &other_turns.rows_per_second);
        let what = "rows of a backlog in which every claim came twice ÷ the other build";
        measurements.push(
            Measurement::of(PART, what, ratios.median, "×")
                .target(FigureTarget::AtLeast(3.5))
                .note(format!("median of {TURNS} turns ({ratios})")),
        );
        measurements.extend(other_turns.measurements("the other build: "));
    }
    Ok(measurements)
}

/// Fills the topic by two APIs, then starts the consumer.
async fn turn(
    installation: &Installation,
    turns: &mut Turns,
    people: u32,
    connections: usize,
) -> Result<()> {
    let reconciler = installation.reconciler().await?;
    let apis = [
        installation.api_at("api-0", ANY_PORT).await?,
        installation.api_at("api-1", ANY_PORT).await?,
    ];
    let coupon = installation.coupon(&apis[0], people).await?;
    for api in &apis {
        until("every API shows the coupon as open", async || {
            installation.until_ready(api).await?;
            let path = format!("/v1/coupons/{}", coupon.id);
            let shown = installation.ops(api)?.get(&path).await?;
            Ok(shown["current_drop"]["state"] == "open")
        })
        .await?;
    }
    // Both crowds consist of the same users in the same order.
    let crowd = |api: &Service| {
        let address = api.address()?;
        anyhow::Ok(Workload::once_each(
            address,
            coupon.id,
            people,
            connections / 2,
        ))
    };
    let first = crowd(&apis[0])?;
    let second = crowd(&apis[1])?;
    let (first, second) = tokio::try_join!(first.run(), second.run())?;
    for tally in [first, second] {
        let promised = tally.promises.len();
        ensure!(promised == people as usize, "{:?}", tally.answers);
    }
    for api in apis {
        api.stop().await?;
    }
    reconciler.stop().await?;

    let mysql = || server_cpu(&installation.servers.stack)[0];
    let before = mysql();
    let begun = Instant::now();
    let consumer = installation.consumer().await?;
    installation.every_row(coupon).await?;
    let people = f64::from(people);
    turns
        .rows_per_second
        .push(people / begun.elapsed().as_secs_f64());
    turns.mysql_us.push((mysql() - before) * 1e6 / people);
    consumer.stop().await
}

impl Turns {
    fn measurements(&self, whose: &str) -> [Measurement; 2] {
        let (least, most) = spread(&self.rows_per_second);
        let what = format!("{whose}backlog in which every claim came twice, over two APIs");
        let rate = Measurement::of(PART, what, median(self.rows_per_second.clone()), "rows/s");
        let what = format!("{whose}MySQL's CPU per row of that backlog");
        [
            rate.note(format!(
                "from the start of the consumer to the last row; median of {TURNS} turns ({least:.0} to {most:.0})"
            )),
            Measurement::of(PART, what, median(self.mysql_us.clone()), "µs"),
        ]
    }
}
