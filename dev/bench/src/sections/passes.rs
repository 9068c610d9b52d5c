//! Passes of the reconciler: clean passes over an increasing number of claims, compared with a
//! plain scan, a repairing pass, passes over a few open drops among many sealed ones, over many
//! small coupons, and over a drop that Redis has lost.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use firstcome_harness::{Role, Service};
use firstcome_load::installation::{Installation, InstallationCoupon};
use firstcome_load::process::peak_memory_kb;
use firstcome_load::terminal::step;
use firstcome_stack::WRITE_LIMITS;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use mysql_async::prelude::Queryable as _;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::sleep;

use super::Bench;
use super::meter::StatementMeter;
use crate::report::{FigureTarget, Measurement, median};
use crate::stores::{admit, insert_rows, scan};

const PART: &str = "passes";
const TURNS: usize = 3;
/// Number of passes that a daemon runs on request.
const REQUESTED: usize = 7;
const OPEN: usize = 10;
/// Wait of a closed coupon for claims in flight, with the default deadlines.
const IN_FLIGHT_SECONDS: f64 = 3.25;
/// Targets for reopening the small coupons, in seconds.
const REOPENED_WITHIN: [f64; 2] = [3.0, 20.0];
/// Coupons that are made at the same time.
const AT_ONCE: usize = 16;
/// Claims of each small coupon.
const FEW: u32 = 20;
/// The processes whose watching is counted, and the target for their commands.
const APIS: f64 = 20.0;
const DAEMONS: f64 = 2.0;
const COMMANDS: f64 = 8_000.0;
/// How long the commands of a process are counted, once it has started.
const COUNTED: Duration = Duration::from_secs(10);

pub(super) struct MeasuredPass {
    pub(super) seconds: f64,
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
    measurements.extend(beside_sealed(&install("sealed").await?, size.sealed).await?);
    measurements.extend(many_small(bench, build).await?);
    measurements.push(rebuilt(&install("lost").await?, size.rebuilt).await?);
    Ok(measurements)
}

/// Measures passes over many small coupons, and what it costs to watch them.
pub(super) async fn many_small(bench: &Bench, build: Option<&Path>) -> Result<Vec<Measurement>> {
    let mut measurements = Vec::new();
    for (number, seconds) in bench.size.small.into_iter().zip(REOPENED_WITHIN) {
        let name = format!("small_{number}");
        let installation = Installation::named(&bench.servers, &name, build).await?;
        measurements.extend(small(&installation, number, seconds).await?);
        measurements.push(watching(&installation, number).await?);
    }
    Ok(measurements)
}

/// Counts the commands that an idle system sends to Redis.
async fn watching(installation: &Installation, number: u32) -> Result<Measurement> {
    step(format!("watching {number} open coupons"));
    let of_api = commands(installation, Role::Api).await?;
    let of_daemon = commands(installation, Role::Reconciler).await?;
    let what = format!("Redis commands/s of {APIS} APIs and {DAEMONS} daemons, {number} coupons");
    let all = APIS * of_api + DAEMONS * of_daemon;
    let measurement = Measurement::of(PART, what, all, "")
        .with("of an API", of_api)
        .with("of a daemon", of_daemon);
    // The target is for the smaller number.
    Ok(if number <= 2_000 {
        measurement.target(FigureTarget::AtMost(COMMANDS))
    } else {
        measurement
    })
}

/// Returns how many commands a second an idle process of this role sends to Redis.
async fn commands(installation: &Installation, role: Role) -> Result<f64> {
    let service = installation.start("watching", role, &[]).await?;
    sleep(COUNTED).await;
    let before = commands_of_all(installation).await?;
    sleep(COUNTED).await;
    let commands = commands_of_all(installation).await? - before;
    service.stop().await?;
    Ok(commands / COUNTED.as_secs_f64())
}

async fn commands_of_all(installation: &Installation) -> Result<f64> {
    let mut redis = installation.redis().await?;
    let info: redis::InfoDict = redis::cmd("INFO")
        .arg("stats")
        .query_async(&mut redis)
        .await?;
    info.get("total_commands_processed").context("no number")
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
    let mut times = Vec::new();
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
        times.push(pass / f64::from(claims) * 1e6);
        memories.push(memory);
    }
    let largest = measurements.pop().context("no size")?;
    measurements.push(largest.target(FigureTarget::AtMost(1.5)));
    // The first coupon has one claim.
    let ([empty, .., large], [_, small, .., last]) = (&*memories, &*times) else {
        anyhow::bail!("too few sizes")
    };
    let what = "memory of the largest clean pass minus that of an empty one";
    let memory = Measurement::of(PART, what, large - empty, "MB");
    measurements.push(memory.target(FigureTarget::AtMost(50.0)));
    let what = "time per claim, largest ÷ smallest drop";
    let linear = Measurement::ratio(PART, what, ("µs", *last), ("µs at first", *small));
    measurements.push(linear.target(FigureTarget::AtMost(1.1)));
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

/// Runs one pass in a separate process, which must end with this status, if it is not empty.
pub(super) async fn pass(
    installation: &Installation,
    of: &[&str],
    status: &str,
) -> Result<MeasuredPass> {
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
    let is_wanted = status.is_empty() || run["status"] == status;
    ensure!(is_wanted, "{}: {findings}", run["status"]);
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

/// Measures a few open drops, first alone and then among sealed ones.
async fn beside_sealed(installation: &Installation, sealed: u32) -> Result<[Measurement; 2]> {
    step(format!("{OPEN} open drops next to {sealed} sealed ones"));
    for coupon in coupons(installation, [100; OPEN]).await? {
        fill(installation, coupon).await?;
    }
    // No API runs: it reads the catalogue every second, and those statements would be counted too.
    let reconciler = installation
        .start("reconciler", Role::Reconciler, &[])
        .await?;
    let alone = requested(installation, &reconciler).await?;
    seal_many(installation, sealed).await?;
    let beside = requested(installation, &reconciler).await?;
    reconciler.stop().await?;
    let what = format!("pass over {OPEN} open drops next to {sealed} sealed ones");
    let time = Measurement::of(PART, what, beside.0, "ms").with("ms without", alone.0);
    let what = "MySQL statements of that pass, more than without sealed drops";
    let statements = Measurement::of(PART, what, beside.1 - alone.1, "");
    Ok([
        time.target(FigureTarget::AtMost(50.0)),
        statements
            .with("statements", beside.1)
            .target(FigureTarget::AtMost(0.0)),
    ])
}

/// Returns the median duration in milliseconds and the lowest statement count of several requested
/// passes. The lowest, because the daemon also runs passes by itself after coupons were created,
/// whose statements count, too.
async fn requested(installation: &Installation, reconciler: &Service) -> Result<(f64, f64)> {
    let ops = installation.ops(reconciler);
    let mut times = Vec::new();
    let mut statements = f64::MAX;
    for _ in 0..REQUESTED {
        let mut meter = StatementMeter::start(&installation.servers.mysql).await?;
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
    conn.query_drop(WRITE_LIMITS).await?;
    Ok(conn.disconnect().await?)
}
