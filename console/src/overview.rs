//! The first screen, and the head of a drop's screen: whether the installation works and, if not,
//! what to do.

use std::collections::BTreeSet;

use askama::Template;
use axum::Json;
use axum::http::StatusCode;
use firstcome_shared::coupon::DropState;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::http::views::{AdmissionState, DropOverview, LastRun, MOST_ALERTS, Overview};
use firstcome_shared::mysql::alerts::ListedAlert;
use firstcome_shared::report::AlertKind;
use firstcome_shared::report::wording::{capital, count, grouped};
use firstcome_shared::schedule::Tz;
use serde::{Deserialize, Serialize};

use super::client::HttpRefusal;
use super::page::{OrDefault, Page, Screen, Top, answer};
use super::text::{Text, short, window};

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewScreen<'a> {
    top: Top<'a>,
    board: &'a Board,
}

/// The part of the first screen that is live.
#[derive(Template)]
#[template(path = "board.html")]
struct Fragment<'a> {
    board: &'a Board,
}

/// The content of the first screen, or the head of a drop's screen.
pub(super) struct Board {
    pub(super) at: String,
    /// A CSS class.
    pub(super) tone: &'static str,
    pub(super) title: String,
    pub(super) lead: String,
    /// Unavailable stores and closed coupons, then the alerts: first those that nobody has
    /// acknowledged, then the others, each by urgency.
    pub(super) problems: Vec<BoardProblem>,
    pub(super) drops: Vec<BoardLine>,
    /// The caption of the list of drops.
    pub(super) caption: &'static str,
    /// Number of problems that the screen of a drop leaves out, because they do not concern it.
    pub(super) elsewhere: usize,
    /// The page, counted from 1.
    pub(super) page: usize,
    pub(super) pages: usize,
}

/// A problem as the overview lists it.
#[derive(Debug)]
pub(super) struct BoardProblem {
    pub(super) what: String,
    /// The coupon and the drop concerned.
    pub(super) place: Option<String>,
    pub(super) todo: String,
    /// When the problem began, and who has acknowledged it.
    pub(super) more: Option<String>,
    pub(super) alert: Option<i64>,
    drop: Concerned,
}

/// The drops that a problem concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Concerned {
    /// All drops: a store is unavailable, or coupons are closed.
    All,
    One(DropId),
    /// No known drop.
    None,
}

