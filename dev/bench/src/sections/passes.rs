//! Passes of the reconciler: clean passes over an increasing number of claims, compared with a
//! plain scan, a repairing pass, passes over many small coupons, and over a drop that Redis has
//! lost.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use firstcome_harness::Role;
use firstcome_load::installation::{Installation, InstallationCoupon};
use firstcome_load::process::peak_memory_kb;
use firstcome_load::terminal::step;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use mysql_async::prelude::Queryable as _;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::sleep;

use super::Bench;
use crate::report::{FigureTarget, Measurement, median};
use crate::stores::{admit, insert_rows, scan};

const PART: &str = "passes";
const TURNS: usize = 3;
/// Wait of a closed coupon for claims in flight, with the default deadlines.
const IN_FLIGHT_SECONDS: f64 = 3.25;
/// Targets for reopening the small coupons, in seconds.
const REOPENED_WITHIN: [f64; 2] = [3.0, 20.0];
/// Coupons that are made at the same time.
const AT_ONCE: usize = 16;
/// Claims of each small coupon.
const FEW: u32 = 20;

struct MeasuredPass {
    seconds: f64,
    memory_mb: f64,
}

pub(super) async fn measure(bench: &Bench, build: Option<&Path>) -> Result<Vec<Measurement>> {
    let size = &bench.size;
    let install = async |name: &str| Installation::named(&bench.servers, name, build).await;
    let installation = install("passes").await?;
    let sizes = [1].into_iter().chain(size.passes).chain([size.missing]);
    let mut coupons = coupons(&installation, sizes).await?;
    let missing = coupons.pop().context("no coupon")?;
    let mut measurements = clean(&installation, &coupons).await?;
    measurements.push(repairing(&installation, missing).await?);
    for (number, seconds) in size.small.into_iter().zip(REOPENED_WITHIN) {
        let installation = install(&format!("small_{number}")).await?;
        measurements.extend(small(&installation, number, seconds).await?);
    }
    measurements.push(rebuilt(&install("lost").await?, size.rebuilt).await?);
    Ok(measurements)
}

/// Creates open coupons, and stops the processes that open them.
async fn coupons(
    installation: &Installation,
    quantities: impl IntoIterator<Item = u32>,
) -> Result<Vec<InstallationCoupon>> {
    let (reconciler, api) = tokio::try_join!(
        installation.start("reconciler", Role::Reconciler, &[]),
        installation.start("api", Role::Api, &[])
    )?;
    let coupons = stream::iter(quantities)
        .map(|quantity| installation.coupon(&api, quantity))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    api.stop().await?;
    reconciler.stop().await?;
    Ok(coupons)
}

/// Gives out all slots of a coupon.
async fn fill(installation: &Installation, coupon: InstallationCoupon) -> Result<()> {
    admit(installation, coupon, coupon.quantity).await?;
    insert_rows(installation, coupon, coupon.quantity).await?;
    Ok(())
}

async fn clean(
    installation: &Installation,
    coupons: &[InstallationCoupon],
) -> Result<Vec<Measurement>> {
    let mut measurements = Vec::new();
    let mut memories = Vec::new();
    for coupon in coupons {
        let claims = coupon.quantity;
        step(format!("clean pass over {claims} claims"));
        fill(installation, *coupon).await?;
        let mut passes = Vec::new();
        let mut scans = Vec::new();
        let mut memory: f64 = 0.0;
        for _ in 0..TURNS {
            scans.push(scan(installation, *coupon).await?);
            let pass = once(installation, *coupon, "clean").await?;
            passes.push(pass.seconds);
            memory = memory.max(pass.memory_mb);
        }
        let (pass, scan) = (median(passes), median(scans));
        let what = format!("clean pass ÷ bare scan, {claims} claims");
        let ratio = Measurement::ratio(PART, what, ("pass s", pass), ("scan s", scan));
        measurements.push(ratio.with("peak MB", memory));
        memories.push(memory);
    }
    let largest = measurements.pop().context("no size")?;
    measurements.push(largest.target(FigureTarget::AtMost(1.5)));
    // The first coupon has one claim.
    let [empty, .., large] = memories[..] else {
        anyhow::bail!("too few sizes")
    };
    let what = "memory of the largest clean pass minus that of an empty one";
    let memory = Measurement::of(PART, what, large - empty, "MB");
    measurements.push(memory.target(FigureTarget::AtMost(50.0)));
    Ok(measurements)
}

