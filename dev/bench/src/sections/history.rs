//! Costs with a long history: sealed drops with their rows, old revocations, many coupons. Few
//! drops are open, so a pass and a reopening must take as long as without the history.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chrono::TimeDelta;
use firstcome_harness::Role;
use firstcome_load::installation::{Installation, InstallationCoupon, until};
use firstcome_load::ops::Ops;
use firstcome_load::terminal::step;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_stack::WRITE_LIMITS;
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
const TURNS: usize = 4;
/// Number of concurrent requests.
const AT_ONCE: usize = 64;
/// Rows written per statement, and fields written per command.
const WRITTEN_AT_ONCE: u32 = 100_000;
const FIELDS: u32 = 1_000;
/// Settings of a connection that writes rows which are valid by construction.
const UNCHECKED: &str =
    "SET cte_max_recursion_depth = 10000000, unique_checks = 0, foreign_key_checks = 0";
/// The ID of the coupon with `once_per` drop. Its only drop is sealed.
const PER_DROP: i64 = 1;
/// How long nobody claims while the AOF is watched: two scheduled passes.
const QUIET: Duration = Duration::from_secs(60);

pub(super) async fn measure(bench: &Bench, build: Option<&Path>) -> Result<Vec<Measurement>> {
    let size = &bench.size;
    let installation = Installation::named(&bench.servers, "history", build).await?;
    // A consumer runs: if an API does not find a winner's row in time, it publishes the claim
    // again, and no coupon reopens before that message is read.
    let (reconciler, api, _consumer) = tokio::try_join!(
        installation.start("reconciler", Role::Reconciler, &[]),
        installation.start("api", Role::Api, &[]),
        installation.start("consumer", Role::Consumer, &[])
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
    api.stop().await?;
    reconciler.stop().await?;
    let both = [old, new];
    let before = reopened_often(&installation, both, lose_gates).await?;
    fill(&installation, old, size).await?;
    // Leaves the note in Redis that this version would have left when it sealed the drops.
    note_seal(&installation, old, size.sealed_drops).await?;
    measurements.push(quiet(&installation).await?);
    measurements.push(clean(&installation, size).await?);
    let after = reopened_often(&installation, both, lose_gates).await?;
    measurements.push(longer("the loss of its gate", &after, &before));
    measurements.push(lowered(&installation, large).await?);
    let after = reopened_often(&installation, both, restart).await?;
    measurements.push(longer("a restart of Redis", &after, &before));
    Ok(measurements)
}

async fn lose_gates(installation: &Installation, both: [InstallationCoupon; 2]) -> Result<()> {
    let mut redis = installation.redis().await?;
    for coupon in both {
        let DropKeys { gate, .. } = keys(installation, coupon);
        redis::cmd("DEL")
            .arg(&gate)
            .query_async::<()>(&mut redis)
            .await?;
    }
    Ok(())
}

/// Restarts Redis. Every gate then names an earlier process.
async fn restart(installation: &Installation, _: [InstallationCoupon; 2]) -> Result<()> {
    let server = &installation.servers.redis;
    server.stop().await?;
    let begun = Instant::now();
    server.start_again().await?;
    step(format!("Redis read its file for {:?}", begun.elapsed()));
    Ok(())
}

/// Measures how long each of two closed coupons takes to reopen, one after the other. The first one
/// in a turn also takes the time to restore other data that Redis has just lost, for example its
/// scripts.
async fn reopened_often<'a, F: Future<Output = Result<()>>>(
    installation: &'a Installation,
    both: [InstallationCoupon; 2],
    close: impl Fn(&'a Installation, [InstallationCoupon; 2]) -> F,
) -> Result<[Vec<f64>; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    for turn in 0..TURNS {
        close(installation, both).await?;
        for at in [turn % 2, 1 - turn % 2] {
            times[at].push(reopened(installation, both[at]).await?);
        }
    }
    Ok(times)
}

fn longer(after: &str, [with, without]: &[Vec<f64>; 2], before: &[Vec<f64>; 2]) -> Measurement {
    let what = format!("reopening after {after}, beside the history, longer than without");
    let (s, without) = (median(with.clone()), median(without.clone()));
    Measurement::of(PART, what, s - without, "s")
        .target(FigureTarget::AtMost(1.0))
        .with("s", s)
        .with("s without", without)
        .with("s before", median(before[0].clone()))
        .turns(with)
}

/// Measures the time until every winner of a drop has asked for the code once, with `AT_ONCE`
/// concurrent requests.
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
    ensure!(
        issued == winners as usize,
        "{issued} of {winners} have a code"
    );
    let what = format!("claims/me of {winners} winners, {AT_ONCE} at once");
    let measurement = Measurement::of(PART, what, seconds, "s");
    Ok(measurement.target(FigureTarget::AtMost(60.0)))
}

