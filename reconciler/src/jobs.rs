//! Jobs that run concurrently with passes: they copy the catalogue to Redis, create drops ahead,
//! restore slot limits, report settings that no longer protect promises, watch the consumer's
//! progress, and delete what is past its retention. The next runs over everything include their
//! findings. Two more are steps of deep passes: `count_sealed` and `stray_uses`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use firstcome_shared::StoreError;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::drops;
use firstcome_shared::kafka::check_topic;
use firstcome_shared::mysql::row_pages::DropCount;
use firstcome_shared::mysql::used_rows::ListedUse;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::safety::Unsafe;
use firstcome_shared::report::wording::count;
use firstcome_shared::tuning::Tuning;
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::barrier::{self, BarrierError, OVERDUE, ReadState};
use crate::context::{PassSettings, Stores};
use crate::report::{Cause, DropReport, Finding, Kind, Outcome, Run, UnsafePart};
use crate::retention::{delete_old_allow_lists, delete_old_records, erase_old_people};
use crate::seal::expire_sealed;

/// Findings about no coupon, by the job that looks for them.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<BTreeMap<&'static str, Vec<Finding>>>>);

impl Notes {
    /// Replaces what a job has found.
    pub fn set(&self, job: &'static str, findings: Vec<Finding>) {
        self.0.lock().insert(job, findings);
    }

    /// Returns the findings of all jobs.
    pub fn all(&self) -> Vec<Finding> {
        self.0.lock().values().flatten().cloned().collect()
    }
}

/// Interval of all jobs except erasing. It is shorter than the default time between two passes, so
/// that two daemons report the same.
pub(crate) const EVERY_SECONDS: u64 = 20;

/// Interval of the costly job, erasing.
const DAILY: Duration = Duration::from_secs(86_400);

/// Runs the jobs until `stop`.
pub(crate) async fn run(
    stores: Stores,
    settings: PassSettings,
    notes: Notes,
    stop: CancellationToken,
) {
    let every = Duration::from_secs(Tuning::JobsSeconds.or(EVERY_SECONDS));
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The start check has just made the first check of the settings.
    let mut checks = tokio::time::interval_at(Instant::now() + every, every);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut daily = tokio::time::interval(DAILY);
    let mut positions = Positions::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = daily.tick() => {
                erase(&stores, &settings).await;
                continue;
            }
            _ = checks.tick() => {
                match unsafe_settings(&stores).await {
                    Ok(found) => notes.set("settings", found),
                    Err(error) => tracing::warn!(%error, "settings were not checked"),
                }
                continue;
            }
            _ = ticks.tick() => {}
        }
        all(&stores, &settings, &notes).await;
        match consumer(&stores, &mut positions).await {
            Ok(found) => notes.set("consumer", found),
            Err(error) => tracing::warn!(%error, "the consumer's progress was not read"),
        }
    }
}

/// Runs the jobs once, except erasing and the watches over the settings and the consumer. A failure
/// is only logged: a daemon repeats the job at its next time.
pub(crate) async fn all(stores: &Stores, settings: &PassSettings, notes: &Notes) {
    let coupons = stores.db.catalogue().await;
    if let Ok(coupons) = &coupons {
        let copied = copy_catalogue(stores, coupons)
            .await
            .map(|lost| notes.set("lost coupons", lost));
        log("catalogue copy", copied);
    }
    log("drops ahead", make_ahead(stores, coupons).await);
    // The catalogue does not contain a coupon that has lost all its drops.
    let lost = stores.db.coupons_without_drops().await;
    log("lost drops", make_ahead(stores, lost).await);
    log("slot limits", restore_limits(stores).await);
    let kept = delete_old_records(&stores.db, settings.retention_days).await;
    log("retention", kept.map_err(StoreError::from));
}

fn log(job: &'static str, done: Result<(), StoreError>) {
    if let Err(error) = done {
        tracing::warn!(job, %error, "a job failed; it is repeated soon");
    }
}

