//! Durability: a slot is acknowledged only after a second store beside Redis holds the claim
//! (docs/decisions/0008-second-store.md). Kafka is that store; where it does not acknowledge in time, the fallback table.

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{DropId, Slot, UserId};
use firstcome_shared::event::ClaimEvent;
use metrics::counter;

use super::fallback::Fallback;
use super::publisher::Publisher;
use super::singleflight::{Singleflight, Store};
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, instant};

pub(crate) struct Durability {
    writes: Singleflight,
    publisher: Publisher,
    fallback: Fallback,
}

/// A claim that has a slot in Redis.
pub(super) struct AdmittedClaim {
    pub(super) drop_id: DropId,
    pub(super) slot: Slot,
    pub(super) user: UserId,
    /// By Redis's clock; `None` where Redis does not know it.
    pub(super) admitted_at_ms: Option<i64>,
    /// Redis's clock.
    pub(super) now_ms: i64,
}

impl Durability {
    pub(crate) fn new(publisher: Publisher, fallback: Fallback) -> Self {
        Self { writes: Singleflight::default(), publisher, fallback }
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Makes sure that a second store holds the claim, and says which (Kafka, where it was written earlier). `None`: neither
    /// took it in time, so it must not be acknowledged. The admission stands, and a retry finds it.
    ///
    /// A claim may be published twice, by two processes or after a restart; the consumer ignores the second message.
    pub(super) async fn ensure(&self, coupon: &CouponWithDrops, claim: AdmittedClaim) -> Option<Store> {
        let AdmittedClaim { drop_id, slot, user, admitted_at_ms, now_ms } = claim;
        let drop = coupon.drop(drop_id);
        if drop.is_some_and(|drop| drop.sealed_at.is_some()) {
            // Verified exact: every slot has its row.
            return Some(Store::Kafka);
        }
        let id = self.writes.id(drop_id, slot, &user, admitted_at_ms);
        let claimed_at = instant(admitted_at_ms.unwrap_or(now_ms));
        let event = ClaimEvent { coupon_id: coupon.coupon.id, drop_id, slot, user_id: user, claimed_at };
        self.writes.run(id, drop.map_or(0, |drop| drop.quantity), self.write(&event)).await
    }

    async fn write(&self, event: &ClaimEvent) -> Option<Store> {
        let published = self.publisher.publish(event).await;
        crash_point(Point::ClaimPublished);
        if published {
            return Some(Store::Kafka);
        }
        let kept = self.fallback.keep(event).await;
        crash_point(Point::ClaimKept);
        if !kept {
            counter!("firstcome_claims_not_held_total").increment(1);
            tracing::debug!(drop = %event.drop_id, slot = event.slot, "an admission is held by Redis alone and is not promised");
        }
        kept.then_some(Store::Fallback)
    }

    /// Forgets which claims are durable, for all drops but the wanted ones.
    pub(crate) fn keep_only(&self, wanted: impl Fn(DropId) -> bool) {
        self.writes.keep_only(wanted);
    }
}
