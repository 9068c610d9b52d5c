//! Reads the state of the installation for the overview. All requests share one reader. It reads
//! coupons, alerts and the last run once a second at most, and the numbers of drops for each page.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use firstcome_shared::StoreError;
use firstcome_shared::coupon::{Coupon, Drop, DropState};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::http::views::{
    AdmissionState, DropOverview, LastRun, ListedAlert, MOST_ALERTS, Overview, RedisCounts,
    RowCount,
};
use firstcome_shared::mysql::DbError;
use firstcome_shared::redis::refusing::unless_missed;
use firstcome_shared::schedule::Schedule;
use tokio::time::timeout;

use super::runs;
use crate::context::Stores;
use crate::notify::queries::alerts;
use crate::queries;
use crate::queries::drops::DropCount;
use crate::report::{AlertState, Run};

/// Drops per page.
const DROPS: usize = 50;

/// Maximum age of coupons, alerts and the last run on a page.
const FACTS_EVERY: Duration = Duration::from_secs(1);

/// A request counts rows until this number of slots is reached, which takes MySQL about 50 ms. A
/// large drop is counted less often, and the largest are not counted at all.
const SLOTS_AT_ONCE: u32 = 200_000;
const SLOTS_A_SECOND: u32 = 100_000;
const COUNTED_AT_MOST: u32 = 2_000_000;

/// How long a count is kept.
const KEPT: Duration = Duration::from_secs(60);

/// Maximum wait for one store. After that the page lacks the counts of that store, except rows,
/// which stay as last counted.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads the stores, and remembers facts that rarely change.
pub(crate) struct Reader {
    stores: Stores,
    facts: OverviewFacts,
    /// When MySQL was last asked for the facts, and whether it answered.
    asked_at: Option<Instant>,
    mysql_answers: bool,
    /// The rows of drops when they were last counted.
    rows: HashMap<DropId, (RowCount, Instant)>,
}

/// Facts that rarely change.
#[derive(Default)]
struct OverviewFacts {
    coupons: Vec<(Coupon, Vec<Drop>)>,
    alerts: Vec<ListedAlert>,
    /// The last run over everything, without its findings.
    last_run: Option<Run>,
    /// When the facts were read, or `None` before the first time.
    read_at: Option<DateTime<Utc>>,
}

/// What Redis says about a drop, and whether its coupon is verified.
type InRedis = HashMap<DropId, (RedisCounts, bool)>;

impl Reader {
    pub(super) fn new(stores: Stores) -> Self {
        Self {
            stores,
            facts: OverviewFacts::default(),
            asked_at: None,
            mysql_answers: true,
            rows: HashMap::new(),
        }
    }

    /// Returns a page of drops, counted from 1.
    pub(super) async fn page(&mut self, page: usize) -> Overview {
        self.read_facts().await;
        let all = in_order(&self.facts, Utc::now());
        let pages = all.len().div_ceil(DROPS).max(1);
        let shown = all
            .into_iter()
            .skip((page - 1) * DROPS)
            .take(DROPS)
            .map(|(coupon, drop)| (coupon.clone(), drop.clone()))
            .collect();
        Overview {
            page,
            pages,
            ..self.read_numbers(shown).await
        }
    }

    /// Reads one drop now, whatever its page.
    pub(super) async fn read_one(&mut self, coupon: Coupon, drop: Drop) -> Overview {
        self.read_facts().await;
        self.read_numbers(vec![(coupon, drop)]).await
    }

