//! `GET /v1/overview` returns the state of the installation in one response. All concurrent
//! requests share one reading of the stores: coupons, alerts and the last run every few seconds,
//! the numbers of drops each time.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop, DropState};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::http::extract::{StrictQuery, invalid};
use firstcome_shared::http::views::{
    AdmissionState, DropOverview, LastRun, Overview, RedisCounts, RowCount,
};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::alerts::{self, AlertState, ListedAlert};
use firstcome_shared::redis::RedisError;
use firstcome_shared::schedule::Schedule;
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::IntoParams;

use super::refusals::Answer;
use super::runs;
use super::state::RouteState;
use crate::report::Run;
use crate::stores::Stores;

/// Drops per page.
const DROPS: usize = 50;

/// Maximum number of alerts.
const ALERTS: u32 = 50;

/// A page is reused for requests that arrive within this time after its reading began. The console
/// polls once a second.
const FRESH: Duration = Duration::from_millis(800);

/// Maximum age of coupons, alerts and the last run; and if one drop is requested, perhaps after a
/// pass.
const FACTS_EVERY: Duration = Duration::from_secs(5);
const FACTS_OF_ONE: Duration = Duration::from_secs(1);

/// Slots counted per request, which takes MySQL about 50 ms. A larger drop is counted alone, and
/// less often; the largest are not counted at all.
const SLOTS_AT_ONCE: u32 = 200_000;
const SLOTS_A_SECOND: u32 = 100_000;
const COUNTED_AT_MOST: u32 = 2_000_000;

/// Maximum wait for one store. After that the page shows old counts.
const PATIENCE: Duration = Duration::from_secs(2);

/// Inconsistent counts are reported once they have not changed for this time.
const SETTLED: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OverviewQuery {
    /// The page of drops, from 1; 50 drops a page.
    #[param(default = 1, minimum = 1, maximum = 100_000)]
    page: Option<usize>,
}

/// Show the state of the installation
///
/// Firing alerts, admission, and the drops that are live or need manual attention, the most urgent
/// first. Counts are at most a second old (rows of large drops up to 20 seconds), settings and
/// alerts 5 seconds.
#[utoipa::path(
    get, path = "/v1/overview", tag = "overview", operation_id = "read_overview", params(OverviewQuery), security(("ops" = [])),
    responses(
        (status = 200, description = "The state, also while a store does not answer", body = Overview),
    )
)]
pub(super) async fn read(
    State(app): State<RouteState>,
    StrictQuery(query): StrictQuery<OverviewQuery>,
) -> Answer<Overview> {
    let page = query.page.unwrap_or(1);
    if !(1..=100_000).contains(&page) {
        return Err(invalid("page must be from 1 to 100000").into());
    }
    Ok(Json(app.overview.lock().await.page(page).await))
}

/// Reads the stores, and remembers what rarely changes.
pub(crate) struct Reader {
    stores: Stores,
    facts: Facts,
    /// When MySQL was last asked for the facts, and whether it answered.
    asked_at: Option<Instant>,
    mysql_answers: bool,
    /// Whether dead letters were counted since the facts were read.
    has_letters: bool,
    counts: HashMap<DropId, Counts>,
    first_page: Option<(Instant, Overview)>,
}

/// What rarely changes.
#[derive(Default)]
struct Facts {
    coupons: Vec<(Coupon, Vec<Drop>)>,
    alerts: Vec<ListedAlert>,
    /// The last run over everything, without its findings.
    last_run: Option<Run>,
    /// When the facts were read, or `None` before the first time.
    read_at: Option<DateTime<Utc>>,
}

/// The counts of a drop that are kept from one reading to the next.
#[derive(Default)]
struct Counts {
    failed_claims: Option<u64>,
    rows: Option<(RowCount, Instant)>,
    /// Numbers that do not add up, and when rows were first counted with them.
    unsettled: Option<([Option<i64>; 5], Instant)>,
}

