//! Phrases that several parts of mails share.

use chrono::TimeDelta;
use firstcome_shared::report::Kind;
use firstcome_shared::report::wording::{self, LONGEST, capital, line};

/// Formats a duration: below ten minutes with its seconds, below 2 h in minutes, below 2 days in
/// hours, else in days.
pub(super) fn duration(time: TimeDelta) -> String {
    let minutes = time.num_minutes();
    match minutes {
        ..1 => format!("{} s", time.num_seconds().max(0)),
        1..10 if time.num_seconds() % 60 > 0 => {
            format!("{minutes} min {} s", time.num_seconds() % 60)
        }
        1..120 => format!("{minutes} min"),
        120..2880 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    }
}

/// Where and what a problem is, in a list.
pub(super) fn placed(place: Option<&str>, summary: &str) -> String {
    let summary = line(summary, LONGEST);
    match place {
        Some(place) => format!("{place}: {summary}"),
        None => capital(&summary),
    }
}

/// Such as "4 slot conflicts".
pub(super) fn things(kind: &str, n: u64) -> String {
    match kind.parse::<Kind>() {
        Ok(kind) => {
            let [one, many] = kind.facts().noun;
            wording::count(n, one, many)
        }
        // A later version wrote it.
        Err(_) => format!("{n} × {kind}"),
    }
}

/// Keeps the first `most` lines, and says how many more there are.
pub(super) fn bounded(mut lines: Vec<String>, most: usize) -> Vec<String> {
    let total = lines.len() as u64;
    lines.truncate(most);
    with_rest(lines, total)
}

/// Adds a line that says how many of `total` are not in the others.
pub(super) fn with_rest(mut lines: Vec<String>, total: u64) -> Vec<String> {
    let more = total.saturating_sub(lines.len() as u64);
    lines.extend((more > 0).then(|| format!("and {} more", wording::grouped(more))));
    lines
}
