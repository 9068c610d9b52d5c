//! Turns the overview into text: whether the installation works and, if not, what to do. Pure
//! functions.

use chrono::{DateTime, Utc};
use firstcome_notifier::wording::{LONGEST, capital, count, grouped, line};
use firstcome_shared::coupon::DropState;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::http::views::{AdmissionState, DropOverview, LastRun, Overview};
use firstcome_shared::mysql::alerts::ListedAlert;
use firstcome_shared::report::{AlertKind, Kind};

use super::times::{clock, instant, short, window};

/// The content of the first screen.
pub(super) struct Board {
    pub(super) at: String,
    pub(super) tone: Tone,
    pub(super) title: String,
    pub(super) lead: String,
    /// Problems, most urgent first.
    pub(super) problems: Vec<BoardProblem>,
    pub(super) drops: Vec<BoardLine>,
    /// The caption of the list of drops.
    pub(super) caption: &'static str,
    /// Number of problems that do not concern the drops on this page.
    pub(super) elsewhere: usize,
    /// The page, counted from 1.
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

/// One problem.
#[derive(Debug)]
pub(super) struct BoardProblem {
    pub(super) what: String,
    /// The coupon and the drop concerned.
    pub(super) place: Option<String>,
    pub(super) todo: String,
    /// When the problem began, and who has acknowledged it.
    pub(super) more: Option<String>,
    pub(super) alert: Option<i64>,
    /// The drop concerned. If a store is unavailable, all drops are concerned.
    drop: Concerned,
}

/// The drops that a problem concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Concerned {
    All,
    One(DropId),
    /// No known drop.
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
    /// The number of overdue rows.
    pub(super) missing: Option<String>,
    /// The share of slots with rows, for the bar.
    pub(super) share: (u64, u32),
    pub(super) in_flight: String,
    pub(super) waiting: String,
    pub(super) dead_letters: String,
    pub(super) has_dead_letters: bool,
    pub(super) admission: AdmissionLine,
    pub(super) last_pass: String,
    /// Why the drop is marked red.
    pub(super) wrong: Option<String>,
}

/// Whether users can claim, or why not.
pub(super) struct AdmissionLine {
    pub(super) text: String,
    /// Whether users should be able to claim but cannot.
    pub(super) is_wrong: bool,
}

pub(super) fn board(seen: &Overview) -> Board {
    let problems = problems(seen);
    let (tone, title) = match (problems.as_slice(), &seen.last_run) {
        ([one], _) => (Tone::Bad, one.what.clone()),
        ([_, _, ..], _) => (Tone::Bad, format!("{} things are wrong", problems.len())),
        ([], Some(run)) if hours_since(run, seen.at) >= STALE_HOURS => {
            let hours = hours_since(run, seen.at);
            (
                Tone::Plain,
                format!("Nothing was compared for {hours} hours"),
            )
        }
        ([], Some(_)) => (Tone::Good, "Everything is as promised".to_owned()),
        ([], None) => (Tone::Plain, "Nothing was compared yet".to_owned()),
    };
    Board {
        at: clock(seen.at),
        tone,
        title,
        lead: compared(seen.last_run.as_ref()),
        problems,
        drops: seen.drops.iter().map(|one| drop_line(one, seen)).collect(),
        caption: "Coupons that are live, or need somebody",
        elsewhere: 0,
        page: seen.page,
        pages: seen.pages,
    }
}

