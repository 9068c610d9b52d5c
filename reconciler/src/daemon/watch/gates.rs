//! Looks at the gates and counters of the coupons that should be open, and decides what is done
//! about each.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Bound;

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::redis::gate::Gate;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::servers::{ServerId, Servers};
use firstcome_shared::redis::{Redis, RedisError};
use tokio::time::Instant;

use super::slots::with_slots;
use super::{Live, Wants};
use crate::context::Stores;
use crate::gate::close_in_redis;

/// Number of looks at which a coupon must be closed on the same server, or lack a counter, before
/// it is reopened. An API that creates a coupon opens it within moments.
const LOOKS: u32 = 3;

/// At one of this many looks, the watch also looks for lost keys and for slots that are left.
const LOOKS_FOR_SLOTS: u32 = 2;

/// Maximum number of coupons whose keys are checked at one look, in turn.
const CHECKED_AT_ONCE: usize = 200;

/// A drop with its coupon's gate and its counter.
pub(super) struct WatchedDrop<'a> {
    pub coupon: &'a Coupon,
    pub drop: &'a Drop,
    gate: Gate,
    pub count: Option<i64>,
}

/// The state of a coupon, as a look sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SeenCoupon {
    Open,
    /// Open, and a counter went back under the same gate.
    OlderState,
    /// Open, and a drop that should be open has no counter.
    LacksCounter,
    /// Open, and a key that names users is lost.
    LacksUsers,
    /// Open in an era that MySQL has lost.
    AheadOfMysql,
    /// Its gate names another server.
    OtherServer,
    Closed,
}

impl SeenCoupon {
    fn is_closed(self) -> bool {
        match self {
            Self::OtherServer | Self::Closed => true,
            Self::Open
            | Self::OlderState
            | Self::LacksCounter
            | Self::LacksUsers
            | Self::AheadOfMysql => false,
        }
    }
}

/// Whether the urgent lane closes a coupon, if it is open and still has this gate, and reopens it:
/// one that was in another state than open for this many looks in a row.
fn is_reopened(seen: SeenCoupon, looks: u32) -> bool {
    match seen {
        // APIs refuse the claims of one ahead of MySQL, because they read the era there.
        SeenCoupon::OtherServer | SeenCoupon::LacksUsers | SeenCoupon::AheadOfMysql => true,
        SeenCoupon::LacksCounter | SeenCoupon::Closed => looks >= LOOKS,
        // The watch itself closes an older state first.
        SeenCoupon::Open | SeenCoupon::OlderState => false,
    }
}

/// The live coupons as one look sees them.
struct GateLook<'a> {
    /// After the gates were read.
    at: Instant,
    servers: Servers,
    /// Coupons of a cluster's server that does not answer, or whose hash slot is not served. They
    /// count as closed, and do not prevent the look at the others.
    missed: BTreeSet<CouponId>,
    /// A server of the cluster does not answer.
    is_partly: bool,
    /// The unsealed drops of the other coupons, each coupon's together.
    drops: Vec<WatchedDrop<'a>>,
}

/// Reads the gates and counters of the live coupons.
async fn observe<'a>(redis: &Redis, live: &'a Live) -> Result<GateLook<'a>, RedisError> {
    let servers = redis.servers().await?;
    let mut missed = BTreeSet::new();
    let mut answering = Vec::new();
    for (coupon, drops) in &live.coupons {
        if servers.lack_server_of(coupon.id) {
            missed.insert(coupon.id);
        } else {
            let unsealed = drops.iter().filter(|drop| drop.sealed_at.is_none());
            answering.extend(unsealed.map(|drop| (coupon, drop)));
        }
    }
    let keys: Vec<DropKeys> = answering
        .iter()
        .map(|(coupon, drop)| redis.keys(coupon.id, drop.id))
        .collect();
    let is_partly = !missed.is_empty();
    let watched = redis.watched(&keys).await?;
    let at = Instant::now();
    let mut drops = Vec::with_capacity(answering.len());
    for ((coupon, drop), watched) in answering.into_iter().zip(watched) {
        let Some((gate, count)) = watched else {
            missed.insert(coupon.id);
            continue;
        };
        drops.push(WatchedDrop {
            coupon,
            drop,
            gate,
            count,
        });
    }
    drops.retain(|seen| !missed.contains(&seen.coupon.id));
    Ok(GateLook {
        at,
        servers,
        missed,
        is_partly,
        drops,
    })
}

