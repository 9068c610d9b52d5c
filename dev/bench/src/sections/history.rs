//! Costs beside a long history: sealed drops with their rows, old revocations, many coupons. What
//! is open is small, so a pass and a reopening must take as long as without the history.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use chrono::TimeDelta;
use firstcome_harness::Role;
use firstcome_load::installation::{Installation, InstallationCoupon, until};
use firstcome_load::ops::Ops;
use firstcome_load::terminal::step;
use firstcome_shared::redis::keys::DropKeys;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use mysql_async::prelude::Queryable as _;
use serde_json::json;
use tokio::time::sleep;

use super::Bench;
use super::passes::pass;
use crate::cli::BenchSize;
use crate::report::{FigureTarget, Measurement, median};
use crate::stores::{admit, insert_rows, keys};

const PART: &str = "history";
const TURNS: usize = 3;
/// Requests under way at the same time.
const AT_ONCE: usize = 64;
/// Rows or fields written per statement.
const WRITTEN_AT_ONCE: u32 = 100_000;
/// The coupon with one each per drop, all of whose drops are sealed but one.
const PER_DROP: i64 = 1;
/// How long nobody claims while the AOF is watched.
const QUIET: Duration = Duration::from_secs(60);

pub(super) async fn measure(bench: &Bench, build: Option<&Path>) -> Result<Vec<Measurement>> {
    let size = &bench.size;
    let installation = Installation::named(&bench.servers, "history", build).await?;
    let (reconciler, api) = tokio::try_join!(
        installation.start("reconciler", Role::Reconciler, &[]),
        installation.start("api", Role::Api, &[])
    )?;
    let ops = installation.ops(&api);
    let old = installation.coupon(&api, 100).await?;
    let new = installation.coupon(&api, 100).await?;
    let won = installation.coupon(&api, size.asking).await?;
    let large = installation.coupon(&api, size.given_out * 2).await?;
    step(format!("{} coupons", size.coupons));
    let make = |number: u32| ops.make_coupon("Many", 10 + number % 7, TimeDelta::hours(1));
    let made = stream::iter(0..size.coupons).map(make);
    made.buffer_unordered(8).try_collect::<Vec<i64>>().await?;
    let mut measurements = vec![asked(&installation, &ops, won).await?];
    measurements.push(lowered(&installation, &ops, large).await?);
    let before = [
        reopened(&installation, old).await?,
        reopened(&installation, new).await?,
    ];
    fill(&installation, old, size).await?;
    // The note that this version finds, as if it had sealed the drops.
    note_seal(&installation, old, size.sealed_drops).await?;
    measurements.push(quiet(&installation).await?);
    api.stop().await?;
    reconciler.stop().await?;
    measurements.push(clean(&installation, size).await?);
    let after = reopened(&installation, old).await?;
    let without = reopened(&installation, new).await?;
    let what = "reopening beside the history, longer than without";
    let longer = Measurement::of(PART, what, after - without, "s");
    measurements.push(
        longer
            .target(FigureTarget::AtMost(1.0))
            .with("s", after)
            .with("s without", without)
            .with("s before", before[0]),
    );
    Ok(measurements)
}

/// Measures how long every winner of a drop needs to read the code, all at the same time.
async fn asked(
    installation: &Installation,
    ops: &Ops,
    coupon: InstallationCoupon,
) -> Result<Measurement> {
    let winners = coupon.quantity;
    step(format!("{winners} winners ask for their codes"));
    admit(installation, coupon, winners).await?;
    insert_rows(installation, coupon, winners).await?;
    let begun = Instant::now();
    let ask = |slot: u32| async move { ops.my_claim(coupon.id, &format!("q-{slot:07}")).await };
    let statuses = stream::iter(1..=winners).map(ask).buffer_unordered(AT_ONCE);
    let statuses: Vec<String> = statuses.try_collect().await?;
    let seconds = begun.elapsed().as_secs_f64();
    let issued = statuses.iter().filter(|status| *status == "issued").count();
    #[allow(clippy::cast_precision_loss, reason = "a number of users")]
    let share = issued as f64 / f64::from(winners);
    let what = format!("claims/me of {winners} winners, {AT_ONCE} at once");
    let measurement = Measurement::of(PART, what, seconds, "s").with("share with a code", share);
    Ok(measurement.target(FigureTarget::AtMost(60.0)))
}

