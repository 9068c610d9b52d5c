//! Reads Redis, the topic's unread tail and MySQL with its dead letters into snapshots. Writes
//! nothing.
//!
//! The order of the reads makes this safe under live traffic: first Redis's clock, then the
//! positions in MySQL, then the tail, then everything else. An admission that is older than the
//! publishing deadline at that time is already on the topic or never will be. If it is on the
//! topic, its message is either in the tail or before a position, and in the latter case its row or
//! dead letter exists when those are read. A row whose user seems to be missing from Redis may be
//! younger than the first read of Redis, so that user is looked up in Redis again.

pub mod allow_lists;
mod error;
mod promises;
mod revocations;
pub mod snapshot;

use std::collections::HashSet;
use std::sync::Arc;

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{DropId, OncePer, Slot, UserId};
use firstcome_shared::mysql::revoked::Revocations;
use firstcome_shared::redis::gate::Fence;
use firstcome_shared::redis::keys::{DropKeys, DropMeta};
use firstcome_shared::redis::reads::{DropNumbers, SlotPage};

pub use error::CollectError;
pub use snapshot::PassContext;

use crate::stores::Stores;
use crate::topic::{Extent, InFlight, Messages};
use snapshot::{DeadLetter, DropFacts, DropRevocations, Promises, RowFacts, SlotRange};

/// A drop as a whole, with the data needed to page through it.
#[derive(Debug, Clone)]
pub struct DropHeader {
    /// The fencing token from the coupon's era when the pass began. Every repair carries it.
    pub fence: Option<Fence>,
    pub facts: DropFacts,
    /// Highest slot that has any data.
    upper: i64,
    /// The topic's unread messages, if the drop has any.
    messages: Option<Arc<Messages>>,
    /// Claimants of this drop who are missing from `users`, if they were looked up. For a drop that
    /// Redis lost, these are all claimants.
    claimants: Vec<(i64, UserId)>,
}

/// The first and last slot of a page. The last page has no end.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    pub from: i64,
    pub to: Option<i64>,
}

/// Lower than every slot, including invalid slots that were written manually.
const LOWEST: i64 = -(1 << 53);

/// Number of claimants looked up per call.
const CLAIMANTS_AT_ONCE: usize = 1_000;

/// Maximum number of users read from a waiting list. The next round promotes the rest.
const WAITING_AT_MOST: u64 = 1_000;

/// Reads Redis's clock, then the tail. Leaves the fences empty. If the topic cannot be read,
/// returns the context without the tail, and the problem.
pub async fn context(
    stores: &Stores,
) -> Result<(PassContext, Option<anyhow::Error>), CollectError> {
    let read_at_ms = stores.redis.time_ms().await?;
    let latest_ms = read_at_ms.max(chrono::Utc::now().timestamp_millis());
    let positions = stores.db.topic_positions(stores.topic.name()).await?;
    let (tail, problem) = match stores.topic.read(positions).await {
        Ok(tail) => (Some(Arc::new(tail)), None),
        Err(error) => (None, Some(error)),
    };
    Ok((
        PassContext {
            read_at_ms,
            latest_ms,
            tail,
            ..PassContext::default()
        },
        problem,
    ))
}

/// Reads the headers of many drops in a few round trips. A drop that cannot be read does not affect
/// the others.
pub async fn headers(
    stores: &Stores,
    drops: &[(Coupon, Drop)],
    context: &PassContext,
) -> Result<Vec<Result<DropHeader, CollectError>>, CollectError> {
    let keys: Vec<DropKeys> = drops
        .iter()
        .map(|(coupon, drop)| stores.redis.keys(coupon.id, drop.id))
        .collect();
    let numbers = stores.redis.drop_numbers(&keys).await;
    let ids: Vec<DropId> = drops.iter().map(|(_, drop)| drop.id).collect();
    let revocations = stores.db.count_revocations(ids.clone()).await?;
    let highest_rows = stores.db.highest_slots(ids.clone()).await?;
    let dead_letters = stores.db.count_dead_letters(ids).await?;
    let with_promises = stores.db.drops_with_broken_promises().await?;
    let mut lists_differ = allow_lists::differing(stores, drops, context).await?;
    let mut headers = Vec::with_capacity(drops.len());
    for (((coupon, drop), numbers), keys) in drops.iter().zip(numbers).zip(&keys) {
        let messages = context.tail.as_ref().map_or_else(Extent::default, |tail| {
            tail.messages.extent((coupon.id, drop.id), drop.quantity)
        });
        let highest_row = highest_rows.get(&drop.id).copied().unwrap_or(0);
        let known = Known {
            highest: i64::from(highest_row.max(messages.highest)),
            messages: context
                .tail
                .as_ref()
                .filter(|_| messages.any)
                .map(|tail| Arc::clone(&tail.messages)),
            failed_claims: dead_letters.get(&drop.id).copied().unwrap_or(0),
            revoked: revocations.get(&drop.id).copied().unwrap_or(0),
            has_promises: with_promises.contains(&drop.id),
            // A list that differs is reported once, with the coupon's first drop that can be
            // examined.
            allow_list_differs: numbers.is_ok() && lists_differ.remove(&coupon.id),
        };
        headers.push(match numbers {
            Ok(numbers) => header(stores, coupon, drop, keys, numbers, known, context).await,
            Err(error) => Err(error.into()),
        });
    }
    Ok(headers)
}

