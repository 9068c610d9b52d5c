//! Plans which drops a change of windows moves, removes or closes: a pure function of the coupon,
//! its drops and the time.

use std::borrow::Cow;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::http::Problem;
use firstcome_shared::http::problem::Code;
use firstcome_shared::mysql::change::{DropChange, Window};
use firstcome_shared::schedule::{PlannedDrop, Schedule};

use super::body::Windows;

/// The new schedule of a coupon, and the changes of its drops.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct WindowPlan {
    pub(super) schedule: Option<Schedule>,
    pub(super) drops: Vec<DropChange>,
}

/// Plans the change. `now` must not be ahead of Redis's clock.
pub(super) fn plan(
    coupon: &Coupon,
    drops: &[Drop],
    wanted: &Windows,
    now: DateTime<Utc>,
) -> Result<WindowPlan, Problem> {
    let mut plan = WindowPlan::default();
    if *wanted == Windows::NONE {
        return Ok(plan);
    }
    if wanted.close_now && wanted.closes_at.is_some() {
        return Err(impossible(
            "close_now closes at once; give it or closes_at, not both",
        ));
    }
    if let Some(closes_at) = wanted.closes_at {
        plan = close_at(coupon, drops, closes_at, now)?;
    }
    if wanted.opens.is_some() || wanted.closes.is_some() || wanted.last_day.is_some() {
        plan = move_daily(coupon, drops, wanted, now)?;
    }
    if wanted.close_now {
        close_now(coupon, drops, now, &mut plan)?;
    }
    check_one_open_at_a_time(drops, &plan, now)?;
    Ok(plan)
}

/// Refuses two drops that are open at once: admission would use only the later one, and users who
/// retry a claim on the earlier one would get a second coupon.
fn check_one_open_at_a_time(
    drops: &[Drop],
    plan: &WindowPlan,
    now: DateTime<Utc>,
) -> Result<(), Problem> {
    let change_of = |drop: &Drop| plan.drops.iter().find(|change| change.id == drop.id);
    let stays = |drop: &&Drop| is_not_closed(drop, now) && change_of(drop).is_none();
    let moved = plan
        .drops
        .iter()
        .filter_map(|change| change.to)
        .map(|to| (to.opens_at, to.closes_at));
    // Drops that exist only in the new schedule.
    let is_new = |day: &PlannedDrop| {
        drops
            .iter()
            .all(|drop| drop.local_date != Some(day.local_date))
    };
    let days = plan
        .schedule
        .iter()
        .flat_map(|schedule| schedule.drops_from(now))
        .filter(is_new);
    for (opens_at, closes_at) in moved.chain(days.map(|day| (day.opens_at, day.closes_at))) {
        let begins_before =
            |end: Option<DateTime<Utc>>, opens_at| end.is_none_or(|end| opens_at < end);
        let overlaps = |drop: &&Drop| {
            begins_before(drop.closes_at, opens_at) && begins_before(closes_at, drop.opens_at)
        };
        if let Some(drop) = drops.iter().filter(stays).find(overlaps) {
            let until = drop.closes_at.map_or_else(
                || "for good".to_owned(),
                |at| format!("until {}", at.to_rfc3339()),
            );
            return Err(impossible(format!(
                "the drop that opens at {} stays open {until}, and another would be open at the same time, from {} on: \
                 give other times, or if it is open already, send close_now too",
                drop.opens_at.to_rfc3339(),
                opens_at.to_rfc3339()
            )));
        }
    }
    Ok(())
}

fn impossible(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(Code::NotPossible, detail)
}

