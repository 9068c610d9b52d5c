//! Tables and lines for people.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

use crate::answer::Kind;
use crate::live::grouped;
use crate::tally::{Progress, Tally};

/// Two columns: what, and how much.
pub fn of_rows(rows: impl IntoIterator<Item = (String, String)>) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    for (what, value) in rows {
        table.add_row([what, value]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// The line while the crowd asks.
pub fn progress(progress: &Progress, expected: u64) -> String {
    let count = |kind| grouped(progress.count(kind));
    format!(
        "{} of {} requests · accepted {} · already {} · sold out {} · waiting {} · unavailable {} · no answer {}",
        grouped(progress.total()),
        grouped(expected),
        count(Kind::Accepted),
        count(Kind::AlreadyClaimed),
        count(Kind::SoldOut),
        count(Kind::Waiting),
        count(Kind::Unavailable),
        count(Kind::NoAnswer),
    )
}

/// What a rush brought.
pub fn of_tally(tally: &Tally) -> String {
    let mut rows = asked(tally);
    rows.extend(tally.answers.iter().map(|(kind, count)| (format!("answered {}", kind.as_str()), grouped(*count))));
    rows.push(("people told yes".into(), grouped(tally.admitted as u64)));
    rows.push(("accepted before Kafka had it".into(), grouped(tally.not_queued)));
    rows.push(("requests given up".into(), grouped(tally.gave_up)));
    rows.push(("answers that contradict each other".into(), grouped(tally.contradictions.len() as u64)));
    let mut text = of_rows(rows);
    for line in tally.contradictions.iter().take(20) {
        text.push_str("\n  ");
        text.push_str(line);
    }
    text
}

/// The first rows of every table: the size of the rush.
pub(crate) fn asked(tally: &Tally) -> Vec<(String, String)> {
    let latency = &tally.latency;
    vec![
        ("people who asked".into(), grouped(tally.people.into())),
        ("requests".into(), grouped(tally.requests)),
        ("took".into(), format!("{:.1} s, {:.0} requests a second", tally.seconds, tally.per_second)),
        (
            "latency p50 · p99 · p99.9 · max".into(),
            format!(
                "{:.1} · {:.1} · {:.1} · {:.1} ms",
                latency.p50_ms, latency.p99_ms, latency.p999_ms, latency.max_ms
            ),
        ),
    ]
}
