//! Faults in which Redis loses data, cannot write, or has a wrong clock. (Edits of single members
//! and fields are out of scope: docs/decisions/0003-admission-gate.md.)

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use chrono::Utc;
use firstcome_harness::{MadeCoupon, OldCopy, PrefixedKeys};
use firstcome_stack::{ProxyFault, RedisServer};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::effect::Effect;
use crate::fault::DROP_KEYS;
use crate::fault::FaultyStore::Redis;
use crate::servers::{Replica, until_it_follows};
use crate::system::SystemUnderTest;
use crate::wait::{lasting, pause, until};

/// Returns the key of a drop or its coupon.
pub(super) fn key_of(redis: &PrefixedKeys, coupon: &MadeCoupon, key: &str) -> String {
    if DROP_KEYS.contains(&key) {
        redis.of_drop(coupon.id, coupon.drop, key)
    } else {
        redis.of_coupon(coupon.id, key)
    }
}

/// Keys with their fields and values, or members and scores.
type Remembered = HashSet<(String, String, String)>;

/// Returns the admissions and revocations in Redis.
async fn remembered(system: &SystemUnderTest) -> Result<Remembered> {
    let redis = system.redis();
    let mut all = Remembered::new();
    for coupon in system.drops() {
        let key = |key| key_of(&redis, coupon, key);
        let [users, claimants, revoked] = ["users", "claimants", "revoked"].map(key);
        for words in [
            &["ZRANGE", &users, "0", "-1", "WITHSCORES"][..],
            &["HGETALL", &claimants],
            &["HGETALL", &revoked],
        ] {
            let pairs: Vec<(String, String)> = match redis.try_command(words).await {
                // The key contains garbage.
                Err(error) if error.code() == Some("WRONGTYPE") => Vec::new(),
                pairs => pairs?,
            };
            let key = words[1];
            all.extend(
                pairs
                    .into_iter()
                    .map(|(name, of)| (key.to_owned(), name, of)),
            );
        }
    }
    Ok(all)
}

async fn forgotten(system: &SystemUnderTest, before: Remembered) -> Result<Effect> {
    let after = remembered(system).await?;
    let lost = before.difference(&after).count();
    let note = format!("{lost} of {} entries forgotten", before.len());
    Ok(Effect::now(lost > 0, note))
}

/// Kills Redis and restarts it without the last part of its append-only file.
pub(super) async fn truncate(system: &SystemUnderTest, percent: u64) -> Result<Effect> {
    let _alone = system.servers.alone(Redis).await;
    let before = remembered(system).await?;
    system.servers.kill(Redis).await?;
    let path = system.servers.append_only_file()?;
    let file = std::fs::File::options().write(true).open(path)?;
    let length = file.metadata()?.len();
    let written = length.saturating_sub(system.written_before);
    file.set_len(length - written * percent / 100)?;
    system.servers.start_again(Redis).await?;
    forgotten(system, before).await
}

/// Flushes Redis without a restart.
pub(super) async fn flush(system: &SystemUnderTest) -> Result<Effect> {
    let _alone = system.servers.alone(Redis).await;
    let before = remembered(system).await?;
    system.redis().try_command::<()>(&["FLUSHALL"]).await?;
    let note = format!("{} entries", before.len());
    Ok(Effect::now(!before.is_empty(), note))
}

/// Kills Redis and restarts it with an older copy of its data.
pub(super) async fn old_copy(system: &SystemUnderTest, age_ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(Redis).await;
    let redis = system.servers.redis();
    // Suspended, because Redis renames and deletes files, for example when a replica synchronizes.
    redis.freeze().await?;
    let old = OldCopy::of(redis.data_dir());
    redis.thaw().await?;
    let old = old?;
    pause(age_ms).await;
    let before = remembered(system).await?;
    system.servers.kill(Redis).await?;
    old.put_back(system.servers.redis().data_dir())?;
    system.servers.start_again(Redis).await?;
    forgotten(system, before).await
}

