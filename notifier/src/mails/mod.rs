//! Writes mails as subject, plain text and HTML: about a pass or an outage, and the daily digest.
//! [`alerts`](crate::alerts) decides whether to mail.

mod alert;
mod digest;
mod findings;
mod letter;
mod links;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::mysql::alerts::RepairsRow;

use crate::report::Kind;
use crate::wording;
use letter::{Block, Letter};

pub use alert::AlertMail;
pub use digest::daily;
pub use letter::Rendered;
pub use links::Links;
pub(crate) use links::is_local;

/// Formats a duration in its largest unit.
pub(crate) fn duration(time: TimeDelta) -> String {
    let minutes = time.num_minutes();
    match minutes {
        ..1 => format!("{} s", time.num_seconds().max(0)),
        1..120 => format!("{minutes} min"),
        120..2880 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    }
}

/// Describes repairs by kind, most first, as "4 slot conflicts, 1 promise without a row".
pub(crate) fn by_kind<'a>(repairs: impl IntoIterator<Item = &'a RepairsRow>) -> String {
    let mut counts: Vec<(&str, u64)> = Vec::new();
    for row in repairs {
        match counts.iter_mut().find(|(kind, _)| *kind == row.kind) {
            Some((_, n)) => *n += u64::from(row.number),
            None => counts.push((&row.kind, row.number.into())),
        }
    }
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let name = |(kind, n): (&str, u64)| {
        let kind = kind.parse::<Kind>();
        let [one, many] = kind.map_or(["repair", "repairs"], |it| it.facts().noun);
        wording::count(n, one, many)
    };
    counts.into_iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Lists the first lines, and says how many more there are.
fn bounded(mut lines: Vec<String>, most: usize) -> Block {
    let more = lines.len().saturating_sub(most);
    lines.truncate(most);
    if more > 0 {
        lines.push(format!("and {} more", wording::grouped(more as u64)));
    }
    Block::List(lines)
}

/// Writes the mail of `test-email`.
pub(crate) fn test(now: DateTime<Utc>) -> anyhow::Result<Rendered> {
    let sent = format!("Sent {}. This is how commands look:", letter::time(now));
    let blocks = vec![
        Block::Paragraph(sent),
        links::once("A pass by hand", None, ""),
    ];
    Letter {
        kind: ["test"; 2],
        is_bad: false,
        subject: "mail arrives".to_owned(),
        at: now,
        title: "Mail from the Firstcome reconciler arrives here.".to_owned(),
        lead: "Nothing needs to be done.".to_owned(),
        blocks,
        footer: Vec::new(),
    }
    .render()
}