/// Measures lowering the quantity of a drop of which half is given out.
async fn lowered(
    installation: &Installation,
    ops: &Ops,
    coupon: InstallationCoupon,
) -> Result<Measurement> {
    let rows = coupon.quantity / 2;
    step(format!("lowering a drop with {rows} rows"));
    let mut conn = installation.mysql().await?;
    conn.query_drop("SET cte_max_recursion_depth = 1000000, unique_checks = 0")
        .await?;
    for first in (1..=rows).step_by(WRITTEN_AT_ONCE as usize) {
        let last = rows.min(first + WRITTEN_AT_ONCE - 1);
        // Each row names the lowest limit that is not below its slot, as the product's do.
        conn.query_drop(format!(
            "INSERT INTO issued_coupons \
             (drop_id, slot, coupon_id, user_id, issued_by, slot_limit, person_scope) \
             WITH RECURSIVE n (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last}) \
             SELECT {drop}, i, {id}, CONCAT('l-', i), 'consumer', \
             (SELECT slot_limit FROM slot_limits WHERE drop_id = {drop} AND slot_limit >= i \
             ORDER BY slot_limit LIMIT 1), 0 FROM n",
            drop = coupon.drop,
            id = coupon.id
        ))
        .await?;
    }
    conn.disconnect().await?;
    let DropKeys { count, .. } = keys(installation, coupon);
    let mut redis = installation.redis().await?;
    let mut set = redis::cmd("SET");
    set.arg(&count).arg(rows);
    set.query_async::<()>(&mut redis).await?;
    let begun = Instant::now();
    let lower = json!({"quantity": rows + rows / 2});
    let answer = ops.change(coupon.id, &lower).await;
    let seconds = begun.elapsed().as_secs_f64();
    let what = format!("lowering a drop with {rows} rows");
    let measurement = Measurement::of(PART, what, seconds, "s");
    // Its users are not in Redis: later passes must not rebuild it.
    redis::cmd("SET")
        .arg(&count)
        .arg(0)
        .query_async::<()>(&mut redis)
        .await?;
    let mut conn = installation.mysql().await?;
    conn.query_drop("SET foreign_key_checks = 0").await?;
    let drop_rows = "DELETE FROM issued_coupons WHERE drop_id = ? LIMIT 100000";
    loop {
        conn.exec_drop(drop_rows, (coupon.drop,)).await?;
        if conn.affected_rows() == 0 {
            break;
        }
    }
    conn.disconnect().await?;
    let measurement = measurement.target(FigureTarget::AtMost(10.0));
    Ok(match answer {
        Ok(_) => measurement,
        Err(error) => measurement.note(format!("FAILED: {error:#}")),
    })
}

/// Makes the history: sealed drops of a coupon with one each in total, whose users Redis has among
/// its claimants, and old revocations, half of them of another coupon with one each per drop.
async fn fill(
    installation: &Installation,
    old: InstallationCoupon,
    size: &BenchSize,
) -> Result<()> {
    let (drops, rows) = (size.sealed_drops, size.sealed_rows);
    let each = (rows / drops).max(1);
    step(format!(
        "{drops} sealed drops with {each} rows each, {} revocations",
        size.revocations
    ));
    let mut conn = installation.mysql().await?;
    conn.query_drop(
        "SET cte_max_recursion_depth = 10000000, unique_checks = 0, foreign_key_checks = 0",
    )
    .await?;
    let other =
        "INSERT INTO coupons (id, name, quantity, once_per) VALUES (1, 'Per drop', 9, 'drop')";
    conn.query_drop(other).await?;
    let per_drop = "INSERT INTO drops \
                    (id, coupon_id, opens_at, closes_at, quantity, sealed_at, sealed_rows) VALUES \
                    (1, 1, '2020-01-01', '2020-01-02', 9, '2020-01-03', 0)";
    conn.query_drop(per_drop).await?;
    conn.query_drop(format!(
        "INSERT INTO drops \
         (id, coupon_id, local_date, opens_at, closes_at, quantity, sealed_at, sealed_rows) \
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {drops}) \
         SELECT 100 + i, {id}, DATE('1990-01-01') + INTERVAL i DAY, \
         DATE('1990-01-01') + INTERVAL i DAY, DATE('1990-01-01') + INTERVAL i + 1 DAY, {each}, \
         DATE('1990-01-01') + INTERVAL i + 2 DAY, {each} FROM n",
        id = old.id
    ))
    .await?;
    let mut redis = installation.redis().await?;
    let DropKeys { claimants, .. } = keys(installation, old);
    let at_once = (WRITTEN_AT_ONCE / each).max(1);
    for first in (1..=drops).step_by(at_once as usize) {
        let last = drops.min(first + at_once - 1);
        conn.query_drop(format!(
            "INSERT INTO issued_coupons \
             (drop_id, slot, coupon_id, user_id, issued_by, slot_limit, person_scope) \
             WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count}) \
             SELECT 100 + {first} + i DIV {each}, 1 + i MOD {each}, {id}, CONCAT('h-', {first}, '-', i), 'consumer', \
             LEAST({each}, 10000 * CEIL((1 + i MOD {each}) / 10000)), 0 FROM n",
            count = (last - first + 1) * each,
            id = old.id
        ))
        .await?;
        let mut pipe = redis::pipe();
        for at in 0..(last - first + 1) * each {
            let (drop, slot) = (100 + first + at / each, 1 + at % each);
            pipe.hset(
                &claimants,
                format!("h-{first}-{at}"),
                format!("{drop}:{slot}"),
            )
            .ignore();
        }
        pipe.query_async::<()>(&mut redis).await?;
    }
    for (coupon, drop, from) in [(old.id, 101, 0_i64), (PER_DROP, 1, 1 << 40)] {
        conn.query_drop(format!(
            "INSERT INTO revoked_coupons \
             (id, coupon_id, drop_id, user_id, reason, revoked_by, may_claim_again, again_from, revoked_at) \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {half}) \
             SELECT {from} + i, {coupon}, {drop}, CONCAT('r-', i), 'x', 'y', 1, \
             '2020-01-02', '2020-01-02' FROM n",
            half = size.revocations / 2
        ))
        .await?;
    }
    conn.query_drop("ANALYZE TABLE issued_coupons, revoked_coupons, drops")
        .await?;
    Ok(conn.disconnect().await?)
}

