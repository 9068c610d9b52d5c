//! Passes of the reconciler: clean passes over an increasing number of claims, compared with a
//! plain scan, a repairing pass, and a pass over a few open drops among many sealed ones.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use firstcome_load::launch::{Installation, InstallationCoupon, Service};
use firstcome_load::measure::{Meter, memory_kb};
use firstcome_load::terminal::step;
use mysql_async::prelude::Queryable as _;
use serde_json::Value;
use tokio::time::sleep;

use super::figures::median;
use crate::Bench;
use crate::ceiling::{admit_straight, insert_rows, scan};
use crate::cli::BenchSize;
use crate::report::{FigureTarget, Measurement};

const PART: &str = "passes";
const TURNS: usize = 3;
const OPEN: usize = 10;

struct MeasuredPass {
    seconds: f64,
    memory_mb: f64,
    run: Value,
}

pub async fn measure(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    let installation = bench.install("passes").await?;
    let (reconciler, api) = tokio::try_join!(installation.reconciler(), installation.api())?;
    let mut coupons = Vec::new();
    for quantity in [1].into_iter().chain(size.passes).chain([size.missing]) {
        coupons.push(installation.coupon(&api, quantity).await?);
    }
    api.stop().await?;
    reconciler.stop().await?;
    let missing = coupons.pop().context("no coupon")?;
    let mut measurements = clean(&installation, &coupons).await?;
    measurements.push(scattered(&installation, *coupons.last().context("no coupon")?).await?);
    measurements.push(repairing(&installation, missing, size).await?);
    measurements.extend(beside_sealed(bench, size).await?);
    measurements.extend(lost(bench, size).await?);
    Ok(measurements)
}

async fn clean(
    installation: &Installation,
    coupons: &[InstallationCoupon],
) -> Result<Vec<Measurement>> {
    let mut seen = Vec::new();
    for coupon in coupons {
        step(format!("clean pass over {} claims", coupon.quantity));
        admit_straight(installation, *coupon, coupon.quantity).await?;
        insert_rows(installation, *coupon, 1..=coupon.quantity).await?;
        let mut passes: Vec<f64> = Vec::new();
        let mut scans: Vec<f64> = Vec::new();
        let mut memory: f64 = 0.0;
        for _ in 0..TURNS {
            scans.push(scan(installation, *coupon).await?.0.as_secs_f64());
            let pass = once(installation, *coupon).await?;
            ensure!(
                pass.run["status"] == "clean",
                "the pass was not clean: {}",
                pass.run
            );
            passes.push(pass.seconds);
            memory = memory.max(pass.memory_mb);
        }
        seen.push((
            f64::from(coupon.quantity),
            median(passes),
            median(scans),
            memory,
        ));
    }
    let [empty, small, .., large] = seen.as_slice() else {
        anyhow::bail!("too few sizes")
    };
    let mut measurements: Vec<Measurement> = seen[1..]
        .iter()
        .map(|(claims, pass, scan, memory)| {
            let what = format!("clean pass ÷ bare scan, {claims} claims");
            Measurement::ratio(PART, what, ("pass s", *pass), ("scan s", *scan))
                .with("peak MB", *memory)
        })
        .collect();
    if let Some(last) = measurements.pop() {
        measurements.push(last.target(FigureTarget::AtMost(1.5)));
    }
    let memory = Measurement::of(
        PART,
        "memory of the largest clean pass minus that of an empty one",
        large.3 - empty.3,
        "MB",
    );
    measurements.push(
        memory
            .target(FigureTarget::AtMost(50.0))
            .with("largest MB", large.3)
            .with("empty MB", empty.3),
    );
    let each = |one: &(f64, f64, f64, f64)| one.1 / one.0 * 1e6;
    let linear = Measurement::ratio(
        PART,
        "time per claim, largest ÷ smallest drop",
        ("µs", each(large)),
        ("µs at first", each(small)),
    );
    measurements.push(
        linear
            .target(FigureTarget::AtMost(1.1))
            .note("1 or less if the time grows linearly"),
    );
    Ok(measurements)
}

/// Measures the largest drop again with one row in a hundred missing, so that every page has a
/// repair.
async fn scattered(installation: &Installation, coupon: InstallationCoupon) -> Result<Measurement> {
    step(format!(
        "a pass over {} claims with one row in a hundred missing",
        coupon.quantity
    ));
    let scan = scan(installation, coupon).await?.0.as_secs_f64();
    let mut conn = installation.mysql().await?;
    conn.exec_drop(
        "DELETE FROM issued_coupons WHERE drop_id = ? AND slot % 100 = 0",
        (coupon.drop,),
    )
    .await?;
    let drifts = conn.affected_rows();
    conn.disconnect().await?;
    let pass = once(installation, coupon).await?;
    ensure!(
        pass.run["status"] == "repaired",
        "the pass did not repair: {}",
        pass.run["status"]
    );
    let what = format!(
        "pass with scattered drifts ÷ bare scan, {} claims",
        coupon.quantity
    );
    #[allow(clippy::cast_precision_loss, reason = "a small count")]
    let drifts = drifts as f64;
    let measurement = Measurement::ratio(PART, what, ("pass s", pass.seconds), ("scan s", scan));
    Ok(measurement
        .with("drifts", drifts)
        .with("peak MB", pass.memory_mb))
}