/// Cuts a replica off from the master, and waits until it is `lag_ms` behind. Starts a replica if
/// none is ready.
async fn left_behind(system: &SystemUnderTest, lag_ms: u64) -> Result<RedisServer> {
    let ready = system.replica.lock().await.take();
    let Replica { server, link } = match ready {
        Some(ready) => ready,
        None => system.servers.follow().await?,
    };
    link.set(ProxyFault::Cut).await?;
    let replica = PrefixedKeys::new(&server.url(), "");
    let alone = ["REPLICAOF", "NO", "ONE"];
    replica.try_command::<()>(&alone).await?;
    pause(lag_ms).await;
    Ok(server)
}

/// Promotes a replica that no longer follows the master.
pub(super) async fn stale_replica(system: &SystemUnderTest, lag_ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(Redis).await;
    let server = left_behind(system, lag_ms).await?;
    let master = system.servers.redis();
    let before = remembered(system).await?;
    system.servers.promote(Arc::new(server)).await?;
    master.kill().await?;
    forgotten(system, before).await
}

/// Makes the master take over a replica's older data, and promotes it again in the same process.
pub(super) async fn demote(system: &SystemUnderTest, lag_ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(Redis).await;
    let older = left_behind(system, lag_ms).await?;
    let master = system.servers.redis();
    let before = remembered(system).await?;
    let begun = Instant::now();
    let command = PrefixedKeys::new(&master.url(), "");
    let follow = ["REPLICAOF", "127.0.0.1", &older.port().to_string()];
    command.try_command::<()>(&follow).await?;
    until_it_follows(&master).await?;
    let alone = ["REPLICAOF", "NO", "ONE"];
    command.try_command::<()>(&alone).await?;
    let during = begun..Instant::now();
    let effect = forgotten(system, before).await?;
    Ok(Effect { during, ..effect })
}

/// Shifts Redis's clock. It decides when windows open and close, and when leases end.
pub(super) async fn clock(system: &SystemUnderTest, shift_ms: i64, ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(Redis).await;
    let redis = system.redis();
    let ahead = async || redis.now_ms().await - Utc::now().timestamp_millis();
    let before = ahead().await;
    let begun = Instant::now();
    system.servers.redis_clock.shift_ms(shift_ms)?;
    // On a busy machine, a reading may be late.
    let mut stepped = ahead().await - before;
    let took = |stepped: i64| (stepped - shift_ms).abs() < shift_ms.abs() / 2;
    for _ in 0..10 {
        if took(stepped) {
            break;
        }
        stepped = ahead().await - before;
    }
    let during = begun..lasting(ms).await.end;
    system.servers.redis_clock.shift_ms(0)?;
    let note = format!("it shifted by {stepped} ms");
    Ok(Effect::lasting(during, took(stepped), note))
}

/// Prevents Redis's files from growing. With `appendfsync always` Redis exits, because it cannot
/// acknowledge a write that is not on disk.
pub(super) async fn disk_full(system: &SystemUnderTest, ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(Redis).await;
    let pid = system.servers.pid(Redis)?;
    let length = std::fs::metadata(system.servers.append_only_file()?)?.len();
    files_up_to(pid, length + 100)?;
    let ended = until(Duration::from_millis(ms + 2_000), || has_ended(pid)).await;
    system.servers.kill(Redis).await?;
    system.servers.start_again(Redis).await?;
    Ok(Effect::now(ended, format!("Redis exited: {ended}")))
}

/// Leaves no memory for Redis, so that it refuses commands that need memory.
pub(super) async fn no_memory(system: &SystemUnderTest, ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(Redis).await;
    let redis = system.redis();
    let limit = async |bytes| {
        redis
            .try_command::<()>(&["CONFIG", "SET", "maxmemory", bytes])
            .await
    };
    let before = refused(&redis, "OOM").await?;
    limit("1").await?;
    let during = lasting(ms).await;
    let refused = refused(&redis, "OOM").await? - before;
    limit("0").await?;
    let note = format!("{refused} commands refused");
    Ok(Effect::lasting(during, refused > 0, note))
}

