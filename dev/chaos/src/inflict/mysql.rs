//! MySQL refuses, waits or can't write.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use super::redis::{files_up_to, has_ended};
use super::{Effect, pause, until};
use crate::fault::Store;
use crate::stage::Stage;

pub(super) async fn read_only(stage: &Stage, ms: u64) -> Result<Effect> {
    let _alone = stage.ground.alone(Store::Mysql).await;
    let mysql = &stage.ground.mysql;
    mysql.query("SET GLOBAL super_read_only = ON").await?;
    pause(ms).await;
    mysql.query("SET GLOBAL super_read_only = OFF").await?;
    mysql.query("SET GLOBAL read_only = OFF").await?;
    Ok(Effect::of(true, "no writes taken"))
}

/// A stranger locks the drop and its rows.
pub(super) async fn locks(stage: &Stage, ms: u64) -> Result<Effect> {
    let _alone = stage.ground.alone(Store::Mysql).await;
    let before = counter(stage, "lock_timeouts").await?;
    let mut stranger = stranger(stage).await?;
    stranger.query_drop("BEGIN").await?;
    stranger.query_drop(format!("SELECT drop_id FROM slot_limits WHERE drop_id = {} FOR UPDATE", drop(stage))).await?;
    pause(ms + 1_500).await;
    let held = waiting(stage).await?;
    stranger.query_drop("ROLLBACK").await?;
    stranger.disconnect().await?;
    let timeouts = counter(stage, "lock_timeouts").await? - before;
    Ok(Effect::of(held + timeouts > 0, format!("{timeouts} lock waits timed out, {held} waited at the end")))
}

/// A stranger takes the same locks in the other order, again and again.
pub(super) async fn deadlocks(stage: &Stage, ms: u64) -> Result<Effect> {
    let _alone = stage.ground.alone(Store::Mysql).await;
    let before = counter(stage, "lock_deadlocks").await?;
    let (drop, begun) = (drop(stage), Instant::now());
    let mut stranger = stranger(stage).await?;
    while begun.elapsed() < Duration::from_millis(ms + 1_000) {
        stranger.query_drop("BEGIN").await?;
        // Writers take a share of the drop's row first and then their place among its rows; this is the other way round.
        let rows = format!("SELECT slot FROM issued_coupons WHERE drop_id = {drop} FOR UPDATE");
        let both = async {
            stranger.query_drop(rows).await?;
            pause(60).await;
            stranger.query_drop(format!("SELECT drop_id FROM slot_limits WHERE drop_id = {drop} FOR UPDATE")).await
        };
        if let Err(error) = both.await
            && !matches!(error, mysql_async::Error::Server(_))
        {
            return Err(error.into());
        }
        stranger.query_drop("ROLLBACK").await?;
        pause(20).await;
    }
    stranger.disconnect().await?;
    let met = counter(stage, "lock_deadlocks").await? - before;
    Ok(Effect::of(met > 0, format!("{met} deadlocks")))
}

/// Its files may not grow: it ends itself when it can't write its log, and is started again.
pub(super) async fn disk_full(stage: &Stage, ms: u64) -> Result<Effect> {
    let _alone = stage.ground.alone(Store::Mysql).await;
    let pid = stage.ground.pid(Store::Mysql).context("MySQL does not run")?;
    files_up_to(pid, Some(1))?;
    let ended = until(Duration::from_millis(ms + 2_000), || has_ended(pid)).await;
    stage.ground.kill(Store::Mysql).await?;
    stage.ground.start_again(Store::Mysql).await?;
    Ok(Effect::of(true, if ended { "ended itself" } else { "writes failed" }))
}

fn drop(stage: &Stage) -> i64 {
    stage.drops().first().map_or(0, |drop| drop.id)
}

async fn stranger(stage: &Stage) -> Result<Conn> {
    let url = stage.ground.mysql.database_url(stage.database());
    tokio::time::timeout(Duration::from_secs(5), Conn::from_url(url)).await?.map_err(Into::into)
}

/// How many transactions wait for a lock now.
async fn waiting(stage: &Stage) -> Result<u64> {
    first(stage, "SELECT COUNT(*) FROM performance_schema.data_lock_waits").await
}

/// A counter of InnoDB.
async fn counter(stage: &Stage, name: &str) -> Result<u64> {
    first(stage, &format!("SELECT `COUNT` FROM information_schema.innodb_metrics WHERE name = '{name}'")).await
}

async fn first(stage: &Stage, sql: &str) -> Result<u64> {
    let rows = stage.ground.mysql.query(sql).await?;
    rows.first().and_then(|row| row.first()).and_then(|text| text.parse().ok()).context("MySQL gave no number")
}
