//! From process start to ready.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use firstcome_rush::live::step;
use firstcome_rush::system::Service;
use tokio::time::sleep;

use super::median;
use crate::cli::Size;
use crate::report::{Figure, Target};
use crate::world::{Site, World};

const PART: &str = "start";
const LIMIT: Duration = Duration::from_secs(30);

/// Starts each program again and again, with every server there.
pub async fn measure(world: &World, size: &Size) -> Result<Vec<Figure>> {
    step("from process start to ready");
    let site = Site::make(world, "start").await?;
    // It keeps the gate open, without which no API is ready.
    let keeper = site.reconciler().await?;
    let api = site.api().await?;
    site.coupon(&api, 100).await?;
    api.stop().await?;
    let mut figures = Vec::new();
    for name in ["serve", "consume", "daemon"] {
        let (mut took, mut worst): (Vec<f64>, f64) = (Vec::new(), 0.0);
        for _ in 0..size.starts {
            let begun = Instant::now();
            let service = match name {
                "serve" => site.api().await?,
                "consume" => site.consumer().await?,
                _ => site.reconciler().await?,
            };
            let said = begun.elapsed();
            until_ready(&site, &service).await?;
            took.push(begun.elapsed().as_secs_f64() * 1e3);
            worst = worst.max(begun.elapsed().as_secs_f64() * 1e3);
            ensure!(said < LIMIT, "{name} said so after {said:?} only");
            service.stop().await?;
        }
        let figure = Figure::of(PART, format!("process start → ready, {name}"), median(took), "ms");
        figures.push(figure.target(Target::AtMost(300.0)).with("worst ms", worst).with("starts", size.starts.into()));
    }
    keeper.stop().await?;
    Ok(figures)
}

async fn until_ready(site: &Site<'_>, service: &Service) -> Result<()> {
    let (ops, begun) = (site.ops(service)?, Instant::now());
    loop {
        let (status, body) = ops.get_text("/readyz").await?;
        if status.is_success() {
            return Ok(());
        }
        ensure!(begun.elapsed() < LIMIT, "{} is not ready: {body}", service.name());
        sleep(Duration::from_millis(1)).await;
    }
}