/// Makes a snapshot fail, as a full or read-only disk does, so that Redis refuses every write until
/// an operator stops the snapshots.
pub(super) async fn snapshot_fails(system: &SystemUnderTest, ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(Redis).await;
    let redis = system.redis();
    let save = async |rule| {
        let words = ["CONFIG", "SET", "save", rule];
        redis.try_command::<()>(&words).await
    };
    let before = refused(&redis, "MISCONF").await?;
    // Redis cannot replace a folder that has an entry.
    let block = system.servers.redis().data_dir().join("dump.rdb");
    // A server that another fault has shut down or promoted may have left a snapshot.
    if block.is_file() {
        std::fs::remove_file(&block)?;
    }
    std::fs::create_dir_all(block.join("x"))?;
    save("3600 1").await?;
    redis.try_command::<()>(&["BGSAVE"]).await?;
    let during = lasting(ms).await;
    save("").await?;
    std::fs::remove_dir_all(block)?;
    let refused = refused(&redis, "MISCONF").await? - before;
    let note = format!("{refused} commands refused");
    Ok(Effect::lasting(during, refused > 0, note))
}

/// Counts the errors with this code since Redis started.
async fn refused(redis: &PrefixedKeys, code: &str) -> Result<u64> {
    let info: String = redis.try_command(&["INFO", "errorstats"]).await?;
    let begin = format!("errorstat_{code}:count=");
    let mut lines = info.lines();
    let number = lines.find_map(|line| line.strip_prefix(&begin));
    Ok(number.and_then(|it| it.trim().parse().ok()).unwrap_or(0))
}

pub(super) async fn lose_keys(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    keys: &[&str],
) -> Result<Effect> {
    let _alone = system.servers.alone(Redis).await;
    let redis = system.redis();
    let keys = keys.iter().map(|key| key_of(&redis, coupon, key));
    let words: Vec<String> = std::iter::once("DEL".to_owned()).chain(keys).collect();
    let deleted: u64 = redis.try_command(&words).await?;
    Ok(Effect::now(deleted > 0, format!("{deleted} keys deleted")))
}

/// Copies the coupon's keys with `DUMP` and restores them with `RESTORE` after `age_ms`.
pub(super) async fn restore_keys(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    age_ms: u64,
) -> Result<Effect> {
    let _alone = system.servers.alone(Redis).await;
    let redis = system.redis();
    let of_coupon = key_of(&redis, coupon, "");
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    for key in redis.names().await {
        if key.starts_with(&of_coupon) {
            // A key that was deleted meanwhile has no dump.
            let dump: Option<Vec<u8>> = redis.try_command(&["DUMP", &key]).await?;
            kept.extend(dump.map(|dump| (key, dump)));
        }
    }
    pause(age_ms).await;
    let mut newer = 0;
    for (key, dump) in &kept {
        let now: Option<Vec<u8>> = redis.try_command(&["DUMP", key]).await?;
        newer += u32::from(now.as_ref() != Some(dump));
    }
    let begun = Instant::now();
    for (key, dump) in kept {
        let words: [&[u8]; 5] = [b"RESTORE", key.as_bytes(), b"0", &dump, b"REPLACE"];
        redis.try_command::<()>(&words).await?;
    }
    let during = begun..Instant::now();
    let note = format!("{newer} newer keys replaced");
    Ok(Effect::lasting(during, newer > 0, note))
}

/// Limits the size of any file that the process writes.
pub(super) fn files_up_to(pid: u32, bytes: u64) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let limit = Rlimit {
        current: Some(bytes),
        maximum: None,
    };
    prlimit(pid, Resource::Fsize, limit).context("the limit on file sizes can't be set")?;
    Ok(())
}

/// Whether this child process has exited. It may not have been reaped yet.
pub(super) fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    let state = stat
        .ok()
        .and_then(|stat| Some(stat.rsplit(')').next()?.trim().to_owned()));
    state.is_none_or(|state| state.starts_with(['Z', 'X']))
}
