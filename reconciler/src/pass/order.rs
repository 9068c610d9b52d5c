//! Determines the order in which closed coupons are verified.

use std::collections::{HashMap, HashSet};

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, OncePer};
use firstcome_shared::mysql::sealed::CouponHistory;

/// How long before its opening a coupon counts as open.
const SOON_MS: i64 = 60 * 60 * 1_000;

/// The data to restore for each coupon in addition to the drops that are compared.
pub(super) type Histories = HashMap<CouponId, CouponHistory>;

/// Returns the amount of work for a coupon before it opens, in addition to its unsealed drops:
/// restoring earlier drops, revocations and the allow list. The unit is users, as for slots.
fn besides(coupon: &Coupon, histories: &Histories) -> u64 {
    let history = histories.get(&coupon.id).copied().unwrap_or_default();
    let earlier = if coupon.once_per == OncePer::Coupon {
        history.opened - 1
    } else {
        0
    };
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    // Assume that each earlier drop was given away completely.
    let people = count(earlier).saturating_mul(coupon.quantity.into());
    people
        .saturating_add(count(history.revocations))
        .saturating_add(coupon.allow_list.people.into())
}

/// Sorts drops in the order of reopening. Coupons that are open or open soon come first. Among
/// these, coupons with the least work come first, so that a large coupon does not keep others
/// closed. The drops of a coupon stay together.
pub(super) fn most_urgent_first(drops: &mut [(Coupon, Drop)], histories: &Histories, now_ms: i64) {
    let mut urgency: HashMap<CouponId, (bool, u64)> = HashMap::new();
    for (coupon, drop) in drops.iter() {
        let ended = drop
            .closes_at
            .is_some_and(|at| at.timestamp_millis() <= now_ms);
        let is_later = ended || drop.opens_at.timestamp_millis() > now_ms + SOON_MS;
        let of_coupon = urgency
            .entry(coupon.id)
            .or_insert_with(|| (true, besides(coupon, histories)));
        of_coupon.0 &= is_later;
        of_coupon.1 += if drop.opens_at.timestamp_millis() > now_ms {
            0
        } else {
            u64::from(drop.quantity)
        };
    }
    drops
        .sort_by_key(|(coupon, drop)| (urgency.get(&coupon.id).copied(), coupon.id, drop.opens_at));
}

/// Number of drops in the first portion, and the maximum number of slots and other users in any
/// portion. The number of drops doubles with each portion, up to a thousand, so that the first
/// coupons open soon and the total time stays short. A coupon that exceeds the maximum has its own
/// portion.
const TOGETHER: (usize, u64) = (4, 50_000);

/// Returns the portions in which drops are compared. Closed coupons come first, a few at a time, so
/// that the first ones open before data of the others is read. All other drops form the last
/// portion.
pub(super) fn portions(
    drops: Vec<(Coupon, Drop)>,
    closed: &HashSet<CouponId>,
    histories: &Histories,
) -> Vec<Vec<(Coupon, Drop)>> {
    let (closed, open): (Vec<_>, Vec<_>) = drops
        .into_iter()
        .partition(|(coupon, _)| closed.contains(&coupon.id));
    let mut portions: Vec<Vec<_>> = Vec::new();
    let mut slots = 0_u64;
    for of_coupon in closed.chunk_by(|a, b| a.0.id == b.0.id) {
        let own: u64 = of_coupon
            .iter()
            .map(|(_, drop)| u64::from(drop.quantity))
            .sum();
        let own = own.saturating_add(
            of_coupon
                .first()
                .map_or(0, |(coupon, _)| besides(coupon, histories)),
        );
        slots = slots.saturating_add(own);
        let most = TOGETHER.0 << portions.len().saturating_sub(1).min(8);
        match portions.last_mut() {
            Some(last) if last.len() + of_coupon.len() <= most && slots <= TOGETHER.1 => {
                last.extend_from_slice(of_coupon);
            }
            _ => {
                portions.push(of_coupon.to_vec());
                slots = own;
            }
        }
    }
    portions.extend(Some(open).filter(|open| !open.is_empty()));
    portions
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::collect::snapshot::sample;

    /// Creates coupons with one drop each, from ID, quantity and opening time in milliseconds.
    fn coupons(of: impl Iterator<Item = (i64, u32, i64)>) -> Vec<(Coupon, Drop)> {
        of.map(|(number, quantity, opens)| {
            let (coupon, drop) = sample(number, quantity);
            let coupon = Coupon {
                once_per: OncePer::Drop,
                ..coupon
            };
            let drop = Drop {
                opens_at: DateTime::from_timestamp_millis(opens).unwrap(),
                ..drop
            };
            (coupon, drop)
        })
        .collect()
    }

    #[test]
    fn closed_coupons_are_verified_first_in_small_portions_by_urgency_and_size() {
        let now = 10 * SOON_MS;
        let mut all = coupons(
            [
                (1, 9_000_000, 0),
                (2, 10, now + 2 * SOON_MS),
                (3, 10, 0),
                (4, 10, now + 1),
            ]
            .into_iter(),
        );
        all.extend(coupons((10..110).map(|number| (number, 100, 0))));
        let revoked = |revocations| CouponHistory {
            revocations,
            ..CouponHistory::default()
        };
        let histories = Histories::from([
            (CouponId(11), revoked(1_000_000)),
            (CouponId(12), revoked(60_000)),
        ]);
        most_urgent_first(&mut all, &histories, now);
        let closed = all
            .iter()
            .map(|(coupon, _)| coupon.id)
            .filter(|id| id.0 != 20)
            .collect();
        let portions = portions(all, &closed, &histories);
        let ids = |portion: &[(Coupon, Drop)]| {
            portion
                .iter()
                .map(|(coupon, _)| coupon.id.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            portions.iter().map(Vec::len).collect::<Vec<_>>(),
            [4, 8, 16, 32, 39, 1, 1, 1, 1, 1]
        );
        assert_eq!(ids(&portions[0])[..3], [4, 3, 10]);
        // Other data to restore counts like slots.
        assert_eq!(
            portions[5..].iter().map(|one| ids(one)).collect::<Vec<_>>(),
            [[12], [11], [1], [2], [20]]
        );
    }
}