/// A drop as the overview lists it.
pub(super) struct BoardLine {
    pub(super) drop: DropOverview,
    /// Whether users can claim, or why not.
    pub(super) admission: String,
    /// Whether users should be able to claim but cannot.
    pub(super) is_shut: bool,
    /// What an alert of the drop says, shown in red.
    pub(super) wrong: Option<String>,
    /// Whether rows could be counted now.
    has_rows: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Paging {
    /// The page, counted from 1.
    page: usize,
}

pub(super) async fn read(page: Page, OrDefault(paging): OrDefault<Paging>) -> Screen {
    let number = paging.page.clamp(1, 100_000);
    let seen: Overview = page.get(&format!("/v1/overview?page={number}")).await?;
    let board = board(&seen);
    let tab = board.tab();
    let screen = OverviewScreen {
        top: page.top(&tab, "overview"),
        board: &board,
    };
    Ok(answer(StatusCode::OK, &screen))
}

/// The live part of the first screen, which browsers ask for every second. The time of day is
/// separate, because the rest changes less often.
#[derive(Serialize)]
pub(super) struct LivePart {
    at: String,
    html: String,
}

pub(super) async fn live(page: Page) -> Result<Json<LivePart>, HttpRefusal> {
    let seen: Overview = page.get("/v1/overview").await?;
    let board = board(&seen);
    let html = (Fragment { board: &board }).render().map_err(|error| {
        tracing::error!(%error, "the operations page cannot be written");
        HttpRefusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the page has an error")
    })?;
    Ok(Json(LivePart { at: board.at, html }))
}

pub(super) fn board(seen: &Overview) -> Board {
    let problems = problems(seen);
    let hours = |run: &LastRun| (seen.at - run.finished_at).num_hours();
    let (tone, title) = match (problems.as_slice(), seen.last_run.as_ref().map(hours)) {
        ([one], _) => ("bad", one.what.clone()),
        ([_, _, ..], _) => {
            // More alerts may fire than the overview has.
            let least = if seen.alerts.len() < MOST_ALERTS as usize {
                ""
            } else {
                "At least "
            };
            ("bad", format!("{least}{} things are wrong", problems.len()))
        }
        ([], Some(hours @ STALE_HOURS..)) => {
            ("plain", format!("Nothing was compared for {hours} hours"))
        }
        ([], Some(_)) => ("good", "Everything is as promised".to_owned()),
        ([], None) => ("plain", "Nothing was compared yet".to_owned()),
    };
    Board {
        at: seen.at.text(),
        tone,
        title,
        lead: compared(seen.last_run.as_ref()),
        problems,
        drops: seen.drops.iter().map(|one| board_line(one, seen)).collect(),
        caption: "Coupons that are open, will open, ended today, or need somebody",
        elsewhere: 0,
        page: seen.page,
        pages: seen.pages,
    }
}

/// Builds the head of one drop's screen: its state and the problems that concern it. All others are
/// only counted.
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
    let line = board_line(one, seen);
    let (tone, what) = match problems.as_slice() {
        [] if seen.last_run.is_none() => ("plain", line.admission.clone()),
        [] => ("good", line.admission.clone()),
        [one] => ("bad", one.what.clone()),
        several => ("bad", format!("{} things are wrong", several.len())),
    };
    Board {
        tone,
        title: format!("{}: {what}", dated(one)),
        lead: capital(&format!("{}. Last pass: {}.", line.when(), line.last_run())),
        problems,
        elsewhere: elsewhere.len(),
        drops: vec![line],
        caption: "Its figures",
        ..board(seen)
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

/// Says when the last pass over everything ended, and what it compared.
fn compared(last: Option<&LastRun>) -> String {
    let Some(run) = last else {
        return "No pass over everything has ended yet. The first one comes by its schedule."
            .to_owned();
    };
    let at = run.finished_at.text();
    let drops = count(run.drops, "drop", "drops");
    let [users, rows] = [run.users, run.rows].map(grouped);
    format!(
        "The last pass over everything ended at {at}. It compared {users} users with {rows} rows \
        in {drops}."
    )
}

fn problem(what: impl Into<String>, todo: impl Into<String>) -> BoardProblem {
    BoardProblem {
        what: what.into(),
        place: None,
        todo: todo.into(),
        more: None,
        alert: None,
        drop: Concerned::All,
    }
}

fn problems(seen: &Overview) -> Vec<BoardProblem> {
    let mut found = Vec::new();
    let shut: BTreeSet<CouponId> = seen
        .drops
        .iter()
        .filter(|drop| is_shut(drop) && alert_of(drop, seen).is_none())
        .map(|it| it.coupon_id)
        .collect();
    if seen.admission == AdmissionState::Unknown {
        let what = "Redis does not answer this reconciler: claims may get 503".to_owned();
        found.push(outage(AlertKind::RedisUnreachable, what, seen));
    } else if !shut.is_empty() {
        let what = count(shut.len(), "coupon is", "coupons are");
        let what = format!("{what} closed: claims get 503");
        found.push(outage(AlertKind::AdmissionClosed, what, seen));
    }
    if !seen.mysql_answers {
        let read = seen.mysql_read_at;
        let age = read.map(|at| format!(" What is shown of it is of {}.", at.text()));
        let todo = format!(
            "Nothing is lost: claims wait in Kafka. Bring MySQL back.{}",
            age.unwrap_or_default()
        );
        found.push(problem("MySQL does not answer: rows come late", todo));
    }
    // Alerts that no operator has acknowledged come first, then the others, each by urgency.
    let mut alerts: Vec<&ListedAlert> = seen
        .alerts
        .iter()
        .filter(|listed| !found.iter().any(|problem| problem.alert == Some(listed.id)))
        .collect();
    alerts.sort_by_key(|one| {
        let kind = AlertKind::from_word(&one.alert.kind);
        let severity = kind.map(|kind| kind.facts().severity);
        (one.alert.acknowledged_at.is_some(), severity)
    });
    found.extend(alerts.into_iter().map(|one| alarm(one, seen)));
    found
}

/// Describes an outage as it is seen now, with its alert if there is one already.
fn outage(kind: AlertKind, what: String, seen: &Overview) -> BoardProblem {
    let alert = seen
        .alerts
        .iter()
        .find(|listed| listed.alert.kind == kind.word())
        .map(|it| alarm(it, seen));
    BoardProblem {
        drop: Concerned::All,
        what,
        ..alert.unwrap_or_else(|| problem("", kind.facts().to_do))
    }
}

fn alert_of<'a>(one: &DropOverview, seen: &'a Overview) -> Option<&'a ListedAlert> {
    let mut alerts = seen.alerts.iter();
    alerts.find(|alert| alert.alert.drop_id == Some(one.drop_id))
}

