//! Uses of codes per second, and how long the slowest take.

use anyhow::{Result, ensure};
use firstcome_harness::Role;
use firstcome_load::ops::Ops;
use firstcome_load::rush::Workload;
use firstcome_load::shops;
use firstcome_load::terminal::step;

use super::Bench;
use crate::report::{FigureTarget, Measurement};

const PART: &str = "uses";
const CONNECTIONS: usize = 64;

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let installation = bench.install("uses").await?;
    let (reconciler, api, consumer) = tokio::try_join!(
        installation.start("reconciler", Role::Reconciler, &[]),
        installation.start("api", Role::Api, &[]),
        installation.start("consumer", Role::Consumer, &[])
    )?;
    installation.until_ready(&api).await?;
    let people = bench.size.winners;
    let coupon = installation.coupon(&api, people).await?;
    step(format!("{people} users win a code"));
    let workload = Workload::once_each(api.address()?, coupon.id, people, CONNECTIONS);
    workload.run().await?;
    installation.every_row(coupon).await?;
    let mut conn = installation.mysql().await?;
    let codes = shops::codes(&mut conn, coupon.id, "").await?;
    conn.disconnect().await?;
    step("an order uses each");
    let apis = vec![Ops::new(&api.url, &installation.setting("REDEEM_TOKEN"))];
    let tally = shops::use_codes(apis, codes, 1, CONNECTIONS).await?;
    ensure!(
        tally.used_once == tally.codes,
        "not every code is used once"
    );
    for service in [api, consumer, reconciler] {
        service.stop().await?;
    }
    #[allow(clippy::cast_precision_loss, reason = "small counts")]
    let [requests, p50, p99] = [
        tally.requests as f64,
        tally.latencies.value_at_quantile(0.5) as f64 / 1_000.0,
        tally.latencies.value_at_quantile(0.99) as f64 / 1_000.0,
    ];
    let rate = Measurement::of(PART, "uses", requests / tally.seconds, "/s");
    let slowest = Measurement::of(PART, "uses, p99", p99, "ms").with("p50 ms", p50);
    Ok(vec![
        rate.target(FigureTarget::AtLeast(2_000.0)),
        slowest.target(FigureTarget::AtMost(50.0)),
    ])
}
