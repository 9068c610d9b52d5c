//! How fast a drop went, as a chart and as a table, and how soon rows came, by day. Pure but for
//! its two handlers' queries.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{NaiveDateTime, TimeDelta};
use firstcome_shared::mysql::pace::{DayPace, SlotPace};

use super::board::instant;
use super::html::{Top, answer, unavailable};
use super::session::Session;
use super::state::ScreenState;
use crate::notify::wording::grouped;

#[derive(Template)]
#[template(path = "days.html")]
struct DaysScreen<'a> {
    top: Top<'a>,
    days: &'a [DayLine],
}

/// Days that are listed.
const DAYS: u32 = 14;

/// Size of the drawing, in its own units.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 160.0;

/// Lines of the table beside the chart.
const LINES: usize = 10;

/// Admissions and rows of a drop, over time.
pub(super) struct Chart {
    /// Points of a polyline, as SVG has them.
    pub(super) admitted: String,
    pub(super) issued: String,
    pub(super) from: String,
    /// How long the drawing's width is.
    pub(super) length: String,
    pub(super) slots: String,
    /// How many of those that were looked at had their row within a second, in words.
    pub(super) share: String,
    pub(super) lines: Vec<PaceLine>,
}

/// A slot in the table.
pub(super) struct PaceLine {
    pub(super) slot: String,
    pub(super) admitted: String,
    pub(super) row: String,
}

/// What the sample shows; nothing where it is empty.
pub(super) fn chart(steps: &[SlotPace]) -> Option<Chart> {
    let last = steps.last()?;
    let from = steps.iter().map(|step| step.claimed_at).min()?;
    let since = |at: NaiveDateTime| (at - from).max(TimeDelta::zero());
    // One straggler of tomorrow must not press all others into a line.
    let mut lengths: Vec<TimeDelta> =
        steps.iter().map(|step| since(step.issued_at.unwrap_or(step.claimed_at))).collect();
    lengths.sort_unstable();
    let most = lengths.get(lengths.len() * 95 / 100).or(lengths.last()).copied().unwrap_or_default();
    let length = most.max(TimeDelta::milliseconds(500)) * 11 / 10;
    let across = |at: NaiveDateTime| (since(at).as_seconds_f64() / length.as_seconds_f64()).min(1.0) * WIDTH;
    // How many there were by then: a slot that was issued again later must not lead the line back.
    #[expect(clippy::cast_precision_loss, reason = "a sample of some thousands")]
    let up = |number: usize| HEIGHT - number as f64 / steps.len() as f64 * HEIGHT;
    let points = |when: fn(&SlotPace) -> Option<NaiveDateTime>| {
        let mut instants: Vec<NaiveDateTime> = steps.iter().filter_map(when).collect();
        instants.sort_unstable();
        let point = |(at, instant): (usize, NaiveDateTime)| format!("{:.1},{:.1}", across(instant), up(at + 1));
        instants.into_iter().enumerate().map(point).collect::<Vec<_>>().join(" ")
    };
    let took = |step: &SlotPace| step.issued_at.map(|at| (at - step.claimed_at).max(TimeDelta::zero()));
    let in_time = steps.iter().filter_map(took).filter(|took| *took <= TimeDelta::seconds(1)).count();
    let every = steps.len().div_ceil(LINES);
    let line = |step: &SlotPace| PaceLine {
        slot: grouped(u64::from(step.slot)),
        admitted: seconds(since(step.claimed_at)),
        row: took(step).map_or_else(|| "–".to_owned(), seconds),
    };
    Some(Chart {
        admitted: points(|step| Some(step.claimed_at)),
        issued: points(|step| step.issued_at),
        from: instant(from.and_utc()),
        length: seconds(length),
        slots: grouped(u64::from(last.slot)),
        share: share(in_time as u64, steps.len() as u64),
        lines: steps.iter().step_by(every).map(line).collect(),
    })
}

fn seconds(length: TimeDelta) -> String {
    format!("{:.1} s", length.as_seconds_f64())
}

