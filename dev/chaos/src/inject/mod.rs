//! Injects a fault, undoes it after its duration, and reports whether it had an effect.

mod batches;
mod effect;
mod garbage;
mod hogs;
mod mysql;
mod pieces;
mod redis;

pub use effect::Effect;
pub(crate) use garbage::remove_what_came_back;

use std::time::{Duration, Instant};

use anyhow::Result;
use firstcome_stack::{Behaviour, ProxyFault};
use firstcome_testkit::MadeCoupon;

use crate::fault::{DropKey, Fault, FaultyStore, WireFault};
use crate::operators;
use crate::supervisor::Supervised;
use crate::system::SystemUnderTest;
use crate::wait::{lasting, until};

/// Injects the fault and undoes it. A fault of one coupon affects the one with this number.
#[allow(clippy::too_many_lines, reason = "one arm per fault")]
pub async fn inject(system: &SystemUnderTest, fault: &Fault, coupon: usize) -> Result<Effect> {
    let coupon = system.coupon(coupon);
    match fault {
        Fault::Kill { role, number, .. }
        | Fault::Freeze { role, number, .. }
        | Fault::Crash { role, number, .. } => {
            let process = system.supervisor.process(*role, *number);
            let _alone = process.busy.lock().await;
            Ok(on_process(process, fault).await)
        }
        Fault::Clock {
            role,
            number,
            seconds,
            ms,
        } => {
            let process = system.supervisor.process(*role, *number);
            let took = process.set_clock(*seconds)?;
            let during = lasting(*ms).await;
            process.set_clock(0)?;
            Ok(Effect::of(
                during,
                took,
                if took { "shifted" } else { "not running" },
            ))
        }
        Fault::Hogs { role, number, ms } => {
            let process = system.supervisor.process(*role, *number);
            let _alone = process.busy.lock().await;
            hogs::hold(system, process, *ms).await
        }
        Fault::ColdStart { store, ms } => cold_start(system, *store, *ms).await,
        Fault::KillServer { store, ms } => {
            let _alone = system.servers.alone(*store).await;
            system.servers.kill(*store).await?;
            let during = lasting(*ms).await;
            system.servers.start_again(*store).await?;
            Ok(Effect::of(during, true, "killed and restarted"))
        }
        Fault::FreezeServer { store, ms } => {
            let _alone = system.servers.alone(*store).await;
            system.servers.hold(*store, true).await?;
            let during = lasting(*ms).await;
            system.servers.hold(*store, false).await?;
            Ok(Effect::of(during, true, "suspended"))
        }
        Fault::Wire { store, wire, ms } => disturb(system, *store, *wire, *ms).await,
        Fault::Silent { store, process, ms } => silence(system, *store, *process, *ms).await,
        Fault::TruncatedAof { percent } => redis::truncate(system, *percent).await,
        Fault::Flush => redis::flush(system).await,
        Fault::OldCopy { age_ms } => redis::old_copy(system, *age_ms).await,
        Fault::StaleReplica { lag_ms } => redis::stale_replica(system, *lag_ms).await,
        Fault::Demotion { lag_ms } => redis::demote(system, *lag_ms).await,
        Fault::RedisClock { seconds, ms } => redis::clock(system, *seconds, *ms).await,
        Fault::RedisDiskFull { ms } => redis::disk_full(system, *ms).await,
        Fault::RedisMemory { ms } => redis::no_memory(system, *ms).await,
        Fault::MysqlReadOnly { ms } => mysql::read_only(system, *ms).await,
        Fault::MysqlLocks { ms } => mysql::locks(system, coupon, *ms).await,
        Fault::MysqlDeadlocks { ms } => mysql::deadlocks(system, coupon, *ms).await,
        Fault::MysqlTableHangs { ms } => {
            mysql::hang(system, "LOCK TABLES issued_coupons WRITE", *ms).await
        }
        Fault::MysqlWritesHang { ms } => {
            mysql::hang(system, "FLUSH TABLES WITH READ LOCK", *ms).await
        }
        Fault::Garbage { garbage, ms } => garbage::put(system, coupon, *garbage, *ms).await,
        Fault::Batch { batch, ms } => batches::send(system, coupon, *batch, *ms).await,
        Fault::MorePartitions { partitions } => {
            let _alone = system.servers.alone(FaultyStore::Kafka).await;
            let has_grown = system.world.topic.offsets().await.len() < *partitions;
            if has_grown {
                system.world.topic.grow(*partitions).await;
            }
            Ok(Effect::now(has_grown, "partitions of the topic"))
        }
        Fault::MailsRefused { ms } => {
            system.world.mail.set(Behaviour::RefuseRecipients).await?;
            let during = lasting(*ms).await;
            system.world.mail.set(Behaviour::Normal).await?;
            Ok(Effect::of(during, true, "every recipient was refused"))
        }
        Fault::WrongType { key, ms } => garbage::wrong_type(system, coupon, *key, *ms).await,
        Fault::KeyLost { key } => pieces::lose_keys(system, coupon, [*key]).await,
        Fault::DropKeysLost => {
            let of_drop = DropKey::ALL.into_iter().filter(|key| !key.is_of_coupon());
            pieces::lose_keys(system, coupon, of_drop).await
        }
        Fault::OldRows { age_ms } => pieces::restore_rows(system, *age_ms).await,
        Fault::OldDatabase { age_ms } => pieces::old_database(system, *age_ms).await,
        Fault::TableLost { table } => pieces::lose_table(system, *table).await,
        Fault::PositionsMoved { by } => pieces::move_positions(system, *by).await,
        Fault::TopicRecreated => pieces::recreate_topic(system).await,
        Fault::BlindConfirm => Ok(operators::confirm(system).await),
        Fault::RestoredKeys { age_ms } => pieces::restore_keys(system, coupon, *age_ms).await,
        Fault::MysqlDiskFull { ms } => mysql::disk_full(system, *ms).await,
        Fault::EveryCopyDeleted => delete_every_copy(system, coupon).await,
    }
}

