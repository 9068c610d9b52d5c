//! Reads: the numbers of all coupons in bulk, then drops page by page, in the order that
//! [`crate::judge`] requires.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use chrono::{NaiveDateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot, UserId};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::dead_letters::DeadLetterRow;
use firstcome_shared::mysql::issued::on_slots;
use firstcome_shared::mysql::revoked::Revocations;
use firstcome_shared::redis::gate::Gate;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::reads::{CouponState, DropState};
use firstcome_shared::sql;
use futures_util::{Stream, StreamExt as _, stream};

use crate::context::{PassContext, PassError};
use crate::judge::{Doubts, DropKeysSeen, Letter, MysqlPage, Recheck, RedisPage, Row};

/// A coupon with the drops to reconcile, as they were when the pass began.
#[derive(Debug, Clone)]
pub struct CouponSeen {
    pub coupon: Coupon,
    /// Unsealed drops, in order of opening.
    pub drops: Vec<DropSeen>,
    pub state: CouponState,
    /// Revocations of the coupon that Redis must have.
    pub banned: u64,
}

/// A drop, as it was when the pass began.
#[derive(Debug, Clone)]
pub struct DropSeen {
    pub drop: Drop,
    pub keys: DropKeys,
    pub state: DropState,
    /// The highest slot with a row.
    pub highest_row: Slot,
    pub letters: u64,
    pub revocations: u64,
    pub has_broken_promises: bool,
}

impl DropSeen {
    /// A drop of which nothing is known beside its settings.
    pub fn bare(drop: Drop, keys: DropKeys) -> Self {
        Self {
            drop,
            keys,
            state: DropState::default(),
            highest_row: 0,
            letters: 0,
            revocations: 0,
            has_broken_promises: false,
        }
    }

    pub fn numbers(&self) -> DropKeysSeen {
        let state = &self.state;
        DropKeysSeen {
            has_keys: state.has_keys,
            has_settings: state.meta.is_some(),
            is_readable: state.unreadable.is_empty(),
            count: state.count,
            users: state.users,
            free: state.free,
        }
    }

    /// Whether the drop has nothing that a page could show.
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

    /// Whether the window has not begun, by any clock, and nothing was ever written about it.
    pub fn is_new(&self, clock_ms: i64) -> bool {
        let now = clock_ms.max(Utc::now().timestamp_millis());
        self.drop.opens_at.timestamp_millis() > now && self.highest_row == 0 && self.letters == 0
    }

    /// The highest slot that any store knows, within the quantity. The last page has what is above.
    fn upper(&self) -> i64 {
        let count = self.state.count.unwrap_or(0);
        let known = self.state.highest.max(count).min(self.drop.quantity.into());
        known.max(self.highest_row.into()).max(1)
    }
}

/// Reads coupons with their unsealed drops. `drop` selects one drop.
pub(crate) async fn coupons(
    ctx: &PassContext,
    catalogue: Vec<(Coupon, Vec<Drop>)>,
    drop: Option<DropId>,
) -> Result<Vec<CouponSeen>, PassError> {
    let (db, redis) = (&ctx.stores.db, &ctx.stores.redis);
    let is_wanted = |it: &Drop| it.sealed_at.is_none() && drop.is_none_or(|id| id == it.id);
    let catalogue: Vec<(Coupon, Vec<Drop>)> = catalogue
        .into_iter()
        .map(|(coupon, drops)| {
            (
                coupon,
                drops.into_iter().filter(is_wanted).collect::<Vec<_>>(),
            )
        })
        .filter(|(_, drops)| !drops.is_empty())
        .collect();
    let ids: Vec<CouponId> = catalogue.iter().map(|(coupon, _)| coupon.id).collect();
    let keys: Vec<DropKeys> = catalogue
        .iter()
        .flat_map(|(coupon, drops)| drops.iter().map(|drop| redis.keys(coupon.id, drop.id)))
        .collect();
    let of_drops: Vec<DropId> = keys.iter().map(|keys| keys.drop).collect();
    let highest = db.highest_slots(of_drops.clone()).await?;
    let letters = db.count_dead_letters(of_drops.clone()).await?;
    let revocations = db.count_revocations(of_drops).await?;
    let broken = db.drops_with_broken_promises().await?;
    let banned = db.count_banned(&ids).await?;
    let states = redis.coupon_states(&ids).await?;
    let mut drop_states = keys.iter().zip(redis.drop_states(&keys).await?);
    let mut seen = Vec::with_capacity(catalogue.len());
    for ((coupon, drops), state) in catalogue.into_iter().zip(states) {
        let with_state = |drop: Drop| {
            let (keys, state) = drop_states.next()?;
            Some(DropSeen {
                state,
                highest_row: highest.get(&drop.id).copied().unwrap_or(0),
                letters: letters.get(&drop.id).copied().unwrap_or(0),
                revocations: revocations.get(&drop.id).copied().unwrap_or(0),
                has_broken_promises: broken.contains(&drop.id),
                ..DropSeen::bare(drop, keys.clone())
            })
        };
        seen.push(CouponSeen {
            banned: banned.get(&coupon.id).copied().unwrap_or(0),
            drops: drops.into_iter().filter_map(with_state).collect(),
            coupon,
            state,
        });
    }
    Ok(seen)
}

