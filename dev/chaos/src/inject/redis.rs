//! Faults in which Redis loses data or cannot write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use firstcome_stack::{ProxyFault, RedisServer};
use firstcome_testkit::{OldCopy, PrefixedKeys};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::effect::Effect;
use crate::fault::FaultyStore;
use crate::replica::{Replica, follow, until_it_follows};
use crate::system::SystemUnderTest;
use crate::wait::{lasting, pause, until};

/// Counts the users in Redis.
pub(super) async fn people(system: &SystemUnderTest) -> Result<u64> {
    let redis = system.redis();
    let mut people = 0;
    for coupon in system.coupons() {
        let users = redis.of_drop(coupon.id, coupon.drop, "users");
        people += match redis.try_command::<u64>(&["ZCARD", &users]).await {
            // The key contains garbage.
            Err(error) if error.code() == Some("WRONGTYPE") => 0,
            people => people?,
        };
    }
    Ok(people)
}

pub(super) fn forgotten(before: u64, after: u64) -> Effect {
    Effect::now(
        after < before,
        format!(
            "{} of {before} admissions forgotten",
            before.saturating_sub(after)
        ),
    )
}

/// Kills Redis and restarts it without the last part of its append-only file.
pub(super) async fn truncate(system: &SystemUnderTest, percent: u64) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Redis).await;
    let before = people(system).await?;
    system.servers.kill(FaultyStore::Redis).await?;
    let file = std::fs::File::options()
        .write(true)
        .open(system.servers.append_only_file()?)?;
    let length = file.metadata()?.len();
    let written = length.saturating_sub(system.written_before());
    file.set_len(length - written * percent / 100)?;
    system.servers.start_again(FaultyStore::Redis).await?;
    Ok(forgotten(before, people(system).await?))
}

/// Flushes Redis without a restart.
pub(super) async fn flush(system: &SystemUnderTest) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Redis).await;
    let before = people(system).await?;
    system.redis().try_command::<()>(&["FLUSHALL"]).await?;
    Ok(forgotten(before, 0))
}

/// Kills Redis and restarts it with an older copy of its data.
pub(super) async fn old_copy(system: &SystemUnderTest, age_ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Redis).await;
    let old = OldCopy::of(&system.servers.redis())?;
    pause(age_ms).await;
    let before = people(system).await?;
    system.servers.kill(FaultyStore::Redis).await?;
    old.put_back(&system.servers.redis())?;
    system.servers.start_again(FaultyStore::Redis).await?;
    Ok(forgotten(before, people(system).await?))
}

/// Starts a replica that stops following the master and is `lag_ms` behind it.
async fn left_behind(system: &SystemUnderTest, lag_ms: u64) -> Result<RedisServer> {
    let ready = system.replica.lock().await.take();
    let Replica { server, link } = if let Some(ready) = ready {
        ready
    } else {
        follow(&system.servers).await?
    };
    link.set(ProxyFault::Cut).await?;
    PrefixedKeys::new(&server.url(), "")
        .try_command::<()>(&["REPLICAOF", "NO", "ONE"])
        .await?;
    pause(lag_ms).await;
    Ok(server)
}

/// Promotes a replica that no longer follows the master.
pub(super) async fn stale_replica(system: &SystemUnderTest, lag_ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Redis).await;
    let server = left_behind(system, lag_ms).await?;
    let master = system.servers.redis();
    let before = people(system).await?;
    system.servers.promote(Arc::new(server)).await?;
    master.kill().await?;
    Ok(forgotten(before, people(system).await?))
}

/// Makes the master take over a replica's older data, and promotes it again in the same process.
pub(super) async fn demote(system: &SystemUnderTest, lag_ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Redis).await;
    let older = left_behind(system, lag_ms).await?;
    let master = system.servers.redis();
    let before = people(system).await?;
    let begun = Instant::now();
    let command = PrefixedKeys::new(&master.url(), "");
    command
        .try_command::<()>(&["REPLICAOF", "127.0.0.1", &older.port().to_string()])
        .await?;
    until_it_follows(&master).await?;
    command
        .try_command::<()>(&["REPLICAOF", "NO", "ONE"])
        .await?;
    let after = people(system).await?;
    Ok(Effect {
        during: begun..Instant::now(),
        ..forgotten(before, after)
    })
}

/// Shifts Redis's clock by `seconds`. It decides when windows open and close.
pub(super) async fn clock(system: &SystemUnderTest, seconds: i64, ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Redis).await;
    let redis = system.redis();
    let time = async || anyhow::Ok(redis.try_command::<(i64, i64)>(&["TIME"]).await?.0);
    let before = time().await?;
    system.servers.redis_clock.set(seconds)?;
    let stepped = time().await? - before;
    let during = lasting(ms).await;
    system.servers.redis_clock.set(0)?;
    Ok(Effect::of(
        during,
        (stepped - seconds).abs() < 5,
        format!("it shifted by {stepped} s"),
    ))
}

/// Prevents Redis's files from growing. With `appendfsync always` Redis exits, because it cannot
/// acknowledge a write that is not on disk.
pub(super) async fn disk_full(system: &SystemUnderTest, ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Redis).await;
    let pid = system
        .servers
        .pid(FaultyStore::Redis)
        .context("Redis does not run")?;
    let length = std::fs::metadata(system.servers.append_only_file()?)?.len();
    files_up_to(pid, Some(length + 100))?;
    let begun = Instant::now();
    let ended = until(Duration::from_millis(ms + 2_000), || has_ended(pid)).await;
    system.servers.kill(FaultyStore::Redis).await?;
    system.servers.start_again(FaultyStore::Redis).await?;
    Ok(Effect::of(
        begun..begun,
        ended,
        if ended {
            "Redis exited"
        } else {
            "nothing was written"
        },
    ))
}

/// Leaves no memory for Redis, so that it refuses new keys.
pub(super) async fn no_memory(system: &SystemUnderTest, ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(FaultyStore::Redis).await;
    let redis = system.redis();
    let before = refused(&redis).await?;
    redis
        .try_command::<()>(&["CONFIG", "SET", "maxmemory", "1"])
        .await?;
    let during = lasting(ms).await;
    let after = refused(&redis).await?;
    redis
        .try_command::<()>(&["CONFIG", "SET", "maxmemory", "0"])
        .await?;
    Ok(Effect::of(
        during,
        after > before,
        format!("{} commands refused", after - before),
    ))
}

/// Counts the OOM errors since Redis started.
async fn refused(redis: &PrefixedKeys) -> Result<u64> {
    let info: String = redis.try_command(&["INFO", "errorstats"]).await?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("errorstat_OOM:count="));
    Ok(line
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0))
}

/// Limits the size of any file that this process writes. `None` removes the limit.
pub(super) fn files_up_to(pid: u32, bytes: Option<u64>) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(pid, Resource::Fsize, limit).context("the limit on file sizes can't be set")?;
    Ok(())
}

/// Whether this child process has exited. It may not have been reaped yet.
pub(super) fn has_ended(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    stat.rsplit(')')
        .next()
        .is_none_or(|rest| rest.trim_start().starts_with(['Z', 'X']))
}
