//! Opens and closes the admission gate, and begins eras of coupons.

use std::collections::{BTreeSet, HashMap};

use firstcome_shared::coupon::Coupon;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{CouponId, DropId, OncePer, UserId};
use firstcome_shared::mysql::eras::SeenEra;
use firstcome_shared::redis::claimants::CouponSizes;
use firstcome_shared::redis::gate::{CouponGate, CouponVersion, Fence};
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::life::Life;
use firstcome_shared::redis::repair::{DropOfChanges, SlotChange, Wanted};
use firstcome_shared::redis::{Redis, RedisError};
use futures_util::future::try_join_all;

use super::ExecuteError;
use crate::stores::Stores;

/// The state of a coupon's gate before the pass reads other data of the coupon.
#[derive(Debug, Clone, Default)]
pub(crate) struct CouponFence {
    /// The fencing token that every repair carries. `None` if another process is beginning an era,
    /// or if a dry run would have to begin one.
    pub(crate) fence: Option<Fence>,
    /// Whether the coupon is open.
    pub(crate) is_verified: bool,
    /// The highest revision whose settings were written to Redis, or 0 if unknown.
    pub(crate) revision: u64,
}

/// Opens verified coupons. Returns `false` if Redis has lost data since they were verified.
pub(crate) async fn open_coupons(
    redis: &Redis,
    coupons: &[(CouponId, Fence)],
) -> Result<bool, RedisError> {
    crash_point(Point::GateDue);
    let are_open = redis.open_coupons(coupons).await?;
    crash_point(Point::GateOpened);
    Ok(are_open)
}

/// Records the sizes of an open coupon's hashes, which a pass has compared and repaired.
pub(crate) async fn record_sizes(
    redis: &Redis,
    coupon: CouponId,
    fence: &Fence,
    sizes: &CouponSizes,
) -> Result<(), RedisError> {
    redis.settle_sizes(coupon, fence, sizes).await
}

/// Removes users from an open coupon's claimants whose entries name this drop or none.
pub(crate) async fn forget_claimants(
    redis: &Redis,
    keys: &DropKeys,
    drop: DropId,
    fence: &Fence,
    people: &[UserId],
) -> Result<(), RedisError> {
    let of = DropOfChanges {
        drop,
        once_per: OncePer::Coupon,
        quantity: None,
    };
    let off = |user: &UserId| SlotChange {
        user: user.clone(),
        seen: None,
        wanted: Wanted::Nothing,
    };
    for some in people.chunks(AT_ONCE) {
        let changes: Vec<SlotChange> = some.iter().map(off).collect();
        redis.set_slots(keys, fence, of, &changes).await?;
    }
    Ok(())
}

/// Closes a coupon whose data was replaced by an older state. Returns `false` if its gate has
/// changed.
pub(crate) async fn close_coupon(
    redis: &Redis,
    coupon: CouponId,
    seen: &CouponVersion,
) -> Result<bool, RedisError> {
    redis.close_coupon(coupon, seen).await
}

/// Records that the coupons of these servers were compared. Returns `false` if a server was
/// replaced.
pub(crate) async fn note_compared(
    redis: &Redis,
    life: &Life,
    servers: &BTreeSet<usize>,
) -> Result<bool, RedisError> {
    redis.note_compared(life, servers).await
}

/// Returns the fences of coupons. If a coupon's gate does not name the current server and the era
/// in MySQL, begins a new era, which closes the coupon. A dry run begins no era.
pub(crate) async fn fences(
    stores: &Stores,
    life: &Life,
    coupons: &[&Coupon],
    dry_run: bool,
) -> Result<HashMap<CouponId, CouponFence>, ExecuteError> {
    let ids: Vec<CouponId> = coupons.iter().map(|coupon| coupon.id).collect();
    let found = stores.redis.coupon_gates(&ids).await?;
    let mut fences = HashMap::with_capacity(coupons.len());
    let mut doubtful = Vec::new();
    for (coupon, gate) in coupons.iter().zip(found) {
        let fence = CouponFence {
            fence: gate
                .fence(life, coupon.id)
                .filter(|_| gate.era() == Some(coupon.era)),
            is_verified: gate.is_open(life, coupon.id, coupon.era),
            revision: gate.revision,
        };
        if fence.fence.is_none() && !dry_run {
            doubtful.push((*coupon, gate));
        }
        fences.insert(coupon.id, fence);
    }
    for some in doubtful.chunks(AT_ONCE) {
        for (coupon, fence) in settle(stores, life, some).await? {
            fences.insert(coupon, fence);
        }
    }
    Ok(fences)
}

/// Number of coupons processed at a time.
const AT_ONCE: usize = 500;

/// Begins new eras of coupons whose gate does not match the server, or the era in MySQL.
async fn settle(
    stores: &Stores,
    life: &Life,
    doubtful: &[(&Coupon, CouponGate)],
) -> Result<Vec<(CouponId, CouponFence)>, ExecuteError> {
    let seen = doubtful.iter().map(|(coupon, gate)| SeenEra {
        coupon: coupon.id,
        era: gate.era().unwrap_or(0),
        is_kept: gate.fence(life, coupon.id).is_some(),
    });
    let eras = stores.db.take_eras(seen.collect()).await?;
    let settled = doubtful.iter().map(async |(coupon, gate)| {
        let id = coupon.id;
        let revision = gate.revision;
        let era = eras.get(&id).copied();
        let kept = gate.fence(life, id).filter(|_| gate.era() == era);
        let fence = match (kept, era) {
            (None, Some(era)) => stores.redis.begin_era(id, life, era, gate).await?,
            (kept, _) => kept,
        };
        let is_verified = era.is_some_and(|era| gate.is_open(life, id, era));
        Ok::<_, RedisError>((
            id,
            CouponFence {
                fence,
                is_verified,
                revision,
            },
        ))
    });
    Ok(try_join_all(settled).await?)
}
