//! Two minutes in which every claim wins, which is long enough to reveal a backlog of rows: in many
//! drops, one after the other, and in a single drop whose index of users is larger than MySQL's
//! default memory. Then a crowd wins while passes compare the claims of that closed drop.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use firstcome_load::launch::{Installation, InstallationCoupon, Service};
use firstcome_load::terminal::step;
use firstcome_load::workload::Workload;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::figures::{Ratios, median};
use super::winning::everyone_wins;
use crate::Bench;
use crate::cli::BenchSize;
use crate::report::{FigureTarget, Measurement};

const PART: &str = "sustained";
const CONNECTIONS: usize = 256;
const TURNS: u32 = 7;
/// Number of drops that together have as many winners as the single drop.
const DROPS: u32 = 30;

pub async fn measure(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    let installation = bench.install("sustained").await?;
    let (reconciler, api) = tokio::try_join!(installation.reconciler(), installation.api())?;
    let consumer = installation.consumer().await?;
    let mut many = Vec::new();
    for _ in 0..DROPS {
        many.push(installation.coupon(&api, size.sustained / DROPS).await?);
    }
    let mut measurements = vec![rows_keep_up(&installation, &api, &many).await?];
    let closed = installation.coupon(&api, size.sustained).await?;
    measurements.push(rows_keep_up(&installation, &api, &[closed]).await?);
    let mut open = Vec::new();
    for _ in 0..2 * TURNS {
        open.push(installation.coupon(&api, size.winners / 4).await?);
    }
    close(&installation, &api, closed).await?;
    // Passes of the daemon would hold the lock that the measured passes need.
    reconciler.stop().await?;
    measurements.push(beside_passes(&installation, &api, size, closed, &open).await?);
    api.stop().await?;
    consumer.stop().await?;
    Ok(measurements)
}

/// Returns rows per second from the first request to the last row, divided by claims admitted per
/// second. All coupons have the same quantity.
async fn rows_keep_up(
    installation: &Installation,
    api: &Service,
    coupons: &[InstallationCoupon],
) -> Result<Measurement> {
    let each = coupons.first().context("no coupon")?.quantity;
    let winners: u32 = coupons.iter().map(|coupon| coupon.quantity).sum();
    let drops = match coupons.len() {
        1 => "one drop".to_owned(),
        many => format!("{many} drops, one after the other"),
    };
    step(format!(
        "{winners} winners in {drops}, {CONNECTIONS} connections"
    ));
    let begun = Instant::now();
    for coupon in coupons {
        let tally = Workload::once_each(api.address()?, coupon.id, each, CONNECTIONS)
            .run()
            .await?;
        tally.everyone_won()?;
    }
    let crowd = begun.elapsed().as_secs_f64();
    for coupon in coupons {
        installation.every_row(*coupon).await?;
    }
    let all = begun.elapsed().as_secs_f64();
    let winners_per_second = f64::from(winners) / crowd;
    let rows = f64::from(winners) / all;
    Ok(Measurement::of(
        PART,
        format!("rows per second ÷ claims admitted per second, everyone wins, {drops}"),
        crowd / all,
        "×",
    )
    .target(FigureTarget::AtLeast(0.95))
    .with("admitted/s", winners_per_second)
    .with("rows/s", rows)
    .with("seconds of claims", crowd)
    .with("seconds from then to the last row", all - crowd)
    .note(format!(
        "{winners} winners, {CONNECTIONS} connections, one turn"
    )))
}

/// Measures a crowd alone and during back-to-back passes, alternately.
async fn beside_passes(
    installation: &Installation,
    api: &Service,
    size: &BenchSize,
    closed: InstallationCoupon,
    open: &[InstallationCoupon],
) -> Result<Measurement> {
    let mut alone = vec![];
    let mut beside = vec![];
    let mut passes = 0;
    for (turn, pair) in open.chunks_exact(2).enumerate() {
        step(format!(
            "everyone wins alone and during passes over {} closed claims, turn {} of {TURNS}",
            closed.quantity,
            turn + 1
        ));
        let mut rates = [0.0; 2];
        // The turn that goes first alternates.
        for with_passes in [turn % 2 == 0, turn % 2 == 1] {
            let running = if with_passes {
                Some(RepeatedPasses::start(installation, closed))
            } else {
                None
            };
            let coupon = pair[usize::from(with_passes)];
            let won = everyone_wins(api, coupon, size).await?;
            installation.every_row(coupon).await?;
            if let Some(running) = running {
                passes += running.end().await?;
            }
            rates[usize::from(with_passes)] = won.per_second;
        }
        alone.push(rates[0]);
        beside.push(rates[1]);
    }
    ensure!(passes > 0, "no pass compared anything");
    let ratios = Ratios::of(&beside, &alone);
    Ok(Measurement::of(
        PART,
        "everyone wins during passes over a closed drop ÷ alone",
        ratios.median,
        "×",
    )
    .target(FigureTarget::AtLeast(0.9))
    .with("alone/s", median(alone))
    .with("during passes/s", median(beside))
    .with("passes", f64::from(passes))
    .note(format!(
        "{} closed claims, {} connections; deep passes one after the other for the whole turn; median of {TURNS} turns ({ratios})",
        closed.quantity, size.connections
    )))
}

async fn close(
    installation: &Installation,
    api: &Service,
    coupon: InstallationCoupon,
) -> Result<()> {
    let output = installation
        .command(
            "firstcome-api",
            &["coupon", "close", &coupon.id.to_string(), "--yes"],
        )
        .env("API_URL", format!("http://{}", api.address()?))
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "the coupon was not closed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Runs deep passes over one coupon, one process after the other.
struct RepeatedPasses {
    ended: CancellationToken,
    running: JoinHandle<Result<u32>>,
}

impl RepeatedPasses {
    fn start(installation: &Installation, coupon: InstallationCoupon) -> Self {
        let ended = CancellationToken::new();
        let id = coupon.id.to_string();
        let arguments = ["once", "--json", "--deep", "--coupon", &id];
        let mut command = installation.command("firstcome-reconciler", &arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let until = ended.clone();
        let least = u64::from(coupon.quantity);
        let running = tokio::spawn(async move {
            let mut passes = 0;
            while !until.is_cancelled() {
                let output = command.spawn()?.wait_with_output().await?;
                let run: Value = serde_json::from_slice(&output.stdout).with_context(|| {
                    format!("no run: {}", String::from_utf8_lossy(&output.stderr))
                })?;
                let examined = run["drops"][0]["examined"]["rows"].as_u64();
                ensure!(
                    run["status"] == "clean" && examined >= Some(least),
                    "a pass was not clean or did not compare the drop: {run}"
                );
                passes += 1;
            }
            Ok(passes)
        });
        Self { ended, running }
    }

    /// Waits for the last pass and returns the number of passes.
    async fn end(self) -> Result<u32> {
        self.ended.cancel();
        self.running.await?
    }
}
