//! The first screen, and the head of a drop's screen: whether the installation works and, if not,
//! what to do.

use askama::Template;
use axum::extract::Query;
use axum::http::StatusCode;
use firstcome_shared::coupon::DropState;
use firstcome_shared::domain::DropId;
use firstcome_shared::http::views::{AdmissionState, DropOverview, LastRun, ListedAlert, Overview};
use firstcome_shared::report::AlertKind;
use firstcome_shared::report::wording::{capital, count, grouped};
use serde::Deserialize;

use super::coupon::drop_state;
use super::page::{ConsolePage, Screen, Top, answer};
use super::text::{Text, short, window};

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewScreen<'a> {
    top: Top<'a>,
    board: &'a Board,
}

/// The content of the first screen, or the head of a drop's screen.
pub(super) struct Board {
    pub(super) at: String,
    /// A CSS class.
    pub(super) tone: &'static str,
    pub(super) title: String,
    pub(super) lead: String,
    /// What is seen now without an alert, then the alerts: first those that nobody has acknowledged,
    /// then the others, each by urgency.
    pub(super) problems: Vec<BoardProblem>,
    pub(super) drops: Vec<BoardLine>,
    /// The page, counted from 1.
    pub(super) page: usize,
    pub(super) pages: usize,
}

/// A problem as the overview lists it.
#[derive(Debug, Default)]
pub(super) struct BoardProblem {
    pub(super) what: String,
    /// The coupon and the drop concerned.
    pub(super) place: String,
    pub(super) todo: String,
    /// When the problem began, and who has acknowledged it.
    pub(super) more: String,
    pub(super) alert: Option<i64>,
    /// `None` if it is about no single drop.
    drop: Option<DropId>,
}