/// Facts about a drop from MySQL and the topic.
struct Known {
    /// The highest slot that has a row, or that has a message and is a valid slot of the drop.
    highest: i64,
    messages: Option<Arc<Messages>>,
    failed_claims: u64,
    revoked: u64,
    has_promises: bool,
    allow_list_differs: bool,
}

async fn header(
    stores: &Stores,
    coupon: &Coupon,
    drop: &Drop,
    keys: &DropKeys,
    numbers: DropNumbers,
    known: Known,
    context: &PassContext,
) -> Result<DropHeader, CollectError> {
    let Known {
        highest,
        messages,
        failed_claims,
        revoked,
        has_promises,
        allow_list_differs,
    } = known;
    let left = u64::from(drop.quantity)
        .saturating_sub(numbers.users)
        .min(WAITING_AT_MOST);
    let first_waiting = stores
        .redis
        .first_waiting(keys, if numbers.waiting > 0 { left } else { 0 })
        .await?;
    let was_waited_for = !numbers.are_lost()
        || context.lost.contains(&drop.id)
        || context.unverified.contains(&coupon.id);
    // A counter far above the quantity is reported; its slots are not read.
    let quantity = i64::from(drop.quantity);
    let mut facts = DropFacts {
        coupon: coupon.clone(),
        drop: drop.clone(),
        meta_matches: numbers.meta.map(|meta| meta == DropMeta::of(coupon, drop)),
        allow_list_differs,
        count: numbers.count,
        users: numbers.users,
        free: numbers.free,
        waiting: numbers.waiting,
        first_waiting,
        failed_claims,
        read_at_ms: context.read_at_ms,
        latest_ms: context.latest_ms,
        tail_known: context.knows_the_tail() && was_waited_for,
        promises: Promises::default(),
        revocations: DropRevocations {
            number: revoked,
            ..DropRevocations::default()
        },
        gate_closed: context.unverified.contains(&coupon.id),
    };
    if has_promises || numbers.has_promised_waiting {
        facts.promises = promises::of_drop(stores, coupon, drop).await?;
    }
    if revoked > 0 && !facts.is_lost() {
        facts.revocations = revocations::half(stores, &facts, keys).await?;
    }
    let asks = facts.is_lost() || context.claimants_in_doubt.contains(&coupon.id);
    let mut claimants = Vec::new();
    if asks && facts.has_opened() && facts.once_per() == OncePer::Coupon {
        claimants = stores
            .redis
            .claimants_of(coupon.id, drop.id, |_| true)
            .await?;
        if !facts.is_lost() {
            claimants = without_users(stores, keys, claimants).await?;
        }
    }
    Ok(DropHeader {
        fence: context.fences.get(&coupon.id).cloned(),
        facts,
        upper: highest
            .max(numbers.count.unwrap_or(0).min(quantity))
            .max(numbers.highest.min(quantity)),
        messages,
        claimants,
    })
}

/// Returns the claimants who are missing from `users`.
async fn without_users(
    stores: &Stores,
    keys: &DropKeys,
    mut claimants: Vec<(i64, UserId)>,
) -> Result<Vec<(i64, UserId)>, CollectError> {
    let people: Vec<UserId> = claimants.iter().map(|(_, user)| user.clone()).collect();
    let mut holders = HashSet::new();
    for some in people.chunks(CLAIMANTS_AT_ONCE) {
        holders.extend(stores.redis.slots_of(keys, some).await?.into_keys());
    }
    claimants.retain(|(_, user)| !holders.contains(user));
    Ok(claimants)
}