/// What Redis says about a drop, and whether its coupon is verified.
type InRedis = HashMap<DropId, (RedisCounts, bool)>;

impl Reader {
    pub(super) fn new(stores: Stores) -> Self {
        Self {
            stores,
            facts: Facts::default(),
            asked_at: None,
            mysql_answers: true,
            has_letters: false,
            counts: HashMap::new(),
            first_page: None,
        }
    }

    /// Returns a page of drops, counted from 1.
    async fn page(&mut self, page: usize) -> Overview {
        if let Some((at, seen)) = &self.first_page
            && page == 1
            && at.elapsed() < FRESH
        {
            return seen.clone();
        }
        crate::metrics::overview_look();
        let began = Instant::now();
        self.read_facts(FACTS_EVERY).await;
        let all = in_order(&self.facts, Utc::now());
        let pages = all.len().div_ceil(DROPS).max(1);
        let shown = all.into_iter().skip((page - 1) * DROPS).take(DROPS);
        let shown = shown.map(|(coupon, drop)| (coupon.clone(), drop.clone()));
        let shown = shown.collect();
        let seen = Overview {
            page,
            pages,
            ..self.look(shown).await
        };
        if page == 1 {
            self.first_page = Some((began, seen.clone()));
        }
        seen
    }

    /// Reads one drop now, whatever its page.
    pub(super) async fn one(&mut self, coupon: Coupon, drop: Drop) -> Overview {
        self.read_facts(FACTS_OF_ONE).await;
        self.look(vec![(coupon, drop)]).await
    }

    /// Reads the numbers of these drops.
    async fn look(&mut self, shown: Vec<(Coupon, Drop)>) -> Overview {
        let at = Utc::now();
        let found = timeout(PATIENCE, in_redis(&self.stores, &shown)).await;
        let found = found.ok().and_then(Result::ok);
        let is_verified = |seen: &InRedis| {
            (shown.iter()).all(|(_, drop)| seen.get(&drop.id).is_some_and(|it| it.1))
        };
        let admission = match found.as_ref().map(is_verified) {
            Some(true) => AdmissionState::Open,
            Some(false) => AdmissionState::Closed,
            None => AdmissionState::Unknown,
        };
        let found = found.unwrap_or_default();
        if self.mysql_answers {
            let letters = timeout(PATIENCE, self.count_letters(&shown)).await;
            let rows = timeout(PATIENCE, self.count_rows(&shown, &found)).await;
            if !matches!((letters, rows), (Ok(Ok(())), Ok(Ok(())))) {
                tracing::debug!("the overview shows older numbers");
            }
        }
        let drops = shown.iter().map(|(coupon, drop)| {
            let (redis, verified) = found.get(&drop.id).copied().unzip();
            let counts = self.counts.entry(drop.id).or_default();
            let held = redis.map_or(0, |redis| u32::try_from(redis.users).unwrap_or(u32::MAX));
            DropOverview {
                coupon_id: coupon.id,
                coupon_name: coupon.name.clone(),
                time_zone: coupon.schedule.as_ref().and_then(Schedule::time_zone),
                drop_id: drop.id,
                opens_at: drop.opens_at,
                closes_at: drop.closes_at,
                quantity: drop.quantity,
                state: drop.state(at, coupon.paused, drop.quantity.saturating_sub(held)),
                paused: coupon.paused,
                verified: verified.unwrap_or(false),
                redis,
                rows: counts.rows.map(|(rows, _)| rows),
                failed_claims: counts.failed_claims,
                stuck: drop.sealed_at.is_none() && redis.is_some_and(|it| counts.are_stuck(&it)),
                last_run: found_in(drop.id, self.facts.last_run.as_ref()),
            }
        });
        let drops = drops.collect();
        let facts = &self.facts;
        Overview {
            at,
            admission,
            mysql_answers: self.mysql_answers,
            mysql_read_at: facts.read_at,
            alerts: facts.alerts.clone(),
            last_run: facts.last_run.as_ref().map(last_run),
            drops,
            page: 1,
            pages: 1,
            live_drops: facts.read_at.map(|_| {
                let drops = facts.coupons.iter().flat_map(|(_, drops)| drops);
                drops.filter(|drop| drop.sealed_at.is_none()).count() as u64
            }),
        }
    }

