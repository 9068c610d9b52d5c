//! Costs of passes over large data. `cargo xtask scale` runs them at full size.
#![allow(clippy::cast_precision_loss)] // counts and milliseconds

use std::time::{Duration, Instant};

use firstcome_load::measure::memory_kb;
use firstcome_reconciler::report::{Run, Status};
use firstcome_testkit::scale::{measured, measured_each};
use firstcome_testkit::{MadeCoupon, Process, World, coupon_body, eventually};

use super::catalogue::fill;
use super::sizes::insert;

/// Longest wait for one pass at full size.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// Slots written or read in one statement.
const AT_ONCE: u32 = 5_000;

/// Creates a sold-out coupon directly in both stores, or only in Redis.
pub(super) async fn sold_out(world: &World, quantity: u32, with_rows: bool) -> MadeCoupon {
    let api = world.serve().await;
    let mut body = coupon_body("Large", quantity, 0);
    body["once_per"] = "drop".into();
    let coupon = api.create_coupon(&body).await;
    let id = coupon.id;
    let drop = coupon.drop;
    let users = world.redis.of_drop(id, drop, "users");
    for from in (1..=quantity).step_by(100_000) {
        let to = quantity.min(from + 99_999);
        let script =
            "for slot = ARGV[1], ARGV[2] do redis.call('ZADD', KEYS[1], slot, 'u-' .. slot) end";
        for first in (from..=to).step_by(AT_ONCE as usize) {
            let last = to.min(first + AT_ONCE - 1);
            world
                .redis
                .command::<()>(&[
                    "EVAL",
                    script,
                    "1",
                    &users,
                    &first.to_string(),
                    &last.to_string(),
                ])
                .await;
        }
        if !with_rows {
            continue;
        }
        let limit = format!(
            "SELECT MIN(slot_limit) FROM slot_limits WHERE drop_id = {drop} AND slot_limit >= {to}"
        );
        let limit = world.sql.number(&limit).await;
        let columns = "INSERT INTO issued_coupons (drop_id, slot, coupon_id, user_id, issued_by, slot_limit, person_scope)";
        let below = from - 1;
        insert(
            world,
            to - below,
            columns,
            &format!(
                "{drop}, i + {below}, {id}, CONCAT('u-', i + {below}), 'consumer', {limit}, {drop}"
            ),
        )
        .await;
    }
    world
        .redis
        .command::<()>(&[
            "SET",
            &world.redis.of_drop(id, drop, "count"),
            &quantity.to_string(),
        ])
        .await;
    coupon
}

/// Runs a pass in a separate process. Returns the run and the peak memory in MB.
pub(super) async fn pass(world: &World, args: &[&str]) -> (Run, f64) {
    let args: Vec<_> = ["once", "--json"]
        .into_iter()
        .chain(args.iter().copied())
        .collect();
    let process = world.start("firstcome-reconciler", &args, &[]);
    let mut peak = 0.0_f64;
    eventually("the pass ends", PATIENCE, async || {
        peak = peak.max(most_memory(&process).unwrap_or(0.0));
        process.status().is_some()
    })
    .await;
    let run = serde_json::from_str(&process.all_stdout().await)
        .unwrap_or_else(|e| panic!("{e}: {}", process.log()));
    (run, peak)
}

/// Returns the peak memory of a running process in MB, or `None` once it has ended.
pub(super) fn most_memory(process: &Process) -> Option<f64> {
    memory_kb(process.pid(), "VmHWM")
        .ok()
        .map(|kilobytes| kilobytes as f64 / 1_024.0)
}

pub(super) fn seconds(run: &Run) -> f64 {
    (run.finished_at.expect("the pass has ended") - run.started_at).as_seconds_f64()
}

