//! Reads the data of the overview: coupons, alerts and the last run every few seconds, and the
//! counts of drops on each request. Other modules interpret the data.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop, DropState};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::alerts::{self, AlertState, ListedAlert};
use firstcome_shared::redis::RedisError;
use firstcome_shared::redis::reads::DropState as DropNumbers;
use tokio::time::timeout;

use crate::record;
use crate::report::Run;
use crate::stores::Stores;

/// Drops per page.
pub(super) const DROPS: usize = 50;

/// Maximum number of alerts.
const ALERTS: i64 = 50;

/// Maximum age of cached coupons, alerts and the last pass.
const FACTS_EVERY: Duration = Duration::from_secs(5);

/// Maximum age of the same data if one drop is requested.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Interval after which rows are counted again even if nothing seems to have changed.
const COUNT_AGAIN: Duration = Duration::from_secs(10);

/// Slots counted per request, which takes MySQL about 50 ms. A larger drop is counted alone and
/// therefore less often.
const SLOTS_AT_ONCE: u32 = 200_000;
const SLOTS_A_SECOND: u32 = 100_000;

/// The rows of drops larger than this are not counted, because that would take too long for one
/// request.
const COUNTED_AT_MOST: u32 = 2_000_000;

/// Maximum wait for one store. After that the page shows old counts.
const PATIENCE: Duration = Duration::from_secs(2);

/// Inconsistent counts are reported once they have not changed for this time.
const SETTLED: Duration = Duration::from_secs(10);

/// Facts that change rarely.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) coupons: Vec<(Coupon, Vec<Drop>)>,
    /// Alerts that fire, newest first.
    pub(super) alerts: Vec<ListedAlert>,
    /// The last pass over everything, without its findings.
    pub(super) last_pass: Option<Arc<Run>>,
    /// When the facts were read, or `None` before the first read.
    pub(super) read_at: Option<DateTime<Utc>>,
}

/// The last count of a drop's rows, and the number of slot holders just before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct CountedRows {
    pub(super) rows: u64,
    pub(super) users: u64,
    pub(super) at: Instant,
}

/// One drop with its counts.
pub(super) struct SeenDrop {
    pub(super) coupon: Coupon,
    pub(super) drop: Drop,
    /// `None` if Redis did not answer.
    pub(super) numbers: Option<DropNumbers>,
    pub(super) counted: Option<CountedRows>,
    pub(super) dead_letters: Option<u64>,
    /// Whether its coupon was verified since Redis last started.
    pub(super) is_verified: bool,
    /// Whether its counts are inconsistent and have not changed for a while.
    pub(super) is_stuck: bool,
}

pub(super) struct Snapshot {
    pub(super) at: DateTime<Utc>,
    /// `None` if Redis does not answer.
    pub(super) gate_is_open: Option<bool>,
    pub(super) mysql_answers: bool,
    pub(super) facts: Arc<Facts>,
    /// The drops of this page.
    pub(super) drops: Vec<SeenDrop>,
    pub(super) page: usize,
    /// Number of drops on all pages.
    pub(super) total: usize,
}

/// Reads the stores and caches what rarely changes.
pub(super) struct Reader {
    stores: Stores,
    facts: Arc<Facts>,
    tried_at: Option<Instant>,
    mysql_answers: bool,
    dead_letters: HashMap<DropId, u64>,
    counted: HashMap<DropId, CountedRows>,
    unsettled: HashMap<DropId, Unsettled>,
}

/// Inconsistent counts of a drop, since when they have these values, and the time of the last
/// count.
#[derive(Clone, Copy)]
struct Unsettled {
    numbers: [i64; 5],
    since: Instant,
    last: Instant,
}

impl Facts {
    /// Number of drops that are not sealed, or `None` if nothing has been read yet.
    pub(super) fn live_drops(&self) -> Option<u64> {
        self.read_at?;
        let drops = self.coupons.iter().flat_map(|(_, drops)| drops);
        Some(drops.filter(|drop| drop.sealed_at.is_none()).count() as u64)
    }
}