/// Reads the Redis part of a page. It can run while an earlier page is being read from MySQL.
pub async fn redis_page(
    stores: &Stores,
    header: &DropHeader,
    range: Range,
) -> Result<(Range, SlotPage), CollectError> {
    let keys = stores.redis.keys(header.facts.coupon.id, header.drop_id());
    let page = stores.redis.slot_page(&keys, range.from, range.to).await?;
    if page.is_cut {
        let from = range.from;
        let to = range
            .to
            .map_or_else(|| "the highest".to_owned(), |to| to.to_string());
        return Err(CollectError::Crowded { from, to });
    }
    Ok((range, page))
}

/// Reads the MySQL part of a page, after its Redis part. Then rereads the users about whom the two
/// stores disagree.
pub async fn page(
    stores: &Stores,
    header: &DropHeader,
    range: Range,
    seen: SlotPage,
) -> Result<SlotRange, CollectError> {
    let Range { from, to } = range;
    let coupon = header.facts.coupon.id;
    let drop = header.facts.drop.id;
    let low = Slot::try_from(from.max(1)).unwrap_or(Slot::MAX);
    let high = to.map_or(Slot::MAX, |to| {
        Slot::try_from(to.max(0)).unwrap_or(Slot::MAX)
    });
    let users: Vec<(i64, UserId)> = seen
        .users
        .into_iter()
        .map(|(slot, user)| (slot, UserId::from_store(user)))
        .collect();
    let claimants = async {
        match header.facts.once_per() {
            OncePer::Coupon => Ok(stores.redis.missing_claimants(coupon, drop, &users).await?),
            OncePer::Drop => Ok(Vec::new()),
        }
    };
    let rows = async { Ok::<_, CollectError>(stores.db.rows_on_slots(drop, low..=high).await?) };
    let messages = async {
        let mut messages = header.messages_on(range);
        if !messages.is_empty() {
            let erased = stores.db.erased_claims((coupon, drop), low..=high).await?;
            messages.retain(|message| !erased.contain(drop, message.slot, message.claimed_at));
        }
        Ok::<_, CollectError>(messages)
    };
    let (rows, claimants_wrong, dead_letters, in_flight) = tokio::try_join!(
        rows,
        claimants,
        dead_letters(stores, header, range),
        messages
    )?;
    let mut page = SlotRange {
        from,
        to,
        count: seen.count.unwrap_or(0),
        users,
        free: seen.free,
        rows: rows
            .into_iter()
            .map(|(slot, user, claimed_at)| RowFacts {
                slot,
                user,
                claimed_at,
            })
            .collect(),
        in_flight,
        dead_letters,
        claimants_wrong,
        ..SlotRange::default()
    };
    look_up_again(stores, header, &mut page).await?;
    Ok(page)
}

/// Returns the dead letters of a page. Dead letters that name none of the drop's slots belong to
/// the first page.
async fn dead_letters(
    stores: &Stores,
    header: &DropHeader,
    Range { from, to }: Range,
) -> Result<Vec<DeadLetter>, CollectError> {
    if header.facts.failed_claims == 0 {
        return Ok(Vec::new());
    }
    let Drop { id, quantity, .. } = header.facts.drop;
    let coupon = header.facts.coupon.id;
    let slots = from.max(1)..=to.unwrap_or(i64::MAX).min(i64::from(quantity));
    let mut letters = stores.db.dead_letters_on_slots(coupon, id, slots).await?;
    if from < 1 {
        letters.extend(
            stores
                .db
                .dead_letters_beside_slots(coupon, id, quantity)
                .await?,
        );
    }
    Ok(letters.into_iter().map(DeadLetter::from).collect())
}