fn close_at(
    coupon: &Coupon,
    drops: &[Drop],
    closes_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<WindowPlan, Problem> {
    let Some(Schedule::Once { opens_at, .. }) = coupon.schedule else {
        return Err(impossible(
            "closes_at applies to coupons that open once; daily coupons have closes and last_day",
        ));
    };
    let schedule = Schedule::Once {
        opens_at,
        closes_at,
    };
    schedule
        .check()
        .map_err(|error| impossible(error.to_string()))?;
    let closes_at = schedule
        .drops_from(now)
        .first()
        .and_then(|drop| drop.closes_at);
    if closes_at.is_some_and(|at| at <= now) {
        return Err(impossible(
            "closes_at is in the past; to close at once, send close_now",
        ));
    }
    let not_closed: Vec<_> = drops
        .iter()
        .filter(|drop| is_not_closed(drop, now))
        .collect();
    if not_closed.is_empty() {
        return Err(impossible(
            "the coupon is closed and does not open again; create a new coupon",
        ));
    }
    if not_closed
        .iter()
        .any(|drop| closes_at.is_some_and(|at| at <= drop.opens_at))
    {
        return Err(impossible("closes_at must be later than its opening"));
    }
    let change = |drop: &&Drop| {
        let to = Window {
            opens_at: drop.opens_at,
            closes_at,
            closed_early: false,
        };
        DropChange {
            id: drop.id,
            to: Some(to),
            unless_claimed: false,
        }
    };
    Ok(WindowPlan {
        drops: not_closed.iter().map(change).collect(),
        schedule: Some(schedule),
    })
}

/// Moves or removes drops that have not opened. A drop whose window was set manually keeps it.
fn move_daily(
    coupon: &Coupon,
    drops: &[Drop],
    wanted: &Windows,
    now: DateTime<Utc>,
) -> Result<WindowPlan, Problem> {
    let Some(
        old @ Schedule::Daily {
            time_zone,
            opens,
            closes,
            first_day,
            last_day,
        },
    ) = &coupon.schedule
    else {
        return Err(impossible(
            "opens, closes and last_day apply to daily coupons; coupons that open once have closes_at",
        ));
    };
    let new = Schedule::Daily {
        time_zone: *time_zone,
        opens: wanted.opens.unwrap_or(*opens),
        closes: wanted.closes.unwrap_or(*closes),
        first_day: *first_day,
        last_day: wanted.last_day.unwrap_or(*last_day),
    };
    new.check().map_err(|error| impossible(error.to_string()))?;
    let change = |drop: &Drop| {
        let day = drop
            .local_date
            .filter(|_| drop.sealed_at.is_none() && drop.opens_at > now)?;
        let is_the = |planned: &PlannedDrop| {
            (planned.opens_at, planned.closes_at) == (drop.opens_at, drop.closes_at)
        };
        let planned = new
            .drop_on(day)
            .filter(|planned| planned.closes_at.is_none_or(|at| at > now));
        let ends = matches!(&new, Schedule::Daily { last_day: Some(last), .. } if day > *last);
        let moves =
            old.drop_on(day).as_ref().is_some_and(is_the) && !planned.as_ref().is_some_and(is_the);
        let to = planned.map(|p| Window {
            opens_at: p.opens_at,
            closes_at: p.closes_at,
            closed_early: false,
        });
        (ends || moves).then_some(DropChange {
            id: drop.id,
            to,
            unless_claimed: true,
        })
    };
    let changes: Vec<DropChange> = drops.iter().filter_map(change).collect();
    // A coupon without any drop looks like one whose drops MySQL has lost.
    let is_emptied = changes.len() == drops.len() && changes.iter().all(|drop| drop.to.is_none());
    if is_emptied && new.drops_from(now).is_empty() {
        return Err(impossible(
            "the coupon would not open on any day; to stop it, pause it",
        ));
    }
    Ok(WindowPlan {
        drops: changes,
        schedule: Some(new),
    })
}

fn close_now(
    coupon: &Coupon,
    drops: &[Drop],
    now: DateTime<Utc>,
    plan: &mut WindowPlan,
) -> Result<(), Problem> {
    let open: Vec<&Drop> = drops
        .iter()
        .filter(|d| d.sealed_at.is_none() && d.is_open_at(now))
        .collect();
    if open.is_empty() {
        let last = drops.iter().rev().find(|drop| drop.opens_at <= now);
        let next = drops.iter().find(|drop| drop.opens_at > now);
        return match (last, next) {
            // This is a repeated request.
            (Some(last), _) if last.closed_early => Ok(()),
            (_, Some(next)) => Err(impossible(format!(
                "no drop is open, and the next opens at {}; to prevent that, pause the coupon, or send an earlier last_day",
                next.opens_at.to_rfc3339()
            ))),
            (..) => Err(impossible(
                "no drop is open, and none will open; there is nothing to close",
            )),
        };
    }
    for drop in open {
        // The schema refuses an empty window.
        let closes_at = now.max(drop.opens_at + TimeDelta::milliseconds(1));
        let to = Window {
            opens_at: drop.opens_at,
            closes_at: Some(closes_at),
            closed_early: true,
        };
        plan.drops.push(DropChange {
            id: drop.id,
            to: Some(to),
            unless_claimed: false,
        });
        if let Some(Schedule::Once { opens_at, .. }) = coupon.schedule {
            plan.schedule = Some(Schedule::Once {
                opens_at,
                closes_at: Some(closes_at),
            });
        }
    }
    Ok(())
}

pub(super) fn is_not_closed(drop: &Drop, now: DateTime<Utc>) -> bool {
    drop.sealed_at.is_none() && drop.closes_at.is_none_or(|closes| closes > now)
}