    async fn read_numbers(&mut self, shown: Vec<(Coupon, Drop)>) -> Overview {
        let at = Utc::now();
        let found = timeout(PATIENCE, in_redis(&self.stores, &shown))
            .await
            .ok()
            .and_then(Result::ok);
        let admission = match &found {
            None => AdmissionState::Unknown,
            Some(seen)
                if seen.len() == shown.len()
                    && seen.values().all(|(_, is_verified)| *is_verified) =>
            {
                AdmissionState::Open
            }
            Some(_) => AdmissionState::Closed,
        };
        let found = found.unwrap_or_default();
        let mut letters = None;
        if self.mysql_answers {
            let counted = timeout(PATIENCE, self.count(&shown, &found)).await;
            letters = counted.ok().and_then(Result::ok);
        }
        let overviews = shown.iter().map(|(coupon, drop)| {
            let (redis, verified) = found.get(&drop.id).copied().unzip();
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
                rows: self.rows.get(&drop.id).map(|(rows, _)| *rows),
                failed_claims: letters
                    .as_ref()
                    .map(|it| it.get(&drop.id).copied().unwrap_or(0)),
                last_run: found_in(drop.id, self.facts.last_run.as_ref()),
            }
        });
        let facts = &self.facts;
        let live = facts
            .coupons
            .iter()
            .flat_map(|(_, drops)| drops)
            .filter(|drop| drop.sealed_at.is_none())
            .count() as u64;
        Overview {
            at,
            admission,
            mysql_answers: self.mysql_answers,
            mysql_read_at: facts.read_at,
            alerts: facts.alerts.clone(),
            last_run: facts.last_run.as_ref().map(last_run),
            drops: overviews.collect(),
            page: 1,
            pages: 1,
            live_drops: facts.read_at.map(|_| live),
        }
    }

    /// Reads the facts if they are too old.
    async fn read_facts(&mut self) {
        if self.asked_at.is_some_and(|at| at.elapsed() < FACTS_EVERY) {
            return;
        }
        self.asked_at = Some(Instant::now());
        let read = timeout(PATIENCE, facts(&self.stores, self.facts.last_run.as_ref()))
            .await
            .ok()
            .and_then(Result::ok);
        self.mysql_answers = read.is_some();
        if let Some(facts) = read {
            self.facts = facts;
        }
    }

    /// Counts the dead letters of these drops, and their rows, first those that were not counted for
    /// the longest time.
    async fn count(
        &mut self,
        shown: &[(Coupon, Drop)],
        found: &InRedis,
    ) -> Result<HashMap<DropId, u64>, DbError> {
        let db = &self.stores.db;
        let ids: Vec<DropId> = shown.iter().map(|(_, drop)| drop.id).collect();
        let letters = queries::drops::count(db, DropCount::DeadLetters, &ids).await?;
        self.rows.retain(|_, (_, at)| at.elapsed() < KEPT);
        let counted_at = |drop: &Drop| self.rows.get(&drop.id).map(|(_, at)| *at);
        let mut due: Vec<&Drop> = shown
            .iter()
            .map(|(_, drop)| drop)
            .filter(|drop| drop.quantity <= COUNTED_AT_MOST)
            .filter(|drop| {
                let rest = Duration::from_secs(u64::from(drop.quantity / SLOTS_A_SECOND));
                counted_at(drop).is_none_or(|at| at.elapsed() >= rest)
            })
            .collect();
        due.sort_by_key(|drop| counted_at(drop));
        let mut slots = 0;
        for drop in due {
            let at = Instant::now();
            let users = found.get(&drop.id).map_or(0, |(redis, _)| redis.users);
            let counts = queries::drops::count(db, DropCount::Rows, &[drop.id]).await?;
            let rows = counts.get(&drop.id).copied().unwrap_or(0);
            self.rows.insert(drop.id, (RowCount { rows, users }, at));
            slots += drop.quantity;
            if slots >= SLOTS_AT_ONCE {
                break;
            }
        }
        Ok(letters)
    }
}

async fn in_redis(stores: &Stores, shown: &[(Coupon, Drop)]) -> Result<InRedis, StoreError> {
    let redis = &stores.redis;
    let keys_of_all = shown
        .iter()
        .map(|(coupon, drop)| redis.keys(coupon.id, drop.id));
    let keys: Vec<_> = keys_of_all.collect();
    let servers = redis.servers().await?;
    let states = redis.drop_states(&keys).await;
    let mut found = InRedis::default();
    for ((coupon, drop), state) in shown.iter().zip(states) {
        let Some(state) = unless_missed(state)? else {
            continue;
        };
        let counts = RedisCounts {
            count: state.count,
            users: state.users,
            free: state.free,
            waiting: state.waiting,
        };
        let is_verified = state.gate.is_open(servers.holding(coupon.id), coupon.era);
        found.insert(drop.id, (counts, is_verified));
    }
    Ok(found)
}

async fn facts(stores: &Stores, known: Option<&Run>) -> Result<OverviewFacts, DbError> {
    let db = &stores.db;
    let read_at = Some(Utc::now());
    let firing = alerts::list(db, Some(AlertState::Firing), None, MOST_ALERTS).await?;
    let alerts = firing.alerts;
    let mut coupons = db.catalogue().await?;
    let live: HashSet<CouponId> = coupons.iter().map(|(coupon, _)| coupon.id).collect();
    let named = alerts.iter().filter_map(|alert| alert.alert.coupon_id);
    let others: Vec<CouponId> = named.filter(|coupon| !live.contains(coupon)).collect();
    if !others.is_empty() {
        coupons.extend(db.coupons_by_id(others).await?);
    }
    let last_run = match (queries::runs::last_full_run(db).await?, known) {
        (Some(id), Some(run)) if run.run_id == id => Some(run.clone()),
        // Load the run without findings, by starting after the maximum ID. `GET /v1/runs/{id}`
        // returns them.
        (Some(id), _) => runs::page(db, id, 1, i64::MAX).await?.map(|page| page.run),
        (None, _) => None,
    };
    Ok(OverviewFacts {
        coupons,
        alerts,
        last_run,
        read_at,
    })
}

/// Selects and sorts the drops of the overview: those with an alert first, then open ones, ended
/// ones, and the next one of each coupon. A sealed one is shown until another opens.
fn in_order(facts: &OverviewFacts, now: DateTime<Utc>) -> Vec<(&Coupon, &Drop)> {
    let named = facts.alerts.iter().filter_map(|alert| alert.alert.drop_id);
    let alarmed: HashSet<DropId> = named.collect();
    let mut found = Vec::new();
    for (coupon, drops) in &facts.coupons {
        let to_come = drops.iter().filter(|drop| drop.opens_at > now);
        let next = to_come.min_by_key(|drop| drop.opens_at).map(|drop| drop.id);
        let opened = drops.iter().filter(|drop| drop.opens_at <= now);
        let last = opened.max_by_key(|drop| drop.opens_at).map(|drop| drop.id);
        let shown = drops.iter().filter(|drop| {
            let is_under_way = drop.opens_at <= now && drop.sealed_at.is_none();
            is_under_way || [last, next].contains(&Some(drop.id)) || alarmed.contains(&drop.id)
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
}