async fn look_up_again(
    stores: &Stores,
    header: &DropHeader,
    page: &mut SlotRange,
) -> Result<(), CollectError> {
    let coupon = header.facts.coupon.id;
    let drop = header.drop_id();
    let once_per = header.facts.once_per();
    let keys = stores.redis.keys(coupon, drop);
    let questions = page.questions(i64::from(header.facts.drop.quantity));
    if once_per == OncePer::Coupon {
        if header.facts.is_lost() {
            page.claimants_on_gaps = header.claimants_left(page);
        } else if !questions.gaps.is_empty() {
            // Do this only if there are gaps, because it reads the whole hash.
            let gaps: HashSet<i64> = questions.gaps.iter().copied().collect();
            page.claimants_on_gaps = stores
                .redis
                .claimants_of(coupon, drop, |slot| gaps.contains(&slot))
                .await?;
        }
    }
    if !header.facts.is_lost() {
        let on_gaps = &page.claimants_on_gaps;
        let astray = header.claimants_on(page);
        let is_gap = |one: &(i64, UserId)| on_gaps.contains(one);
        page.claimants_astray = astray.into_iter().filter(|one| !is_gap(one)).collect();
    }
    let mut ask_redis = Vec::new();
    let mut ask_mysql = questions.ask_mysql;
    for (_, user) in page.claimants_on_gaps.iter().chain(&page.claimants_astray) {
        ask_redis.push(user.clone());
        ask_mysql.push(user.clone());
    }
    page.admitted_at_ms = stores
        .redis
        .admission_times(&keys, &questions.ask_times)
        .await?;
    if !questions.ask_times.is_empty() {
        page.read_until_ms = stores.redis.time_ms().await?;
    }
    let rows = stores.db.rows_of_people(coupon, &ask_mysql).await?;
    page.note_rows_of_people(drop, once_per, rows);
    // Includes the users of rows that were just found.
    ask_redis.extend(
        page.questions(i64::from(header.facts.drop.quantity))
            .ask_redis,
    );
    page.now_on_slot = stores.redis.slots_of(&keys, &ask_redis).await?;
    let people: Vec<UserId> = ask_redis.into_iter().chain(ask_mysql).collect();
    // Read revocations last, so that they explain why a user whose claim was revoked since the
    // first read has no row or slot now.
    if !people.is_empty() && stores.db.has_revocations(coupon).await? {
        // The slot of a user of this page may be on another page.
        let on_slots: HashSet<i64> = page.now_on_slot.values().copied().collect();
        let unknown: Vec<i64> = on_slots
            .into_iter()
            .filter(|slot| !page.admitted_at_ms.contains_key(slot))
            .collect();
        page.admitted_at_ms
            .extend(stores.redis.admission_times(&keys, &unknown).await?);
        let revoked = stores.db.revocations_of_people(coupon, &people).await?;
        page.revoked = Revocations::new(revoked, once_per, drop);
    }
    Ok(())
}

impl DropHeader {
    fn messages_on(&self, range: Range) -> Vec<InFlight> {
        let Some(messages) = &self.messages else {
            return Vec::new();
        };
        let slot = |number: i64| Slot::try_from(number.max(0)).unwrap_or(Slot::MAX);
        let drop = (self.facts.coupon.id, self.drop_id());
        let to = range.to.map_or(Slot::MAX, slot);
        messages.page(drop, self.facts.drop.quantity, slot(range.from)..=to)
    }

    /// Whether the whole tail is known and the drop has no unread messages and no dead letters.
    pub fn is_quiet(&self) -> bool {
        self.facts.tail_known && self.messages.is_none() && self.facts.failed_claims == 0
    }

    /// Highest slot that has any data.
    pub fn upper(&self) -> i64 {
        self.upper
    }

    /// Returns the ranges of slots to read, in order. The last one has no end.
    pub fn ranges(&self, page_slots: i64) -> Vec<Range> {
        if self.is_untouched() {
            return Vec::new();
        }
        let mut ranges = Vec::new();
        let mut from = 1;
        while from + page_slots <= self.upper {
            ranges.push(Range {
                from,
                to: Some(from + page_slots - 1),
            });
            from += page_slots;
        }
        ranges.push(Range { from, to: None });
        ranges[0].from = LOWEST;
        ranges
    }

    /// Whether no store has data of the drop, apart from its settings.
    fn is_untouched(&self) -> bool {
        self.upper == 0
            && self.facts.users == 0
            && self.facts.free == 0
            && self.messages.is_none()
            && self.facts.failed_claims == 0
            && self.claimants.is_empty()
    }

    /// Returns the claimants on slots of this page that have no user, row or message.
    fn claimants_left(&self, page: &SlotRange) -> Vec<(i64, UserId)> {
        let taken: HashSet<i64> = page
            .users
            .iter()
            .map(|(slot, _)| *slot)
            .chain(page.rows.iter().map(|row| i64::from(row.slot)))
            .chain(page.in_flight.iter().map(|message| i64::from(message.slot)))
            .collect();
        let mut left = self.claimants_on(page);
        left.retain(|(slot, _)| !taken.contains(slot));
        left
    }

    fn claimants_on(&self, page: &SlotRange) -> Vec<(i64, UserId)> {
        let within = |slot: i64| slot >= page.from && page.to.is_none_or(|to| slot <= to);
        let own = self.claimants.iter();
        own.filter(|(slot, _)| within(*slot)).cloned().collect()
    }

    /// Whether any claimants are missing from `users`.
    pub fn has_claimants_astray(&self) -> bool {
        !self.claimants.is_empty()
    }

    pub fn drop_id(&self) -> DropId {
        self.facts.drop.id
    }
}
