//! The least work on the stores that has the same result as the product.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use firstcome_load::installation::{Installation, InstallationCoupon};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::codes::code_with_secret;
use firstcome_shared::redis::keys::DropKeys;
use mysql_async::prelude::Queryable as _;

/// Number of rows per statement.
const ROWS: u32 = 1_000;

/// Number of slots per read: the default of the reconciler.
const PAGE: u32 = 5_000;

/// Writes the rows of slots `1..=to` directly into the product's table, with multi-row statements
/// that run one after the other and are each durable before the next. Returns the duration.
pub async fn insert_rows(
    installation: &Installation,
    coupon: InstallationCoupon,
    to: u32,
) -> Result<Duration> {
    let mut conn = installation.mysql().await?;
    let sql = "SELECT slot_limit FROM slot_limits WHERE drop_id = ? ORDER BY slot_limit";
    let limits: Vec<u32> = conn.exec(sql, (coupon.drop,)).await?;
    let begun = Instant::now();
    for first in (1..=to).step_by(ROWS as usize) {
        let slots = first..=to.min(first + ROWS - 1);
        let values = slots.map(|slot| {
            let (drop, id, user) = (coupon.drop, coupon.id, person(slot));
            let code = code_with_secret(DropId(drop), slot, rand::random());
            let limit = limits.iter().find(|limit| **limit >= slot).copied().unwrap_or(0);
            format!(
                "({drop},{slot},{id},'{user}','{code}',UTC_TIMESTAMP(3),UTC_TIMESTAMP(3),'consumer',{limit},0)"
            )
        });
        let values = values.collect::<Vec<_>>().join(",");
        let columns = "drop_id, slot, coupon_id, user_id, code, claimed_at, issued_at, issued_by, slot_limit, person_scope";
        conn.query_drop(format!(
            "INSERT INTO issued_coupons ({columns}) VALUES {values}"
        ))
        .await?;
    }
    let took = begun.elapsed();
    conn.disconnect().await?;
    Ok(took)
}

/// Returns the ID of the made-up user on a slot.
fn person(slot: u32) -> String {
    format!("q-{slot:07}")
}

fn keys(installation: &Installation, coupon: InstallationCoupon) -> DropKeys {
    let prefix = installation.setting("REDIS_KEY_PREFIX");
    DropKeys::new(&prefix, CouponId(coupon.id), DropId(coupon.drop))
}

/// Writes admissions of slots 1..=`to` directly into Redis, as if the script had made them two
/// minutes ago.
pub async fn admit(installation: &Installation, coupon: InstallationCoupon, to: u32) -> Result<()> {
    let mut conn = installation.redis().await?;
    let keys = keys(installation, coupon);
    let long_ago = chrono::Utc::now().timestamp_millis() - 120_000;
    for first in (1..=to).step_by(ROWS as usize) {
        let mut users = redis::cmd("ZADD");
        let mut times = redis::cmd("HSET");
        let mut claimants = redis::cmd("HSET");
        users.arg(&keys.users);
        times.arg(&keys.times);
        claimants.arg(&keys.claimants);
        for slot in first..=to.min(first + ROWS - 1) {
            let user = person(slot);
            users.arg(slot).arg(&user);
            times.arg(slot).arg(long_ago);
            claimants.arg(user).arg(format!("{}:{slot}", coupon.drop));
        }
        let mut all = redis::pipe();
        all.add_command(users)
            .add_command(times)
            .add_command(claimants);
        all.query_async::<()>(&mut conn).await?;
    }
    let mut count = redis::cmd("SET");
    count.arg(&keys.count).arg(to);
    Ok(count.query_async(&mut conn).await?)
}

/// Reads every admission and every row of a drop without comparing them. Returns the duration in
/// seconds.
pub async fn scan(installation: &Installation, coupon: InstallationCoupon) -> Result<f64> {
    let mut redis = installation.redis().await?;
    let mut mysql = installation.mysql().await?;
    let keys = keys(installation, coupon);
    let sql = "SELECT slot, user_id FROM issued_coupons WHERE drop_id = ? AND slot BETWEEN ? AND ? ORDER BY slot";
    let begun = Instant::now();
    for first in (1..=coupon.quantity).step_by(PAGE as usize) {
        let last = first + PAGE - 1;
        let mut page = redis::cmd("ZRANGEBYSCORE");
        page.arg(&keys.users).arg(first).arg(last).arg("WITHSCORES");
        let users: Vec<(String, u32)> = page.query_async(&mut redis).await?;
        let rows: Vec<(u32, String)> = mysql.exec(sql, (coupon.drop, first, last)).await?;
        ensure!(
            users.len() == rows.len(),
            "the stores differ, but a scan needs a clean drop"
        );
    }
    let took = begun.elapsed();
    mysql.disconnect().await?;
    Ok(took.as_secs_f64())
}