    /// Reads the facts if they are older than `age`.
    async fn read_facts(&mut self, age: Duration) {
        if self.asked_at.is_some_and(|at| at.elapsed() < age) {
            return;
        }
        self.asked_at = Some(Instant::now());
        let read = timeout(PATIENCE, facts(&self.stores, self.facts.last_run.as_ref())).await;
        self.mysql_answers = matches!(read, Ok(Ok(_)));
        match read {
            Ok(Ok(facts)) => {
                let drops = facts.coupons.iter().flat_map(|(_, drops)| drops);
                let live: HashSet<DropId> = drops.map(|drop| drop.id).collect();
                self.counts.retain(|drop, _| live.contains(drop));
                self.has_letters = false;
                self.facts = facts;
            }
            Ok(Err(error)) => tracing::debug!(%error, "the overview cannot be read from MySQL"),
            Err(_) => {}
        }
    }

    async fn count_letters(&mut self, shown: &[(Coupon, Drop)]) -> Result<(), DbError> {
        let is_counted = |(_, drop): &(Coupon, Drop)| {
            let counts = self.counts.get(&drop.id);
            counts.is_some_and(|counts| counts.failed_claims.is_some())
        };
        if self.has_letters && shown.iter().all(is_counted) {
            return Ok(());
        }
        let ids: Vec<DropId> = shown.iter().map(|(_, drop)| drop.id).collect();
        let found = self.stores.db.count_dead_letters(ids.clone()).await?;
        for id in ids {
            let number = found.get(&id).copied().unwrap_or(0);
            self.counts.entry(id).or_default().failed_claims = Some(number);
        }
        self.has_letters = true;
        Ok(())
    }

    /// Counts rows, first those that were not counted for the longest time.
    async fn count_rows(
        &mut self,
        shown: &[(Coupon, Drop)],
        found: &InRedis,
    ) -> Result<(), DbError> {
        let drops = shown.iter().map(|(_, drop)| drop);
        let counted_at = |drop: &Drop| {
            self.counts
                .get(&drop.id)
                .and_then(|it| it.rows)
                .map(|it| it.1)
        };
        let is_due = |drop: &&Drop| {
            let rest = Duration::from_secs(u64::from(drop.quantity / SLOTS_A_SECOND));
            drop.quantity <= COUNTED_AT_MOST
                && counted_at(drop).is_none_or(|at| at.elapsed() >= rest)
        };
        let mut due: Vec<&Drop> = drops.filter(is_due).collect();
        due.sort_by_key(|drop| counted_at(drop));
        let mut slots = 0_u32;
        for drop in due {
            slots = slots.saturating_add(drop.quantity);
            if slots > drop.quantity && slots > SLOTS_AT_ONCE {
                break;
            }
            let at = Instant::now();
            let users = found.get(&drop.id).map_or(0, |(redis, _)| redis.users);
            let quantity = i64::from(drop.quantity);
            let rows = self.stores.db.count_rows(drop.id, quantity).await?;
            self.counts.entry(drop.id).or_default().rows = Some((RowCount { rows, users }, at));
        }
        Ok(())
    }
}

impl Counts {
    /// Whether the numbers do not add up and have not changed for a while. Under load they do not
    /// add up either, but change.
    fn are_stuck(&mut self, redis: &RedisCounts) -> bool {
        let Some((counted, at)) = self.rows.filter(|(counted, _)| !adds_up(redis, counted)) else {
            self.unsettled = None;
            return false;
        };
        let signed = |n: u64| i64::try_from(n).ok();
        let now = [
            signed(counted.rows),
            signed(counted.users),
            signed(redis.free),
            Some(i64::from(redis.waiting > 0)),
            redis.count,
        ];
        let since = match self.unsettled {
            Some((numbers, since)) if numbers == now => since,
            _ => at,
        };
        self.unsettled = Some((now, since));
        at - since >= SETTLED
    }
}