/// What a look sees.
pub(super) struct LookedGates {
    /// The coupons for the lanes.
    pub(super) wants: Wants,
    pub(super) closed: BTreeSet<CouponId>,
    /// A server of the cluster does not answer.
    pub(super) is_partly: bool,
}

/// What the watch remembers of earlier looks.
#[derive(Default)]
pub(super) struct Known {
    /// For how many looks in a row each coupon was in another state than open.
    closed: HashMap<CouponId, u32>,
    /// The eras of gates that are above the catalogue's, and when each was first seen.
    ahead: HashMap<CouponId, (u64, Instant)>,
    /// The highest counter of each drop under its gate.
    counts: HashMap<DropId, (Gate, i64)>,
    /// Number of looks.
    looks: u32,
    /// The last coupon whose keys were checked.
    checked: CouponId,
}

impl Known {
    /// Returns what a look sees. Closes coupons of which Redis has an older state.
    pub(super) async fn check_gates(
        &mut self,
        stores: &Stores,
        live: &Live,
    ) -> Result<LookedGates, RedisError> {
        let redis = &stores.redis;
        let look = observe(redis, live).await?;
        self.forget_unlisted(&look);
        self.looks = self.looks.wrapping_add(1);
        let mut wants = Wants::default();
        let mut without_users = HashSet::new();
        if self.looks.is_multiple_of(LOOKS_FOR_SLOTS) {
            wants.with_slots = with_slots(redis, live, &look.drops).await?;
            without_users = self.without_users(redis, &look).await?;
        }
        let mut closed = look.missed;
        for own in look.drops.chunk_by(|a, b| a.coupon.id == b.coupon.id) {
            let WatchedDrop { coupon, gate, .. } = &own[0];
            let id = coupon.id;
            let server = look.servers.holding(id);
            let seen = match self.see(own, server, look.at, live) {
                SeenCoupon::Open if without_users.contains(&id) => SeenCoupon::LacksUsers,
                seen => seen,
            };
            if seen.is_closed() {
                closed.insert(id);
            }
            let looks = self.count(id, seen);
            if seen == SeenCoupon::OlderState {
                let closed = close_in_redis(redis, &look.servers, id, gate, coupon.era).await;
                tracing::error!(coupon_id = id.0, ?closed, "Redis has an older state");
                // If the closing fails, the next look repeats it.
                if let Ok(Some(fence)) = closed {
                    wants.closed.insert(id, Gate::closed(&fence));
                }
            } else if is_reopened(seen, looks) {
                wants.closed.insert(id, gate.clone());
            }
        }
        Ok(LookedGates {
            wants,
            closed,
            is_partly: look.is_partly,
        })
    }

    /// Returns the coupons without the keys that name users, among those whose turn it is.
    async fn without_users(
        &mut self,
        redis: &Redis,
        look: &GateLook<'_>,
    ) -> Result<HashSet<CouponId>, RedisError> {
        let all: BTreeSet<CouponId> = look.drops.iter().map(|seen| seen.coupon.id).collect();
        let next = (Bound::Excluded(self.checked), Bound::Unbounded);
        let in_turn = all.range(next).chain(all.range(..=self.checked));
        let some: Vec<CouponId> = in_turn.take(CHECKED_AT_ONCE).copied().collect();
        let have = redis.have_user_keys(&some).await?;
        self.checked = some.last().copied().unwrap_or_default();
        let lacking = some.into_iter().zip(have).filter(|(_, has)| !has);
        Ok(lacking.map(|(coupon, _)| coupon).collect())
    }

    /// Forgets coupons and drops that are no longer watched.
    fn forget_unlisted(&mut self, look: &GateLook<'_>) {
        let listed: HashSet<CouponId> = look.drops.iter().map(|seen| seen.coupon.id).collect();
        self.closed.retain(|coupon, _| listed.contains(coupon));
        self.ahead.retain(|coupon, _| listed.contains(coupon));
        let counted: HashSet<DropId> = look.drops.iter().map(|seen| seen.drop.id).collect();
        self.counts.retain(|drop, _| counted.contains(drop));
    }

