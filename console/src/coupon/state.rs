//! What people can do with a coupon and its drops, in words.

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::coupon::DropState;
use firstcome_shared::http::views::{CouponDrops, CouponView, DropView, ListedDrop};
use firstcome_shared::report::wording::count;
use firstcome_shared::schedule::{Schedule, Tz};

use crate::text::{short, window};

/// The drops of a coupon in the list, newest first.
pub(super) fn listed_drops(coupon: &CouponView) -> impl Iterator<Item = &DropView> {
    [&coupon.next_drop, &coupon.current_drop]
        .into_iter()
        .flatten()
}

/// Whether a coupon in the list is over.
pub(super) fn is_over(coupon: &CouponView) -> bool {
    let current = coupon.current_drop.as_ref();
    coupon.next_drop.is_none() && current.is_none_or(|drop| drop.state == DropState::Sealed)
}

/// Describes what people can do with a coupon in the list.
pub(super) fn listed_coupon_state(coupon: &CouponView) -> String {
    let next = coupon.next_drop.as_ref();
    let opens = next.map(|drop| short(drop.opens_at, zone(coupon)));
    let has_drops = listed_drops(coupon).next().is_some();
    if has_drops && listed_drops(coupon).all(|drop| never_opens(drop.opens_at, drop.closes_at)) {
        return CANCELLED.to_owned();
    }
    let now = CouponOpenness {
        open: open_state(listed_drops(coupon).map(|drop| drop.state)),
        opens: opens.as_deref(),
    };
    coupon_state(is_over(coupon), coupon.settings.paused, now)
}

fn zone(coupon: &CouponView) -> Option<Tz> {
    let schedule = coupon.settings.schedule.as_ref();
    schedule.and_then(Schedule::time_zone)
}

/// Says when a drop of a coupon in the list opens, and its state.
pub(super) fn describe_drop(coupon: &CouponView, drop: &DropView) -> String {
    if never_opens(drop.opens_at, drop.closes_at) {
        return "cancelled".to_owned();
    }
    let opens = window(drop.opens_at, None, zone(coupon));
    format!("{opens}, {}", drop_state(drop.state))
}

/// What people can do with the coupon now.
#[derive(Clone, Copy)]
pub(super) struct CouponOpenness<'a> {
    /// The state of the open drop.
    pub(super) open: Option<DropState>,
    /// When the next drop opens.
    pub(super) opens: Option<&'a str>,
}

/// Describes what people can do with a coupon now.
pub(super) fn coupon_state(is_over: bool, is_paused: bool, now: CouponOpenness<'_>) -> String {
    match (is_over, is_paused, now.open, now.opens) {
        (true, ..) => "over".to_owned(),
        (false, true, Some(_), _) => "paused while it is open".to_owned(),
        (false, true, None, Some(opens)) => format!("paused, would open {opens}"),
        (false, true, None, None) => "paused".to_owned(),
        (false, false, Some(state), _) => drop_state(state).to_owned(),
        (false, false, None, Some(opens)) => format!("opens {opens}"),
        (false, false, None, None) => "closed".to_owned(),
    }
}

/// The state of the drop whose window is open.
pub(super) fn open_state(mut states: impl Iterator<Item = DropState>) -> Option<DropState> {
    states.find(|state| is_open(*state))
}

/// Describes until when codes can be used.
pub(crate) fn codes_end(
    until: Option<DateTime<Utc>>,
    days: Option<u32>,
    zone: Option<Tz>,
) -> String {
    match (until, days) {
        (Some(until), _) => format!("until {}", short(until, zone)),
        (None, Some(days)) => format!("for {} from the claim", count(days, "day", "days")),
        (None, None) => "without an end".to_owned(),
    }
}

/// Whether the window of a drop is open.
pub(super) fn is_open(state: DropState) -> bool {
    matches!(
        state,
        DropState::Open | DropState::SoldOut | DropState::Paused
    )
}