/// Builds the screen of one drop: its state and its own problems. Problems of other drops are only
/// counted.
pub(super) fn drop_board(seen: &Overview) -> Board {
    let Some(one) = seen.drops.first() else {
        return board(seen);
    };
    let id = one.drop_id;
    let concerns_it =
        |problem: &BoardProblem| [Concerned::All, Concerned::One(id)].contains(&problem.drop);
    let (mut problems, elsewhere): (Vec<_>, Vec<_>) =
        problems(seen).into_iter().partition(concerns_it);
    for problem in &mut problems {
        problem.place = None;
    }
    let line = drop_line(one, seen);
    let (tone, what) = match problems.as_slice() {
        [] if seen.last_run.is_none() => (Tone::Plain, line.admission.text.clone()),
        [] => (Tone::Good, line.admission.text.clone()),
        [one] => (Tone::Bad, one.what.clone()),
        several => (Tone::Bad, format!("{} things are wrong", several.len())),
    };
    Board {
        at: clock(seen.at),
        tone,
        title: format!("{}: {what}", place(&one.coupon_name, id)),
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
    /// Returns the title of the tab, with the number of problems, so that it is visible from other
    /// tabs.
    pub(super) fn tab(&self) -> String {
        match self.problems.len() {
            0 => "Firstcome".to_owned(),
            n => format!("({n}) Firstcome"),
        }
    }
}

/// Age from which the result of a pass counts as outdated, regardless of the schedule.
const STALE_HOURS: i64 = 2;

fn hours_since(run: &LastRun, at: DateTime<Utc>) -> i64 {
    (at - run.finished_at).num_hours()
}

/// Describes the extent of the last pass, on which the verdict is based.
fn compared(last: Option<&LastRun>) -> String {
    let Some(run) = last else {
        return "No pass over everything has ended yet. The first one comes by its schedule."
            .to_owned();
    };
    let at = instant(run.finished_at);
    let [people, rows] = [run.users, run.rows].map(grouped);
    let drops = count(run.drops, "drop", "drops");
    format!(
        "The last pass over everything ended at {at}. It compared {people} people with {rows} rows in {drops}."
    )
}

fn problem(what: impl Into<String>, todo: impl Into<String>) -> BoardProblem {
    let what = what.into();
    let todo = todo.into();
    BoardProblem {
        what,
        place: None,
        todo,
        more: None,
        alert: None,
        drop: Concerned::All,
    }
}

fn problems(seen: &Overview) -> Vec<BoardProblem> {
    let mut found = Vec::new();
    match seen.admission {
        AdmissionState::Unknown => found.push(problem(
            "Redis does not answer: nobody can claim",
            "Bring Redis back. Admission reopens automatically once Redis's data is verified.",
        )),
        AdmissionState::Closed => found.push(problem(
            "Admission is closed: claims get 503",
            "Redis was restarted, or lost data. Its data is being verified, and admission opens automatically, within \
             seconds. If this stays, look at the alerts and at the reconciler's log.",
        )),
        AdmissionState::Open => {}
    }
    if !seen.mysql_answers {
        let of = seen.mysql_read_at.map_or_else(String::new, |at| {
            format!(" What is shown of it is of {}.", clock(at))
        });
        found.push(problem(
            "MySQL does not answer: rows come late",
            format!("Nothing is lost: claims wait in Kafka. Bring MySQL back.{of}"),
        ));
    }
    // Put alerts that no operator has acknowledged first.
    let (taken, open): (Vec<_>, Vec<_>) = seen
        .alerts
        .iter()
        .partition(|one| one.alert.acknowledged_at.is_some());
    found.extend(open.into_iter().chain(taken).map(|one| alarm(one, seen)));
    let silent = seen
        .drops
        .iter()
        .filter(|one| alert_of(one, seen).is_none());
    found.extend(silent.filter_map(|one| {
        let (what, todo) = wrong_of(one, seen)?;
        Some(BoardProblem {
            place: Some(place(&one.coupon_name, one.drop_id)),
            drop: Concerned::One(one.drop_id),
            ..problem(what, todo)
        })
    }));
    found
}

fn alert_of<'a>(one: &DropOverview, seen: &'a Overview) -> Option<&'a ListedAlert> {
    seen.alerts
        .iter()
        .find(|alert| alert.alert.drop_id == Some(one.drop_id))
}

fn place(name: &str, drop: DropId) -> String {
    format!("{} · drop {drop}", line(name, LONGEST))
}

