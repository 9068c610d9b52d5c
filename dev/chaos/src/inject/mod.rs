//! Injects a fault, undoes it after its duration, and reports whether it had an effect.

mod garbage;
mod mysql;
mod redis;

use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use firstcome_harness::MadeCoupon;
use firstcome_shared::crash::Point;
use firstcome_stack::{Behaviour, ProxyFault};
use serde::Serialize;

use crate::effect::Effect;
use crate::fault::{Fault, FaultyStore, WireFault};
use crate::operators;
use crate::schedule::Timed;
use crate::supervisor::Supervised;
use crate::system::SystemUnderTest;
use crate::wait::{lasting, pause, until};

pub(crate) use garbage::remove_what_came_back;

/// A fault that was injected.
#[derive(Debug, Clone, Serialize)]
pub struct TriedFault {
    pub name: String,
    /// The crash point at which a process should die.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point: Option<&'static str>,
    /// The fault with the milliseconds of the history at which it was due, began and ended.
    pub fault: String,
    /// Whether the fault had an effect.
    pub took: bool,
    pub note: String,
    /// The period in which the fault was active.
    #[serde(skip)]
    pub during: Range<Instant>,
}

/// Injects a fault at its time, and adds what it did to `faults.txt`, which stays if the harness
/// fails. The history began at `begun`.
pub(crate) async fn at_its_time(
    system: &SystemUnderTest,
    timed: &Timed,
    begun: Instant,
    folder: &Path,
) -> Result<TriedFault> {
    pause(timed.at_ms).await;
    let coupon = &system.drops()[timed.coupon % system.drops().len()];
    let effect = inject(system, &timed.fault, coupon).await;
    let Effect { took, note, during } = effect.with_context(|| timed.fault.to_string())?;
    let ms = |at: Instant| at.duration_since(begun).as_millis();
    let [from, to] = [during.start, during.end].map(ms);
    let fault = format!("{:>5} ms ({from} to {to})  {}", timed.at_ms, timed.fault);
    let file = folder.join("faults.txt");
    let mut file = File::options().append(true).create(true).open(file)?;
    writeln!(file, "{fault}  {note}")?;
    Ok(TriedFault {
        name: timed.fault.name(),
        point: timed.fault.crash_point().map(Point::name),
        fault,
        took,
        note,
        during,
    })
}