/// Measures a pass for which all users are in Redis and no user has a row.
async fn repairing(
    installation: &Installation,
    coupon: InstallationCoupon,
    size: &BenchSize,
) -> Result<Measurement> {
    step(format!("repairing {} missing rows", size.missing));
    admit_straight(installation, coupon, size.missing).await?;
    let pass = once(installation, coupon).await?;
    ensure!(
        pass.run["status"] == "repaired",
        "the pass did not repair: {}",
        pass.run["status"]
    );
    let mut conn = installation.mysql().await?;
    conn.exec_drop(
        "DELETE FROM issued_coupons WHERE drop_id = ?",
        (coupon.drop,),
    )
    .await?;
    conn.disconnect().await?;
    let straight = insert_rows(installation, coupon, 1..=size.missing)
        .await?
        .as_secs_f64();
    let what = "repairing missing rows ÷ straight inserts, in time";
    let measurement = Measurement::ratio(
        PART,
        what,
        ("pass s", pass.seconds),
        ("inserts s", straight),
    );
    Ok(measurement
        .target(FigureTarget::AtMost(2.0))
        .with("rows", size.missing.into())
        .with("peak MB", pass.memory_mb))
}

/// Claims of each small coupon.
const FEW: u32 = 20;

/// Measures passes over many small coupons: clean, and after their gates were lost; and over one
/// large drop that Redis has lost. A closed coupon waits for claims that may be on their way first.
async fn lost(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    step(format!("passes over {} small coupons", size.small));
    let installation = bench.install("lost").await?;
    let (reconciler, api) = tokio::try_join!(installation.reconciler(), installation.api())?;
    let large = installation.coupon(&api, size.rebuilt).await?;
    let mut small = Vec::new();
    for _ in 0..size.small {
        small.push(installation.coupon(&api, FEW).await?);
    }
    api.stop().await?;
    reconciler.stop().await?;
    for coupon in &small {
        admit_straight(&installation, *coupon, FEW).await?;
        insert_rows(&installation, *coupon, 1..=FEW).await?;
    }
    let mut passes = Vec::new();
    for _ in 0..TURNS {
        let pass = all(&installation).await?;
        ensure!(
            pass.run["status"] == "clean",
            "not clean: {}",
            pass.run["findings"]
        );
        passes.push(pass.seconds * 1e3);
    }
    let mut redis = installation.redis().await?;
    let prefix = installation.setting("REDIS_KEY_PREFIX").to_owned();
    let gates: Vec<String> = small
        .iter()
        .map(|it| format!("{prefix}:{{{}}}:gate", it.id))
        .collect();
    let _: i64 = redis::cmd("DEL")
        .arg(&gates)
        .query_async(&mut redis)
        .await?;
    let opened = all(&installation).await?;
    ensure!(
        opened.run["status"] == "repaired",
        "not repaired: {}",
        opened.run["findings"]
    );
    step(format!("rebuilding a drop of {} claims", size.rebuilt));
    insert_rows(&installation, large, 1..=size.rebuilt).await?;
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg(format!("{prefix}:{{{}}}:*", large.id))
        .query_async(&mut redis)
        .await?;
    let _: i64 = redis::cmd("UNLINK")
        .arg(&keys)
        .query_async(&mut redis)
        .await?;
    let rebuilt = once(&installation, large).await?;
    ensure!(
        rebuilt.run["status"] == "repaired",
        "not repaired: {}",
        rebuilt.run["findings"]
    );
    let number = size.small;
    Ok(vec![
        Measurement::of(
            PART,
            format!("clean pass over {number} small coupons"),
            median(passes),
            "ms",
        ),
        Measurement::of(
            PART,
            format!("reopening {number} small coupons"),
            opened.seconds,
            "s",
        )
        .with("peak MB", opened.memory_mb),
        Measurement::of(
            PART,
            format!("rebuilding a drop of {} claims", size.rebuilt),
            rebuilt.seconds,
            "s",
        )
        .with("peak MB", rebuilt.memory_mb),
    ])
}

/// Runs one pass over one coupon in a separate process.
async fn once(installation: &Installation, coupon: InstallationCoupon) -> Result<MeasuredPass> {
    pass(installation, &["--coupon", &coupon.id.to_string()]).await
}

