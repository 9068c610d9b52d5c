//! Reads: the numbers of all coupons in bulk, then drops page by page, in the order that
//! [`crate::judge`] requires.

use std::collections::HashMap;

use chrono::Utc;
use firstcome_shared::coupon::{ClaimFault, Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot, UserId};
use firstcome_shared::model::{Revocation, Revocations};
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::dead_letters::DeadLetterRow;
use firstcome_shared::mysql::issued::{IssuedRow, on_slots};
use firstcome_shared::mysql::revoked::of_users;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::reads::{CouponState, LoadedDrop};
use firstcome_shared::redis::{Redis, RedisError};
use futures_util::{Stream, StreamExt as _, stream};

use crate::context::{PassContext, Step, Stores};
use crate::judge::{self, Letter, MysqlPage, Recheck, RedisPage, Row};
use crate::queries;
use crate::queries::drops::DropCount;
use crate::queries::revocations::Banned;

/// A coupon with the drops to reconcile, as a pass has read them.
#[derive(Debug, Clone)]
pub struct CouponSeen {
    pub coupon: Coupon,
    /// Unsealed drops, in order of opening.
    pub drops: Vec<DropSeen>,
    pub state: CouponState,
    /// The users whom Redis must ban from the coupon.
    pub banned: Banned,
    /// Some drop of the coupon is sealed.
    pub has_sealed: bool,
    /// Nobody is admitted and, except in a dry run, every claim from before the closing is in MySQL
    /// or never will be.
    pub is_closed: bool,
}

impl CouponSeen {
    /// Slots that its drops may have. A coupon with millions of claims must not delay the others.
    pub(crate) fn quantity(&self) -> u64 {
        let drops = self.drops.iter();
        drops.map(|own| u64::from(own.drop.quantity)).sum()
    }

    /// Creates a coupon of which only the settings and these drops are known.
    pub fn bare(coupon: Coupon, drops: Vec<DropSeen>) -> Self {
        Self {
            coupon,
            drops,
            state: CouponState::default(),
            banned: Banned::default(),
            has_sealed: false,
            is_closed: false,
        }
    }
}

/// A drop, as a pass has read it.
#[derive(Debug, Clone)]
pub struct DropSeen {
    pub drop: Drop,
    pub keys: DropKeys,
    pub state: LoadedDrop,
    /// The highest slot with a row.
    pub highest_row: Slot,
    pub letters: u64,
    pub revocations: u64,
    pub has_broken_promises: bool,
    /// M of a drop with few slots, if it was read beforehand.
    pub rows: Option<Vec<Row>>,
}

impl DropSeen {
    /// Creates a drop of which only the settings are known.
    pub fn bare(redis: &Redis, drop: Drop) -> Self {
        Self {
            keys: redis.keys(drop.coupon_id, drop.id),
            drop,
            state: LoadedDrop::default(),
            highest_row: 0,
            letters: 0,
            revocations: 0,
            has_broken_promises: false,
            rows: None,
        }
    }

    /// Whether the numbers of the drop add up, and it has nothing to compare and nobody to promote.
    pub fn is_empty(&self) -> bool {
        let state = &self.state;
        state.adds_up()
            && state.users == 0
            && state.free == 0
            && state.waiting == 0
            && self.highest_row == 0
            && self.letters == 0
            && self.revocations == 0
            && !self.has_broken_promises
    }

    /// Whether the window has begun, by Redis's clock or by this host's.
    pub fn has_begun(&self, clock_ms: i64) -> bool {
        let now = clock_ms.max(Utc::now().timestamp_millis());
        self.drop.opens_at.timestamp_millis() <= now
    }

    /// Whether the window has not begun, and MySQL has no row and no dead letter of the drop.
    pub fn is_new(&self, clock_ms: i64) -> bool {
        !self.has_begun(clock_ms) && self.highest_row == 0 && self.letters == 0
    }

    /// Returns the highest slot that any store knows: in Redis, at most the quantity. The last page
    /// has what is above.
    fn upper(&self) -> i64 {
        let count = self.state.count.unwrap_or(0);
        let known = self.state.highest.max(count).min(self.drop.quantity.into());
        known.max(self.highest_row.into()).max(1)
    }
}