/// Injects the fault and undoes it. A fault that affects one coupon affects `coupon`.
#[allow(clippy::too_many_lines, reason = "one arm per fault")]
async fn inject(system: &SystemUnderTest, fault: &Fault, coupon: &MadeCoupon) -> Result<Effect> {
    let servers = &system.servers;
    match fault {
        Fault::Kill { role, number, .. }
        | Fault::Freeze { role, number, .. }
        | Fault::Crash { role, number, .. }
        | Fault::Clock { role, number, .. } => {
            let process = system.supervisor.process(*role, *number);
            let _alone = process.busy.lock().await;
            on_process(process, fault).await
        }
        Fault::ColdStart { store, ms } => cold_start(system, *store, *ms).await,
        Fault::KillServer { store, ms } => {
            let _alone = servers.alone(*store).await;
            servers.kill(*store).await?;
            let during = lasting(*ms).await;
            servers.start_again(*store).await?;
            Ok(Effect::lasting(during, true, "killed and restarted"))
        }
        Fault::FreezeServer { store, ms } => {
            let _alone = servers.alone(*store).await;
            servers.set_frozen(*store, true).await?;
            let during = lasting(*ms).await;
            servers.set_frozen(*store, false).await?;
            Ok(Effect::lasting(during, true, "suspended"))
        }
        Fault::Wire { store, wire, ms } => disturb(system, *store, *wire, *ms).await,
        Fault::Silent { store, process, ms } => silence(system, *store, *process, *ms).await,
        Fault::TruncatedAof { percent } => redis::truncate(system, *percent).await,
        Fault::Flush => redis::flush(system).await,
        Fault::OldCopy { age_ms } => redis::old_copy(system, *age_ms).await,
        Fault::StaleReplica { lag_ms } => redis::stale_replica(system, *lag_ms).await,
        Fault::Demotion { lag_ms } => redis::demote(system, *lag_ms).await,
        Fault::RedisClock { shift_ms, ms } => redis::clock(system, *shift_ms, *ms).await,
        Fault::RedisDiskFull { ms } => redis::disk_full(system, *ms).await,
        Fault::RedisMemory { ms } => redis::no_memory(system, *ms).await,
        Fault::RedisSnapshotFails { ms } => redis::snapshot_fails(system, *ms).await,
        Fault::KeyLost { key } => redis::lose_keys(system, coupon, &[key]).await,
        Fault::DropKeysLost => redis::lose_keys(system, coupon, &crate::fault::DROP_KEYS).await,
        Fault::WrongType { key, ms } => garbage::wrong_type(system, coupon, key, *ms).await,
        Fault::RestoredKeys { age_ms } => redis::restore_keys(system, coupon, *age_ms).await,
        Fault::MysqlReadOnly { ms } => mysql::read_only(system, *ms).await,
        Fault::MysqlLocks { ms } => mysql::locks(system, coupon, *ms).await,
        Fault::MysqlDeadlocks { ms } => mysql::deadlocks(system, coupon, *ms).await,
        Fault::MysqlHangs { writes, ms } => mysql::hang(system, *writes, *ms).await,
        Fault::MysqlDiskFull { ms } => mysql::disk_full(system, *ms).await,
        Fault::OldRows { age_ms } => mysql::restore_rows(system, *age_ms).await,
        Fault::OldDatabase { age_ms } => mysql::old_database(system, *age_ms).await,
        // While another fault affects MySQL, the statement may fail: then this fault has no effect.
        Fault::TableLost { table } => Ok(mysql::lose_table(system, table).await),
        Fault::PositionsMoved { by } => {
            if *by > 0 {
                system.messages_skipped.store(true, Ordering::Relaxed);
            }
            Ok(mysql::move_positions(system, *by).await)
        }
        Fault::TopicRecreated => {
            let _alone = servers.alone(FaultyStore::Kafka).await;
            system.messages_skipped.store(true, Ordering::Relaxed);
            system.world.topic.recreate().await;
            Ok(Effect::now(true, "with the same settings"))
        }
        Fault::MorePartitions { partitions } => {
            let _alone = servers.alone(FaultyStore::Kafka).await;
            let has_grown = system.world.topic.ends().await.len() < *partitions;
            if has_grown {
                system.world.topic.grow(*partitions).await;
            }
            Ok(Effect::now(has_grown, "partitions of the topic"))
        }
        Fault::Garbage { garbage, ms } => garbage::put(system, coupon, *garbage, *ms).await,
        Fault::MailsRefused { ms } => {
            system.world.mail.set(Behaviour::RefuseRecipients).await?;
            let during = lasting(*ms).await;
            system.world.mail.set(Behaviour::Normal).await?;
            Ok(Effect::lasting(during, true, "every recipient was refused"))
        }
        Fault::BlindConfirm => Ok(operators::confirm_blindly(system).await),
        Fault::EveryCopyDeleted => delete_every_copy(system, coupon).await,
    }
}

async fn on_process(process: &Supervised, fault: &Fault) -> Result<Effect> {
    let (took, during) = match fault {
        Fault::Kill { ms, .. } => {
            let ran = process.kill().await;
            let during = lasting(*ms).await;
            process.come_back(None);
            (ran, during)
        }
        Fault::Freeze { ms, .. } => {
            let ran = process.freeze();
            let during = lasting(*ms).await;
            process.thaw();
            (ran, during)
        }
        Fault::Clock { seconds, ms, .. } => {
            let ran = process.set_clock(*seconds)?;
            let during = lasting(*ms).await;
            process.set_clock(0)?;
            (ran, during)
        }
        Fault::Crash { point, ms, .. } => {
            process.kill().await;
            let crashes = process.crashes();
            process.come_back(Some(point));
            // The supervisor starts the process with the crash point, and after its death without
            // it. A death for another reason also clears the crash point.
            let begun = Instant::now();
            let died = until(Duration::from_millis(*ms), || process.crashes() > crashes).await;
            if !died {
                process.kill().await;
                process.come_back(None);
            }
            (died, begun..Instant::now())
        }
        _ => (false, lasting(0).await),
    };
    Ok(Effect::lasting(during, took, ""))
}

