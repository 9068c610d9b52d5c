//! A coupon with its drops in this process's memory, and the selection of the drops that a claim
//! may be for. A claim needs no other data before it calls Redis.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{DropId, OncePer};
use firstcome_shared::model::is_one_lost;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::{CandidateIds, Candidates};
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::schedule::Schedule;

use super::losers::Losers;

/// For this long after a drop has closed, a claim may be a retry of one in that drop. Longer than
/// `RETRY_MS` of claim.lua, because this clock is an estimate of Redis's.
const RETRIES: TimeDelta = TimeDelta::minutes(1);

#[derive(Debug)]
pub(crate) struct CouponWithDrops {
    pub(crate) coupon: Coupon,
    /// In order of opening.
    pub(crate) drops: Vec<Drop>,
    /// The keys and losers of each drop, in the same order.
    keys: Vec<(DropKeys, Arc<Losers>)>,
    /// Whether MySQL has lost a drop: the second for which this was determined, shifted by one bit,
    /// plus the answer.
    lost: AtomicI64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct DropWithKeys<'a> {
    pub(crate) drop: &'a Drop,
    pub(crate) keys: &'a DropKeys,
    pub(crate) losers: &'a Arc<Losers>,
}

impl CouponWithDrops {
    pub(crate) fn new(redis: &Redis, coupon: Coupon, drops: Vec<Drop>) -> Self {
        let is_once = matches!(coupon.schedule, Some(Schedule::Once { .. }));
        let may_lease = is_once || coupon.once_per == OncePer::Drop;
        let keys = drops
            .iter()
            .map(|drop| {
                let losers = Arc::new(Losers::new(may_lease));
                (redis.keys(coupon.id, drop.id), losers)
            })
            .collect();
        Self {
            coupon,
            drops,
            keys,
            lost: AtomicI64::new(i64::MIN),
        }
    }

    /// Returns all drops, in order of opening.
    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = DropWithKeys<'_>> {
        let all = self.drops.iter().zip(&self.keys);
        all.map(|(drop, (keys, losers))| DropWithKeys { drop, keys, losers })
    }

    pub(crate) fn drop(&self, id: DropId) -> Option<&Drop> {
        self.drops.iter().find(|drop| drop.id == id)
    }

    /// Returns the drop that a claim at `now` is for: the open one, or the next to open, or the
    /// last that closed.
    pub(crate) fn for_claim(&self, now: DateTime<Utc>) -> Option<DropWithKeys<'_>> {
        let open = self.all().rev().find(|one| one.drop.is_open_at(now));
        open.or_else(|| self.next(now))
            .or_else(|| self.all().next_back())
    }

    /// Returns the drop that is open at `now`, or the last that has opened.
    pub(crate) fn current(&self, now: DateTime<Utc>) -> Option<DropWithKeys<'_>> {
        let open = self.all().rev().find(|one| one.drop.is_open_at(now));
        open.or_else(|| self.all().rev().find(|one| one.drop.opens_at <= now))
    }

    /// Returns the drops that a claim at `now` may be for; admission chooses between them by
    /// Redis's clock. The second is the neighbour at the nearer end of the first drop's window, or
    /// the previous drop if the first has not opened. There is none if that neighbour cannot have
    /// the claim's answer.
    pub(crate) fn candidates(&self, now: DateTime<Utc>) -> Option<DropCandidates<'_>> {
        let first = self
            .for_claim(now)
            .filter(|one| !is_open_again(one.drop, now))
            .or_else(|| self.next(now))?;
        let at = self.drops.iter().position(|one| one.id == first.drop.id)?;
        let opens_in = first.drop.opens_at - now;
        let closes_in = first.drop.closes_at.map(|closes| closes - now);
        let is_before = closes_in.is_none_or(|closes_in| opens_in >= -closes_in);
        let neighbour = if is_before {
            at.checked_sub(1)
        } else {
            Some(at + 1)
        };
        let second = neighbour
            .and_then(|at| self.all().nth(at))
            .filter(|one| self.has_answers(one.drop, first.drop, now));
        Some(DropCandidates { first, second })
    }

    /// Whether the second candidate may be a claim's drop, or have its answer. A sealed drop has
    /// the answer for a holder who repeats the claim. It is a candidate until the first one opens,
    /// and just after its own closing, but not for longer: its keys expire, and without them Redis
    /// leases nothing. If a user may hold one coupon in total, the claimants have the answer.
    fn has_answers(&self, drop: &Drop, first: &Drop, now: DateTime<Utc>) -> bool {
        let has_just_closed = drop.closes_at.is_some_and(|at| now - at < RETRIES);
        let is_asked = now < first.opens_at || has_just_closed;
        let is_per_drop = self.coupon.once_per == OncePer::Drop;
        drop.sealed_at.is_none() || (is_per_drop && is_asked && !is_open_again(drop, now))
    }

    /// Whether MySQL has lost the drop that the schedule requires at `now`, so that its holders are
    /// unknown.
    ///
    /// Schedules have whole seconds, so the answer holds for a second. In the rush before an
    /// opening, each `not_open` would otherwise calculate the days of the schedule.
    pub(crate) fn lacks_a_drop(&self, now: DateTime<Utc>) -> bool {
        let second = now.timestamp();
        let known = self.lost.load(Ordering::Relaxed);
        if known >> 1 == second {
            return known & 1 == 1;
        }
        let is_lost = is_one_lost(&self.coupon, &self.drops, now);
        let found = (second << 1) | i64::from(is_lost);
        self.lost.store(found, Ordering::Relaxed);
        is_lost
    }

    /// Whether the schedule plans no drop that is open at `now` or opens later. False without a
    /// schedule.
    pub(crate) fn is_over(&self, now: DateTime<Utc>) -> bool {
        let schedule = self.coupon.schedule.as_ref();
        schedule.is_some_and(|one| {
            !one.drops_from(now)
                .iter()
                .any(|planned| planned.closes_at.is_none_or(|at| now < at))
        })
    }

    /// Returns the first drop that has not opened at `now`.
    pub(crate) fn next(&self, now: DateTime<Utc>) -> Option<DropWithKeys<'_>> {
        self.all().find(|one| one.drop.opens_at > now)
    }
}