/// Whether every holder of a slot has a row, the counter is correct, and no user waits while a slot
/// is free.
fn adds_up(redis: &RedisCounts, counted: &RowCount) -> bool {
    let count = redis.count.and_then(|count| u64::try_from(count).ok());
    let is_unused = redis.count.is_none() && redis.users == 0 && counted.rows == 0;
    counted.rows == counted.users
        && (is_unused || count == Some(redis.users + redis.free))
        && (redis.free == 0 || redis.waiting == 0)
}

async fn in_redis(stores: &Stores, shown: &[(Coupon, Drop)]) -> Result<InRedis, RedisError> {
    let redis = &stores.redis;
    let keys = shown
        .iter()
        .map(|(coupon, drop)| redis.keys(coupon.id, drop.id));
    let servers = redis.servers().await?;
    let states = redis.drop_states(&keys.collect::<Vec<_>>()).await?;
    let found = shown.iter().zip(states).map(|((coupon, drop), state)| {
        let counts = RedisCounts {
            count: state.count,
            users: state.users,
            free: state.free,
            waiting: state.waiting,
        };
        let is_verified = state.gate.is_open(servers.of(coupon.id), coupon.era);
        (drop.id, (counts, is_verified))
    });
    Ok(found.collect())
}

async fn facts(stores: &Stores, known: Option<&Run>) -> Result<Facts, DbError> {
    let db = &stores.db;
    let read_at = Some(Utc::now());
    let alerts = alerts::list(db, Some(AlertState::Firing), None, ALERTS)
        .await?
        .alerts;
    let mut coupons = db.catalogue().await?;
    let live: HashSet<CouponId> = coupons.iter().map(|(coupon, _)| coupon.id).collect();
    let named = alerts.iter().filter_map(|alert| alert.alert.coupon_id);
    let others: Vec<CouponId> = named.filter(|coupon| !live.contains(coupon)).collect();
    if !others.is_empty() {
        coupons.extend(db.coupons_by_id(others).await?);
    }
    let last_run = match (db.last_full_run().await?, known) {
        (Some(id), Some(run)) if run.run_id == id => Some(run.clone()),
        // Load the run without findings, by starting after the maximum ID. `GET /v1/runs/{id}`
        // returns them.
        (Some(id), _) => runs::page(db, id, 1, i64::MAX).await?.map(|(run, _)| run),
        (None, _) => None,
    };
    Ok(Facts {
        coupons,
        alerts,
        last_run,
        read_at,
    })
}

/// Sorts drops for the overview: those with an alert first, then open ones, ended ones, and the
/// next one of each coupon.
fn in_order(facts: &Facts, now: DateTime<Utc>) -> Vec<(&Coupon, &Drop)> {
    let named = facts.alerts.iter().filter_map(|alert| alert.alert.drop_id);
    let alarmed: HashSet<DropId> = named.collect();
    let mut found = Vec::new();
    for (coupon, drops) in &facts.coupons {
        let to_come = drops.iter().filter(|drop| drop.opens_at > now);
        let next = to_come.min_by_key(|drop| drop.opens_at).map(|drop| drop.id);
        let shown = drops.iter().filter(|drop| {
            drop.opens_at <= now || Some(drop.id) == next || alarmed.contains(&drop.id)
        });
        found.extend(shown.map(|drop| (coupon, drop)));
    }
    found.sort_by_cached_key(|(_, drop)| {
        let rank = match drop.state(now, false, 1) {
            DropState::Open | DropState::SoldOut | DropState::Paused => 0,
            DropState::Closed => 1,
            DropState::Scheduled => 2,
            DropState::Sealed => 3,
        };
        let distance = (drop.opens_at - now).abs();
        (!alarmed.contains(&drop.id), rank, distance, drop.id)
    });
    found
}