/// Runs one pass over everything in a separate process.
async fn all(installation: &Installation) -> Result<MeasuredPass> {
    pass(installation, &[]).await
}

async fn pass(installation: &Installation, of: &[&str]) -> Result<MeasuredPass> {
    let words = [&["once", "--json"], of].concat();
    let mut command = installation.command("firstcome-reconciler", &words);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = child.id().context("it ended at once")?;
    let mut ended = std::pin::pin!(child.wait_with_output());
    let mut peak = 0;
    let output = loop {
        tokio::select! {
            output = &mut ended => break output?,
            () = sleep(Duration::from_millis(2)) => peak = memory_kb(pid, "VmHWM").unwrap_or(peak),
        }
    };
    let run: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("no run: {}", String::from_utf8_lossy(&output.stderr)))?;
    #[allow(clippy::cast_precision_loss, reason = "kB of one process")]
    let memory_mb = peak as f64 / 1024.0;
    Ok(MeasuredPass {
        seconds: seconds(&run)?,
        memory_mb,
        run,
    })
}

/// Returns the duration of a run according to its own timestamps.
fn seconds(run: &Value) -> Result<f64> {
    let at = |name: &str| -> Result<DateTime<Utc>> {
        Ok(run[name].as_str().context("a time")?.parse()?)
    };
    Ok((at("finished_at")? - at("started_at")?).as_seconds_f64())
}

/// Measures a few open drops, first alone and then among sealed ones.
async fn beside_sealed(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    step(format!(
        "a pass over {OPEN} open drops next to {} sealed ones",
        size.sealed
    ));
    let installation = bench.install("sealed").await?;
    let (reconciler, api) = tokio::try_join!(installation.reconciler(), installation.api())?;
    // Before the rows: the daemon would report their codes until it looks again.
    for _ in 0..OPEN {
        let coupon = installation.coupon(&api, 100).await?;
        admit_straight(&installation, coupon, 100).await?;
        insert_rows(&installation, coupon, 1..=100).await?;
    }
    // The API reads the catalogue every second, and those statements would be counted too.
    api.stop().await?;
    let alone = asked(bench, &installation, &reconciler).await?;
    seal_many(&installation, size.sealed).await?;
    let beside = asked(bench, &installation, &reconciler).await?;
    reconciler.stop().await?;
    let time = Measurement::of(
        PART,
        "pass over 10 open drops next to sealed ones",
        beside.0,
        "ms",
    );
    let statements = Measurement::of(
        PART,
        "MySQL statements of that pass, more than without sealed drops",
        beside.1 - alone.1,
        "",
    );
    Ok(vec![
        time.target(FigureTarget::AtMost(50.0))
            .with("ms without", alone.0)
            .with("sealed", size.sealed.into()),
        statements
            .target(FigureTarget::AtMost(0.0))
            .with("statements", beside.1)
            .with("without", alone.1),
    ])
}

/// Returns the median duration in milliseconds and the lowest statement count of several requested
/// passes.
async fn asked(
    bench: &Bench,
    installation: &Installation,
    reconciler: &Service,
) -> Result<(f64, f64)> {
    let ops = installation.ops(reconciler)?;
    let mut times = Vec::new();
    let mut statements = f64::MAX;
    for _ in 0..7 {
        let mut meter = Meter::start(&bench.servers.stack).await?;
        // The daemon also runs passes automatically after coupons were created, so each pass is
        // counted separately.
        let run = ops.reconcile().await?;
        #[allow(clippy::cast_precision_loss, reason = "a small count")]
        let count = meter.statements().await? as f64;
        ensure!(run["status"] == "clean", "the pass was not clean: {run}");
        times.push(seconds(&run)? * 1e3);
        statements = count.min(statements);
    }
    Ok((median(times), statements))
}

/// Creates drops that are over and verified, as the reconciler leaves them, but without rows.
async fn seal_many(installation: &Installation, count: u32) -> Result<()> {
    let mut conn = installation.mysql().await?;
    let coupon =
        "INSERT INTO coupons (id, name, quantity, once_per) VALUES (1, 'Over', 100, 'drop')";
    conn.query_drop(coupon).await?;
    let values: Vec<String> = (0..count)
        .map(|day| {
            let opens = format!("UTC_TIMESTAMP(3) - INTERVAL {} DAY", day + 2);
            format!(
                "({day} + 1, 1, CURDATE() - INTERVAL {} DAY, {opens}, {opens} + INTERVAL 1 HOUR, 100, UTC_TIMESTAMP(3), 0)",
                day + 2
            )
        })
        .collect();
    let columns =
        "id, coupon_id, local_date, opens_at, closes_at, quantity, sealed_at, sealed_rows";
    conn.query_drop(format!(
        "INSERT INTO drops ({columns}) VALUES {}",
        values.join(",")
    ))
    .await?;
    conn.disconnect().await?;
    Ok(())
}