/// The state of a coupon that was ended before it opened.
pub(super) const CANCELLED: &str = "cancelled: it never opens";

/// Whether the drop was ended before it opened.
pub(crate) fn is_cancelled(drop: &ListedDrop) -> bool {
    never_opens(drop.opens_at, drop.closes_at)
}

/// Whether this is the window of a drop that was ended before it opened.
pub(super) fn never_opens(opens_at: DateTime<Utc>, closes_at: Option<DateTime<Utc>>) -> bool {
    // A drop that is ended before it opens gets the shortest possible window.
    let shortest = TimeDelta::milliseconds(1);
    closes_at.is_some_and(|closes| closes - opens_at <= shortest)
}

/// Describes the state of a listed drop.
pub(crate) fn listed_state(drop: &ListedDrop) -> &'static str {
    if is_cancelled(drop) {
        "cancelled"
    } else {
        drop_state(drop.state)
    }
}

/// Describes the state of a drop, regardless of a pause.
pub(super) fn drop_state(state: DropState) -> &'static str {
    match state {
        DropState::Scheduled => "to come",
        DropState::Open | DropState::Paused => "open",
        DropState::SoldOut => "open, sold out",
        DropState::Closed => "ended",
        DropState::Sealed => "ended, sealed",
    }
}

/// Whether somebody can claim now or later.
pub(super) fn can_be_paused(found: &CouponDrops, now: CouponOpenness<'_>) -> bool {
    let has_further_days = match &found.coupon.schedule {
        Some(Schedule::Daily {
            time_zone,
            last_day,
            ..
        }) => last_day.is_none_or(|last| time_zone.local(Utc::now()).date_naive() <= last),
        Some(Schedule::Once { .. }) | None => found.drops.is_empty(),
    };
    !found.coupon.over && (now.open.is_some() || now.opens.is_some() || has_further_days)
}

/// Whether the coupon's first drop opens later. `drops` is one page of its drops: if a daily coupon
/// has its first day on another page, the answer is no.
pub(super) fn is_to_come(schedule: Option<&Schedule>, drops: &[ListedDrop]) -> bool {
    let has_first = match schedule {
        Some(Schedule::Daily {
            time_zone,
            first_day,
            ..
        }) => drops
            .iter()
            .any(|drop| time_zone.local(drop.opens_at).date_naive() == *first_day),
        Some(Schedule::Once { .. }) | None => !drops.is_empty(),
    };
    has_first && drops.iter().all(|drop| drop.state == DropState::Scheduled)
}

#[cfg(test)]
mod tests {
    use firstcome_shared::domain::DropId;

    use super::*;

    #[test]
    fn state_says_what_people_can_do_now() {
        let at = Some("2026-12-01 10:00 UTC");
        let open = Some(DropState::Open);
        for (over, paused, open, opens, says) in [
            (true, false, None, None, "over"),
            (false, false, open, at, "open"),
            (false, false, Some(DropState::SoldOut), at, "open, sold out"),
            (false, false, None, at, "opens 2026-12-01 10:00 UTC"),
            (false, true, open, None, "paused while it is open"),
            (
                false,
                true,
                None,
                at,
                "paused, would open 2026-12-01 10:00 UTC",
            ),
            (false, false, None, None, "closed"),
        ] {
            let now = CouponOpenness { open, opens };
            assert_eq!(coupon_state(over, paused, now), says);
        }
    }

    #[test]
    fn drop_that_was_ended_before_it_opened_is_cancelled() {
        let at = DateTime::from_timestamp(0, 0).unwrap();
        let until = |milliseconds| ListedDrop {
            id: DropId(7),
            opens_at: at,
            closes_at: Some(at + TimeDelta::milliseconds(milliseconds)),
            quantity: 1,
            state: DropState::Closed,
            rows: None,
        };
        assert_eq!(listed_state(&until(1)), "cancelled");
        assert_eq!(listed_state(&until(2)), "ended");
    }
}
