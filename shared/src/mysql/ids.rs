//! Ids that MySQL does not assign (docs/decisions/0026-mysql-gone-back.md). A restored MySQL, or
//! one that failed over, would assign some ids twice, while Redis and the topic still hold claims
//! of the coupons that had them. All ids are positive and below 2^53, which JSON and Lua represent
//! exactly. Ids of drops are in no order; drops are ordered by `opens_at`. They are short, because
//! people type them as a part of codes.

use chrono::{DateTime, NaiveDate, Utc};
use rand::RngExt as _;

use crate::domain::{CouponId, DropId};
use crate::hash::hash64;

/// Draws the id of a coupon or revocation: seconds since 1970, followed by 20 random bits. The
/// primary key refuses an id that is taken; then draw again. An id that MySQL has lost can only be
/// drawn again in the same second, which requires a clock that was set back.
pub(super) fn draw_id(now: DateTime<Utc>) -> i64 {
    (now.timestamp() << 20) | i64::from(rand::rng().random::<u32>() >> 12)
}

/// Whether [`draw_id`] may have returned this id: its second lies between 2026 and a day from now.
pub(super) fn may_be_drawn(id: i64, now: DateTime<Utc>) -> bool {
    (FIRST_SECOND..=now.timestamp() + 86_400).contains(&(id >> 20))
}

/// The first second of 2026.
const FIRST_SECOND: i64 = 1_767_225_600;

/// Computes the id of a drop from its coupon and local date (of a single drop: from its coupon), so
/// that a drop whose row was lost is created again under its own id, with its rows and its keys in
/// Redis: the first 40 bits of a hash. Among 100,000 drops, two share an id with a probability of 1
/// in 200; `attempt` then gives the second one another id.
/// `deploy/restore/from-redis.sh` finds the date of a lost drop by its id.
pub(super) fn drop_id(coupon: CouponId, local_date: Option<NaiveDate>, attempt: u32) -> DropId {
    let date = local_date.map(|date| date.to_string()).unwrap_or_default();
    let hash = hash64(format!("{coupon}:{date}:{attempt}"));
    DropId((hash >> 24).max(1).cast_signed())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const LIMIT: i64 = 1 << 53;
    const DROP_LIMIT: i64 = 1 << 40;

    #[test]
    fn drawn_ids_stay_below_2_53_for_two_centuries_and_later_ones_are_higher() {
        let at = |year: i32| {
            format!("{year}-01-01T00:00:00Z")
                .parse::<DateTime<Utc>>()
                .unwrap()
        };
        for year in [2026, 2240] {
            let drawn: HashSet<i64> = (0..100).map(|_| draw_id(at(year))).collect();
            assert!(drawn.len() > 95, "{drawn:?}");
            let ids = at(year).timestamp() << 20..LIMIT;
            assert!(drawn.iter().all(|id| ids.contains(id)), "{drawn:?}");
            assert!(drawn.iter().all(|id| may_be_drawn(*id, at(year))));
        }
        let is_higher = draw_id(at(2027)) > draw_id(at(2026));
        assert!(is_higher, "later ids are higher");
        let is_of_2027 = [draw_id(at(2027)), 1, -1].map(|id| may_be_drawn(id, at(2026)));
        assert_eq!(is_of_2027, [false; 3]);
    }

    #[test]
    fn a_drop_has_the_same_id_whenever_it_is_created_and_shares_it_with_no_other() {
        let first = NaiveDate::from_ymd_opt(2026, 12, 1).unwrap();
        let day = |day| first.checked_add_days(chrono::Days::new(day));
        let all: HashSet<DropId> = (0..300)
            .flat_map(|coupon| (0..30).map(move |n| drop_id(CouponId(coupon), day(n), 0)))
            .chain((0..300).map(|coupon| drop_id(CouponId(coupon), None, 0)))
            .chain((0..300).map(|coupon| drop_id(CouponId(coupon), None, 1)))
            .collect();
        assert_eq!(all.len(), 300 * 32);
        assert!(all.iter().all(|id| (1..DROP_LIMIT).contains(&id.0)));
        // A different result here would give every lost drop another id.
        assert_eq!(drop_id(CouponId(7), day(0), 0), DropId(84_692_015_801));
        assert_eq!(drop_id(CouponId(7), None, 0), DropId(124_527_124_050));
    }
}
