//! A coupon with its drops in this process's memory, and the clock that chooses among the drops. A
//! claim needs nothing else before it goes to Redis.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::keys::DropKeys;

#[derive(Debug)]
pub(crate) struct CouponWithDrops {
    pub(crate) coupon: Coupon,
    /// In order of opening.
    pub(crate) drops: Vec<Drop>,
    /// One for each drop, in the same order.
    extras: Vec<Extra>,
}

#[derive(Debug)]
struct Extra {
    keys: DropKeys,
    sealed_rows: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct DropWithKeys<'a> {
    pub(crate) drop: &'a Drop,
    pub(crate) keys: &'a DropKeys,
    pub(crate) sealed_rows: Option<u32>,
}

impl CouponWithDrops {
    pub(crate) fn new(
        redis: &Redis,
        coupon: Coupon,
        drops: Vec<Drop>,
        sealed_rows: impl Fn(&Drop) -> Option<u32>,
    ) -> Self {
        let extra = |drop: &Drop| Extra {
            keys: redis.keys(coupon.id, drop.id),
            sealed_rows: sealed_rows(drop),
        };
        let extras = drops.iter().map(extra).collect();
        Self {
            coupon,
            drops,
            extras,
        }
    }

    /// All drops, in order of opening.
    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = DropWithKeys<'_>> {
        self.drops
            .iter()
            .zip(&self.extras)
            .map(|(drop, extra)| DropWithKeys {
                drop,
                keys: &extra.keys,
                sealed_rows: extra.sealed_rows,
            })
    }

    pub(crate) fn drop(&self, id: DropId) -> Option<&Drop> {
        self.drops.iter().find(|drop| drop.id == id)
    }

    /// The drop that a claim at `now` is for: the open one, or the next to open, or the last that
    /// closed.
    pub(crate) fn for_claim(&self, now: DateTime<Utc>) -> Option<DropWithKeys<'_>> {
        let open = self.all().rev().find(|one| one.drop.is_open_at(now));
        open.or_else(|| self.next(now))
            .or_else(|| self.all().next_back())
    }

    /// The drop that is open at `now`, or the last that has opened.
    pub(crate) fn current(&self, now: DateTime<Utc>) -> Option<DropWithKeys<'_>> {
        let open = self.all().rev().find(|one| one.drop.is_open_at(now));
        open.or_else(|| self.all().rev().find(|one| one.drop.opens_at <= now))
    }

    /// The last drop that has opened at `now`, other than `this`, and is not open.
    pub(crate) fn before(&self, this: &Drop, now: DateTime<Utc>) -> Option<DropWithKeys<'_>> {
        let is_over = |drop: &Drop| drop.opens_at <= now && !drop.is_open_at(now);
        self.all()
            .rev()
            .find(|one| one.drop.id != this.id && is_over(one.drop))
    }

    /// The first drop that has not opened at `now`.
    pub(crate) fn next(&self, now: DateTime<Utc>) -> Option<DropWithKeys<'_>> {
        self.all().find(|one| one.drop.opens_at > now)
    }
}

/// Redis's clock. Redis opens and closes drops by it, and this host's may be seconds off.
#[derive(Debug, Default)]
pub(crate) struct RedisClock {
    ahead_ms: AtomicI64,
}