/// Copies the live coupons to Redis. Reports those of the last copy that MySQL has lost while Redis
/// still has them: no pass sees them, and the API cannot say whether they exist. Lets the keys of
/// those that have ended expire: sealing may have failed before it did that, or an operator has
/// removed the drops to come.
async fn copy_catalogue(
    stores: &Stores,
    coupons: &[(Coupon, Vec<Drop>)],
) -> Result<Vec<Finding>, StoreError> {
    let db = &stores.db;
    let redis = &stores.redis;
    let stored = redis.stored_copy().await?;
    let mut lost = redis.copied_beside(&stored, coupons).await?;
    let ids = lost.iter().map(|(coupon, _)| coupon.id).collect();
    let ended = db.coupons_by_id(ids).await?;
    lost.retain(|(own, _)| ended.iter().all(|(coupon, _)| coupon.id != own.id));
    for (coupon, _) in ended {
        expire_sealed(stores, coupon.id).await?;
    }
    let copy = [coupons, &lost].concat();
    if redis.write_catalogue_copy(&copy, &stored).await? {
        tracing::debug!(coupons = copy.len(), "the copy of the catalogue is written");
    }
    Ok(lost
        .iter()
        .map(|(coupon, _): &(Coupon, _)| {
            let name = &coupon.name;
            let why = format!(
                "MySQL has lost this coupon ({name}), which Redis has: restore its rows, or delete its \
                keys in Redis"
            );
            Finding {
                coupon_id: Some(coupon.id),
                cause: Cause::LostCoupon,
                ..Finding::report(Kind::RedisLost, why)
            }
        })
        .collect())
}

/// Creates the drops that the schedules of these coupons require.
async fn make_ahead(
    stores: &Stores,
    coupons: Result<Vec<(Coupon, Vec<Drop>)>, DbError>,
) -> Result<(), StoreError> {
    for (coupon, own) in coupons? {
        let coupon_id = coupon.id.0;
        match drops::make_ahead(&stores.db, &stores.redis, &coupon, &own, Utc::now()).await {
            Ok(0) => {}
            Ok(made) => tracing::info!(coupon_id, made, "upcoming drops created"),
            Err(error) => {
                tracing::warn!(coupon_id, %error, "upcoming drops could not be created");
            }
        }
    }
    Ok(())
}

/// Writes slot limits that MySQL has lost.
async fn restore_limits(stores: &Stores) -> Result<(), StoreError> {
    let restored = stores.db.restore_slot_limits().await?;
    if restored > 0 {
        let lost = "MySQL has lost slot limits; they are written again";
        tracing::warn!(restored, "{lost}");
    }
    Ok(())
}

/// Reports settings that start-up would reject and that have changed since.
async fn unsafe_settings(stores: &Stores) -> Result<Vec<Finding>, StoreError> {
    let mut found = Vec::new();
    match stores.redis.check_settings().await {
        Ok(()) => {}
        Err(Unsafe::Unreachable(error)) => return Err(error.into()),
        Err(Unsafe::Setting(detail)) => found.push(unsafe_part(UnsafePart::Redis, detail)),
    }
    match check_topic(&stores.topic.settings, Duration::from_secs(5)).await {
        Ok(_) => {}
        // A pass or the watch for refusals reports it.
        Err(error) if error.is_away() => {
            tracing::debug!(%error, "the topic's settings were not checked");
        }
        Err(error) => found.push(unsafe_part(UnsafePart::Topic, error.to_string())),
    }
    Ok(found)
}

fn unsafe_part(part: UnsafePart, detail: String) -> Finding {
    Finding {
        cause: Cause::Unsafe(part),
        ..Finding::report(Kind::Stalled, detail)
    }
}

/// The position of each partition with unread messages, and since when it has been there.
pub(crate) type Positions = HashMap<i32, (i64, Instant)>;

/// Reads how far the consumer is, and reports partitions that do not move.
async fn consumer(stores: &Stores, known: &mut Positions) -> Result<Vec<Finding>, DbError> {
    match barrier::read_and_reset_positions(&stores.db, &stores.topic, true).await {
        Ok(state) => Ok(stalled(known, &state, OVERDUE).into_iter().collect()),
        Err(BarrierError::Mysql(error)) => Err(error),
        // The pass reports it.
        Err(BarrierError::Kafka(_)) => Ok(Vec::new()),
    }
}

