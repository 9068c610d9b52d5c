//! Looking, and nothing else: Redis, the topic's unread tail, MySQL and the backup table become snapshots.
//!
//! The order makes it safe beside live traffic. Redis's clock is read, then the tail, then everything else. An admission
//! older than the publishing deadline at that instant was on the topic by then, or never will be; if it was, it is in
//! the tail, or the consumer committed it before, and then its row or its backup row is there to be read after. What
//! looks like a row without an admission is looked up in Redis once more, since the row may be younger than the first look.

mod messages;
mod redis;
mod rows;
pub mod snapshot;
mod tail;

use std::collections::{HashMap, HashSet};

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer, UserId};
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::repair::Generation;
use firstcome_shared::redis::{Redis, RedisError};

pub use messages::{PersonMessage, PersonMessages};
pub use rows::Backup;
pub use tail::{Tail, TailReader};

use crate::collect::snapshot::{DropFacts, Failed, InFlight, Page};

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    #[error("Redis cannot be reached: {0}")]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Mysql(#[from] DbError),
}

/// What one pass saw before it went through the drops.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Each coupon's generation, read before the topic: a Redis emptied later on is not rebuilt from a tail that is older.
    pub generations: HashMap<CouponId, Generation>,
    /// Redis's clock just before the topic was read, Unix milliseconds.
    pub read_at_ms: i64,
    /// The tail; `None` where Kafka could not be reached.
    pub tail: Option<Tail>,
    pub backup: Vec<Backup>,
    /// The admission gate is closed, so what Redis says may be older than what it promised.
    pub gate_closed: bool,
}

/// A drop's facts, with what is needed to page through it.
#[derive(Debug, Clone)]
pub struct Head {
    /// The coupon's generation when the pass began: what a repair may be based on.
    pub generation: Option<Generation>,
    /// The drop as a whole.
    pub facts: DropFacts,
    /// Highest slot that anything is known of.
    upper: i64,
    in_flight: Vec<InFlight>,
    failed: Vec<Failed>,
    /// Of a drop that Redis lost: whom the coupon's list of claimants still has in it. They would be told `already_claimed`.
    claimants: Vec<(i64, UserId)>,
}

/// First and last slot of a page; the last page has no end.
pub type Range = (i64, Option<i64>);

/// What Redis said of a range of slots.
#[derive(Debug)]
pub struct FirstLook {
    range: Range,
    count: i64,
    users: Vec<(i64, UserId)>,
    free: Vec<i64>,
}

/// Looks at the stores.
#[derive(Clone)]
pub struct Collector {
    db: Db,
    redis: Redis,
    tail: TailReader,
    page_slots: i64,
}

/// Below every slot, also those a hand may have made up.
const LOWEST: i64 = -(1 << 53);

impl Collector {
    /// A collector that reads `page_slots` slots at a time.
    pub fn new(db: Db, redis: Redis, tail: TailReader, page_slots: u32) -> Self {
        Self { db, redis, tail, page_slots: i64::from(page_slots.max(1)) }
    }

    /// Redis's clock, then the tail, then the backup table. A topic that can't be read is told, not fatal.
    pub async fn surroundings(&self) -> Result<(Surroundings, Option<anyhow::Error>), CollectError> {
        let read_at_ms = self.redis.time_ms().await?;
        let (tail, problem) = match self.tail.read().await {
            Ok(tail) => (Some(tail), None),
            Err(error) => (None, Some(error)),
        };
        let backup = rows::unresolved(&self.db).await?;
        Ok((Surroundings { generations: HashMap::new(), read_at_ms, tail, backup, gate_closed: false }, problem))
    }

    /// The facts of many drops in a few round trips.
    pub async fn heads(&self, drops: &[(Coupon, Drop)], around: &Surroundings) -> Result<Vec<Head>, CollectError> {
        let mut numbers = redis::heads(&self.redis, drops).await?;
        redis::first_in_line(&self.redis, drops, &mut numbers).await?;
        let highest_rows = rows::highest_slots(&self.db, drops.iter().map(|(_, d)| d.id).collect()).await?;
        let heads = drops.iter().zip(numbers).map(|((coupon, drop), head)| {
            let in_flight = around.tail.as_ref().and_then(|t| t.by_drop.get(&drop.id)).cloned().unwrap_or_default();
            let failed = around
                .backup
                .iter()
                .filter(|b| b.drop == Some(drop.id) && b.coupon.is_none_or(|c| c == coupon.id))
                .map(|b| b.failed.clone())
                .collect();
            let row = highest_rows.get(&drop.id).map_or(0, |slot| i64::from(*slot));
            // A counter far beyond the quantity is told, not walked.
            let count = head.count.unwrap_or(0).min(i64::from(drop.quantity));
            let upper = row.max(count).max(head.highest.min(i64::from(drop.quantity)));
            let facts = DropFacts {
                coupon: coupon.clone(),
                drop: drop.clone(),
                meta_matches: head.meta_matches,
                count: head.count,
                users: head.users,
                free: head.free,
                waiting: head.waiting,
                first_waiting: head.first_waiting,
                read_at_ms: around.read_at_ms,
                tail_known: around.tail.is_some(),
                gate_closed: around.gate_closed,
            };
            let generation = around.generations.get(&coupon.id).cloned();
            Head { generation, facts, upper, in_flight, failed, claimants: Vec::new() }
        });
        let mut heads: Vec<Head> = heads.collect();
        let listed = |facts: &DropFacts| facts.is_lost() && facts.has_opened() && facts.once_per() == OncePer::Coupon;
        for head in heads.iter_mut().filter(|head| listed(&head.facts)) {
            head.claimants = redis::claimants_of(&self.redis, head.facts.coupon.id, head.drop_id(), |_| true).await?;
        }
        Ok(heads)
    }