/// A drop as the overview lists it.
pub(super) struct BoardLine {
    pub(super) drop: DropOverview,
    /// Whether users can claim, or why not.
    pub(super) admission: String,
    /// Whether rows could be counted now.
    has_rows: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Paging {
    /// The page, counted from 1.
    page: usize,
}

pub(super) async fn read(page: ConsolePage, Query(paging): Query<Paging>) -> Screen {
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

pub(super) fn board(seen: &Overview) -> Board {
    let problems = problems(seen);
    let fine = match &seen.last_run {
        Some(_) => "Everything is as promised",
        None => "Nothing was compared yet",
    };
    Board {
        at: seen.at.text(),
        tone: tone(seen, &problems),
        title: title(fine, &problems),
        lead: compared(seen.last_run.as_ref()),
        problems,
        drops: seen.drops.iter().map(|one| board_line(one, seen)).collect(),
        page: seen.page,
        pages: seen.pages,
    }
}

/// Builds the head of one drop's screen: its state, and the problems that may concern it.
pub(super) fn drop_board(seen: &Overview) -> Board {
    let mut board = board(seen);
    let Some(line) = board.drops.first() else {
        return board;
    };
    let drop = &line.drop;
    board
        .problems
        .retain(|problem| problem.drop.is_none_or(|id| id == drop.drop_id));
    let what = title(&line.admission, &board.problems);
    board.title = format!("{}: {what}", place(&drop.coupon_name, drop.drop_id));
    board.lead = capital(&format!("{}. Last pass: {}.", line.when(), drop.last_run));
    board.tone = tone(seen, &board.problems);
    board
}

fn tone(seen: &Overview, problems: &[BoardProblem]) -> &'static str {
    match (problems, &seen.last_run) {
        ([], Some(_)) => "good",
        ([], None) => "plain",
        ([_, ..], _) => "bad",
    }
}

/// Names the problem, or counts them.
fn title(fine: &str, problems: &[BoardProblem]) -> String {
    match problems {
        [] => fine.to_owned(),
        [one] => one.what.clone(),
        several => format!("{} things are wrong", several.len()),
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

/// Says when the last pass over everything ended, and what it compared.
fn compared(last: Option<&LastRun>) -> String {
    let Some(run) = last else {
        return "No pass over everything has ended yet. The first one comes by its schedule."
            .to_owned();
    };
    let at = run.finished_at.text();
    let drops = count(run.drops, "drop", "drops");
    let users = grouped(run.users);
    let rows = grouped(run.rows);
    format!(
        "The last pass over everything ended at {at}. It compared {users} users with {rows} rows \
        in {drops}."
    )
}

fn problems(seen: &Overview) -> Vec<BoardProblem> {
    let is_closed = seen.admission == AdmissionState::Closed && seen.drops.iter().any(is_shut);
    let mut problems = Vec::new();
    // Alerts about these come later.
    for (kind, is_seen) in [
        (
            AlertKind::RedisUnreachable,
            seen.admission == AdmissionState::Unknown,
        ),
        (AlertKind::AdmissionClosed, is_closed),
        (AlertKind::MysqlUnreachable, !seen.mysql_answers),
    ] {
        let facts = kind.facts();
        let mut alerts = seen.alerts.iter();
        if is_seen && !alerts.any(|listed| listed.alert.kind == kind.word()) {
            problems.push(BoardProblem {
                what: capital(facts.noun[0]),
                todo: format!("{} {}", facts.users, facts.to_do),
                ..BoardProblem::default()
            });
        }
    }
    let mut alerts: Vec<&ListedAlert> = seen.alerts.iter().collect();
    alerts.sort_by_key(|listed| {
        let kind = AlertKind::from_word(&listed.alert.kind);
        let severity = kind.map(|kind| kind.facts().severity);
        (listed.alert.acknowledged_at.is_some(), severity)
    });
    problems.extend(alerts.into_iter().map(alarm));
    problems
}

fn alarm(listed: &ListedAlert) -> BoardProblem {
    let alert = &listed.alert;
    let kind = AlertKind::from_word(&alert.kind);
    let todo = kind.map_or("Look at the last runs.", |kind| kind.facts().to_do);
    let operator = alert.acknowledged_by.as_ref();
    let by = operator.map_or_else(String::new, |by| format!(", taken on by {}", by.text()));
    let name = listed.coupon_name.as_deref().zip(alert.drop_id);
    BoardProblem {
        what: capital(&alert.summary.text()),
        place: name.map_or_else(String::new, |(name, drop)| place(name, drop)),
        todo: todo.to_owned(),
        more: format!("Since {}{by}", alert.first_seen_at.text()),
        alert: Some(listed.id),
        drop: alert.drop_id,
    }
}

pub(super) fn place(name: &str, drop: DropId) -> String {
    let places: Vec<String> = [name.text()].into_iter().chain(drop.label()).collect();
    places.join(" · ")
}

/// Whether users should be able to claim, but the coupon is not verified.
fn is_shut(one: &DropOverview) -> bool {
    matches!(one.state, DropState::Open | DropState::SoldOut) && !one.verified
}

/// Says whether users can claim.
fn admission(one: &DropOverview, seen: &Overview) -> String {
    let opens = short(one.opens_at, one.time_zone);
    match one.state {
        DropState::Scheduled if one.paused => format!("paused, was to open {opens}"),
        DropState::Scheduled => format!("opens {opens}"),
        _ if is_shut(one) => match seen.admission {
            AdmissionState::Unknown => "Redis does not answer".to_owned(),
            AdmissionState::Open | AdmissionState::Closed => {
                "closed until it is verified".to_owned()
            }
        },
        state => drop_state(state).to_owned(),
    }
}

fn board_line(drop: &DropOverview, seen: &Overview) -> BoardLine {
    BoardLine {
        drop: drop.clone(),
        admission: admission(drop, seen),
        has_rows: seen.mysql_answers,
    }
}

impl BoardLine {
    pub(super) fn is_shut(&self) -> bool {
        is_shut(&self.drop)
    }

    pub(super) fn when(&self) -> String {
        let drop = &self.drop;
        window(drop.opens_at, drop.closes_at, drop.time_zone)
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