impl Reader {
    pub(super) fn new(stores: Stores) -> Self {
        Self {
            stores,
            facts: Arc::default(),
            tried_at: None,
            mysql_answers: true,
            dead_letters: HashMap::new(),
            counted: HashMap::new(),
            unsettled: HashMap::new(),
        }
    }

    /// Reads everything on page `page`, counted from 0.
    pub(super) async fn read(&mut self, page: usize) -> Snapshot {
        let is_fresh = self.read_facts().await;
        let facts = Arc::clone(&self.facts);
        let all = in_order(&facts, Utc::now());
        let total = all.len();
        let of_page = all.into_iter().skip(page.saturating_mul(DROPS)).take(DROPS);
        let shown: Vec<(Coupon, Drop)> = of_page
            .map(|(coupon, drop)| (coupon.clone(), drop.clone()))
            .collect();
        let snapshot = self.look(shown, is_fresh).await;
        Snapshot {
            page,
            total,
            ..snapshot
        }
    }

    /// Reads one drop, regardless of its page.
    pub(super) async fn read_one(&mut self, coupon: Coupon, drop: Drop) -> Snapshot {
        // The drop was requested explicitly, perhaps after a pass, so avoid old data.
        self.tried_at = self.tried_at.filter(|at| at.elapsed() < READ_AGAIN);
        let is_fresh = self.read_facts().await;
        self.look(vec![(coupon, drop)], is_fresh).await
    }

    /// Reads these drops as a single page.
    async fn look(&mut self, shown: Vec<(Coupon, Drop)>, is_fresh: bool) -> Snapshot {
        let total = shown.len();
        let at = Utc::now();
        let facts = Arc::clone(&self.facts);
        let live = timeout(PATIENCE, self.live(&shown))
            .await
            .ok()
            .and_then(Result::ok);
        let redis_answers = live.is_some();
        let (numbers, verified) = live.unwrap_or_default();
        if self.mysql_answers {
            // If a count takes too long, show the previous result. The other reads show whether
            // MySQL answers.
            let letters = timeout(PATIENCE, self.count_letters(&shown, is_fresh)).await;
            let rows = timeout(PATIENCE, self.count_rows(&shown, &numbers)).await;
            if !matches!((letters, rows), (Ok(Ok(())), Ok(Ok(())))) {
                tracing::debug!("the overview shows older numbers");
            }
        }
        self.settle(&shown, &numbers);
        let gate_is_open = redis_answers.then(|| {
            shown
                .iter()
                .all(|(coupon, _)| verified.contains(&coupon.id))
        });
        let seen = |(coupon, drop): (Coupon, Drop)| SeenDrop {
            numbers: numbers.get(&drop.id).cloned(),
            counted: self.counted.get(&drop.id).copied(),
            dead_letters: self.dead_letters.get(&drop.id).copied(),
            is_verified: verified.contains(&coupon.id),
            is_stuck: self
                .unsettled
                .get(&drop.id)
                .is_some_and(|one| one.last - one.since >= SETTLED),
            coupon,
            drop,
        };
        Snapshot {
            at,
            gate_is_open,
            mysql_answers: self.mysql_answers,
            drops: shown.into_iter().map(seen).collect(),
            facts,
            page: 0,
            total,
        }
    }

