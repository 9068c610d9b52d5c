//! Faults in which MySQL refuses, blocks or cannot write.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use firstcome_testkit::{LOCK_WAITS, MadeCoupon, TABLE_LOCK_WAITS};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use super::effect::Effect;
use super::redis::{files_up_to, has_ended};
use crate::fault::FaultyStore;
use crate::system::{SystemUnderTest, number};
use crate::wait::{lasting, pause, until};

pub(super) async fn read_only(system: &SystemUnderTest, ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Mysql).await;
    let mysql = &system.servers.mysql;
    mysql.query("SET GLOBAL super_read_only = ON").await?;
    let during = lasting(ms).await;
    mysql.query("SET GLOBAL super_read_only = OFF").await?;
    mysql.query("SET GLOBAL read_only = OFF").await?;
    Ok(Effect::of(during, true, "writes were refused"))
}

/// Locks the drop from another client.
pub(super) async fn locks(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    ms: u64,
) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Mysql).await;
    let before = counter(system, "lock_timeouts").await?;
    let mut other = other_client(system).await?;
    // A suspended consumer keeps its locks for as long as it is suspended.
    other
        .query_drop("SET SESSION innodb_lock_wait_timeout = 60")
        .await?;
    other.query_drop("BEGIN").await?;
    other.query_drop(lock_drop(coupon)).await?;
    let during = lasting(ms + 1_500).await;
    let waits = number(system, LOCK_WAITS).await?;
    other.query_drop("ROLLBACK").await?;
    other.disconnect().await?;
    let timeouts = counter(system, "lock_timeouts").await? - before;
    Ok(Effect::of(
        during,
        waits + timeouts > 0,
        format!("{timeouts} lock waits timed out, {waits} waited at the end"),
    ))
}

/// Rows that make a transaction heavier than a batch. If two transactions deadlock, MySQL rolls
/// back the lighter one.
const BALLAST: &str = "INSERT INTO ballast WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT i FROM n";

/// Repeatedly takes the same locks from another client, in the opposite order.
pub(super) async fn deadlocks(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    ms: u64,
) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Mysql).await;
    let before = counter(system, "lock_deadlocks").await?;
    let begun = Instant::now();
    let mut other = other_client(system).await?;
    other
        .query_drop("CREATE TABLE IF NOT EXISTS ballast (id INT PRIMARY KEY)")
        .await?;
    // Writers first take a shared lock on the drop's row and then lock the position of their row.
    // This client takes these locks in the opposite order.
    let rows = format!(
        "SELECT slot FROM issued_coupons WHERE drop_id = {} FOR UPDATE",
        coupon.drop
    );
    while begun.elapsed() < Duration::from_millis(ms + 1_000) {
        other.query_drop("BEGIN").await?;
        let both = async {
            other.query_drop(BALLAST).await?;
            other.query_drop(&rows).await?;
            pause(60).await;
            other.query_drop(lock_drop(coupon)).await
        };
        if let Err(error) = both.await
            && !matches!(error, mysql_async::Error::Server(_))
        {
            return Err(error.into());
        }
        other.query_drop("ROLLBACK").await?;
        pause(20).await;
    }
    let during = begun..Instant::now();
    other.disconnect().await?;
    let met = counter(system, "lock_deadlocks").await? - before;
    Ok(Effect::of(during, met > 0, format!("{met} deadlocks")))
}

/// Takes this lock from another client, which blocks statements.
pub(super) async fn hang(system: &SystemUnderTest, lock: &str, ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Mysql).await;
    let mut other = other_client(system).await?;
    other.query_drop(lock).await?;
    let during = lasting(ms).await;
    let waiting = number(system, TABLE_LOCK_WAITS).await;
    other.query_drop("UNLOCK TABLES").await?;
    other.disconnect().await?;
    let waiting = waiting?;
    Ok(Effect::of(
        during,
        waiting > 0,
        format!("{waiting} statements waited at the end"),
    ))
}

/// Prevents MySQL's files from growing. MySQL exits when it cannot write its log, and is restarted.
pub(super) async fn disk_full(system: &SystemUnderTest, ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Mysql).await;
    let pid = system
        .servers
        .pid(FaultyStore::Mysql)
        .context("MySQL does not run")?;
    let begun = Instant::now();
    files_up_to(pid, Some(1))?;
    let ended = until(Duration::from_millis(ms + 2_000), || has_ended(pid)).await;
    let during = begun..Instant::now();
    system.servers.kill(FaultyStore::Mysql).await?;
    system.servers.start_again(FaultyStore::Mysql).await?;
    Ok(Effect::of(
        during,
        true,
        if ended {
            "MySQL exited"
        } else {
            "writes failed"
        },
    ))
}

fn lock_drop(coupon: &MadeCoupon) -> String {
    format!(
        "SELECT drop_id FROM slot_limits WHERE drop_id = {} FOR UPDATE",
        coupon.drop
    )
}

async fn other_client(system: &SystemUnderTest) -> Result<Conn> {
    let conn = Conn::from_url(system.world.sql.url());
    tokio::time::timeout(Duration::from_secs(5), conn)
        .await?
        .map_err(Into::into)
}

/// Reads a counter of InnoDB.
async fn counter(system: &SystemUnderTest, name: &str) -> Result<u64> {
    number(
        system,
        &format!("SELECT `COUNT` FROM information_schema.innodb_metrics WHERE name = '{name}'"),
    )
    .await
}
