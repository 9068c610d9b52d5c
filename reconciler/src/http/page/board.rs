//! What a look at the stores means, in words: whether everything is all right, and if not, what to
//! do. A pure function.

use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Coupon, DropState};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::alerts::ListedAlert;
use firstcome_shared::schedule::{Schedule, Tz};

use super::times::{clock, instant, short, window};
use crate::http::overview::snapshot::{DROPS, SeenDrop, Snapshot};
use crate::notify::alerts::About;
use crate::notify::render::what_to_do;
use crate::notify::wording::{LONGEST, capital, count, grouped, line};
use crate::report::Run;

/// The first screen.
pub(super) struct Board {
    pub(super) at: String,
    pub(super) tone: Tone,
    pub(super) title: String,
    pub(super) lead: String,
    /// What is wrong, most pressing first.
    pub(super) problems: Vec<BoardProblem>,
    pub(super) drops: Vec<BoardLine>,
    /// What the drops have in common.
    pub(super) caption: &'static str,
    /// Things that are wrong and concern none of these drops.
    pub(super) elsewhere: usize,
    /// Pages, from 1 on.
    pub(super) page: usize,
    pub(super) pages: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Bad,
    Plain,
}

impl Tone {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Plain => "plain",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug)]
pub(super) struct BoardProblem {
    pub(super) what: String,
    /// Which drop of which coupon.
    pub(super) place: Option<String>,
    pub(super) todo: String,
    /// Since when, and who has taken it on.
    pub(super) more: Option<String>,
    pub(super) alert: Option<i64>,
    /// The drop that it concerns; of a store that is away: every drop.
    drop: Concerned,
}

/// Which drops a problem concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Concerned {
    All,
    One(DropId),
    /// None that is known.
    None,
}

/// One drop.
pub(super) struct BoardLine {
    pub(super) id: DropId,
    pub(super) coupon: CouponId,
    pub(super) name: String,
    pub(super) when: String,
    pub(super) promised: String,
    pub(super) given: String,
    pub(super) rows: String,
    /// Rows that are due and do not come.
    pub(super) missing: Option<String>,
    /// How much of it has rows, for the bar.
    pub(super) share: (u64, u32),
    pub(super) in_flight: String,
    pub(super) waiting: String,
    pub(super) dead_letters: String,
    pub(super) has_dead_letters: bool,
    pub(super) admission: AdmissionLine,
    pub(super) last_pass: String,
    /// Why it is red.
    pub(super) wrong: Option<String>,
}

/// Whether people can claim, or why not.
pub(super) struct AdmissionLine {
    pub(super) text: String,
    /// They should and cannot.
    pub(super) is_wrong: bool,
}

pub(super) fn board(seen: &Snapshot) -> Board {
    let drops: Vec<BoardLine> = seen.drops.iter().map(|one| drop_line(one, seen)).collect();
    let problems = problems(seen);
    let last = seen.facts.last_pass.as_deref();
    let (tone, title, lead) = match (problems.as_slice(), last) {
        ([one], _) => (Tone::Bad, one.what.clone(), compared(last)),
        ([_, _, ..], _) => (
            Tone::Bad,
            format!("{} things are wrong", problems.len()),
            compared(last),
        ),
        ([], Some(run)) if hours_since(run, seen.at) >= STALE_HOURS => {
            let hours = hours_since(run, seen.at);
            (
                Tone::Plain,
                format!("Nothing was compared for {hours} hours"),
                compared(last),
            )
        }
        ([], Some(_)) => (
            Tone::Good,
            "Everything is as promised".to_owned(),
            compared(last),
        ),
        ([], None) => (
            Tone::Plain,
            "Nothing was compared yet".to_owned(),
            compared(last),
        ),
    };
    let pages = seen.total.div_ceil(DROPS).max(1);
    let caption = "Coupons that are live, or need somebody";
    Board {
        at: clock(seen.at),
        tone,
        title,
        lead,
        problems,
        drops,
        caption,
        elsewhere: 0,
        page: seen.page + 1,
        pages,
    }
}

