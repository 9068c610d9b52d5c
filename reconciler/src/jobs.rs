//! Jobs that run concurrently with passes: they copy the catalogue to Redis, create drops ahead,
//! restore slot limits, report settings that no longer protect promises and drops that could not
//! open, watch the consumer's progress, and delete what is past its retention. The next runs over everything include their
//! findings. Two more are steps of deep passes: `count_sealed` and `stray_uses`.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use firstcome_shared::StoreError;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::drops;
use firstcome_shared::kafka::{TopicError, check_topic};
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::process_state::{
    ConsumerState, SeenState, Standstill, StoreState, UnsafeSetting,
};
use firstcome_shared::redis::copy::removed;
use firstcome_shared::redis::expiry::sealed_for;
use firstcome_shared::redis::safety::Unsafe;
use firstcome_shared::schedule::PlannedDrop;
use firstcome_shared::tuning::Tuning;
use futures_util::future::OptionFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::barrier::{self, BarrierError, OVERDUE, ReadState};
use crate::context::{PassSettings, Stores};
use crate::ledger::Ledger;
use crate::queries::drops::DropCount;
use crate::queries::uses::UsesAfter;
use crate::queries::{self, Scope};
use crate::ready::unready;
use crate::report::{
    AlertKind, Cause, DropReport, FailureCause, Finding, Judged, Kind, Kinds, Outcome, Run,
    UnsafePart,
};
use crate::retention::{LISTS_KEPT, OLD_ENDS, OLD_RECORDS, delete_old, erase_old_users};
use crate::seal::expire_sealed;

/// A job whose findings the next runs over everything include.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Job {
    LostCoupons,
    DropsAhead,
    LostDrops,
    Openings,
    Settings(UnsafePart),
}

/// What each job found in its last round, if that round answered.
pub(crate) type Answers = BTreeMap<Job, Vec<Finding>>;

/// The answers of the jobs, for the next run. After an error, nothing is known, as before the first
/// round.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Answers>>);

impl Notes {
    /// Replaces what a job has found.
    fn set(&self, job: Job, found: Option<Vec<Finding>>) {
        let mut answers = self.0.lock();
        match found {
            Some(found) => answers.insert(job, found),
            None => answers.remove(&job),
        };
    }

    pub(crate) fn answers(&self) -> Answers {
        self.0.lock().clone()
    }
}

/// Interval of all jobs except erasing. It is shorter than the default time between two passes, so
/// that two daemons report the same.
pub(crate) const EVERY_SECONDS: u64 = 20;

/// Interval of the costly job, erasing.
const DAILY: Duration = Duration::from_secs(86_400);

/// Runs the jobs until `stop`. Erasing, which may take long, delays no other.
pub(crate) async fn run(
    stores: Stores,
    settings: PassSettings,
    notes: Notes,
    seen: SeenState,
    stop: CancellationToken,
) {
    let erasing = async {
        let mut daily = tokio::time::interval(DAILY);
        while next(&mut daily, &stop).await {
            erase(&stores, &settings).await;
        }
    };
    tokio::join!(erasing, watch(&stores, &settings, &notes, &seen, &stop));
}

/// Waits for the next time. Returns whether there is one before `stop`.
async fn next(times: &mut Interval, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        _ = times.tick() => true,
    }
}

/// Runs the jobs except erasing until `stop`.
async fn watch(
    stores: &Stores,
    settings: &PassSettings,
    notes: &Notes,
    seen: &SeenState,
    stop: &CancellationToken,
) {
    let began = Instant::now();
    let every = Duration::from_secs(Tuning::JobsSeconds.or(EVERY_SECONDS));
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut positions = UnreadPositions::default();
    while next(&mut ticks, stop).await {
        // A store that does not answer delays no other job.
        let checked = check_settings(stores, notes, seen);
        let (coupons, ()) = tokio::join!(all(stores, settings, notes), checked);
        let openings = coupons.as_ref().map(|coupons| unready(stores, coupons));
        notes.set(Job::Openings, OptionFuture::from(openings).await);
        match consumer(stores, &mut positions).await {
            Ok(found) => {
                // Before, a position that stands may only have been seen twice.
                let is_known = began.elapsed() > OVERDUE;
                let consumers = found.map_or(ConsumerState::Fine, ConsumerState::Stands);
                seen.note(|state| state.consumers = is_known.then_some(consumers));
            }
            Err(error) => tracing::warn!(%error, "the consumer's progress was not read"),
        }
    }
}