/// The context of a pass over one drop.
#[derive(Clone, Copy)]
pub struct DropPass<'c> {
    pub ctx: &'c PassContext,
    pub seen: &'c CouponSeen,
    pub own: &'c DropSeen,
}

impl<'c> DropPass<'c> {
    pub fn new(ctx: &'c PassContext, seen: &'c CouponSeen, own: &'c DropSeen) -> Self {
        Self { ctx, seen, own }
    }

    pub fn id(self) -> DropId {
        self.own.drop.id
    }

    pub fn coupon(self) -> &'c Coupon {
        &self.seen.coupon
    }

    pub fn db(self) -> &'c Db {
        &self.ctx.stores.db
    }

    pub fn redis(self) -> &'c Redis {
        &self.ctx.stores.redis
    }

    /// Whether a row of the drop may belong to a claim that was given back or revoked.
    pub fn has_returns(self) -> bool {
        let is_in_scope = self.coupon().once_per == OncePer::Coupon;
        self.own.revocations > 0 || is_in_scope && self.seen.banned.users > 0
    }

    /// Reads the drop's numbers again, after rows were inserted or users promoted. Returns the old
    /// ones if the drop is no longer found, for example, because it was sealed.
    pub(crate) async fn again(self) -> Step<DropSeen> {
        let which = Some(vec![self.coupon().id]);
        let now = coupons(self.ctx, which, Some(self.id()))
            .await?
            .into_iter()
            .flat_map(|seen| seen.drops)
            .next();
        Ok(now.unwrap_or_else(|| self.own.clone()))
    }
}

/// Reads coupons with their unsealed drops: all coupons or those of `which`, and all drops or only
/// `drop`.
pub(crate) async fn coupons(
    ctx: &PassContext,
    which: Option<Vec<CouponId>>,
    drop: Option<DropId>,
) -> Step<Vec<CouponSeen>> {
    let observed = observe(ctx, catalogue(ctx, which, drop).await?).await?;
    match observed.unread.into_iter().next() {
        Some((_, error)) => Err(error.into()),
        None => Ok(observed.read),
    }
}

/// Lists coupons with unsealed drops, without those of a cluster's server that does not answer: they
/// wait for it, and hold up no others. [`observe`] reads their numbers.
pub(crate) async fn catalogue(
    ctx: &PassContext,
    which: Option<Vec<CouponId>>,
    drop: Option<DropId>,
) -> Step<Vec<CouponSeen>> {
    let Stores { db, redis, .. } = &ctx.stores;
    let catalogue = match which {
        Some(ids) => db.coupons_by_id(ids).await?,
        None => db.catalogue().await?,
    };
    let listed = catalogue.into_iter().map(|(coupon, mut drops)| {
        let number = drops.len();
        drops.retain(|own| own.sealed_at.is_none());
        let has_sealed = drops.len() < number;
        drops.retain(|own| drop.is_none_or(|id| id == own.id));
        let drops = drops.into_iter().map(|own| DropSeen::bare(redis, own));
        CouponSeen {
            has_sealed,
            ..CouponSeen::bare(coupon, drops.collect())
        }
    });
    Ok(listed
        .filter(|seen| !seen.drops.is_empty() && !ctx.servers.lack_server_of(seen.coupon.id))
        .collect())
}

/// Coupons whose numbers were read, and those of which Redis did not give them, with the reason.
#[derive(Default)]
pub(crate) struct Observed {
    pub read: Vec<CouponSeen>,
    pub unread: Vec<(CouponSeen, RedisError)>,
}