/// Reads every admission and every row of a drop without comparing them.
async fn scan(world: &World, coupon: &MadeCoupon, quantity: u32) -> f64 {
    let users = world.redis.of_drop(coupon.id, coupon.drop, "users");
    let began = Instant::now();
    for from in (1..=quantity).step_by(AT_ONCE as usize) {
        let to = from + AT_ONCE - 1;
        let page: Vec<(String, f64)> = world
            .redis
            .command(&[
                "ZRANGEBYSCORE",
                &users,
                &from.to_string(),
                &to.to_string(),
                "WITHSCORES",
            ])
            .await;
        let rows = format!(
            "SELECT slot, user_id, claimed_at FROM issued_coupons WHERE drop_id = {} AND slot BETWEEN {from} AND {to} ORDER BY slot",
            coupon.drop
        );
        assert_eq!(page.len(), world.sql.query(&rows).await.len());
    }
    began.elapsed().as_secs_f64()
}

#[tokio::test]
async fn a_pass_over_a_large_drop_costs_little_more_than_a_scan() {
    let figures = [
        ("one drop of 10,000,000: clean pass ÷ bare scan", "≤ 1.5"),
        (
            "one drop of 10,000,000: memory of a clean pass over that of an empty one",
            "≤ 50 MB",
        ),
        (
            "the same, lost by Redis: memory of the pass that makes it anew over that of an empty one",
            "≤ 50 MB",
        ),
    ];
    let sizes = [20_000, 10_000_000];
    let [_, memory, rebuilding] = measured_each(figures, sizes, async |quantity| {
        let world = World::new("large").await;
        world.open().await;
        let (_, empty) = pass(&world, &[]).await;
        let coupon = sold_out(&world, quantity, true).await;
        let (run, peak) = pass(&world, &[]).await;
        assert_eq!(
            (run.status, run.drops[0].examined.rows),
            (Status::Clean, u64::from(quantity)),
            "{run:#?}"
        );
        let memory = peak - empty;
        let ratio = seconds(&run) / scan(&world, &coupon, quantity).await;

        let key = |name| world.redis.of_drop(coupon.id, coupon.drop, name);
        world
            .redis
            .command::<()>(&[
                "DEL",
                &key("meta"),
                &key("users"),
                &key("count"),
                &key("times"),
            ])
            .await;
        let (run, peak) = pass(&world, &[]).await;
        assert!(
            run.status == Status::Repaired && run.drops[0].exact,
            "{run:#?}"
        );
        assert_eq!(
            world.redis.command::<u32>(&["ZCARD", &key("users")]).await,
            quantity
        );
        [ratio, memory, peak - empty]
    })
    .await;
    let most = memory.max(rebuilding);
    assert!(most < 100.0, "{memory} and {rebuilding} MB");
}

#[tokio::test]
async fn the_cost_of_a_pass_depends_on_open_drops_only() {
    let what = "100,000 coupons (1,000 open), 1,000,000 sealed drops: a pass";
    let took = measured(what, [2_000, 100_000], "≤ 3 s", pass_beside_what_is_over).await;
    assert!(took < 30.0, "{took} s");
}

/// Runs a pass while one coupon in a hundred is open and has ten rows. Each coupon has ten sealed
/// drops.
async fn pass_beside_what_is_over(coupons: u32) -> f64 {
    let world = World::new("over").await;
    world.open().await;
    fill(&world, coupons).await;
    world.sql.query("INSERT INTO issued_coupons (drop_id, slot, coupon_id, user_id, issued_by, slot_limit, person_scope) SELECT d.id, s.slot, d.coupon_id, CONCAT('u-', s.slot), 'consumer', l.slot_limit, l.person_scope FROM drops d JOIN slot_limits l ON l.drop_id = d.id JOIN (WITH RECURSIVE n (slot) AS (SELECT 1 UNION ALL SELECT slot + 1 FROM n WHERE slot < 10) SELECT slot FROM n) s WHERE d.sealed_at IS NULL").await;
    let (loading, _) = pass(&world, &[]).await;
    assert_eq!(
        (loading.status, &loading.error),
        (Status::Repaired, &None),
        "Redis did not have them"
    );
    let (run, _) = pass(&world, &[]).await;
    assert_eq!(
        (run.status, run.drops.len()),
        (Status::Clean, coupons as usize / 100)
    );
    seconds(&run)
}
