//! What people can do with a coupon and its drops, in words.

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::coupon::DropState;
use firstcome_shared::http::views::{CouponDrops, ListedDrop};
use firstcome_shared::schedule::Tz;

use crate::text::short;

/// The state of a coupon, or a drop, that was ended before it opened.
pub(super) const CANCELLED: &str = "cancelled: it never opens";

/// Describes what people can do with a coupon now.
pub(super) fn coupon_state(found: &CouponDrops, zone: Option<Tz>) -> String {
    let open = found.drops.iter().find(|drop| is_open(drop.state));
    let to_come = found
        .drops
        .iter()
        .filter(|drop| drop.state == DropState::Scheduled);
    let next = to_come.map(|drop| drop.opens_at).min();
    match (found.coupon.paused, open, next) {
        _ if is_cancelled(found) => CANCELLED.to_owned(),
        _ if found.coupon.over => "over".to_owned(),
        (true, Some(_), _) => "paused while it is open".to_owned(),
        (true, None, Some(opens)) => format!("paused, would open {}", short(opens, zone)),
        (true, None, None) => "paused".to_owned(),
        (false, Some(drop), _) => listed_state(drop).to_owned(),
        (false, None, Some(opens)) => format!("opens {}", short(opens, zone)),
        (false, None, None) => "closed".to_owned(),
    }
}

/// Whether a coupon was ended before it opened.
pub(super) fn is_cancelled(found: &CouponDrops) -> bool {
    let mut drops = found.drops.iter();
    !found.drops.is_empty() && drops.all(|drop| never_opens(drop.opens_at, drop.closes_at))
}

/// Whether the window of a drop is open.
pub(super) fn is_open(state: DropState) -> bool {
    matches!(
        state,
        DropState::Open | DropState::SoldOut | DropState::Paused
    )
}

/// Whether this is the window of a drop that was ended before it opened: the shortest possible one.
pub(super) fn never_opens(opens_at: DateTime<Utc>, closes_at: Option<DateTime<Utc>>) -> bool {
    closes_at.is_some_and(|closes| closes - opens_at <= TimeDelta::milliseconds(1))
}

/// Describes the state of a drop in the list of its coupon.
pub(super) fn listed_state(drop: &ListedDrop) -> &'static str {
    let has_all_rows = drop.rows.is_some_and(|rows| rows >= drop.quantity.into());
    match drop.state {
        _ if never_opens(drop.opens_at, drop.closes_at) => CANCELLED,
        DropState::Open if has_all_rows => drop_state(DropState::SoldOut),
        state => drop_state(state),
    }
}

pub(crate) fn drop_state(state: DropState) -> &'static str {
    match state {
        DropState::Scheduled => "to come",
        DropState::Open => "open",
        DropState::SoldOut => "open, sold out",
        DropState::Paused => "paused",
        DropState::Closed => "ended",
        DropState::Sealed => "ended, sealed",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::coupon::tests::found;

    #[test]
    fn state_says_what_people_can_do_now() {
        for (state, paused, rows, says) in [
            ("scheduled", false, 0, "opens 1970-01-01 10:00 +09:00"),
            (
                "scheduled",
                true,
                0,
                "paused, would open 1970-01-01 10:00 +09:00",
            ),
            ("open", false, 99, "open"),
            ("open", false, 100, "open, sold out"),
            ("open", true, 0, "paused while it is open"),
            ("closed", false, 0, "closed"),
        ] {
            let mut found = found(&json!({"paused": paused}), state);
            found.drops[0].rows = Some(rows);
            let zone = "Asia/Seoul".parse().ok();
            assert_eq!(coupon_state(&found, zone), says, "{state}");
        }
        let over = found(&json!({"over": true}), "sealed");
        assert_eq!(coupon_state(&over, None), "over");
    }

    #[test]
    fn drop_that_was_ended_before_it_opened_is_cancelled() {
        for (milliseconds, says) in [(1, CANCELLED), (2, "closed")] {
            let mut found = found(&json!({}), "closed");
            let opens = found.drops[0].opens_at;
            found.drops[0].closes_at = Some(opens + TimeDelta::milliseconds(milliseconds));
            assert_eq!(coupon_state(&found, None), says);
        }
    }
}