fn last_run(run: &Run) -> LastRun {
    let (drops, examined) = run.examined();
    LastRun {
        run_id: run.run_id.clone(),
        finished_at: run.finished_at.unwrap_or(run.started_at),
        drops,
        users: examined.users,
        rows: examined.rows,
    }
}

/// Describes the result of the last run for a drop.
fn found_in(drop: DropId, run: Option<&Run>) -> String {
    let Some(run) = run else {
        return "none yet".to_owned();
    };
    let Some(report) = run.drops.iter().find(|report| report.drop_id == drop) else {
        return "nothing found".to_owned();
    };
    let is_repaired =
        report.exact && report.before != report.after && report.after.failed_claims == 0;
    let repaired = if is_repaired { ", after repairs" } else { "" };
    format!("{}{repaired}", report.exactness())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{DropReport, Numbers, Trigger};

    #[test]
    fn exact_drop_with_unresolved_failed_claims_is_reported_as_both() {
        let found = |exact, failed_claims| {
            let numbers = |failed_claims| Numbers {
                users: 100,
                rows: 100,
                failed_claims,
                ..Numbers::default()
            };
            let report = DropReport {
                exact,
                before: numbers(2),
                after: numbers(failed_claims),
                ..DropReport::begun(CouponId(3), DropId(7), 100)
            };
            let run = Run {
                drops: vec![report],
                ..Run::begun("1", Trigger::Cron, DateTime::UNIX_EPOCH)
            };
            found_in(DropId(7), Some(&run))
        };
        assert_eq!(found(true, 0), "exact, after repairs");
        assert_eq!(
            found(true, 2),
            "exact for everybody whom Redis knows; 2 failed claims are left"
        );
        assert_eq!(found(false, 2), "not exact");
        assert_eq!(found_in(DropId(7), None), "none yet");
    }

    fn numbers(
        count: Option<i64>,
        [users, free, waiting, rows]: [u64; 4],
    ) -> (RedisCounts, RowCount) {
        let redis = RedisCounts {
            count,
            users,
            free,
            waiting,
        };
        (redis, RowCount { rows, users })
    }

    #[test]
    fn counts_are_consistent_when_nothing_needs_repair() {
        for (count, found, expected) in [
            (None, [0, 0, 0, 0], true),
            (Some(0), [0, 0, 0, 0], true),
            (Some(25), [25, 0, 9, 25], true),
            (Some(25), [24, 1, 0, 24], true),
            (Some(25), [25, 0, 0, 22], false),
            (Some(22), [22, 0, 0, 25], false),
            (Some(29), [25, 0, 0, 25], false),
            (Some(25), [24, 1, 5, 24], false),
            (None, [25, 0, 0, 25], false),
            (None, [0, 0, 0, 25], false),
        ] {
            let (redis, rows) = numbers(count, found);
            assert_eq!(adds_up(&redis, &rows), expected, "{count:?} {found:?}");
        }
    }

    #[test]
    fn only_counts_that_stay_wrong_are_stuck() {
        let begun = Instant::now();
        let mut counts = Counts::default();
        let mut seen = |after: Duration, rows: u64| {
            let (redis, counted) = numbers(Some(25), [25, 0, 0, rows]);
            counts.rows = Some((counted, begun + after));
            counts.are_stuck(&redis)
        };
        assert!(!seen(Duration::ZERO, 20));
        assert!(!seen(SETTLED, 21), "rows still come");
        assert!(!seen(SETTLED, 21), "not counted again");
        assert!(seen(SETTLED * 2, 21));
        assert!(!seen(SETTLED * 3, 25));
        assert!(!seen(SETTLED * 4, 21), "wrong again");
    }
}
