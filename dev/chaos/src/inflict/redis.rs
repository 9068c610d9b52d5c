//! Redis loses what it knew, or can't write.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use firstcome_stack::{Fault as Proxied, FaultProxy, RedisOptions, RedisServer};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::{Effect, pause, until};
use crate::fault::Store;
use crate::ground::copy;
use crate::stage::Stage;

/// How many people Redis knows in the drops.
async fn people(stage: &Stage) -> Result<u64> {
    let mut conn = stage.ground.redis_connection().await?;
    let mut people = 0;
    for drop in stage.drops() {
        people += redis::cmd("ZCARD").arg(stage.key(*drop, "users")).query_async::<u64>(&mut conn).await?;
    }
    Ok(people)
}

fn forgotten(before: u64, after: u64) -> Effect {
    Effect::of(after < before, format!("{} of {before} admissions forgotten", before.saturating_sub(after)))
}

/// Killed, and back without the last part of what it wrote.
pub(super) async fn truncate(stage: &Stage, percent: u64) -> Result<Effect> {
    let _alone = stage.ground.alone(Store::Redis).await;
    let before = people(stage).await?;
    stage.ground.kill(Store::Redis).await?;
    let file = std::fs::File::options().write(true).open(stage.ground.append_only_file()?)?;
    let length = file.metadata()?.len();
    let written = length.saturating_sub(stage.written_before());
    file.set_len(length - written * percent / 100)?;
    stage.ground.start_again(Store::Redis).await?;
    Ok(forgotten(before, people(stage).await?))
}

/// Emptied in the same process.
pub(super) async fn flush(stage: &Stage) -> Result<Effect> {
    let _alone = stage.ground.alone(Store::Redis).await;
    let before = people(stage).await?;
    let mut conn = stage.ground.redis_connection().await?;
    redis::cmd("FLUSHALL").query_async::<()>(&mut conn).await?;
    Ok(forgotten(before, 0))
}

/// Killed, and back with a copy of an earlier moment.
pub(super) async fn old_copy(stage: &Stage, age_ms: u64) -> Result<Effect> {
    let _alone = stage.ground.alone(Store::Redis).await;
    let folder = stage.ground.redis().data_dir()?.to_owned();
    let kept = tempfile::tempdir()?;
    let old = kept.path().join("data");
    copy(&folder, &old)?;
    pause(age_ms).await;
    let before = people(stage).await?;
    stage.ground.kill(Store::Redis).await?;
    copy(&old, &folder)?;
    stage.ground.start_again(Store::Redis).await?;
    Ok(forgotten(before, people(stage).await?))
}

/// A replica that follows the master through a link of its own.
pub(crate) struct Replica {
    server: RedisServer,
    link: FaultProxy,
    conn: redis::aio::MultiplexedConnection,
}

/// Starts a replica of the master and waits until it has everything.
pub(crate) async fn follow(stage: &Stage) -> Result<Replica> {
    let link = FaultProxy::start(stage.ground.redis().port()).await?;
    let replica = RedisServer::start(RedisOptions { replica_of: Some(link.port()), ..RedisOptions::default() }).await?;
    let client = redis::Client::open(replica.url())?;
    let mut conn = client.get_multiplexed_async_connection().await?;
    let begun = std::time::Instant::now();
    loop {
        let role: redis::Value = redis::cmd("ROLE").query_async(&mut conn).await?;
        if format!("{role:?}").contains("connected") && !format!("{role:?}").contains("connecting") {
            break;
        }
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(30), "the replica never caught up: {role:?}");
        pause(20).await;
    }
    Ok(Replica { server: replica, link, conn })
}

/// A replica that no longer hears of the master takes its place.
pub(super) async fn stale_replica(stage: &Stage, lag_ms: u64) -> Result<Effect> {
    let _alone = stage.ground.alone(Store::Redis).await;
    let ready = stage.replica.lock().await.take();
    let Replica { server, link, mut conn } = if let Some(ready) = ready { ready } else { follow(stage).await? };
    let master = stage.ground.redis();
    link.set(Proxied::Cut).await?;
    pause(lag_ms).await;
    let before = people(stage).await?;
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").query_async::<()>(&mut conn).await?;
    stage.ground.promote(Arc::new(server)).await?;
    master.kill().await?;
    Ok(forgotten(before, people(stage).await?))
}

/// Its files may not grow: with `appendfsync always` Redis ends itself rather than promise what it can't keep.
pub(super) async fn disk_full(stage: &Stage, ms: u64) -> Result<Effect> {
    let _alone = stage.ground.alone(Store::Redis).await;
    let pid = stage.ground.pid(Store::Redis).context("Redis does not run")?;
    let length = std::fs::metadata(stage.ground.append_only_file()?)?.len();
    files_up_to(pid, Some(length + 100))?;
    let ended = until(Duration::from_millis(ms + 2_000), || has_ended(pid)).await;
    stage.ground.kill(Store::Redis).await?;
    stage.ground.start_again(Store::Redis).await?;
    Ok(Effect::of(ended, if ended { "ended itself" } else { "nothing was written" }))
}

/// New keys are refused.
pub(super) async fn no_memory(stage: &Stage, ms: u64) -> Result<Effect> {
    let _alone = stage.ground.alone(Store::Redis).await;
    let mut conn = stage.ground.redis_connection().await?;
    let before = refused(&mut conn).await?;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1).query_async::<()>(&mut conn).await?;
    pause(ms).await;
    let after = refused(&mut conn).await?;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(0).query_async::<()>(&mut conn).await?;
    Ok(Effect::of(after > before, format!("{} commands refused", after - before)))
}

/// Errors of the kind OOM so far.
async fn refused(conn: &mut redis::aio::MultiplexedConnection) -> Result<u64> {
    let info: String = redis::cmd("INFO").arg("errorstats").query_async(conn).await?;
    let line = info.lines().find_map(|line| line.strip_prefix("errorstat_OOM:count="));
    Ok(line.and_then(|number| number.trim().parse().ok()).unwrap_or(0))
}

/// No file of this process may grow beyond so many bytes; `None` takes the limit away.
pub(super) fn files_up_to(pid: u32, bytes: Option<u64>) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(pid, Resource::Fsize, limit).context("the limit on file sizes can't be set")?;
    Ok(())
}

/// Whether this child has ended (it may not have been waited for yet).
pub(super) fn has_ended(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with(['Z', 'X']))
}