/// Reads the numbers of coupons, in bulk.
pub(crate) async fn observe(ctx: &PassContext, coupons: Vec<CouponSeen>) -> Step<Observed> {
    let Stores { db, redis, .. } = &ctx.stores;
    let ids: Vec<CouponId> = coupons.iter().map(|seen| seen.coupon.id).collect();
    let drops = coupons.iter().flat_map(|seen| &seen.drops);
    let keys: Vec<DropKeys> = drops.map(|own| own.keys.clone()).collect();
    let of_drops: Vec<DropId> = keys.iter().map(|keys| keys.drop).collect();
    let highest = queries::drops::highest_slots(db, &of_drops).await?;
    let letters = queries::drops::count(db, DropCount::DeadLetters, &of_drops).await?;
    let revocations = queries::drops::count(db, DropCount::Revocations, &of_drops).await?;
    let broken = queries::promises::drops_with_broken_promises(db).await?;
    let banned = queries::revocations::count_banned(db, &ids).await?;
    let states = redis.coupon_states(&ids).await;
    let mut numbers = redis.drop_states(&keys).await.into_iter();
    let mut observed = Observed::default();
    for (mut seen, state) in coupons.into_iter().zip(states) {
        // All of them are taken, also after an error.
        let told: Vec<_> = numbers.by_ref().take(seen.drops.len()).collect();
        let of_drops: Result<Vec<LoadedDrop>, _> = told.into_iter().collect();
        let (state, of_drops) = match state.and_then(|state| Ok((state, of_drops?))) {
            Ok(read) => read,
            Err(error) => {
                observed.unread.push((seen, error));
                continue;
            }
        };
        seen.state = state;
        seen.banned = banned.get(&seen.coupon.id).copied().unwrap_or_default();
        for (own, state) in seen.drops.iter_mut().zip(of_drops) {
            let id = own.drop.id;
            own.state = state;
            own.highest_row = highest.get(&id).copied().unwrap_or(0);
            own.letters = letters.get(&id).copied().unwrap_or(0);
            own.revocations = revocations.get(&id).copied().unwrap_or(0);
            own.has_broken_promises = broken.contains(&id);
        }
        observed.read.push(seen);
    }
    Ok(observed)
}

/// Drops with at most this many slots are read many at a time.
const FEW_SLOTS: i64 = 200;

/// Reads M of drops with few slots, in one statement. If that fails, each drop is read by itself, so
/// that the error concerns only its coupon.
pub(crate) async fn few_rows(ctx: &PassContext, mut coupons: Vec<CouponSeen>) -> Vec<CouponSeen> {
    let few: Vec<DropId> = coupons
        .iter()
        .flat_map(|seen| &seen.drops)
        .filter(|own| !own.is_empty() && own.upper() <= FEW_SLOTS)
        .map(|own| own.drop.id)
        .collect();
    let mut rows: HashMap<DropId, Vec<Row>> =
        match queries::rows::rows_of_drops(&ctx.stores.db, &few).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::debug!(%error, "drops are read one by one");
                return coupons;
            }
        };
    for own in coupons.iter_mut().flat_map(|seen| &mut seen.drops) {
        if few.contains(&own.drop.id) {
            own.rows = Some(rows.remove(&own.drop.id).unwrap_or_default());
        }
    }
    coupons
}

/// A page: M, then R.
pub(crate) struct ReadPage {
    pub mysql: MysqlPage,
    pub redis: RedisPage,
}

/// Slots of one page.
const PAGE_SLOTS: i64 = 5_000;

/// Pages requested in advance, while one is judged.
const AHEAD: usize = 2;