impl RedisClock {
    /// Sets the clock from a reply of Redis that has just arrived, in Unix milliseconds.
    pub(crate) fn set(&self, redis_ms: i64) {
        self.ahead_ms
            .store(redis_ms - Utc::now().timestamp_millis(), Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        instant(Utc::now().timestamp_millis() + self.ahead_ms.load(Ordering::Relaxed))
    }
}

/// Unix milliseconds as a timestamp.
pub(crate) fn instant(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// Loads the data that this process keeps about coupons, including the number of rows in their
/// sealed drops.
pub(super) async fn with_drops(
    db: &Db,
    redis: &Redis,
    coupons: Vec<(Coupon, Vec<Drop>)>,
) -> Result<Vec<Arc<CouponWithDrops>>, DbError> {
    let sealed: Vec<DropId> = coupons
        .iter()
        .flat_map(|(_, drops)| drops)
        .filter(|d| d.sealed_at.is_some())
        .map(|d| d.id)
        .collect();
    let rows: HashMap<DropId, u32> = if sealed.is_empty() {
        HashMap::new()
    } else {
        db.sealed_rows(sealed).await?
    };
    let one = |(coupon, drops)| {
        CouponWithDrops::new(redis, coupon, drops, |drop| rows.get(&drop.id).copied())
    };
    Ok(coupons.into_iter().map(one).map(Arc::new).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use chrono::TimeDelta;
    use firstcome_shared::coupon::AllowList;
    use firstcome_shared::domain::{CouponId, OncePer};
    use firstcome_shared::redis::{RedisDurability, RedisMode, RedisSettings};

    use super::*;

    pub(crate) fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
    }

    /// Coupon 1 with drops 1, 2, … that open and close at the given minutes.
    pub(crate) fn coupon(windows: &[(i64, i64)]) -> CouponWithDrops {
        let settings = RedisSettings {
            url: "redis://127.0.0.1:1".to_owned().into(),
            prefix: "fc".into(),
            timeout: std::time::Duration::from_secs(1),
            mode: RedisMode::default(),
            durability: RedisDurability::default(),
        };
        let drops = windows.iter().zip(1..).map(|(&(opens, closes), id)| Drop {
            id: DropId(id),
            coupon_id: CouponId(1),
            local_date: None,
            opens_at: at(opens),
            closes_at: Some(at(closes)),
            quantity: 10,
            closed_early: false,
            sealed_at: None,
        });
        let coupon = Coupon {
            id: CouponId(1),
            name: "Winter".into(),
            quantity: 10,
            once_per: OncePer::Coupon,
            waiting_list: 0,
            paused: false,
            revision: 1,
            era: 0,
            schedule: None,
            allow: None,
            allow_list: AllowList::default(),
        };
        CouponWithDrops::new(
            &Redis::new(&settings).unwrap(),
            coupon,
            drops.collect(),
            |_| None,
        )
    }

    #[tokio::test]
    async fn a_claim_is_for_the_open_drop_else_the_next_else_the_last() {
        let coupon_of_three = coupon(&[(10, 20), (30, 40), (50, 60)]);
        let ids = |choose: fn(&CouponWithDrops, DateTime<Utc>) -> Option<DropWithKeys<'_>>| {
            [0, 9, 10, 19, 20, 29, 30, 40, 49, 50, 99]
                .map(|minute| choose(&coupon_of_three, at(minute)).map_or(0, |one| one.drop.id.0))
        };
        assert_eq!(
            ids(CouponWithDrops::for_claim),
            [1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
        );
        assert_eq!(
            ids(CouponWithDrops::current),
            [0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3]
        );
        assert_eq!(
            ids(CouponWithDrops::next),
            [1, 1, 2, 2, 2, 2, 3, 3, 3, 0, 0]
        );
        assert!(coupon(&[]).for_claim(at(0)).is_none());
        let before = [20, 30, 40, 50, 99].map(|minute| {
            let chosen = coupon_of_three.for_claim(at(minute)).unwrap();
            coupon_of_three
                .before(chosen.drop, at(minute))
                .map_or(0, |one| one.drop.id.0)
        });
        assert_eq!(before, [1, 1, 2, 2, 2]);
        let chosen = coupon_of_three.for_claim(at(20)).unwrap();
        assert_eq!(chosen.keys.meta.as_str(), "fc:{1}:drop:2:meta");
    }

    #[test]
    fn the_clock_follows_redis_not_this_host() {
        let clock = RedisClock::default();
        let hour_ahead = Utc::now().timestamp_millis() + 3_600_000;
        clock.set(hour_ahead);
        assert!((clock.now().timestamp_millis() - hour_ahead).abs() < 1_000);
    }
}
