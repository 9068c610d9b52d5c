//! Makes a fault happen, undoes it after its time, and says whether it really took effect.

mod mysql;
pub(crate) mod redis;

use std::time::{Duration, Instant};

use anyhow::Result;
use firstcome_stack::Fault as Proxied;
use tokio::time::sleep;

use crate::fault::{Fault, Store, Wire};
use crate::stage::Stage;

/// What came of a fault.
#[derive(Debug, Clone)]
pub struct Effect {
    /// Whether it really happened: something was there to be killed, bytes were thrown away, admissions were forgotten.
    pub took: bool,
    pub note: String,
}

impl Effect {
    pub(crate) fn of(took: bool, note: impl Into<String>) -> Self {
        Self { took, note: note.into() }
    }
}

/// Makes it happen and undoes it.
pub async fn inflict(stage: &Stage, fault: &Fault) -> Result<Effect> {
    match fault {
        Fault::Kill { role, number, ms } => {
            let member = stage.cast.member(*role, *number);
            let _alone = member.busy.lock().await;
            let ran = member.kill().await;
            pause(*ms).await;
            member.come_back(None);
            Ok(Effect::of(ran, "killed"))
        }
        Fault::Freeze { role, number, ms } => {
            let member = stage.cast.member(*role, *number);
            let _alone = member.busy.lock().await;
            let ran = member.freeze();
            pause(*ms).await;
            member.thaw();
            Ok(Effect::of(ran, "held still"))
        }
        Fault::Crash { role, number, point, ms } => {
            let member = stage.cast.member(*role, *number);
            let _alone = member.busy.lock().await;
            member.kill().await;
            let starts = member.starts();
            member.come_back(Some(point));
            // It is started with the point, dies there, and is started once more.
            let died = until(Duration::from_millis(*ms), || member.starts() >= starts + 2).await;
            if !died {
                member.kill().await;
                member.come_back(None);
            }
            Ok(Effect::of(died, if died { "died there" } else { "never got there" }))
        }
        Fault::Clock { role, number, seconds } => {
            let took = stage.cast.member(*role, *number).step_clock(*seconds)?;
            Ok(Effect::of(took, if took { "stepped" } else { "no libfaketime here, or not running" }))
        }
        Fault::KillServer { store, ms } => {
            let _alone = stage.ground.alone(*store).await;
            stage.ground.kill(*store).await?;
            pause(*ms).await;
            stage.ground.start_again(*store).await?;
            Ok(Effect::of(true, "killed and started again"))
        }
        Fault::FreezeServer { store, ms } => {
            let _alone = stage.ground.alone(*store).await;
            stage.ground.hold(*store, true).await?;
            pause(*ms).await;
            stage.ground.hold(*store, false).await?;
            Ok(Effect::of(true, "held still"))
        }
        Fault::Wire { store, wire, ms } => disturb(stage, *store, *wire, *ms).await,
        Fault::TruncatedAof { percent } => redis::truncate(stage, *percent).await,
        Fault::Flush => redis::flush(stage).await,
        Fault::OldCopy { age_ms } => redis::old_copy(stage, *age_ms).await,
        Fault::StaleReplica { lag_ms } => redis::stale_replica(stage, *lag_ms).await,
        Fault::RedisDiskFull { ms } => redis::disk_full(stage, *ms).await,
        Fault::RedisMemory { ms } => redis::no_memory(stage, *ms).await,
        Fault::MysqlReadOnly { ms } => mysql::read_only(stage, *ms).await,
        Fault::MysqlLocks { ms } => mysql::locks(stage, *ms).await,
        Fault::MysqlDeadlocks { ms } => mysql::deadlocks(stage, *ms).await,
        Fault::MysqlDiskFull { ms } => mysql::disk_full(stage, *ms).await,
        Fault::EveryCopyDeleted => delete_every_copy(stage).await,
    }
}

/// The row of a person who has one, and their admission.
async fn delete_every_copy(stage: &Stage) -> Result<Effect> {
    let Some(drop) = stage.drops().first().copied() else { return Ok(Effect::of(false, "no drop")) };
    let held = format!("SELECT user_id FROM $db.issued_coupons WHERE drop_id = {} ORDER BY slot LIMIT 1", drop.id);
    let rows = stage.sql(&held).await?;
    let Some(person) = rows.first().map(|row| row[0].clone()) else { return Ok(Effect::of(false, "no row yet")) };
    let mut conn = stage.ground.redis_connection().await?;
    ::redis::cmd("ZREM").arg(stage.key(drop, "users")).arg(&person).query_async::<()>(&mut conn).await?;
    let claimants = stage.world.redis.claimants(drop.coupon);
    ::redis::cmd("HDEL").arg(claimants).arg(&person).query_async::<()>(&mut conn).await?;
    let row = format!("DELETE FROM $db.issued_coupons WHERE drop_id = {} AND user_id = '{person}'", drop.id);
    stage.sql(&row).await?;
    Ok(Effect::of(true, "a row and its admission"))
}

async fn disturb(stage: &Stage, store: Store, wire: Wire, ms: u64) -> Result<Effect> {
    let _alone = stage.ground.alone(store).await;
    let proxy = stage.ground.proxy(store);
    let before = proxy.counters();
    proxy
        .set(match wire {
            Wire::Delay => Proxied::Delay(Duration::from_millis(150)),
            Wire::Cut => Proxied::Cut,
            Wire::BlackHole => Proxied::BlackHole,
            Wire::DropReplies => Proxied::DropReplies,
            Wire::HalfClose => Proxied::HalfClose,
        })
        .await?;
    pause(ms).await;
    let after = proxy.counters();
    proxy.set(Proxied::Pass).await?;
    let passed = after.bytes_to_server - before.bytes_to_server;
    let dropped = after.bytes_dropped - before.bytes_dropped;
    Ok(match wire {
        Wire::Delay => Effect::of(passed > 0, format!("{passed} bytes came late")),
        Wire::DropReplies => Effect::of(dropped > 0, format!("{dropped} bytes of replies lost")),
        Wire::Cut | Wire::BlackHole | Wire::HalfClose => {
            Effect::of(before.open > 0, format!("{} connections hit", before.open))
        }
    })
}

pub(crate) async fn pause(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

/// Waits until this is so, for at most so long.
pub(crate) async fn until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > limit {
            return false;
        }
        pause(20).await;
    }
    true
}