/// Never rounded up to everything.
fn share(part: u64, whole: u64) -> String {
    let tenths = (part * 1_000).checked_div(whole).unwrap_or(0);
    format!("{}.{} % of {} looked at", tenths / 10, tenths % 10, grouped(whole))
}

/// A day in the list.
pub(super) struct DayLine {
    pub(super) day: String,
    pub(super) drops: String,
    pub(super) share: String,
    /// Nobody should wait for a row.
    pub(super) is_low: bool,
}

fn day_line(day: &DayPace) -> DayLine {
    let [drops, looked_at, in_time] =
        [day.drops, day.looked_at, day.within_a_second].map(|n| u64::try_from(n).unwrap_or(0));
    DayLine {
        day: day.day.to_string(),
        drops: grouped(drops),
        share: share(in_time, looked_at),
        is_low: in_time * 100 < looked_at * 95,
    }
}

pub(super) async fn by_day(State(page): State<ScreenState>, Extension(session): Extension<Arc<Session>>) -> Response {
    page.slowly(days(&page, &session)).await
}

async fn days(page: &ScreenState, session: &Session) -> Response {
    let days = match page.app.stores.db.pace_by_day(DAYS).await {
        Ok(days) => days,
        Err(error) => return unavailable(error),
    };
    let days: Vec<DayLine> = days.iter().map(day_line).collect();
    answer(StatusCode::OK, &DaysScreen { top: Top::new("Days", "days", Some(session)), days: &days })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(slot: u32, claimed_ms: i64, issued_ms: i64) -> SlotPace {
        let at = |ms| NaiveDateTime::default() + TimeDelta::milliseconds(ms);
        SlotPace { slot, claimed_at: at(claimed_ms), issued_at: Some(at(issued_ms)) }
    }

    #[test]
    fn who_was_admitted_and_has_no_row_stands_in_one_line_and_counts_as_a_miss() {
        let mut steps = vec![step(1, 0, 10), step(2, 100, 110)];
        steps[1].issued_at = None;
        let one = chart(&steps).unwrap();
        assert_eq!((one.admitted.split(' ').count(), one.issued.split(' ').count()), (2, 1));
        assert_eq!((one.lines[0].row.as_str(), one.lines[1].row.as_str()), ("0.0 s", "–"));
        assert_eq!(one.share, "50.0 % of 2 looked at");
        steps[0].issued_at = None;
        assert_eq!(chart(&steps).unwrap().issued, "");
    }

    #[test]
    fn a_chart_shows_the_rush_and_not_its_straggler() {
        let mut steps: Vec<SlotPace> = (1..=100).map(|n| step(n, i64::from(n) * 10, i64::from(n) * 10 + 30)).collect();
        steps[49].issued_at = steps[49].issued_at.map(|at| at + TimeDelta::days(1));
        let chart = chart(&steps).unwrap();
        assert_eq!((chart.length.as_str(), chart.slots.as_str()), ("1.1 s", "100"));
        assert_eq!(chart.share, "99.0 % of 100 looked at");
        assert!(
            chart.admitted.starts_with("0.0,158.4 ") && chart.admitted.contains(" 270.0,80.0 "),
            "{}",
            chart.admitted
        );
        assert!(chart.issued.ends_with(" 600.0,0.0"), "it never goes back: {}", chart.issued);
        assert_eq!(chart.lines.len(), 10);
    }

    #[test]
    fn one_row_and_none_are_no_trouble_and_a_clock_that_went_back_neither() {
        assert!(chart(&[]).is_none());
        let one = chart(&[step(7, 5_000, 4_000)]).unwrap();
        assert_eq!((one.length.as_str(), one.lines[0].row.as_str()), ("0.6 s", "0.0 s"));
        assert!(!one.admitted.contains("NaN"), "{}", one.admitted);
    }

    #[test]
    fn a_share_is_all_only_if_it_is() {
        assert_eq!(share(9_999, 10_000), "99.9 % of 10,000 looked at");
        assert_eq!(share(10, 10), "100.0 % of 10 looked at");
        assert_eq!(share(0, 0), "0.0 % of 0 looked at");
    }
}