/// Runs the jobs once, except erasing and the watches over the settings, the consumer and the next
/// openings. Returns the live coupons, if they can be read. A failure is only logged: a daemon
/// repeats the job at its next time.
pub(crate) async fn all(
    stores: &Stores,
    settings: &PassSettings,
    notes: &Notes,
) -> Option<Vec<(Coupon, Vec<Drop>)>> {
    let live = log("catalogue", stores.db.catalogue().await);
    let copied = live.as_ref().map(|live| copy_catalogue(stores, live));
    let copied = OptionFuture::from(copied).await;
    let lost = copied.and_then(|copied| log("catalogue copy", copied));
    notes.set(Job::LostCoupons, lost);
    // The catalogue does not contain a coupon that has lost all its drops.
    let without_drops = queries::coupons::coupons_without_drops(&stores.db).await;
    let without_drops = log("lost drops", without_drops);
    for (job, coupons) in [(Job::DropsAhead, &live), (Job::LostDrops, &without_drops)] {
        let made = coupons.as_ref().map(|coupons| make_ahead(stores, coupons));
        notes.set(job, OptionFuture::from(made).await);
    }
    log("slot limits", restore_limits(stores).await);
    let days = settings.retention_days;
    for (job, old) in [
        ("retention of records", &OLD_RECORDS[..]),
        ("retention of ends", &OLD_ENDS),
    ] {
        let deleted = delete_old(&stores.db, old, days).await;
        log(job, deleted);
    }
    live
}

fn log<T>(job: &'static str, done: Result<T, impl Display>) -> Option<T> {
    done.inspect_err(|error| tracing::warn!(job, %error, "a job failed; it is repeated soon"))
        .ok()
}