/// Reads a drop page by page. The last page has no end.
pub(crate) fn pages(drop: DropPass<'_>) -> impl Stream<Item = Step<ReadPage>> + '_ {
    let upper = drop.own.upper();
    let pages = (upper + PAGE_SLOTS - 1) / PAGE_SLOTS;
    let ranges = (0..pages).map(move |page| {
        let to = (page + 1) * PAGE_SLOTS;
        (page * PAGE_SLOTS + 1, (page + 1 < pages).then_some(to))
    });
    stream::iter(ranges)
        .map(move |(from, to)| read_page(drop, from, to))
        .buffered(AHEAD)
}

async fn read_page(drop: DropPass<'_>, from: i64, to: Option<i64>) -> Step<ReadPage> {
    let db = drop.db();
    let coupon = drop.coupon().id;
    let id = drop.id();
    let slot = |slot| Slot::try_from(slot).unwrap_or(Slot::MAX);
    let slots = slot(from)..=to.map_or(Slot::MAX, slot);
    let rows = match &drop.own.rows {
        Some(rows) => rows.clone(),
        None => queries::rows::rows_on_slots(db, id, slots).await?,
    };
    let mut letters = Vec::new();
    if drop.own.letters > 0 {
        let slots = from..=to.unwrap_or(i64::MAX);
        letters = queries::dead_letters::dead_letters_on_slots(db, coupon, id, slots).await?;
        if from == 1 {
            let beside = queries::dead_letters::dead_letters_beside_slots(db, coupon, id);
            letters.extend(beside.await?);
        }
    }
    let letter = |row| letter(row, &drop.own.drop);
    Ok(ReadPage {
        mysql: MysqlPage {
            rows,
            letters: letters.iter().map(letter).collect(),
        },
        redis: drop.redis().page(&drop.own.keys, from, to).await?,
    })
}

pub(crate) fn letter(row: &DeadLetterRow, drop: &Drop) -> Letter {
    // Only a message supports the claim.
    let fault = row
        .is_of_message()
        .then(|| drop.window().fault(row.claimed_at));
    // Only users whose ids have this form can hold a slot in Redis.
    let user = row.user_id.as_ref().filter(|user| UserId::has_form(user));
    Letter {
        id: row.id,
        slot: row.slot,
        user: user.cloned().map(UserId::from_store),
        at_ms: row.claimed_at.map(|at| at.timestamp_millis()),
        fault: fault.flatten().map(ClaimFault::explanation),
    }
}

/// Slots of M' and R' per call.
const SLOTS_AT_ONCE: usize = 1_000;

/// Reads M' and R': whatever concerns the doubts of a page. Returns `None` if the drop was deleted
/// meanwhile or, unless it `may_be_sealed`, sealed.
pub(crate) async fn again(
    drop: DropPass<'_>,
    page: &ReadPage,
    may_be_sealed: bool,
) -> Step<Option<Recheck>> {
    let db = drop.db();
    let coupon = drop.coupon();
    let id = drop.id();
    let doubts = judge::doubts(&page.mysql, &page.redis, drop.own.drop.quantity);
    let slots: Vec<Slot> = doubts.slots.into_iter().collect();
    let users: Vec<UserId> = doubts.users.into_iter().collect();
    let mut again = Recheck::default();
    for some in slots.chunks(SLOTS_AT_ONCE) {
        let some = some.to_vec();
        let rows = db.run("rows on slots", async move |conn| {
            on_slots(conn, id, &some).await
        });
        again.rows.extend(rows.await?.into_iter().map(row_of));
    }
    let rows_of_users = queries::rows::rows_of_users(db, coupon.id, &users).await?;
    let of_coupon = coupon.id;
    let revocations: Vec<Revocation> = db
        .run("revocations of people", async move |conn| {
            of_users(conn, of_coupon, &users).await
        })
        .await?;
    again.revocations = Revocations::new(revocations, coupon.once_per, id);
    for row in rows_of_users {
        let is_in_scope = coupon.once_per == OncePer::Coupon || row.drop_id == id.0;
        let of = DropId(row.drop_id);
        let row = row_of(row);
        // A row that a revocation voids is moved into the revocation later, and rules out no other
        // row.
        if is_in_scope && !again.revocations.voids(&row.user, row.at_ms) {
            let rows = again.rows_of_users.entry(row.user.clone()).or_default();
            rows.push((of, row));
        }
    }
    let letters: Vec<i64> = page.mysql.letters.iter().map(|letter| letter.id).collect();
    if !letters.is_empty() {
        again.open_letters = queries::dead_letters::open_dead_letters(db, letters).await?;
    }
    let own = queries::drops::drop_of(db, coupon.id, id).await?;
    let Some(own) = own.filter(|own| may_be_sealed || own.sealed_at.is_none()) else {
        return Ok(None);
    };
    // A dry run adopts a quantity that MySQL has lost, without writing it.
    let adopted = if drop.ctx.dry_run {
        drop.own.drop.quantity
    } else {
        0
    };
    again.quantity = own.quantity.max(adopted);
    for some in slots.chunks(SLOTS_AT_ONCE) {
        let held = drop.redis().slots(&drop.own.keys, some).await?;
        again.holders.extend(held.users);
    }
    Ok(Some(again))
}

fn row_of(row: IssuedRow) -> Row {
    Row {
        slot: row.slot,
        user: UserId::from_store(row.user_id),
        at_ms: Some(row.claimed_at.timestamp_millis()),
    }
}