/// The screen of one drop: its state and its own problems. Those of other drops are only counted.
pub(super) fn drop_board(seen: &Snapshot) -> Board {
    let Some(one) = seen.drops.first() else {
        return board(seen);
    };
    let id = one.drop.id;
    let concerns_it =
        |problem: &BoardProblem| [Concerned::All, Concerned::One(id)].contains(&problem.drop);
    let (mut problems, elsewhere): (Vec<_>, Vec<_>) =
        problems(seen).into_iter().partition(concerns_it);
    for problem in &mut problems {
        problem.place = None;
    }
    let line = drop_line(one, seen);
    let (tone, what) = match problems.as_slice() {
        [] if seen.facts.last_pass.is_none() => (Tone::Plain, line.admission.text.clone()),
        [] => (Tone::Good, line.admission.text.clone()),
        [one] => (Tone::Bad, one.what.clone()),
        several => (Tone::Bad, format!("{} things are wrong", several.len())),
    };
    Board {
        at: clock(seen.at),
        tone,
        title: format!("{}: {what}", place(&one.coupon.name, id)),
        lead: capital(&format!("{}. Last pass: {}.", line.when, line.last_pass)),
        problems,
        elsewhere: elsewhere.len(),
        drops: vec![line],
        caption: "Its figures",
        page: 1,
        pages: 1,
    }
}

impl Board {
    /// For the tab: what counts can be seen from another one.
    pub(super) fn tab(&self) -> String {
        match self.problems.len() {
            0 => "Firstcome".to_owned(),
            n => format!("({n}) Firstcome"),
        }
    }
}

/// What a pass found so long ago says nothing about now, however rarely passes are scheduled.
const STALE_HOURS: i64 = 2;

fn hours_since(run: &Run, at: DateTime<Utc>) -> i64 {
    (at - run.finished_at.unwrap_or(run.started_at)).num_hours()
}

/// What the verdict rests on.
fn compared(last: Option<&Run>) -> String {
    let Some(run) = last else {
        return "No pass over everything has ended yet. The first one comes by its schedule."
            .to_owned();
    };
    let (drops, examined) = run.examined();
    let at = run
        .finished_at
        .map_or_else(|| "just now".to_owned(), |at| format!("at {}", instant(at)));
    let [people, rows] = [examined.users, examined.rows].map(grouped);
    let drops = counted(drops, "drop", "drops");
    format!(
        "The last pass over everything ended {at}. It compared {people} people with {rows} rows in {drops}."
    )
}

fn counted(n: u64, one: &str, many: &str) -> String {
    count(usize::try_from(n).unwrap_or(usize::MAX), one, many)
}

fn problem(what: impl Into<String>, todo: impl Into<String>) -> BoardProblem {
    let (what, todo) = (what.into(), todo.into());
    BoardProblem {
        what,
        place: None,
        todo,
        more: None,
        alert: None,
        drop: Concerned::All,
    }
}

fn problems(seen: &Snapshot) -> Vec<BoardProblem> {
    let mut found = Vec::new();
    match seen.gate_is_open {
        None => found.push(problem(
            "Redis does not answer: nobody can claim",
            "Bring Redis back. Admission opens again by itself once what Redis has was verified.",
        )),
        Some(false) => found.push(problem(
            "Admission is closed: claims get 503",
            "Redis was restarted, or lost data. What it has is being verified, and admission opens by itself, within \
             seconds. If this stays, look at the alerts and at the reconciler's log.",
        )),
        Some(true) => {}
    }
    if !seen.mysql_answers {
        let of = seen.facts.read_at.map_or_else(String::new, |at| {
            format!(" What is shown of it is of {}.", clock(at))
        });
        found.push(problem(
            "MySQL does not answer: rows come late",
            format!("Nothing is lost: claims wait in Kafka. Bring MySQL back.{of}"),
        ));
    }
    // Those that nobody has taken on come first.
    let (taken, open): (Vec<_>, Vec<_>) = seen
        .facts
        .alerts
        .iter()
        .partition(|one| one.alert.acknowledged_at.is_some());
    found.extend(open.into_iter().chain(taken).map(|one| alarm(one, seen)));
    let alarmed = |one: &SeenDrop| {
        seen.facts
            .alerts
            .iter()
            .any(|alert| alert.alert.drop_id == Some(one.drop.id))
    };
    found.extend(
        seen.drops
            .iter()
            .filter(|one| !alarmed(one))
            .filter_map(|one| {
                let (what, todo) = wrong_of(one, seen)?;
                let (place, drop) = (
                    Some(place(&one.coupon.name, one.drop.id)),
                    Concerned::One(one.drop.id),
                );
                Some(BoardProblem {
                    place,
                    drop,
                    ..problem(what, todo)
                })
            }),
    );
    found
}