    /// Reads the facts if they are old. Returns whether they were read.
    async fn read_facts(&mut self) -> bool {
        if self.tried_at.is_some_and(|at| at.elapsed() < FACTS_EVERY) {
            return false;
        }
        self.tried_at = Some(Instant::now());
        let read = timeout(PATIENCE, facts(&self.stores, &self.facts)).await;
        self.mysql_answers = match read {
            Ok(Ok(facts)) => {
                self.facts = Arc::new(facts);
                self.forget();
                true
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "the overview cannot be read from MySQL");
                false
            }
            Err(_) => false,
        };
        self.mysql_answers
    }

    /// Drops cached data of drops that are no longer live.
    fn forget(&mut self) {
        let live: HashSet<DropId> = self
            .facts
            .coupons
            .iter()
            .flat_map(|(_, drops)| drops)
            .map(|drop| drop.id)
            .collect();
        self.dead_letters.retain(|drop, _| live.contains(drop));
        self.counted.retain(|drop, _| live.contains(drop));
        self.unsettled.retain(|drop, _| live.contains(drop));
    }

    /// Reads the counts of these drops from Redis, and the verified coupons.
    async fn live(
        &self,
        shown: &[(Coupon, Drop)],
    ) -> Result<(HashMap<DropId, DropNumbers>, HashSet<CouponId>), RedisError> {
        let redis = &self.stores.redis;
        let keys: Vec<_> = shown
            .iter()
            .map(|(coupon, drop)| redis.keys(coupon.id, drop.id))
            .collect();
        let servers = redis.servers().await?;
        let states = redis.drop_states(&keys).await?;
        let verified = shown
            .iter()
            .zip(&states)
            .filter(|((coupon, _), state)| state.gate.is_open(servers.of(coupon.id), coupon.era));
        let verified = verified.map(|((coupon, _), _)| coupon.id).collect();
        let numbers = shown.iter().map(|(_, drop)| drop.id).zip(states);
        Ok((numbers.collect(), verified))
    }

    /// Counts the dead letters periodically.
    async fn count_letters(
        &mut self,
        shown: &[(Coupon, Drop)],
        is_due: bool,
    ) -> Result<(), DbError> {
        let ids = || shown.iter().map(|(_, drop)| drop.id);
        if is_due || ids().any(|id| !self.dead_letters.contains_key(&id)) {
            let found = self.stores.db.count_dead_letters(ids().collect()).await?;
            self.dead_letters
                .extend(ids().map(|id| (id, found.get(&id).copied().unwrap_or(0))));
        }
        Ok(())
    }

    /// Counts the rows that may have changed.
    async fn count_rows(
        &mut self,
        shown: &[(Coupon, Drop)],
        numbers: &HashMap<DropId, DropNumbers>,
    ) -> Result<(), DbError> {
        let mut due: Vec<&Drop> = shown
            .iter()
            .map(|(_, drop)| drop)
            .filter(|drop| self.is_due(drop, numbers))
            .collect();
        due.sort_by_key(|drop| self.counted.get(&drop.id).map(|counted| counted.at));
        let mut slots = 0_u32;
        for drop in due {
            slots = slots.saturating_add(drop.quantity);
            if slots > drop.quantity && slots > SLOTS_AT_ONCE {
                break;
            }
            let users = numbers.get(&drop.id).map_or(0, |numbers| numbers.users);
            let at = Instant::now();
            let rows = self
                .stores
                .db
                .count_rows(drop.id, i64::from(drop.quantity))
                .await?;
            self.counted
                .insert(drop.id, CountedRows { rows, users, at });
        }
        Ok(())
    }

    fn is_due(&self, drop: &Drop, numbers: &HashMap<DropId, DropNumbers>) -> bool {
        if drop.quantity > COUNTED_AT_MOST {
            return false;
        }
        let Some(counted) = self.counted.get(&drop.id) else {
            return true;
        };
        let age = counted.at.elapsed();
        let users = numbers.get(&drop.id).map(|numbers| numbers.users);
        let moves =
            counted.rows != counted.users || users.is_some_and(|users| users != counted.users);
        let large = Duration::from_secs(u64::from(drop.quantity / SLOTS_A_SECOND));
        age >= if moves { large } else { COUNT_AGAIN.max(large) }
    }

    /// Tracks inconsistent counts. Under load, counts are also inconsistent but keep changing.
    /// Sealed drops are ignored because their keys expire.
    fn settle(&mut self, shown: &[(Coupon, Drop)], numbers: &HashMap<DropId, DropNumbers>) {
        for (_, drop) in shown {
            let numbers = numbers.get(&drop.id);
            let counted = self.counted.get(&drop.id).copied();
            let (Some(numbers), Some(counted)) = (numbers, counted) else {
                continue;
            };
            if drop.sealed_at.is_some() || adds_up(numbers, &counted) {
                self.unsettled.remove(&drop.id);
                continue;
            }
            let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            let now = [
                counted.rows,
                counted.users,
                numbers.free,
                u64::from(numbers.waiting > 0),
            ]
            .map(signed);
            let now = [now[0], now[1], now[2], now[3], numbers.count.unwrap_or(-1)];
            let fresh = Unsettled {
                numbers: now,
                since: counted.at,
                last: counted.at,
            };
            let known = self.unsettled.entry(drop.id).or_insert(fresh);
            if known.numbers == now {
                known.last = counted.at;
            } else {
                *known = fresh;
            }
        }
    }
}