async fn note_seal(installation: &Installation, old: InstallationCoupon, drops: u32) -> Result<()> {
    let DropKeys { revoked, .. } = keys(installation, old);
    let mut redis = installation.redis().await?;
    let mut note = redis::cmd("HSET");
    note.arg(&revoked).arg("").arg(100 + drops);
    Ok(note.query_async(&mut redis).await?)
}

/// Measures how much the AOF grows in an hour without a claim.
async fn quiet(installation: &Installation) -> Result<Measurement> {
    step(format!("no claim for {QUIET:?}"));
    let before = aof_bytes(installation).await?;
    sleep(QUIET).await;
    let grown = aof_bytes(installation).await? - before;
    let per_hour = grown / 1e6 * 3_600.0 / QUIET.as_secs_f64();
    let what = "growth of the AOF without a claim, in an hour";
    Ok(Measurement::of(PART, what, per_hour, "MB").target(FigureTarget::AtMost(20.0)))
}

/// The size of the AOF. A rewrite would shorten it: the growth is then below zero, and the run is
/// to be repeated.
async fn aof_bytes(installation: &Installation) -> Result<f64> {
    let mut redis = installation.redis().await?;
    let mut info = redis::cmd("INFO");
    let info: String = info.arg("persistence").query_async(&mut redis).await?;
    let mut lines = info.lines();
    let size = lines.find_map(|line| line.strip_prefix("aof_current_size:"));
    Ok(size.context("no AOF")?.trim().parse()?)
}

async fn clean(installation: &Installation, size: &BenchSize) -> Result<Measurement> {
    let mut passes = Vec::new();
    for _ in 0..TURNS {
        passes.push(pass(installation, &[], "").await?.seconds * 1e3);
    }
    let (coupons, rows) = (size.coupons, size.sealed_rows);
    let what = format!("pass over {coupons} coupons beside {rows} sealed rows");
    Ok(Measurement::of(PART, what, median(passes.clone()), "ms").turns(&passes))
}

/// Measures the time from the loss of a coupon's gate until it is open again.
async fn reopened(installation: &Installation, coupon: InstallationCoupon) -> Result<f64> {
    let DropKeys { gate, .. } = keys(installation, coupon);
    let mut redis = installation.redis().await?;
    let begun = Instant::now();
    redis::cmd("DEL")
        .arg(&gate)
        .query_async::<()>(&mut redis)
        .await?;
    let id = coupon.id.to_string();
    pass(installation, &["--coupon", &id], "").await?;
    until("the coupon is open", async || {
        let state: Option<String> = redis::cmd("GET").arg(&gate).query_async(&mut redis).await?;
        Ok(state.is_some_and(|state| state.ends_with("open")))
    })
    .await?;
    Ok(begun.elapsed().as_secs_f64())
}