fn place(name: &str, drop: DropId) -> String {
    format!("{} · drop {drop}", line(name, LONGEST))
}

fn alarm(listed: &ListedAlert, seen: &Snapshot) -> BoardProblem {
    let alert = &listed.alert;
    let about = About::of_word(&alert.kind);
    let drop = seen
        .drops
        .iter()
        .find(|one| Some(one.drop.id) == alert.drop_id);
    let todo = match drop
        .and_then(|one| room(one, seen))
        .filter(|_| about == Some(About::BrokenPromise))
    {
        Some(room) => format!("{room}: the next pass gives them to these people."),
        None => about
            .map_or("Look at the last runs.", what_to_do)
            .to_owned(),
    };
    let coupon = seen
        .facts
        .coupons
        .iter()
        .find(|(coupon, _)| Some(coupon.id) == alert.coupon_id);
    let taken = alert
        .acknowledged_by
        .as_deref()
        .map(|by| format!(", taken on by {}", line(by, LONGEST)));
    BoardProblem {
        place: coupon
            .zip(alert.drop_id)
            .map(|((coupon, _), drop)| place(&coupon.name, drop)),
        more: Some(format!(
            "Since {}{}",
            instant(alert.first_seen_at),
            taken.unwrap_or_default()
        )),
        alert: Some(listed.id),
        drop: alert.drop_id.map_or(Concerned::None, Concerned::One),
        ..problem(capital(&line(&alert.summary, LONGEST)), todo)
    }
}

/// Slots of a drop that is not over and that nobody holds, in words. After its quantity was raised
/// an alert stands until the next pass has given them out.
fn room(one: &SeenDrop, seen: &Snapshot) -> Option<String> {
    let is_over =
        one.drop.sealed_at.is_some() || one.drop.closes_at.is_some_and(|closes| closes <= seen.at);
    let held = one.numbers.as_ref().filter(|_| !is_over)?.users;
    let room = u64::from(one.drop.quantity).saturating_sub(held);
    (room > 0).then(|| counted(room, "slot is free by now", "slots are free by now"))
}

/// What is wrong with a drop by its numbers alone, and what to do.
fn wrong_of(one: &SeenDrop, seen: &Snapshot) -> Option<(String, String)> {
    if is_shut(one, seen) && seen.gate_is_open == Some(true) {
        let todo =
            "It opens by itself once a pass has verified it. If this stays, look at the last runs.";
        return Some((
            "Admission to this coupon is closed: claims get 503".to_owned(),
            todo.to_owned(),
        ));
    }
    let (numbers, counted_rows) = (one.numbers.as_ref()?, one.counted?);
    if !one.is_stuck {
        return None;
    }
    let (users, rows) = (counted_rows.users, counted_rows.rows);
    let next = |what: &str| format!("The next pass {what}. If it does not, look at what it found.");
    Some(if users > rows {
        let people = counted(
            users - rows,
            "person was told yes and has no row yet",
            "people were told yes and have no row yet",
        );
        (
            people,
            format!(
                "{} If the number grows, see whether the consumers run.",
                next("writes what is missing")
            ),
        )
    } else if rows > users {
        let rows = counted(
            rows - users,
            "row has nobody in Redis",
            "rows have nobody in Redis",
        );
        (rows, next("puts their people back"))
    } else if numbers.free > 0 && numbers.waiting > 0 {
        let slots = counted(numbers.free, "slot is free", "slots are free");
        (
            format!("{slots} although people wait"),
            next("gives them to the first in line"),
        )
    } else {
        let count = numbers
            .count
            .map_or_else(|| "missing".to_owned(), |count| count.to_string());
        let (held, free) = (grouped(numbers.users), grouped(numbers.free));
        (
            format!("The counter is {count}; {held} slots are held and {free} are free"),
            next("sets it right"),
        )
    })
}