/// Reads a drop's numbers again, after rows were inserted or users promoted.
pub(crate) async fn again_drop(
    ctx: &PassContext,
    seen: &CouponSeen,
    own: &DropSeen,
) -> Result<DropSeen, PassError> {
    let one = vec![(seen.coupon.clone(), vec![own.drop.clone()])];
    let now = coupons(ctx, one, Some(own.drop.id)).await?;
    let now = now.into_iter().flat_map(|seen| seen.drops).next();
    Ok(now.unwrap_or_else(|| own.clone()))
}

/// A page: M, then R.
pub struct ReadPage {
    pub mysql: MysqlPage,
    pub redis: RedisPage,
    pub gate: Gate,
    pub revision: u64,
}

/// Pages requested in advance, while one is judged.
const AHEAD: usize = 2;

/// Reads a drop page by page. The last page has no end.
pub(crate) fn pages<'c>(
    ctx: &'c PassContext,
    coupon: &'c Coupon,
    drop: &'c DropSeen,
) -> impl Stream<Item = Result<ReadPage, PassError>> + 'c {
    let size = i64::from(ctx.settings.page_slots.max(1));
    let upper = drop.upper();
    let pages = (upper + size - 1) / size;
    let ranges = (0..pages).map(move |page| {
        let to = (page + 1) * size;
        (page * size + 1, (page + 1 < pages).then_some(to))
    });
    stream::iter(ranges)
        .map(move |(from, to)| read_page(ctx, coupon, drop, from, to))
        .buffered(AHEAD)
}

async fn read_page(
    ctx: &PassContext,
    coupon: &Coupon,
    drop: &DropSeen,
    from: i64,
    to: Option<i64>,
) -> Result<ReadPage, PassError> {
    let db = &ctx.stores.db;
    let slot = |slot: i64| Slot::try_from(slot).unwrap_or(Slot::MAX);
    let slots = slot(from)..=to.map_or(Slot::MAX, slot);
    let rows = db.rows_on_slots(drop.drop.id, slots).await?;
    let mut letters = Vec::new();
    if drop.letters > 0 {
        let slots = from..=to.unwrap_or(i64::MAX);
        letters = db
            .dead_letters_on_slots(coupon.id, drop.drop.id, slots)
            .await?;
        if from == 1 {
            let beside = db.dead_letters_beside_slots(coupon.id, drop.drop.id, Slot::MAX);
            letters.extend(beside.await?);
        }
    }
    let seen = ctx.stores.redis.page(&drop.keys, from, to).await?;
    let redis = RedisPage {
        from,
        to,
        count: seen.count.unwrap_or(0),
        users: seen.users,
        free: seen.free,
        odd: seen.odd,
    };
    let letters = letters
        .into_iter()
        .map(|row| letter(row, &drop.drop))
        .collect();
    Ok(ReadPage {
        mysql: MysqlPage { rows, letters },
        redis,
        gate: seen.gate,
        revision: seen.revision,
    })
}

pub(crate) fn letter(row: DeadLetterRow, drop: &Drop) -> Letter {
    let claimed_at = row.claimed_at.map(|at| at.and_utc());
    let fault = Letter::fault_of(row.is_of_message(), &drop.window(), claimed_at);
    Letter {
        id: row.id,
        slot: row.slot,
        // Nobody else can hold a slot in Redis.
        user: row
            .user_id
            .filter(|user| UserId::has_form(user))
            .map(UserId::from_store),
        at_ms: claimed_at.map(|at| at.timestamp_millis()),
        fault,
    }
}

