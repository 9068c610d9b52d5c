//! Startup time, from process start to ready.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use firstcome_load::terminal::step;

use super::figures::median;
use crate::Bench;
use crate::cli::BenchSize;
use crate::report::{FigureTarget, Measurement};

const PART: &str = "start";
const LIMIT: Duration = Duration::from_secs(30);

/// Starts each program repeatedly, with all servers running.
pub async fn measure(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    step("from process start to ready");
    let installation = bench.install("start").await?;
    // This process keeps the gate open. Otherwise no API would become ready.
    let keeper = installation.reconciler().await?;
    let api = installation.api().await?;
    installation.coupon(&api, 100).await?;
    api.stop().await?;
    let mut measurements = Vec::new();
    for name in ["serve", "consume", "daemon"] {
        let mut took: Vec<f64> = Vec::new();
        let mut worst: f64 = 0.0;
        for _ in 0..size.starts {
            let begun = Instant::now();
            let service = match name {
                "serve" => installation.api().await?,
                "consume" => installation.consumer().await?,
                _ => installation.reconciler().await?,
            };
            let listening = begun.elapsed();
            installation.until_ready(&service).await?;
            took.push(begun.elapsed().as_secs_f64() * 1e3);
            worst = worst.max(begun.elapsed().as_secs_f64() * 1e3);
            ensure!(
                listening < LIMIT,
                "{name} listened after {listening:?} only"
            );
            service.stop().await?;
        }
        let measurement = Measurement::of(
            PART,
            format!("process start → ready, {name}"),
            median(took),
            "ms",
        );
        measurements.push(
            measurement
                .target(FigureTarget::AtMost(300.0))
                .with("worst ms", worst)
                .with("starts", size.starts.into()),
        );
    }
    keeper.stop().await?;
    Ok(measurements)
}