/// Whether every holder of a slot has a row, the counter is correct, and no user waits while a slot
/// is free.
fn adds_up(numbers: &DropNumbers, counted: &CountedRows) -> bool {
    let count = numbers
        .count
        .and_then(|count| u64::try_from(count).ok())
        .unwrap_or(u64::MAX);
    let is_unused = numbers.count.is_none() && numbers.users == 0 && counted.rows == 0;
    counted.rows == counted.users
        && (is_unused || count == numbers.users + numbers.free)
        && (numbers.free == 0 || numbers.waiting == 0)
}

async fn facts(stores: &Stores, known: &Facts) -> Result<Facts, DbError> {
    let db = &stores.db;
    let read_at = Some(Utc::now());
    let firing = Some(AlertState::Firing.as_str().to_owned());
    let alerts = alerts::list(db, firing, None, ALERTS).await?;
    let mut coupons = db.catalogue().await?;
    let live: HashSet<CouponId> = coupons.iter().map(|(coupon, _)| coupon.id).collect();
    let mut others: Vec<CouponId> = alerts
        .iter()
        .filter_map(|alert| alert.alert.coupon_id)
        .collect();
    others.retain(|coupon| !live.contains(coupon));
    if !others.is_empty() {
        coupons.extend(db.coupons_by_id(others).await?);
    }
    let last_pass = match (db.last_full_run().await?, &known.last_pass) {
        (Some(id), Some(run)) if run.run_id == id => Some(Arc::clone(run)),
        // Load the run without findings, by starting after the maximum ID. `GET /v1/runs/{id}`
        // returns them.
        (Some(id), _) => record::read(db, id, 1, i64::MAX)
            .await?
            .map(|(run, _)| Arc::new(run)),
        (None, _) => None,
    };
    Ok(Facts {
        coupons,
        alerts,
        last_pass,
        read_at,
    })
}

/// Sorts drops for the overview: those with an alert first, then open ones, ended ones, and the
/// next one of each coupon.
fn in_order(facts: &Facts, now: DateTime<Utc>) -> Vec<(&Coupon, &Drop)> {
    let alarmed: HashSet<DropId> = facts
        .alerts
        .iter()
        .filter_map(|alert| alert.alert.drop_id)
        .collect();
    let mut found = Vec::new();
    for (coupon, drops) in &facts.coupons {
        let next = drops
            .iter()
            .filter(|drop| drop.opens_at > now)
            .min_by_key(|drop| drop.opens_at)
            .map(|drop| drop.id);
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
        (
            !alarmed.contains(&drop.id),
            rank,
            (drop.opens_at - now).abs(),
            drop.id,
        )
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adding(count: Option<i64>, [users, free, waiting, rows]: [u64; 4]) -> bool {
        let numbers = DropNumbers {
            count,
            users,
            free,
            waiting,
            ..DropNumbers::default()
        };
        adds_up(
            &numbers,
            &CountedRows {
                rows,
                users,
                at: Instant::now(),
            },
        )
    }

    #[test]
    fn counts_are_consistent_when_nothing_needs_repair() {
        for (count, numbers, expected) in [
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
            assert_eq!(adding(count, numbers), expected, "{count:?} {numbers:?}");
        }
    }
}