/// Measures lowering the quantity of a drop, of which half is given out, to the number of its rows.
/// The new quantity is just below a slot limit to which many rows refer.
async fn lowered(installation: &Installation, coupon: InstallationCoupon) -> Result<Measurement> {
    let rows = coupon.quantity / 2 - 1;
    step(format!("lowering a drop with {rows} rows"));
    let mut conn = installation.mysql().await?;
    conn.query_drop(UNCHECKED).await?;
    // Each row names the lowest limit that is not below its slot, as the product's do.
    let part = (coupon.quantity / 500).max(10_000);
    for first in (1..=rows).step_by(WRITTEN_AT_ONCE as usize) {
        let last = rows.min(first + WRITTEN_AT_ONCE - 1);
        conn.query_drop(format!(
            "INSERT INTO issued_coupons \
             (drop_id, slot, coupon_id, user_id, issued_by, slot_limit, person_scope) \
             WITH RECURSIVE n (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last}) \
             SELECT {drop}, i, {id}, CONCAT('l-', i), 'consumer', \
             LEAST({quantity}, {part} * CEIL(i / {part})), 0 FROM n",
            drop = coupon.drop,
            quantity = coupon.quantity,
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
    let api = installation.start("lowering", Role::Api, &[]).await?;
    let begun = Instant::now();
    let lower = json!({"quantity": rows});
    let answer = installation.ops(&api).change(coupon.id, &lower).await;
    let seconds = begun.elapsed().as_secs_f64();
    api.stop().await?;
    let what = format!("lowering a drop with {rows} rows");
    let measurement = Measurement::of(PART, what, seconds, "s").target(FigureTarget::AtMost(10.0));
    answer.context("the quantity was not lowered")?;
    Ok(measurement)
}

/// Creates the history: sealed drops of a coupon with `once_per` coupon, whose users are in Redis's
/// claimants, and old revocations, half of them of another coupon with `once_per` drop.
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
    conn.query_drop(UNCHECKED).await?;
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
    conn.query_drop(WRITE_LIMITS).await?;
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
        let count = (last - first + 1) * each;
        for from in (0..count).step_by(FIELDS as usize) {
            let field = |at: u32| {
                let (drop, slot) = (100 + first + at / each, 1 + at % each);
                (format!("h-{first}-{at}"), format!("{drop}:{slot}"))
            };
            let fields = from..count.min(from + FIELDS);
            let fields: Vec<_> = fields.map(field).collect();
            pipe.hset_multiple(&claimants, &fields).ignore();
        }
        pipe.query_async::<()>(&mut redis).await?;
    }
    for (coupon, drop, from) in [(old.id, 101, 0_i64), (PER_DROP, 1, 1 << 40)] {
        conn.query_drop(format!(
            "INSERT INTO revoked_coupons \
             (id, coupon_id, drop_id, user_id, reason, revoked_by, may_claim_again, again_from, revoked_at, once_per) \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {half}) \
             SELECT {from} + i, {coupon}, {drop}, CONCAT('r-', i), 'x', 'y', 1, \
             '2020-01-02', '2020-01-02', (SELECT once_per FROM coupons WHERE id = {coupon}) FROM n",
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

/// Measures how much the AOF would grow in an hour without a claim, while an API, a consumer and
/// two daemons run. One daemon runs the passes of the default schedule.
async fn quiet(installation: &Installation) -> Result<Measurement> {
    let scheduled = [("RECONCILE_CRON", "*/30 * * * * *")];
    let (passes, other, api) = tokio::try_join!(
        installation.start("scheduled", Role::Reconciler, &scheduled),
        installation.start("other", Role::Reconciler, &[]),
        installation.start("quiet-api", Role::Api, &[]),
    )?;
    // A rewrite would shorten the file.
    let mut redis = installation.redis().await?;
    let mut set = redis::cmd("CONFIG");
    set.arg(&["SET", "auto-aof-rewrite-percentage", "0"]);
    set.query_async::<()>(&mut redis).await?;
    until("no rewrite", async || {
        Ok(persistence(installation, "aof_rewrite_in_progress").await? == 0.0)
    })
    .await?;
    // Waits for the first passes.
    sleep(QUIET).await;
    step(format!("no claim for {QUIET:?}"));
    let read = async || {
        let bytes = persistence(installation, "aof_current_size").await?;
        let changes = persistence(installation, "rdb_changes_since_last_save").await?;
        anyhow::Ok((bytes, changes))
    };
    let (bytes, changes) = read().await?;
    sleep(QUIET).await;
    let now = read().await?;
    for program in [passes, other, api] {
        program.stop().await?;
    }
    let per_hour = (now.0 - bytes) / 1e6 * 3_600.0 / QUIET.as_secs_f64();
    let what = "growth of the AOF without a claim, in an hour";
    let measurement = Measurement::of(PART, what, per_hour, "MB");
    let measurement = measurement.with("bytes", now.0 - bytes);
    let measurement = measurement.with("changes of keys", now.1 - changes);
    Ok(measurement.target(FigureTarget::AtMost(20.0)))
}

/// Reads a number from the section `persistence` of Redis's `INFO`.
async fn persistence(installation: &Installation, name: &str) -> Result<f64> {
    let mut redis = installation.redis().await?;
    let mut info = redis::cmd("INFO");
    let info: String = info.arg("persistence").query_async(&mut redis).await?;
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    let value = lines.find_map(|(found, value)| (found == name).then_some(value));
    Ok(value.context("no AOF")?.trim().parse()?)
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

/// Measures a pass that reopens a coupon whose gate is lost or names another process.
async fn reopened(installation: &Installation, coupon: InstallationCoupon) -> Result<f64> {
    let DropKeys { gate, .. } = keys(installation, coupon);
    let mut redis = installation.redis().await?;
    let lost: Option<String> = redis::cmd("GET").arg(&gate).query_async(&mut redis).await?;
    let begun = Instant::now();
    let id = coupon.id.to_string();
    pass(installation, &["--coupon", &id], "").await?;
    until("the coupon is open", async || {
        let state: Option<String> = redis::cmd("GET").arg(&gate).query_async(&mut redis).await?;
        Ok(state != lost && state.is_some_and(|state| state.ends_with("open")))
    })
    .await?;
    Ok(begun.elapsed().as_secs_f64())
}
