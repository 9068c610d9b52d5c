//! A coupon as this process holds it in memory: all that a claim needs to know before it asks Redis.

use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop, drop_for_claim};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::keys::DropKeys;

/// A coupon with its drops.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) coupon: Coupon,
    /// Its drops in order of opening.
    pub(crate) drops: Vec<Drop>,
    /// What goes with each drop, in the same order.
    extras: Vec<Extra>,
}

#[derive(Debug)]
struct Extra {
    keys: DropKeys,
    sealed_rows: Option<u32>,
}

/// One drop of an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chosen<'a> {
    pub(crate) drop: &'a Drop,
    /// Its keys in Redis.
    pub(crate) keys: &'a DropKeys,
    /// How many rows it was sealed with.
    pub(crate) sealed_rows: Option<u32>,
}

impl Entry {
    /// Puts one together. `sealed_rows` tells how many rows a sealed drop has.
    pub(crate) fn new(
        redis: &Redis,
        coupon: Coupon,
        drops: Vec<Drop>,
        sealed_rows: impl Fn(&Drop) -> Option<u32>,
    ) -> Self {
        let extra = |drop: &Drop| Extra { keys: redis.keys(coupon.id, drop.id), sealed_rows: sealed_rows(drop) };
        let extras = drops.iter().map(extra).collect();
        Self { coupon, drops, extras }
    }

    /// All drops, in order of opening.
    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = Chosen<'_>> {
        self.drops.iter().zip(&self.extras).map(|(drop, extra)| Chosen {
            drop,
            keys: &extra.keys,
            sealed_rows: extra.sealed_rows,
        })
    }

    /// The drop that a claim at `now` is for.
    pub(crate) fn for_claim(&self, now: DateTime<Utc>) -> Option<Chosen<'_>> {
        let drop = drop_for_claim(&self.drops, now)?;
        self.all().find(|chosen| chosen.drop.id == drop.id)
    }

    /// The drop that is open at `now`, else the last that has opened.
    pub(crate) fn current(&self, now: DateTime<Utc>) -> Option<Chosen<'_>> {
        self.all()
            .rev()
            .find(|chosen| chosen.drop.is_open_at(now))
            .or_else(|| self.all().rev().find(|chosen| chosen.drop.opens_at <= now))
    }

    /// The first drop that has not opened at `now`.
    pub(crate) fn next(&self, now: DateTime<Utc>) -> Option<Chosen<'_>> {
        self.all().find(|chosen| chosen.drop.opens_at > now)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use chrono::TimeDelta;
    use firstcome_shared::domain::{CouponId, DropId, OncePer};
    use firstcome_shared::redis::RedisSettings;

    use super::*;

    pub(crate) fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
    }

    /// Coupon 1 with drops 1, 2, … that open and close at the given minutes.
    pub(crate) fn entry(windows: &[(i64, i64)]) -> Entry {
        let settings = RedisSettings {
            url: "redis://127.0.0.1:1".to_owned().into(),
            prefix: "fc".into(),
            timeout: std::time::Duration::from_secs(1),
        };
        let drops = windows.iter().zip(1..).map(|(&(opens, closes), id)| Drop {
            id: DropId(id),
            coupon_id: CouponId(1),
            local_date: None,
            opens_at: at(opens),
            closes_at: Some(at(closes)),
            quantity: 10,
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
            schedule: None,
        };
        Entry::new(&Redis::new(&settings).unwrap(), coupon, drops.collect(), |_| None)
    }

    #[tokio::test]
    async fn current_is_the_open_drop_else_the_last_opened_and_next_the_first_to_come() {
        let entry = entry(&[(10, 20), (30, 40), (50, 60)]);
        let current = |minute| entry.current(at(minute)).map(|c| c.drop.id.0);
        let next = |minute| entry.next(at(minute)).map(|c| c.drop.id.0);
        assert_eq!([9, 10, 20, 29, 30, 99].map(current), [None, Some(1), Some(1), Some(1), Some(2), Some(3)]);
        assert_eq!([9, 10, 49, 50].map(next), [Some(1), Some(2), Some(3), None]);
        assert_eq!(entry.for_claim(at(20)).map(|c| c.keys.meta.as_str()), Some("fc:{1}:drop:2:meta"));
    }
}
