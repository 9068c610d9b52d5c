//! Formats tables and lines for the terminal.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use crate::answer::AnswerKind;
use crate::tally::{CrowdProgress, Latency, Tally};
use crate::terminal::{grouped, number};

/// A note next to the rates of a debug build.
const UNOPTIMIZED: &str = if cfg!(debug_assertions) {
    " (an unoptimized build)"
} else {
    ""
};

/// Formats a table of two columns: name and value.
pub fn of_rows(rows: impl IntoIterator<Item = (String, String)>) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    for (what, value) in rows {
        table.add_row([what, value]);
    }
    align_right(&mut table, 1);
    table.to_string()
}

/// Width at which text is wrapped.
const WIDE: u16 = 150;

/// Creates a table with a header for a wide terminal.
pub fn wide<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDE);
    table.set_header(header);
    table
}

/// Right-aligns a column of numbers.
pub fn align_right(table: &mut Table, column: usize) {
    if let Some(column) = table.column_mut(column) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// Formats the progress line while the crowd claims.
pub fn progress(progress: &CrowdProgress, expected: u64) -> String {
    let count = |kind| grouped(progress.count(kind));
    format!(
        "{} of {} requests · accepted {} · already {} · sold out {} · waiting {} · unavailable {} · no answer {}",
        grouped(progress.total()),
        grouped(expected),
        count(AnswerKind::Accepted),
        count(AnswerKind::AlreadyClaimed),
        count(AnswerKind::SoldOut),
        count(AnswerKind::Waiting),
        count(AnswerKind::Unavailable),
        count(AnswerKind::NoAnswer),
    )
}

pub fn of_tally_with(tally: &Tally, more: Vec<(String, String)>) -> String {
    let mut text = of_rows(rows_of(tally).into_iter().chain(more));
    for line in tally.contradictions.iter().take(20) {
        text.push_str("\n  ");
        text.push_str(line);
    }
    text
}

pub fn rows_of(tally: &Tally) -> Vec<(String, String)> {
    let mut rows = asked(tally);
    for (who, latency) in [("winners", &tally.winners), ("all others", &tally.others)] {
        if latency.count > 0 {
            rows.push((format!("  {who}"), in_words(latency)));
        }
    }
    rows.extend(
        tally
            .answers
            .iter()
            .map(|(kind, count)| (format!("answered {kind}"), grouped(*count))),
    );
    rows.push((
        "users with a promise".into(),
        grouped(tally.admitted as u64),
    ));
    rows.push((
        "accepted before Kafka had it".into(),
        grouped(tally.not_queued),
    ));
    rows.push(("requests given up".into(), grouped(tally.gave_up)));
    rows.push((
        "contradictory answers".into(),
        grouped(tally.contradictions.len() as u64),
    ));
    rows
}

fn in_words(latency: &Latency) -> String {
    format!(
        "{:.1} · {:.1} · {:.1} · {:.1} ms",
        latency.p50_ms, latency.p99_ms, latency.p999_ms, latency.max_ms
    )
}

/// Returns the first rows of every table: the size and the latency of the rush.
pub fn asked(tally: &Tally) -> Vec<(String, String)> {
    vec![
        ("users who claimed".into(), grouped(tally.people.into())),
        ("requests".into(), grouped(tally.requests)),
        (
            "took".into(),
            format!(
                "{:.1} s, {} requests per second{UNOPTIMIZED}",
                tally.seconds,
                number(tally.per_second)
            ),
        ),
        (
            "latency p50 · p99 · p99.9 · max".into(),
            in_words(&tally.latency),
        ),
    ]
}