    /// The ranges of slots to look at, in order. The last one has no end.
    pub fn ranges(&self, head: &Head) -> Vec<Range> {
        if head.is_untouched() {
            return Vec::new();
        }
        let mut ranges = Vec::new();
        let mut from = 1;
        while from + self.page_slots <= head.upper {
            ranges.push((from, Some(from + self.page_slots - 1)));
            from += self.page_slots;
        }
        ranges.push((from, None));
        ranges[0].0 = LOWEST;
        ranges
    }

    /// The first look at a range of slots: Redis. It may be taken while an earlier page is still read from MySQL.
    pub async fn first_look(&self, head: &Head, (from, to): Range) -> Result<FirstLook, CollectError> {
        let keys = self.redis.keys(head.facts.coupon.id, head.drop_id());
        let seen = self.redis.slot_page(&keys, from, to).await?;
        let users = seen.users.into_iter().map(|(slot, user)| (slot, UserId::from_store(user))).collect();
        Ok(FirstLook { range: (from, to), count: seen.count.unwrap_or(0), users, free: seen.free })
    }

    /// MySQL after Redis, and a second look at whom the two leave in question.
    pub async fn page(&self, head: &Head, seen: FirstLook) -> Result<Page, CollectError> {
        let (coupon, drop) = (head.facts.coupon.id, head.facts.drop.id);
        let (from, to) = seen.range;
        let within = |slot: i64| slot >= from && to.is_none_or(|to| slot <= to);
        let claimants = async {
            match head.facts.once_per() {
                OncePer::Coupon => Ok(redis::claimants_wrong(&self.redis, coupon, drop, &seen.users).await?),
                OncePer::Drop => Ok(Vec::new()),
            }
        };
        let rows = async { Ok::<_, CollectError>(rows::page(&self.db, drop, from, to).await?) };
        let (rows, claimants_wrong) = tokio::try_join!(rows, claimants)?;
        let mut page = Page {
            from,
            to,
            count: seen.count,
            users: seen.users,
            free: seen.free,
            rows,
            in_flight: head.in_flight.iter().filter(|m| within(i64::from(m.slot))).cloned().collect(),
            // What names no slot belongs to the first page.
            failed: head.failed.iter().filter(|f| within(f.slot.unwrap_or(LOWEST).max(LOWEST))).cloned().collect(),
            claimants_wrong,
            ..Page::default()
        };
        self.second_look(head, &mut page).await?;
        Ok(page)
    }

    async fn second_look(&self, head: &Head, page: &mut Page) -> Result<(), CollectError> {
        let (coupon, drop, once_per) = (head.facts.coupon.id, head.facts.drop.id, head.facts.once_per());
        let keys = self.redis.keys(coupon, drop);
        let questions = page.questions(i64::from(head.facts.drop.quantity));
        if once_per == OncePer::Coupon {
            if head.facts.is_lost() {
                page.claimants_on_gaps = head.claimants_left(page);
            } else if !questions.gaps.is_empty() {
                page.claimants_on_gaps = redis::claimants_on(&self.redis, coupon, drop, &questions.gaps).await?;
            }
        }
        let mut ask_redis = questions.ask_redis;
        let mut ask_mysql = questions.ask_mysql;
        for (_, user) in &page.claimants_on_gaps {
            ask_redis.push(user.clone());
            ask_mysql.push(user.clone());
        }
        page.admitted_at_ms = redis::times(&self.redis, &keys, &questions.ask_times).await?;
        page.has_row = rows::rows_of(&self.db, coupon, drop, once_per, &ask_mysql).await?;
        page.now_on_slot = redis::slots_of(&self.redis, &keys, &ask_redis).await?;
        Ok(())
    }
}

impl Collector {
    /// The reader of the topic.
    pub fn tail(&self) -> &TailReader {
        &self.tail
    }
}

impl Head {
    /// Nothing is known of this drop anywhere but its own description: it has not begun.
    fn is_untouched(&self) -> bool {
        self.upper == 0
            && self.facts.users == 0
            && self.facts.free == 0
            && self.in_flight.is_empty()
            && self.failed.is_empty()
            && self.claimants.is_empty()
    }

    /// Claimants on slots of this page that nothing else says anything of.
    fn claimants_left(&self, page: &Page) -> Vec<(i64, UserId)> {
        let taken: HashSet<i64> = page
            .users
            .iter()
            .map(|(slot, _)| *slot)
            .chain(page.rows.iter().map(|row| i64::from(row.slot)))
            .chain(page.in_flight.iter().map(|message| i64::from(message.slot)))
            .collect();
        let within = |slot: i64| slot >= page.from && page.to.is_none_or(|to| slot <= to);
        self.claimants.iter().filter(|(slot, _)| within(*slot) && !taken.contains(slot)).cloned().collect()
    }

    pub fn drop_id(&self) -> DropId {
        self.facts.drop.id
    }
}