/// Whether a sealed drop would be open by Redis's clock, because that was set back. Passes no
/// longer examine such a drop, and Redis has forgotten its revocations.
fn is_open_again(drop: &Drop, now: DateTime<Utc>) -> bool {
    drop.sealed_at.is_some() && drop.is_open_at(now)
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct DropCandidates<'a> {
    pub(crate) first: DropWithKeys<'a>,
    pub(crate) second: Option<DropWithKeys<'a>>,
}

impl<'a> DropCandidates<'a> {
    pub(crate) fn all(&self) -> impl Iterator<Item = DropWithKeys<'a>> {
        iter::once(self.first).chain(self.second)
    }

    pub(crate) fn keys(&self) -> Candidates<'a> {
        Candidates {
            first: self.first.keys,
            second: self.second.map(|one| one.keys),
        }
    }

    pub(crate) fn ids(&self) -> CandidateIds {
        self.keys().ids()
    }
}

/// Converts Unix milliseconds to a timestamp.
pub(crate) fn instant(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
pub(crate) mod tests {
    use firstcome_shared::coupon::AllowList;
    use firstcome_shared::domain::CouponId;
    use firstcome_shared::redis::{RedisDurability, RedisMode, RedisSettings};
    use serde_json::json;

    use super::*;

    pub(crate) fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
    }

    /// Creates coupon 1 with drops 1, 2, … that open and close at the given minutes.
    pub(crate) fn coupon(windows: &[(i64, i64)]) -> CouponWithDrops {
        let redis = RedisSettings {
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
            sealed_rows: None,
        });
        let settings = json!({"name": "Winter", "quantity": 10, "once_per": "coupon"});
        let coupon = Coupon {
            id: CouponId(1),
            settings: serde_json::from_value(settings).unwrap(),
            revision: 1,
            era: 0,
            allow_list: AllowList::default(),
        };
        CouponWithDrops::new(&Redis::new(&redis).unwrap(), coupon, drops.collect())
    }

    #[tokio::test]
    async fn claim_is_for_the_open_drop_else_the_next_else_the_last() {
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
        let chosen = coupon_of_three.for_claim(at(20)).unwrap();
        assert_eq!(chosen.keys.meta.as_str(), "fc:{1}:drop:2:meta");
    }

    #[tokio::test]
    async fn daily_coupon_lacks_a_drop_if_the_schedule_has_one_now_and_none_is_listed() {
        let daily = |opens: &str, closes: &str| {
            serde_json::from_value(serde_json::json!({
                "type": "daily", "time_zone": "UTC", "opens": opens, "closes": closes,
                "first_day": "1970-01-01",
            }))
            .unwrap()
        };
        // Drops of other days: on 1 January for 10 minutes, and on 3 January.
        let mut listed = coupon(&[(10, 20), (2_890, 2_900)]);
        let lacks = |listed: &CouponWithDrops| {
            [5, 15, 25, 1_440, 1_455, 1_465].map(|minute| listed.lacks_a_drop(at(minute)))
        };
        assert_eq!(lacks(&listed), [false; 6], "it opens once");
        listed.coupon.settings.schedule = Some(daily("00:10", "00:20"));
        for (drop, day) in listed.drops.iter_mut().zip([1, 3]) {
            drop.local_date = chrono::NaiveDate::from_ymd_opt(1970, 1, day);
        }
        assert_eq!(
            lacks(&listed),
            [false, false, false, false, true, false],
            "on 2 January"
        );
        // The window of 2 January reaches into the next day.
        listed.coupon.settings.schedule = Some(daily("23:50", "00:05"));
        assert!(listed.lacks_a_drop(at(2 * 1_440 + 3)));
        // The answer is determined once a second.
        listed.coupon.settings.schedule = None;
        let second = at(2 * 1_440 + 3) + TimeDelta::milliseconds(999);
        assert!(listed.lacks_a_drop(second));
        assert!(!listed.lacks_a_drop(second + TimeDelta::milliseconds(1)));
        let mut empty = coupon(&[]);
        assert_eq!(lacks(&empty), [true; 6], "no drop at all");
        assert!(!empty.is_over(at(0)), "it has no schedule");
        let mut over = serde_json::to_value(daily("00:10", "00:20")).unwrap();
        over["last_day"] = "1970-01-01".into();
        empty.coupon.settings.schedule = Some(serde_json::from_value(over).unwrap());
        let over = [5, 15, 25, 1_440].map(|minute| empty.is_over(at(minute)));
        assert_eq!(over, [false, false, true, true], "its only day passes");
        // A window over midnight was set after the drop of 1 January had been sealed, and the
        // catalogue no longer lists that drop.
        let mut moved = coupon(&[(1_450, 1_460)]);
        moved.coupon.settings.schedule = Some(daily("23:50", "12:00"));
        moved.drops[0].local_date = chrono::NaiveDate::from_ymd_opt(1970, 1, 2);
        assert!(!moved.lacks_a_drop(at(1_470)));
    }

    #[tokio::test]
    async fn second_candidate_is_the_neighbour_at_the_nearer_end_of_the_window() {
        let of_three = coupon(&[(10, 20), (20, 30), (50, 60)]);
        let asked = [0, 10, 14, 16, 20, 24, 26, 31, 49, 51, 59, 99].map(|minute| {
            let candidates = of_three.candidates(at(minute)).unwrap();
            let second = candidates.second.map_or(0, |one| one.drop.id.0);
            (candidates.first.drop.id.0, second)
        });
        let seconds = [0, 0, 0, 2, 1, 1, 3, 2, 2, 2, 0, 0];
        let firsts = [1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3];
        let expected: Vec<_> = firsts.into_iter().zip(seconds).collect();
        assert_eq!(asked.to_vec(), expected);
        assert!(coupon(&[]).candidates(at(0)).is_none());
    }

    #[tokio::test]
    async fn sealed_drop_is_a_candidate_until_the_next_opens_and_just_after_its_closing() {
        let mut days = coupon(&[(10, 20), (30, 60)]);
        days.drops[0].sealed_at = Some(at(21));
        let mut adjacent = coupon(&[(10, 30), (30, 60)]);
        adjacent.drops[0].sealed_at = Some(at(30));
        let seconds = |days: &CouponWithDrops| {
            [25, 30, 31, 40].map(|minute| days.candidates(at(minute)).unwrap().second.is_some())
        };
        assert_eq!(seconds(&days), [false; 4]);
        days.coupon.settings.once_per = OncePer::Drop;
        assert_eq!(seconds(&days), [true, false, false, false]);
        adjacent.coupon.settings.once_per = OncePer::Drop;
        assert_eq!(seconds(&adjacent)[1..], [true, false, false]);
    }

    #[tokio::test]
    async fn sealed_drop_is_no_candidate_while_the_clock_is_set_back_into_its_window() {
        let mut days = coupon(&[(10, 20), (30, 60)]);
        days.coupon.settings.once_per = OncePer::Drop;
        days.drops[0].sealed_at = Some(at(21));
        let candidates = days.candidates(at(15)).unwrap();
        assert_eq!(candidates.first.drop.id, DropId(2));
        assert!(candidates.second.is_none());
        days.drops[1].sealed_at = Some(at(61));
        assert!(days.candidates(at(45)).is_none());
    }
}