fn alarm(listed: &ListedAlert, seen: &Overview) -> BoardProblem {
    let alert = &listed.alert;
    let kind = AlertKind::from_word(&alert.kind);
    let drop = seen
        .drops
        .iter()
        .find(|one| Some(one.drop_id) == alert.drop_id);
    let todo = match drop
        .and_then(room)
        .filter(|_| kind == Some(AlertKind::Left(Kind::BrokenPromise)))
    {
        Some(room) => format!("{room}: the next pass gives them to these people."),
        None => kind
            .map_or("Look at the last runs.", |kind| kind.facts().to_do)
            .to_owned(),
    };
    let taken = alert
        .acknowledged_by
        .as_deref()
        .map(|by| format!(", taken on by {}", line(by, LONGEST)));
    BoardProblem {
        place: listed
            .coupon_name
            .as_deref()
            .zip(alert.drop_id)
            .map(|(name, drop)| place(name, drop)),
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

/// Describes the free slots of a drop that has not ended. After the quantity is raised, alerts
/// about broken promises remain until the next pass has assigned these slots.
fn room(one: &DropOverview) -> Option<String> {
    let is_over = matches!(one.state, DropState::Closed | DropState::Sealed);
    let held = one.redis.filter(|_| !is_over)?.users;
    let room = u64::from(one.quantity).saturating_sub(held);
    (room > 0).then(|| count(room, "slot is free now", "slots are free now"))
}

/// Returns a problem that is only visible in the drop's counts, and what to do.
fn wrong_of(one: &DropOverview, seen: &Overview) -> Option<(String, String)> {
    if is_shut(one) && seen.admission == AdmissionState::Open {
        let todo = "It opens automatically once a pass has verified it. If this stays, look at the last runs.";
        return Some((
            "Admission to this coupon is closed: claims get 503".to_owned(),
            todo.to_owned(),
        ));
    }
    let numbers = one.redis?;
    let counted_rows = one.rows?;
    if !one.stuck {
        return None;
    }
    let users = counted_rows.users;
    let rows = counted_rows.rows;
    let next = |what: &str| format!("The next pass {what}. If it does not, look at what it found.");
    Some(if users > rows {
        let people = count(
            users - rows,
            "person was promised a coupon and has no row yet",
            "people were promised a coupon and have no row yet",
        );
        (
            people,
            format!(
                "{} If the number grows, see whether the consumers run.",
                next("writes what is missing")
            ),
        )
    } else if rows > users {
        let rows = count(
            rows - users,
            "row has nobody in Redis",
            "rows have nobody in Redis",
        );
        (rows, next("puts their people back"))
    } else if numbers.free > 0 && numbers.waiting > 0 {
        let slots = count(numbers.free, "slot is free", "slots are free");
        (
            format!("{slots} although people wait"),
            next("gives them to the first in line"),
        )
    } else {
        let count = numbers
            .count
            .map_or_else(|| "missing".to_owned(), |count| count.to_string());
        let held = grouped(numbers.users);
        let free = grouped(numbers.free);
        (
            format!("The counter is {count}; {held} slots are held and {free} are free"),
            next("sets it right"),
        )
    })
}

/// Whether the drop should be open, but its coupon is not verified.
fn is_shut(one: &DropOverview) -> bool {
    matches!(one.state, DropState::Open | DropState::SoldOut) && !one.verified
}

fn admission(one: &DropOverview, seen: &Overview) -> AdmissionLine {
    let right = |text: &str| AdmissionLine {
        text: text.to_owned(),
        is_wrong: false,
    };
    let wrong = |text: &str| AdmissionLine {
        text: text.to_owned(),
        is_wrong: true,
    };
    match (one.state, seen.admission) {
        (DropState::Scheduled, _) => {
            right(&format!("opens {}", short(one.opens_at, one.time_zone)))
        }
        (DropState::Paused, _) => right("paused by an operator"),
        (DropState::Closed, _) => right("ended"),
        (DropState::Sealed, _) => right("ended, sealed"),
        (_, AdmissionState::Unknown) => wrong("Redis does not answer"),
        (_, AdmissionState::Closed) => wrong("closed: Redis is being verified"),
        _ if is_shut(one) => wrong("closed until it is verified"),
        (DropState::SoldOut, _) => right("open, sold out"),
        (DropState::Open, _) => right("open"),
    }
}

fn drop_line(one: &DropOverview, seen: &Overview) -> BoardLine {
    let text = |number: Option<u64>| number.map_or_else(|| "–".to_owned(), grouped);
    let is_sealed = one.state == DropState::Sealed;
    let rows = one.rows.map(|counted| counted.rows);
    // Use the rows of a sealed drop, since its keys expire.
    let given = one.redis.map(|keys| keys.users).filter(|_| !is_sealed);
    let without_row = one
        .rows
        .filter(|_| given.is_some())
        .map(|counted| counted.users.saturating_sub(counted.rows));
    // Claims in flight become rows, unless the drop is stuck.
    let (in_flight, missing) = if one.stuck {
        (without_row.map(|_| 0), without_row)
    } else {
        (without_row, None)
    };
    let by_alert = alert_of(one, seen).map(|alert| line(&alert.alert.summary, LONGEST));
    BoardLine {
        id: one.drop_id,
        coupon: one.coupon_id,
        name: line(&one.coupon_name, LONGEST),
        when: window(one.opens_at, one.closes_at, one.time_zone),
        promised: grouped(u64::from(one.quantity)),
        given: text(given.or(rows)),
        share: (rows.unwrap_or(0), one.quantity),
        rows: text(rows),
        missing: missing.filter(|missing| *missing > 0).map(grouped),
        in_flight: text(in_flight.or(is_sealed.then_some(0))),
        waiting: text(one.redis.map(|keys| keys.waiting)),
        dead_letters: text(one.failed_claims),
        has_dead_letters: one.failed_claims.is_some_and(|letters| letters > 0),
        admission: admission(one, seen),
        last_pass: one.last_run.clone(),
        wrong: by_alert.or_else(|| wrong_of(one, seen).map(|(what, _)| what)),
    }
}

#[cfg(test)]
mod tests;
