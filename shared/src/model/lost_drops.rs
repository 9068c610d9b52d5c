//! Drops that a schedule requires and that MySQL does not have.

use chrono::{DateTime, Utc};

use crate::coupon::{Coupon, Drop};
use crate::schedule::{PlannedDrop, Schedule};

/// Whether MySQL has lost the drop that the schedule requires at `now`, so that its holders are
/// unknown. A coupon without any drop has lost one. `drops` need not contain sealed drops that
/// opened before the last opened one.
pub fn is_one_lost(coupon: &Coupon, drops: &[Drop], now: DateTime<Utc>) -> bool {
    if drops.is_empty() {
        return true;
    }
    let Some(schedule @ Schedule::Daily { .. }) = &coupon.schedule else {
        return false;
    };
    let mut opened = schedule.planned(now).take_while(|it| it.opens_at <= now);
    !drops.iter().any(|drop| drop.is_open_at(now))
        && opened.any(|planned| {
            planned.closes_at.is_none_or(|at| now < at) && is_missing(&planned, drops, now)
        })
}

/// Whether none of `drops` is the planned drop. `drops` need not contain sealed drops that opened
/// before the last opened one: a drop planned before that one does not count as missing.
pub(crate) fn is_missing(planned: &PlannedDrop, drops: &[Drop], now: DateTime<Utc>) -> bool {
    let opened = drops.iter().map(|drop| drop.opens_at);
    let last_opened = opened.filter(|at| *at <= now).max();
    last_opened.is_none_or(|last| last < planned.opens_at)
        && drops
            .iter()
            .all(|drop| drop.local_date != Some(planned.local_date))
}