/// Copies the live coupons to Redis. Reports those of the last copy that MySQL has lost while Redis
/// still has them: no pass sees them, and the API cannot say whether they exist. Lets the keys expire
/// of those that have ended, and of drops that an operator has removed: who sealed or removed them
/// may have died before it did that.
async fn copy_catalogue(
    stores: &Stores,
    coupons: &[(Coupon, Vec<Drop>)],
) -> Result<Vec<Finding>, StoreError> {
    let db = &stores.db;
    let redis = &stores.redis;
    let stored = redis.stored_copy().await?;
    let copied = stored.coupons();
    let mut lost = redis.copied_beside(&copied, coupons).await?;
    let ids = lost.iter().map(|(coupon, _)| coupon.id).collect();
    let ended = db.coupons_by_id(ids).await?;
    lost.retain(|(own, _)| ended.iter().all(|(coupon, _)| coupon.id != own.id));
    for (coupon, drops) in removed(&copied, coupons.iter().chain(&ended)) {
        let gone: Vec<_> = drops.iter().map(|id| redis.keys(coupon.id, *id)).collect();
        redis
            .forget_drops(coupon.revision, &Vec::from_iter(&gone), sealed_for())
            .await?;
    }
    for (coupon, _) in ended {
        expire_sealed(stores, coupon.id).await?;
    }
    let copy = [coupons, &lost].concat();
    if redis.write_catalogue_copy(&copy, &stored).await? {
        tracing::debug!(coupons = copy.len(), "the copy of the catalogue is written");
    }
    Ok(lost
        .iter()
        .map(|(coupon, _)| {
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

/// Creates the drops that the schedules of these coupons require. Reports those that cannot be
/// created: their coupons do not open on these days, and nothing else shows it.
async fn make_ahead(stores: &Stores, coupons: &[(Coupon, Vec<Drop>)]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (coupon, own) in coupons {
        let coupon_id = coupon.id.0;
        let missing = drops::missing(coupon, own, Utc::now());
        let first = missing.first().copied();
        match drops::make_ahead(&stores.db, &stores.redis, coupon, missing).await {
            Ok(0) => {}
            Ok(made) => tracing::info!(coupon_id, made, "upcoming drops created"),
            Err(error) => {
                tracing::warn!(coupon_id, %error, "upcoming drops could not be created");
                found.extend(first.map(|first| missing_drop(coupon, first, &error)));
            }
        }
    }
    found
}

/// Reports the first drop of a coupon that cannot be created. The later ones fail with it.
fn missing_drop(coupon: &Coupon, planned: PlannedDrop, error: &DbError) -> Finding {
    let Coupon { id, settings, .. } = coupon;
    let name = &settings.name;
    let day = planned.local_date;
    let at = planned.opens_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let detail = format!("coupon {id} ({name}) has no drop on {day} ({at}): {error}");
    Finding {
        coupon_id: Some(*id),
        ..Finding::report(Kind::MissingDrop, detail)
    }
}

/// Writes slot limits that MySQL has lost.
async fn restore_limits(stores: &Stores) -> Result<(), DbError> {
    let restored = stores.db.restore_slot_limits().await?;
    if restored > 0 {
        let lost = "MySQL has lost slot limits; they are written again";
        tracing::warn!(restored, "{lost}");
    }
    Ok(())
}

/// Reports settings that start-up would reject and that have changed since, and notes whether Kafka
/// answers. What cannot be checked now stays as it was found last.
async fn check_settings(stores: &Stores, notes: &Notes, seen: &SeenState) {
    match stores.redis.check_settings().await {
        Ok(()) => note_settings(notes, seen, UnsafePart::Redis, None),
        Err(Unsafe::Setting(error)) => note_settings(notes, seen, UnsafePart::Redis, Some(error)),
        Err(Unsafe::Unreachable(error)) => {
            tracing::warn!(%error, "the settings of Redis were not checked");
        }
    }
    seen.checks_kafka(true);
    let topic = check_topic(&stores.topic.settings, Duration::from_secs(5)).await;
    seen.checks_kafka(false);
    let kafka = match &topic {
        Err(TopicError::Refuses(error)) => StoreState::from_error(FailureCause::Kafka, error),
        Err(error) if error.is_away() => StoreState::Away(error.to_string()),
        Ok(_) | Err(_) => StoreState::Fine,
    };
    seen.note(|state| state.kafka = Some(kafka));
    match topic {
        Ok(_) => note_settings(notes, seen, UnsafePart::Topic, None),
        Err(error) if error.is_away() => {
            tracing::debug!(%error, "the topic's settings were not checked");
        }
        Err(error) => note_settings(notes, seen, UnsafePart::Topic, Some(error.to_string())),
    }
}

/// Replaces what is known of a part's settings, for the next run and for alerts.
fn note_settings(notes: &Notes, seen: &SeenState, part: UnsafePart, error: Option<String>) {
    let found = error.map(|error| UnsafeSetting { part, error });
    let findings = found.iter().cloned().map(unsafe_part).collect();
    notes.set(Job::Settings(part), Some(findings));
    seen.note(|state| {
        let known = state.unsafe_settings.get_or_insert_default();
        known.retain(|setting| setting.part != part);
        known.extend(found);
    });
}

fn unsafe_part(setting: UnsafeSetting) -> Finding {
    Finding {
        cause: Cause::Unsafe(setting.part),
        ..Finding::report(Kind::Stalled, setting.error)
    }
}

/// The position of each partition with unread messages, and since when it has been there.
pub(crate) type UnreadPositions = HashMap<i32, (i64, Instant)>;

/// Reads how far the consumer is, and returns the partitions that do not move.
async fn consumer(
    stores: &Stores,
    known: &mut UnreadPositions,
) -> Result<Option<Standstill>, DbError> {
    match barrier::read_state(&stores.db, &stores.topic).await {
        Ok(state) => Ok(stalled(known, &state, OVERDUE)),
        Err(BarrierError::Mysql(error)) => Err(error),
        // The pass reports it.
        Err(BarrierError::Kafka(_)) => Ok(None),
    }
}

/// Returns the partitions with unread messages whose position has not moved for longer than `limit`,
/// and to which no consumer has attended for as long.
fn stalled(known: &mut UnreadPositions, state: &ReadState, limit: Duration) -> Option<Standstill> {
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
    let mut stuck: Vec<i32> = known
        .iter()
        .filter(|(partition, (_, since))| {
            let stands = now.saturating_duration_since(*since);
            stands.min(state.unattended_for(**partition)) > limit
        })
        .map(|(partition, _)| *partition)
        .collect();
    stuck.sort_unstable();
    let is_all = stuck.len() == state.logs.len();
    (!stuck.is_empty()).then(|| Standstill {
        unread: u64::try_from(state.unread_messages()).unwrap_or(0),
        partitions: stuck.into_iter().filter(|_| !is_all).collect(),
    })
}

/// Sealed drops read by one statement. Their rows are counted drop by drop, because those of many
/// drops would take too long.
const AT_ONCE: i64 = 500;

/// Compares the rows of sealed drops with their number at sealing: a part of deep passes. A drop
/// gets a report if rows are missing, or if it alone was asked for.
pub(crate) async fn count_sealed(db: &Db, scope: Scope, run: &mut Run) -> Result<(), DbError> {
    let mut after = DropId(0);
    loop {
        let page = queries::drops::sealed_drops(db, after, scope, AT_ONCE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = last.id;
        for sealed in page {
            let id = sealed.id;
            let coupon_id = sealed.coupon_id;
            let counts = queries::drops::count(db, DropCount::Rows, &[id]).await?;
            let rows = counts.get(&id).copied().unwrap_or(0);
            let wanted = u64::from(sealed.sealed_rows.unwrap_or(0));
            let surplus = rows.saturating_sub(sealed.quantity.into());
            if rows >= wanted && surplus == 0 && scope.drop.is_none() {
                run.unlisted.drops += 1;
                run.unlisted.examined.rows += rows;
                continue;
            }
            let mut report = DropReport::begun(coupon_id, id, sealed.quantity);
            report.sealed = true;
            report.judged = Judged::of(Kinds::only([AlertKind::Left(Kind::CountMismatch)]));
            report.exact = rows >= wanted && surplus == 0;
            report.before.rows = rows;
            report.after.rows = rows;
            report.examined.rows = rows;
            if let Some((coupon, _)) = db.coupon(coupon_id).await? {
                report.coupon_name = coupon.settings.name;
            }
            let mut failed = |kind, cause, detail| {
                report.findings.push(Finding {
                    coupon_id: Some(coupon_id),
                    drop_id: Some(id),
                    result: Outcome::Failed,
                    cause,
                    ..Finding::report(kind, detail)
                });
            };
            if rows < wanted {
                let detail = format!(
                    "it was sealed with {wanted} rows, now there are {rows}: insert the rows \
                    again from a backup of MySQL, or have the topic read again"
                );
                let cause = Cause::LacksRows {
                    sealed_with: wanted,
                    rows,
                };
                failed(Kind::CountMismatch, cause, detail);
            }
            if surplus > 0 {
                let detail = format!("it has {surplus} rows more than its quantity");
                failed(Kind::OverIssued, Cause::Plain, detail);
            }
            run.drops.push(report);
        }
    }
}

/// Reports uses of codes whose claims have no row: a part of deep passes, after rows were written.
/// If the rows of a drop are lost, all its uses are such: only the first ones are listed.
pub(crate) async fn stray_uses(db: &Db, scope: Scope) -> Result<Vec<Finding>, DbError> {
    let db = db.within(LONG);
    let mut of_drops: BTreeMap<DropId, (Option<CouponId>, Ledger)> = BTreeMap::new();
    let mut after = UsesAfter {
        drop: DropId(i64::MIN),
        slot: 0,
    };
    loop {
        let page = queries::uses::uses(&db, scope, after).await?;
        let Some(last) = page.last() else { break };
        after = UsesAfter {
            drop: last.drop_id,
            slot: last.slot,
        };
        for found in page.into_iter().filter(|found| found.is_stray) {
            let of_drop = of_drops.entry(found.drop_id);
            let (_, ledger) = of_drop.or_insert_with(|| (found.coupon_id, Ledger::default()));
            let detail = format!("{} used its code, and it has no row", found.used_by);
            let stray = Finding::report(Kind::BadUse, detail);
            ledger.add(stray.naming(Some(found.slot.into()), None));
        }
    }
    let listed = of_drops.into_iter();
    Ok(listed
        .flat_map(|(drop, (coupon, ledger))| ledger.findings(coupon, Some(drop)))
        .collect())
}

/// Time limit of a page of uses.
const LONG: Duration = Duration::from_secs(60);

/// Deletes allow lists that nobody needs and, if a retention is set, replaces old user ids.
pub(crate) async fn erase(stores: &Stores, settings: &PassSettings) {
    let lists = stores.db.delete_old_allow_lists(LISTS_KEPT).await;
    log("allow lists", lists);
    if let Some(days) = settings.retention_days {
        log("erasing", erase_old_users(stores, days).await);
    }
}
