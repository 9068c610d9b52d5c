//! The state that an open page polls: the coupon's state by the server's clock, and the time of the
//! next poll.

use chrono::{DateTime, Utc};
use firstcome_shared::coupon::DropState;
use firstcome_shared::domain::{DropId, OncePer, Slot};
use firstcome_shared::redis::stock::{Prospect, Stock};
use serde::Serialize;

use crate::serve::catalogue::coupon_with_drops::CouponWithDrops;

/// Duration of the rush after an opening. Pages do not look up claims during the rush: users claim,
/// and the response tells them whether they already hold a coupon.
const RUSH_MS: i64 = 10_000;

/// Pages do not look up claims in the last minutes before an opening, when a crowd gathers.
const CROWD_MS: i64 = 600_000;

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct PageState {
    /// `sold_out` is only for display: claims still go to Redis. If Redis does not answer, the
    /// state is `open`.
    state: DropState,
    /// Whether a claim would get a position in the waiting list.
    can_wait: bool,
    drop_id: Option<DropId>,
    /// Whether a holder of an earlier drop's coupon may have one of this drop.
    one_per_drop: bool,
    now_ms: i64,
    opens_at_ms: Option<i64>,
    closes_at_ms: Option<i64>,
    quantity: Slot,
    /// When to request the state again. Null if nothing will change.
    poll_after_ms: Option<u32>,
    /// When a browser that has not claimed may look up the user's claim once. Null around an
    /// opening, because of the crowd, and before the first opening, when no user can hold a coupon.
    look_after_ms: Option<u32>,
}

impl PageState {
    /// Computes the state. `stock` is the stock of the drop that a claim would be for, if known.
    pub(super) fn of(coupon: &CouponWithDrops, now: DateTime<Utc>, stock: Option<Stock>) -> Self {
        let drop = coupon.for_claim(now).map(|one| one.drop);
        let prospect = stock.map_or(Prospect::Slot, |stock| stock.prospect());
        let paused = stock.map_or(coupon.coupon.paused, |stock| stock.paused);
        let state =
            match drop.map(|drop| drop.state(now, paused, u32::from(prospect == Prospect::Slot))) {
                None | Some(DropState::Sealed) => DropState::Closed,
                Some(state) => state,
            };
        let opens_at_ms = drop.map(|drop| drop.opens_at.timestamp_millis());
        let until_opening = opens_at_ms.map_or(0, |opens| opens - now.timestamp_millis());
        Self {
            state,
            can_wait: prospect == Prospect::Place,
            drop_id: drop.map(|drop| drop.id),
            one_per_drop: coupon.coupon.once_per == OncePer::Drop,
            now_ms: now.timestamp_millis(),
            opens_at_ms,
            closes_at_ms: drop
                .and_then(|drop| drop.closes_at)
                .map(|at| at.timestamp_millis()),
            quantity: drop.map_or(coupon.coupon.quantity, |drop| drop.quantity),
            poll_after_ms: poll_after_ms(state, until_opening),
            look_after_ms: look_after_ms(state, until_opening, coupon.current(now).is_some()),
        }
    }
}

/// Returns the poll interval. It is long if the opening is far away, and no poll falls into the
/// rush after the opening: the page shows the opening without a poll, and the response to the claim
/// contains the new state.
fn poll_after_ms(state: DropState, until_opening: i64) -> Option<u32> {
    match state {
        DropState::Scheduled => u32::try_from((until_opening / 4).clamp(5_000, 60_000)).ok(),
        DropState::Open => Some(60_000),
        // Poll often enough to show a released slot soon.
        DropState::SoldOut | DropState::Paused => Some(10_000),
        DropState::Closed | DropState::Sealed => None,
    }
}

fn look_after_ms(state: DropState, until_opening: i64, has_opened: bool) -> Option<u32> {
    match state {
        DropState::Open | DropState::SoldOut => {
            u32::try_from((until_opening + RUSH_MS).max(0)).ok()
        }
        DropState::Scheduled if has_opened && until_opening > CROWD_MS => Some(0),
        // For a closed or paused drop, the page looks up the claim without waiting for this time.
        DropState::Scheduled | DropState::Paused | DropState::Closed | DropState::Sealed => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::catalogue::coupon_with_drops::tests::{at, coupon};

    #[tokio::test]
    async fn state_follows_the_clock_and_names_the_next_poll() {
        let coupon_of_two = coupon(&[(10, 20), (30, 40)]);
        let said = |minute| {
            let state = PageState::of(&coupon_of_two, at(minute), None);
            (state.state, state.drop_id.unwrap().0, state.poll_after_ms)
        };
        assert_eq!(said(0), (DropState::Scheduled, 1, Some(60_000)));
        assert_eq!(said(9), (DropState::Scheduled, 1, Some(15_000)));
        assert_eq!(said(10), (DropState::Open, 1, Some(60_000)));
        assert_eq!(
            said(20),
            (DropState::Scheduled, 2, Some(60_000)),
            "the next"
        );
        assert_eq!(said(40), (DropState::Closed, 2, None));
        assert_eq!(poll_after_ms(DropState::Scheduled, 1), Some(5_000));
        let look = |drops: &[(i64, i64)], minute| {
            PageState::of(&coupon(drops), at(minute), None).look_after_ms
        };
        let far = [(10, 20), (40, 50)];
        assert_eq!(
            [look(&far, 0), look(&far, 10), look(&far, 11)],
            [None, Some(10_000), Some(0)]
        );
        assert_eq!(
            [look(&far, 20), look(&far, 31), look(&far, 50)],
            [Some(0), None, None],
            "no lookup shortly before an opening"
        );
        let none = PageState::of(&coupon(&[]), at(0), None);
        assert_eq!(
            (none.state, none.opens_at_ms, none.quantity),
            (DropState::Closed, None, 10)
        );
    }

    #[tokio::test]
    async fn open_drop_is_sold_out_if_a_claim_would_get_no_slot() {
        let full = Stock {
            quantity: 10,
            held: 10,
            paused: false,
            waiting: 0,
            waiting_list: 0,
        };
        let paused = Stock {
            paused: true,
            ..full
        };
        let with = |held, waiting, waiting_list| Stock {
            held,
            waiting,
            waiting_list,
            ..full
        };
        for (stock, minute, expected) in [
            (full, 15, (DropState::SoldOut, false, Some(10_000))),
            (with(10, 4, 5), 15, (DropState::SoldOut, true, Some(10_000))),
            // The waiting list is full.
            (
                with(10, 5, 5),
                15,
                (DropState::SoldOut, false, Some(10_000)),
            ),
            (with(9, 0, 0), 15, (DropState::Open, false, Some(60_000))),
            // A released slot goes to the first user on the waiting list.
            (with(9, 1, 0), 15, (DropState::SoldOut, false, Some(10_000))),
            (paused, 15, (DropState::Paused, false, Some(10_000))),
            (full, 9, (DropState::Scheduled, false, Some(15_000))),
            (full, 20, (DropState::Closed, false, None)),
        ] {
            let state = PageState::of(&coupon(&[(10, 20)]), at(minute), Some(stock));
            let said = (state.state, state.can_wait, state.poll_after_ms);
            assert_eq!(said, expected, "{stock:?} in minute {minute}");
        }
    }
}