/// Measures a pass for which all users are in Redis and no user has a row.
async fn repairing(installation: &Installation, coupon: InstallationCoupon) -> Result<Measurement> {
    step(format!("repairing {} missing rows", coupon.quantity));
    admit(installation, coupon, coupon.quantity).await?;
    let pass = once(installation, coupon, "repaired").await?;
    let mut conn = installation.mysql().await?;
    let delete = "DELETE FROM issued_coupons WHERE drop_id = ?";
    conn.exec_drop(delete, (coupon.drop,)).await?;
    conn.disconnect().await?;
    let straight = insert_rows(installation, coupon, coupon.quantity).await?;
    let straight = straight.as_secs_f64();
    let what = "repairing missing rows ÷ straight inserts, in time";
    let times = [("pass s", pass.seconds), ("inserts s", straight)];
    let ratio = Measurement::ratio(PART, what, times[0], times[1]);
    Ok(ratio
        .target(FigureTarget::AtMost(2.0))
        .with("peak MB", pass.memory_mb))
}

/// Measures passes over many small coupons: clean, and after their gates were lost, without the wait
/// for claims that may be in flight.
async fn small(installation: &Installation, number: u32, target: f64) -> Result<[Measurement; 2]> {
    step(format!("passes over {number} small coupons"));
    let coupons = coupons(installation, (0..number).map(|_| FEW)).await?;
    let filled = stream::iter(&coupons).map(|coupon| fill(installation, *coupon));
    filled.buffered(AT_ONCE).try_collect::<()>().await?;
    let mut passes = Vec::new();
    for _ in 0..TURNS {
        passes.push(pass(installation, &[], "clean").await?.seconds * 1e3);
    }
    let prefix = installation.setting("REDIS_KEY_PREFIX");
    let mut gates = redis::cmd("DEL");
    for coupon in &coupons {
        gates.arg(format!("{prefix}:{{{}}}:gate", coupon.id));
    }
    let mut redis = installation.redis().await?;
    gates.query_async::<()>(&mut redis).await?;
    let opened = pass(installation, &[], "repaired").await?;
    let what = format!("clean pass over {number} small coupons");
    let clean = Measurement::of(PART, what, median(passes.clone()), "ms").turns(&passes);
    let what = format!("reopening {number} small coupons, after the wait for claims in flight");
    let reopened = Measurement::of(PART, what, opened.seconds - IN_FLIGHT_SECONDS, "s")
        .target(FigureTarget::AtMost(target))
        .with("s with the wait", opened.seconds)
        .with("peak MB", opened.memory_mb);
    Ok([clean, reopened])
}

/// Measures a pass over one large drop that Redis has lost.
async fn rebuilt(installation: &Installation, claims: u32) -> Result<Measurement> {
    step(format!("rebuilding a drop of {claims} claims"));
    let coupon = coupons(installation, [claims]).await?[0];
    insert_rows(installation, coupon, claims).await?;
    let mut redis = installation.redis().await?;
    let prefix = installation.setting("REDIS_KEY_PREFIX");
    let mut keys = redis::cmd("KEYS");
    keys.arg(format!("{prefix}:{{{}}}:*", coupon.id));
    let keys: Vec<String> = keys.query_async(&mut redis).await?;
    let mut unlink = redis::cmd("UNLINK");
    unlink.arg(&keys).query_async::<()>(&mut redis).await?;
    let pass = once(installation, coupon, "repaired").await?;
    let what = format!("rebuilding a drop of {claims} claims");
    let measurement = Measurement::of(PART, what, pass.seconds, "s");
    Ok(measurement.with("peak MB", pass.memory_mb))
}

/// Runs one pass over one coupon in a separate process.
async fn once(
    installation: &Installation,
    coupon: InstallationCoupon,
    status: &str,
) -> Result<MeasuredPass> {
    let id = coupon.id.to_string();
    pass(installation, &["--coupon", &id], status).await
}

/// Runs one pass in a separate process, which must end with this status.
async fn pass(installation: &Installation, of: &[&str], status: &str) -> Result<MeasuredPass> {
    let words = [&["once", "--json"], of].concat();
    let mut command = Command::from(installation.command("firstcome-reconciler", &words, &[])?);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = child.id().context("it ended at once")?;
    let mut ended = std::pin::pin!(child.wait_with_output());
    let mut peak = 0;
    let output = loop {
        tokio::select! {
            output = &mut ended => break output?,
            () = sleep(Duration::from_millis(2)) => peak = peak_memory_kb(pid).unwrap_or(peak),
        }
    };
    let log = String::from_utf8_lossy(&output.stderr);
    let run: Value = serde_json::from_slice(&output.stdout).with_context(|| log.into_owned())?;
    let findings = &run["findings"];
    ensure!(run["status"] == status, "{}: {findings}", run["status"]);
    #[allow(clippy::cast_precision_loss, reason = "kB of one process")]
    let memory_mb = peak as f64 / 1024.0;
    Ok(MeasuredPass {
        seconds: seconds(&run)?,
        memory_mb,
    })
}

/// Returns the duration of a run according to its own timestamps.
fn seconds(run: &Value) -> Result<f64> {
    let at = |name: &str| -> Result<DateTime<Utc>> {
        Ok(run[name].as_str().context("a time")?.parse()?)
    };
    Ok((at("finished_at")? - at("started_at")?).as_seconds_f64())
}