/// M' and R', and whether the drop is still one to judge.
pub(crate) struct ReadAgain {
    pub recheck: Recheck,
    /// The drop's settings in MySQL, unless it was sealed or deleted meanwhile.
    pub is_unsealed: bool,
}

/// Slots of R' per call.
const SLOTS_AT_ONCE: usize = 1_000;

/// Reads again whatever concerns the doubts of a page.
pub(crate) async fn again(
    ctx: &PassContext,
    coupon: &Coupon,
    drop: &DropSeen,
    page: &ReadPage,
    doubts: &Doubts,
) -> Result<ReadAgain, PassError> {
    let (db, redis) = (&ctx.stores.db, &ctx.stores.redis);
    let id = drop.drop.id;
    let slots: Vec<Slot> = doubts.slots.iter().copied().collect();
    let users: Vec<UserId> = doubts.users.iter().cloned().collect();
    let letters: Vec<i64> = page.mysql.letters.iter().map(|letter| letter.id).collect();
    let rows = rows_on(ctx, id, slots.clone()).await?;
    let of_users = db.rows_of_people(coupon.id, &users).await?;
    let revocations = db.revocations_of_people(coupon.id, &users).await?;
    let revocations = Revocations::new(revocations, coupon.once_per, id);
    let mut rows_of_users: HashMap<UserId, Vec<(DropId, Row)>> = HashMap::new();
    for row in of_users {
        let user = UserId::from_store(row.user_id);
        let at_ms = row.claimed_at.and_utc().timestamp_millis();
        let is_in_scope = coupon.once_per == OncePer::Coupon || row.drop_id == id.0;
        // A void row is moved, and rules out nothing.
        if is_in_scope && !revocations.voids(&user, Some(at_ms)) {
            let own = Row {
                slot: row.slot,
                user: user.clone(),
                at_ms: Some(at_ms),
            };
            let rows = rows_of_users.entry(user).or_default();
            rows.push((DropId(row.drop_id), own));
        }
    }
    let open_letters = if letters.is_empty() {
        HashSet::new()
    } else {
        db.open_dead_letters(letters).await?
    };
    let own = settings_of(ctx, id).await?;
    // A dry run adopts a quantity that MySQL has lost, without writing it.
    let adopted = if ctx.dry_run { drop.drop.quantity } else { 0 };
    let mut holders = Vec::new();
    for some in slots.chunks(SLOTS_AT_ONCE) {
        let read = redis.slots(&drop.keys, some).await?;
        holders.extend(read.users);
    }
    Ok(ReadAgain {
        recheck: Recheck {
            quantity: own.map_or(0, |(quantity, _)| quantity).max(adopted),
            rows,
            rows_of_users,
            revocations,
            open_letters,
            holders,
        },
        is_unsealed: own.is_some_and(|(_, sealed_at)| sealed_at.is_none()),
    })
}

/// Reads a drop's quantity, and when it was sealed.
async fn settings_of(
    ctx: &PassContext,
    drop: DropId,
) -> Result<Option<(Slot, Option<NaiveDateTime>)>, DbError> {
    let own = sql!("SELECT quantity, sealed_at FROM drops WHERE id = ?", drop);
    ctx.stores.db.first("settings of a drop", own).await
}

async fn rows_on(ctx: &PassContext, drop: DropId, slots: Vec<Slot>) -> Result<Vec<Row>, DbError> {
    let mut rows = Vec::new();
    for some in slots.chunks(SLOTS_AT_ONCE) {
        let some = some.to_vec();
        let read = ctx.stores.db.run("rows on slots", async move |conn| {
            on_slots(conn, drop, &some).await
        });
        rows.extend(read.await?.into_iter().map(|row| Row {
            slot: row.slot,
            user: UserId::from_store(row.user_id),
            at_ms: Some(row.claimed_at.and_utc().timestamp_millis()),
        }));
    }
    Ok(rows)
}

/// Reads rows in a transaction that reads the coupon's era, unless a later one has begun.
pub(crate) async fn rows_in_era(
    ctx: &PassContext,
    coupon: CouponId,
    era: u64,
    drop: DropId,
    slots: RangeInclusive<Slot>,
) -> Result<Vec<Row>, PassError> {
    let read = ctx.stores.db.rows_in_era((coupon, era), drop, slots);
    read.await?.ok_or(PassError::Stale)
}