/// Reports partitions with unread messages whose position has not moved for longer than `limit`,
/// and to which no consumer has attended for as long.
fn stalled(known: &mut Positions, state: &ReadState, limit: Duration) -> Option<Finding> {
    let now = Instant::now();
    let before = std::mem::take(known);
    for (partition, log) in &state.logs {
        let position = state.positions.get(partition).copied().unwrap_or(log.start);
        if position < log.end {
            let same = before.get(partition).filter(|(at, _)| *at == position);
            let since = same.map_or(now, |(_, since)| *since);
            known.insert(*partition, (position, since));
        }
    }
    let waits = |(partition, (_, since)): (&i32, &(i64, Instant))| {
        let stands = now.saturating_duration_since(*since);
        (*partition, stands.min(state.unattended_for(*partition)))
    };
    let mut stuck: BTreeMap<i32, Duration> = known.iter().map(waits).collect();
    stuck.retain(|_, since| *since > limit);
    let longest = stuck.values().max()?.as_secs();
    // A message has one promise or several, and a retry repeats some.
    let unread = count(state.unread_messages(), "promise waits", "promises wait");
    let detail = if stuck.len() == state.logs.len() {
        format!("no consumer works: about {unread} for a row, and none was read for {longest} s")
    } else {
        let partitions: Vec<String> = stuck.keys().take(5).map(ToString::to_string).collect();
        let more = if stuck.len() > 5 { ", …" } else { "" };
        format!(
            "the consumer of a part of the topic does not work: about {unread} for a row, and \
            none was read for {longest} s (partition {}{more})",
            partitions.join(", ")
        )
    };
    Some(Finding {
        cause: Cause::ConsumerStands,
        ..Finding::report(Kind::Stalled, detail)
    })
}

/// Sealed drops counted by one statement.
const AT_ONCE: i64 = 500;

/// Compares the rows of sealed drops with their number at sealing: a part of deep passes. A drop
/// gets a report if rows are missing, or if it alone was asked for.
pub(crate) async fn count_sealed(
    db: &Db,
    (coupon, drop): (Option<CouponId>, Option<DropId>),
    run: &mut Run,
) -> Result<(), DbError> {
    let mut after = DropId(0);
    loop {
        let page = db.sealed_drops(after, coupon, drop, AT_ONCE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = last.id;
        let ids: Vec<DropId> = page.iter().map(|drop| drop.id).collect();
        let counts = db.count(DropCount::Rows, &ids).await?;
        for sealed in page {
            let id = sealed.id;
            let coupon_id = sealed.coupon_id;
            let rows = counts.get(&id).copied().unwrap_or(0);
            let wanted = u64::from(sealed.sealed_rows.unwrap_or(0));
            if rows >= wanted && drop.is_none() {
                run.unlisted.drops += 1;
                run.unlisted.examined.rows += rows;
                continue;
            }
            let mut report = DropReport::begun(coupon_id, id, sealed.quantity);
            report.sealed = true;
            report.exact = rows >= wanted;
            report.before.rows = rows;
            report.after.rows = rows;
            report.examined.rows = rows;
            if let Some((coupon, _)) = db.coupon(coupon_id).await? {
                report.coupon_name = coupon.settings.name;
            }
            if rows < wanted {
                let detail = format!(
                    "it was sealed with {wanted} rows, now there are {rows}: insert the rows \
                    again from a backup of MySQL, or have the topic read again"
                );
                report.findings.push(Finding {
                    coupon_id: Some(coupon_id),
                    drop_id: Some(id),
                    result: Outcome::Failed,
                    cause: Cause::LacksRows {
                        sealed_with: wanted,
                        rows,
                    },
                    ..Finding::report(Kind::CountMismatch, detail)
                });
            }
            run.drops.push(report);
        }
    }
}

/// Reports uses of codes whose claims have no row: a part of deep passes, after rows were written.
pub(crate) async fn stray_uses(
    db: &Db,
    (coupon, drop): (Option<CouponId>, Option<DropId>),
) -> Result<Vec<Finding>, DbError> {
    let stray = db.within(LONG).stray_uses(coupon, drop).await?;
    let findings = stray.into_iter().map(|found: ListedUse| {
        let detail = format!("{} used its code, and it has no row", found.used_by);
        Finding {
            coupon_id: found.coupon_id,
            drop_id: Some(found.drop_id),
            slot: Some(found.slot.into()),
            ..Finding::report(Kind::BadUse, detail)
        }
    });
    Ok(findings.collect())
}

/// Time limit of a page of uses.
const LONG: Duration = Duration::from_secs(60);

/// Deletes allow lists that nobody needs and, if a retention is set, replaces old user ids.
pub(crate) async fn erase(stores: &Stores, settings: &PassSettings) {
    log("allow lists", delete_old_allow_lists(&stores.db).await);
    if let Some(days) = settings.retention_days {
        log("erasing", erase_old_people(stores, days).await);
    }
}