fn state(one: &SeenDrop, at: DateTime<Utc>) -> DropState {
    let held = one.numbers.as_ref().map_or(0, |numbers| {
        u32::try_from(numbers.users).unwrap_or(u32::MAX)
    });
    one.drop.state(
        at,
        one.coupon.paused,
        one.drop.quantity.saturating_sub(held),
    )
}

/// It should be open, and its coupon is not verified.
fn is_shut(one: &SeenDrop, seen: &Snapshot) -> bool {
    matches!(state(one, seen.at), DropState::Open | DropState::SoldOut) && !one.is_verified
}

fn admission(one: &SeenDrop, seen: &Snapshot) -> AdmissionLine {
    let right = |text: &str| AdmissionLine {
        text: text.to_owned(),
        is_wrong: false,
    };
    let wrong = |text: &str| AdmissionLine {
        text: text.to_owned(),
        is_wrong: true,
    };
    match (state(one, seen.at), seen.gate_is_open) {
        (DropState::Scheduled, _) => right(&format!(
            "opens {}",
            short(one.drop.opens_at, zone_of(&one.coupon))
        )),
        (DropState::Paused, _) => right("paused by an operator"),
        (DropState::Closed, _) => right("ended"),
        (DropState::Sealed, _) => right("ended, sealed"),
        (_, None) => wrong("Redis does not answer"),
        (_, Some(false)) => wrong("closed: Redis is being verified"),
        _ if is_shut(one, seen) => wrong("closed until it is verified"),
        (DropState::SoldOut, _) => right("open, sold out"),
        (DropState::Open, _) => right("open"),
    }
}

/// The time zone in which people think of this coupon.
pub(super) fn zone_of(coupon: &Coupon) -> Option<Tz> {
    coupon.schedule.as_ref().and_then(Schedule::time_zone)
}

fn drop_line(one: &SeenDrop, seen: &Snapshot) -> BoardLine {
    let drop = &one.drop;
    let text = |number: Option<u64>| number.map_or_else(|| "–".to_owned(), grouped);
    let rows = one.counted.map(|counted| counted.rows);
    // The keys of a sealed drop expire; its rows stay.
    let given = one
        .numbers
        .as_ref()
        .map(|numbers| numbers.users)
        .filter(|_| drop.sealed_at.is_none());
    let without_row = one
        .counted
        .filter(|_| given.is_some())
        .map(|counted| counted.users.saturating_sub(counted.rows));
    // What is in flight moves.
    let (in_flight, missing) = if one.is_stuck {
        (without_row.map(|_| 0), without_row)
    } else {
        (without_row, None)
    };
    let alert = seen
        .facts
        .alerts
        .iter()
        .find(|alert| alert.alert.drop_id == Some(drop.id));
    let by_alert = alert.map(|alert| line(&alert.alert.summary, LONGEST));
    let report = seen
        .facts
        .last_pass
        .as_deref()
        .map(|run| run.drops.iter().find(|report| report.drop_id == drop.id));
    BoardLine {
        id: drop.id,
        coupon: one.coupon.id,
        name: line(&one.coupon.name, LONGEST),
        when: window(drop.opens_at, drop.closes_at, zone_of(&one.coupon)),
        promised: grouped(u64::from(drop.quantity)),
        given: text(given.or(rows)),
        share: (rows.unwrap_or(0), drop.quantity),
        rows: text(rows),
        missing: missing.filter(|missing| *missing > 0).map(grouped),
        in_flight: text(in_flight.or(drop.sealed_at.map(|_| 0))),
        waiting: text(one.numbers.as_ref().map(|numbers| numbers.waiting)),
        dead_letters: text(one.dead_letters),
        has_dead_letters: one.dead_letters.is_some_and(|letters| letters > 0),
        admission: admission(one, seen),
        last_pass: match report {
            None => "none yet".to_owned(),
            Some(None) => "nothing found".to_owned(),
            Some(Some(report)) => {
                let is_mended = report.exact
                    && report.before != report.after
                    && report.after.failed_claims == 0;
                format!(
                    "{}{}",
                    report.exactness(),
                    if is_mended { ", after repairs" } else { "" }
                )
            }
        },
        wrong: by_alert.or_else(|| wrong_of(one, seen).map(|(what, _)| what)),
    }
}

#[cfg(test)]
mod tests;
