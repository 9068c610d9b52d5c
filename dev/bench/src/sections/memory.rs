//! Peak memory of the API under many connections.

use anyhow::{Context, Result};
use firstcome_load::launch::Service;
use firstcome_load::measure::memory_kb;
use firstcome_load::terminal::step;
use firstcome_load::workload::Workload;

use crate::Bench;
use crate::cli::BenchSize;
use crate::report::{FigureTarget, Measurement};

const PART: &str = "memory";

pub async fn measure(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    const STEPS: u32 = 10;
    let installation = bench.install("memory").await?;
    let (reconciler, api) = tokio::try_join!(installation.reconciler(), installation.api())?;
    let coupon = installation.coupon(&api, size.quantity).await?;
    let idle = most_mb(&api)?;
    step(format!(
        "memory at 1,000 connections, {} claims",
        size.memory_claims
    ));
    let mut seen = Vec::new();
    for turn in 0..STEPS {
        let workload =
            Workload::once_each(api.address()?, coupon.id, size.memory_claims / STEPS, 1_000);
        workload.named(&format!("m{turn}-")).run().await?;
        let most = most_mb(&api)?;
        step(format!(
            "peak {most:.1} MB after {} claims",
            (turn + 1) * (size.memory_claims / STEPS)
        ));
        seen.push(most);
    }
    api.stop().await?;
    reconciler.stop().await?;
    let at = |step: u32| seen.get(step as usize - 1).copied().context("no such step");
    let first = at(1)?;
    let half = at(STEPS / 2)?;
    let last = at(STEPS)?;
    let what = "peak memory of the API at 1,000 connections";
    let most = Measurement::of(PART, what, last, "MB").target(FigureTarget::AtMost(60.0));
    let what = "the same, after all claims ÷ after a tenth of them";
    let flat = Measurement::ratio(PART, what, ("MB at the end", last), ("MB at first", first))
        .target(FigureTarget::AtMost(1.1));
    Ok(vec![
        most.with("claims", size.memory_claims.into())
            .with("MB before the first", idle),
        flat.with("MB at half", half),
    ])
}

#[allow(clippy::cast_precision_loss, reason = "kB of one process")]
fn most_mb(service: &Service) -> Result<f64> {
    Ok(memory_kb(service.pid(), "VmHWM")? as f64 / 1024.0)
}