    /// Returns for how many looks in a row, with this one, the coupon was in another state than
    /// open.
    fn count(&mut self, coupon: CouponId, seen: SeenCoupon) -> u32 {
        if seen == SeenCoupon::Open {
            self.closed.remove(&coupon);
            return 0;
        }
        let looks = self.closed.entry(coupon).or_default();
        *looks += 1;
        *looks
    }

    /// Classifies a coupon by its gate and the counters of its drops.
    fn see(
        &mut self,
        own: &[WatchedDrop<'_>],
        server: Option<&ServerId>,
        at: Instant,
        live: &Live,
    ) -> SeenCoupon {
        let WatchedDrop { coupon, gate, .. } = &own[0];
        // The catalogue may be a second old, and the era may have gone on since.
        let open = gate
            .era()
            .filter(|era| *era >= coupon.era && gate.is_open(server, *era));
        let Some(era) = open else {
            let names_another = gate.era().is_some() && gate.fence(server).is_none();
            return if names_another {
                SeenCoupon::OtherServer
            } else {
                SeenCoupon::Closed
            };
        };
        let lacks_counter = own
            .iter()
            .any(|seen| seen.count.is_none() && seen.drop.is_open_at(live.now));
        if self.went_back(own) {
            SeenCoupon::OlderState
        } else if lacks_counter {
            SeenCoupon::LacksCounter
        } else if self.has_lost(coupon.id, era, coupon.era, at, live.asked_at) {
            SeenCoupon::AheadOfMysql
        } else {
            SeenCoupon::Open
        }
    }

    /// Whether MySQL has lost the era of an open gate. A catalogue that was asked for before the gate
    /// was seen proves nothing, however long the answer took.
    fn has_lost(
        &mut self,
        coupon: CouponId,
        era: u64,
        in_catalogue: u64,
        seen_at: Instant,
        asked_at: Instant,
    ) -> bool {
        if era <= in_catalogue {
            self.ahead.remove(&coupon);
            return false;
        }
        let first = self.ahead.entry(coupon).or_insert((era, seen_at));
        if first.0 != era {
            *first = (era, seen_at);
        }
        first.1 < asked_at
    }

    /// Whether a counter is lower than before under the same gate. A missing one is not.
    fn went_back(&mut self, drops: &[WatchedDrop<'_>]) -> bool {
        let mut went_back = false;
        for WatchedDrop {
            drop, gate, count, ..
        } in drops
        {
            let Some(count) = *count else { continue };
            let known = self.counts.insert(drop.id, (gate.clone(), count));
            if let Some((_, highest)) = known.filter(|(of, highest)| of == gate && count < *highest)
            {
                went_back = true;
                self.counts.insert(drop.id, (gate.clone(), highest));
            }
        }
        went_back
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn era_is_lost_only_if_a_catalogue_that_is_newer_than_its_gate_lacks_it() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut known = Known::default();
        let mut looked = |era, in_catalogue, seen_at, asked_at| {
            known.has_lost(
                CouponId(1),
                era,
                in_catalogue,
                after(seen_at),
                after(asked_at),
            )
        };
        // However long the catalogue takes.
        assert!(!looked(7, 6, 10, 9) && !looked(7, 6, 60, 9));
        assert!(!looked(8, 6, 61, 60), "it was reopened meanwhile");
        assert!(looked(8, 6, 63, 62));
        assert!(!looked(8, 8, 64, 63) && !looked(8, 7, 66, 65), "adopted");
        assert!(looked(8, 7, 68, 67));
    }

    #[test]
    fn states_that_may_be_transient_are_acted_on_only_after_several_looks() {
        for (seen, looks, expected) in [
            (SeenCoupon::Open, 0, false),
            (SeenCoupon::OtherServer, 1, true),
            (SeenCoupon::Closed, LOOKS - 1, false),
            (SeenCoupon::Closed, LOOKS, true),
            (SeenCoupon::LacksCounter, LOOKS - 1, false),
            (SeenCoupon::LacksCounter, LOOKS, true),
            (SeenCoupon::LacksUsers, 1, true),
            (SeenCoupon::AheadOfMysql, 1, true),
        ] {
            assert_eq!(
                is_reopened(seen, looks),
                expected,
                "{seen:?} for {looks} looks"
            );
        }
    }
}