async fn cold_start(system: &SystemUnderTest, store: FaultyStore, ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(store).await;
    let mut busy = Vec::new();
    for process in system.supervisor.all() {
        busy.push(process.busy.lock().await);
    }
    let proxy = system.servers.proxy(store);
    proxy.set(ProxyFault::Cut).await?;
    let mut killed = 0;
    for process in system.supervisor.all() {
        killed += u32::from(process.kill().await);
        process.come_back(None);
    }
    let during = lasting(ms).await;
    proxy.set(ProxyFault::Pass).await?;
    let note = format!("{killed} processes started without the server");
    Ok(Effect::lasting(during, killed > 0, note))
}

/// Deletes a user's row and admission.
async fn delete_every_copy(system: &SystemUnderTest, coupon: &MadeCoupon) -> Result<Effect> {
    let MadeCoupon { id, drop, .. } = coupon;
    let (sql, redis) = (&system.world.sql, system.redis());
    let held =
        format!("SELECT user_id FROM issued_coupons WHERE drop_id = {drop} ORDER BY slot LIMIT 1");
    let Some(person) = sql.rows(&held).await?.into_iter().flatten().next() else {
        return Ok(Effect::now(false, "no row yet"));
    };
    let users = redis.of_drop(*id, *drop, "users");
    redis.try_command::<()>(&["ZREM", &users, &person]).await?;
    let forget = ["HDEL", &redis.of_coupon(*id, "claimants"), &person];
    redis.try_command::<()>(&forget).await?;
    let delete = "DELETE FROM issued_coupons WHERE drop_id";
    let delete = format!("{delete} = {drop} AND user_id = '{person}'");
    sql.rows(&delete).await?;
    Ok(Effect::now(true, "a row and its admission"))
}

async fn disturb(
    system: &SystemUnderTest,
    store: FaultyStore,
    wire: WireFault,
    ms: u64,
) -> Result<Effect> {
    let _alone = system.servers.alone(store).await;
    let proxy = system.servers.proxy(store);
    let before = proxy.counters();
    let fault = match wire {
        WireFault::Delay => ProxyFault::Delay(Duration::from_millis(150)),
        WireFault::LongDelay => ProxyFault::Delay(Duration::from_millis(1_600)),
        WireFault::Cut => ProxyFault::Cut,
        WireFault::BlackHole => ProxyFault::BlackHole,
        WireFault::DropReplies => ProxyFault::DropReplies,
        WireFault::HalfClose => ProxyFault::HalfClose,
    };
    proxy.set(fault).await?;
    let during = lasting(ms).await;
    let after = proxy.counters();
    proxy.set(ProxyFault::Pass).await?;
    let [delayed, dropped] = [
        after.bytes_to_server - before.bytes_to_server,
        after.bytes_dropped - before.bytes_dropped,
    ];
    let took = match wire {
        WireFault::Delay | WireFault::LongDelay => delayed > 0,
        WireFault::DropReplies => dropped > 0,
        WireFault::Cut | WireFault::BlackHole | WireFault::HalfClose => before.open > 0,
    };
    let note = format!(
        "{} connections, {delayed} bytes passed, {dropped} bytes lost",
        before.open
    );
    Ok(Effect::lasting(during, took, note))
}

async fn silence(
    system: &SystemUnderTest,
    store: FaultyStore,
    process: bool,
    ms: u64,
) -> Result<Effect> {
    let _alone = system.servers.alone(store).await;
    let proxy = system.servers.proxy(store);
    let open = proxy.counters().open;
    proxy.set(ProxyFault::BlackHole).await?;
    proxy.strand_now();
    if process {
        system.servers.kill(store).await?;
    }
    let during = lasting(ms).await;
    if process {
        system.servers.start_again(store).await?;
    }
    proxy.set(ProxyFault::Pass).await?;
    let note = format!("{open} connections silent forever");
    Ok(Effect::lasting(during, open > 0, note))
}