pub(super) fn place(name: &str, drop: DropId) -> String {
    let places: Vec<String> = [name.text()].into_iter().chain(drop.label()).collect();
    places.join(" · ")
}

/// Describes a drop by its coupon's name, its day and its number.
fn dated(one: &DropOverview) -> String {
    let zone = one.time_zone.unwrap_or_else(Tz::utc);
    let day = zone.local(one.opens_at).format("%Y-%m-%d");
    place(&format!("{} · {day}", one.coupon_name.text()), one.drop_id)
}

fn alarm(listed: &ListedAlert, seen: &Overview) -> BoardProblem {
    let alert = &listed.alert;
    let kind = AlertKind::from_word(&alert.kind);
    let todo = kind.map_or("Look at the last runs.", |kind| kind.facts().to_do);
    let by = alert
        .acknowledged_by
        .as_ref()
        .map(|by| format!(", taken on by {}", by.text()));
    let name = listed.coupon_name.as_deref().zip(alert.drop_id);
    let mut drops = seen.drops.iter();
    let on_page = drops.find(|one| Some(one.drop_id) == alert.drop_id && one.drop_id.0 > 0);
    BoardProblem {
        place: on_page
            .map(dated)
            .or_else(|| name.map(|(name, drop)| place(name, drop))),
        more: Some(format!(
            "Since {}{}",
            alert.first_seen_at.text(),
            by.unwrap_or_default()
        )),
        alert: Some(listed.id),
        drop: alert.drop_id.map_or(Concerned::None, Concerned::One),
        ..problem(capital(&alert.summary.text()), todo)
    }
}

/// Whether the drop should be open, but its coupon is not verified.
fn is_shut(one: &DropOverview) -> bool {
    matches!(one.state, DropState::Open | DropState::SoldOut) && !one.verified
}

/// Says whether users can claim, and whether they should be able to but cannot.
fn admission(one: &DropOverview, seen: &Overview) -> (String, bool) {
    let text = match (one.state, seen.admission) {
        (DropState::Scheduled, _) => {
            let when = short(one.opens_at, one.time_zone);
            let opens = if one.paused {
                "paused, was to open"
            } else {
                "opens"
            };
            return (format!("{opens} {when}"), false);
        }
        (DropState::Paused, _) => "paused by an operator",
        (DropState::Closed, _) => "ended",
        (DropState::Sealed, _) => "ended, sealed",
        (_, AdmissionState::Unknown) => return ("Redis does not answer".to_owned(), true),
        _ if is_shut(one) => return ("closed until it is verified".to_owned(), true),
        (DropState::SoldOut, _) => "open, sold out",
        (DropState::Open, _) => "open",
    };
    (text.to_owned(), false)
}

fn board_line(drop: &DropOverview, seen: &Overview) -> BoardLine {
    let (admission, is_shut) = admission(drop, seen);
    BoardLine {
        drop: drop.clone(),
        admission,
        is_shut,
        wrong: alert_of(drop, seen).map(|alert| alert.alert.summary.text()),
        has_rows: seen.mysql_answers,
    }
}

impl BoardLine {
    pub(super) fn when(&self) -> String {
        let drop = &self.drop;
        window(drop.opens_at, drop.closes_at, drop.time_zone)
    }

    /// What the last pass found, unless the drop has not opened yet.
    pub(super) fn last_run(&self) -> &str {
        match self.drop.state {
            DropState::Scheduled => "not open yet",
            DropState::Open
            | DropState::SoldOut
            | DropState::Paused
            | DropState::Closed
            | DropState::Sealed => &self.drop.last_run,
        }
    }

    fn is_sealed(&self) -> bool {
        self.drop.state == DropState::Sealed
    }

    pub(super) fn rows(&self) -> Option<u64> {
        self.drop.rows.map(|counted| counted.rows)
    }

    /// Users who hold a slot. If Redis does not answer, or the drop is sealed and its keys expire,
    /// the number of rows stands for them.
    pub(super) fn given(&self) -> Option<u64> {
        let held = self.drop.redis.filter(|_| !self.is_sealed());
        held.map(|keys| keys.users).or(self.rows())
    }

    /// Claims without a row yet, if both stores answer.
    pub(super) fn in_flight(&self) -> Option<u64> {
        if self.is_sealed() {
            return Some(0);
        }
        let is_known = self.has_rows && self.drop.redis.is_some();
        let counted = self.drop.rows.filter(|_| is_known);
        counted.map(|counted| counted.users.saturating_sub(counted.rows))
    }

    pub(super) fn waiting(&self) -> Option<u64> {
        self.drop.redis.map(|keys| keys.waiting)
    }
}

#[cfg(test)]
mod tests;