async fn on_process(process: &Supervised, fault: &Fault) -> Effect {
    match fault {
        Fault::Freeze { ms, .. } => {
            let ran = process.freeze();
            let during = lasting(*ms).await;
            process.thaw();
            Effect::of(during, ran, "suspended")
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
            Effect::of(
                begun..Instant::now(),
                died,
                if died {
                    "died at the point"
                } else {
                    "did not reach the point"
                },
            )
        }
        Fault::Kill { ms, .. } => {
            let ran = process.kill().await;
            let during = lasting(*ms).await;
            process.come_back(None);
            Effect::of(during, ran, "killed")
        }
        _ => Effect::now(false, "no fault of a process"),
    }
}

async fn cold_start(system: &SystemUnderTest, store: FaultyStore, ms: u64) -> Result<Effect> {
    let _alone = system.servers.alone(store).await;
    let mut busy = Vec::new();
    for process in system.supervisor.all() {
        busy.push(process.busy.lock().await);
    }
    system.servers.proxy(store).set(ProxyFault::Cut).await?;
    let mut killed = 0;
    for process in system.supervisor.all() {
        killed += u32::from(process.kill().await);
        process.come_back(None);
    }
    let during = lasting(ms).await;
    system.servers.proxy(store).set(ProxyFault::Pass).await?;
    Ok(Effect::of(
        during,
        killed > 0,
        format!("{killed} processes started without the server"),
    ))
}

/// Deletes a user's row and admission.
async fn delete_every_copy(system: &SystemUnderTest, coupon: &MadeCoupon) -> Result<Effect> {
    let sql = &system.world.sql;
    let redis = system.redis();
    let held = format!(
        "SELECT user_id FROM issued_coupons WHERE drop_id = {} ORDER BY slot LIMIT 1",
        coupon.drop
    );
    let rows = sql.rows(&held).await?;
    let Some(person) = rows.first().map(|row| row[0].clone()) else {
        return Ok(Effect::now(false, "no row yet"));
    };
    let users = redis.of_drop(coupon.id, coupon.drop, "users");
    redis.try_command::<()>(&["ZREM", &users, &person]).await?;
    redis
        .try_command::<()>(&["HDEL", &redis.claimants(coupon.id), &person])
        .await?;
    sql.rows(&format!(
        "DELETE FROM issued_coupons WHERE drop_id = {} AND user_id = '{person}'",
        coupon.drop
    ))
    .await?;
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
    proxy
        .set(match wire {
            WireFault::Delay => ProxyFault::Delay(Duration::from_millis(150)),
            WireFault::LongDelay => ProxyFault::Delay(Duration::from_millis(1_600)),
            WireFault::Cut => ProxyFault::Cut,
            WireFault::BlackHole => ProxyFault::BlackHole,
            WireFault::DropReplies => ProxyFault::DropReplies,
            WireFault::HalfClose => ProxyFault::HalfClose,
        })
        .await?;
    let during = lasting(ms).await;
    let after = proxy.counters();
    proxy.set(ProxyFault::Pass).await?;
    let passed = after.bytes_to_server - before.bytes_to_server;
    let dropped = after.bytes_dropped - before.bytes_dropped;
    Ok(match wire {
        WireFault::Delay | WireFault::LongDelay => {
            Effect::of(during, passed > 0, format!("{passed} bytes were delayed"))
        }
        WireFault::DropReplies => Effect::of(
            during,
            dropped > 0,
            format!("{dropped} bytes of replies lost"),
        ),
        WireFault::Cut | WireFault::BlackHole | WireFault::HalfClose => Effect::of(
            during,
            before.open > 0,
            format!("{} connections affected", before.open),
        ),
    })
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
    Ok(Effect::of(
        during,
        open > 0,
        format!("{open} connections silent forever"),
    ))
}
