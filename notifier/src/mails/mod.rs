//! Writes mails as subject, plain text and HTML: about a verdict, and the daily digest.
//!
//! Texts are composed and wrapped: search for three or four words.

mod digest;
mod document;
mod links;
mod mail;
mod read;
mod reasons;
mod section;

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::mysql::alerts::RepairsRow;

use crate::report::Kind;
use crate::wording;
use document::{Block, Document};

pub use digest::daily;
pub use document::Rendered;
pub use links::{AttachedCampaign, Links};
pub use mail::AlertMail;
pub(crate) use mail::NamedDrop;
pub(crate) use read::{Decided, ReadMail};
pub use section::Section;

/// Formats a duration: below ten minutes with its seconds, below 2 h in minutes, below 2 days in
/// hours, else in days.
pub(crate) fn duration(time: TimeDelta) -> String {
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

/// Describes repairs by kind, most first, as "4 slot conflicts, 1 promise without a row".
pub(crate) fn by_kind<'a>(repairs: impl IntoIterator<Item = &'a RepairsRow>) -> String {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for row in repairs {
        *counts.entry(&row.kind).or_default() += u64::from(row.number);
    }
    let mut counts: Vec<(&str, u64)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let counts = counts.into_iter().map(|(kind, n)| things(kind, n));
    counts.collect::<Vec<_>>().join(", ")
}

/// Such as "4 slot conflicts".
pub(crate) fn things(kind: &str, n: u64) -> String {
    match kind.parse::<Kind>() {
        Ok(kind) => {
            let [one, many] = kind.facts().noun;
            wording::count(n, one, many)
        }
        // A later version wrote it.
        Err(_) => wording::count(
            n,
            &format!("repair of {kind}"),
            &format!("repairs of {kind}"),
        ),
    }
}

/// Keeps the first `most` lines, and says how many more there are.
fn bounded(mut lines: Vec<String>, most: usize) -> Vec<String> {
    let total = lines.len() as u64;
    lines.truncate(most);
    with_rest(lines, total)
}

/// Adds a line that says how many of `total` are not in the others.
fn with_rest(mut lines: Vec<String>, total: u64) -> Vec<String> {
    let more = total.saturating_sub(lines.len() as u64);
    lines.extend((more > 0).then(|| format!("and {} more", wording::grouped(more))));
    lines
}

/// Writes the mail of `test-email`.
pub(crate) fn test(now: DateTime<Utc>) -> anyhow::Result<Rendered> {
    let sent = format!("Sent {}. This is how commands look:", document::time(now));
    Document {
        kind: ["test"; 2],
        is_bad: false,
        subject: "mail arrives".to_owned(),
        at: now,
        title: "Mail from the Firstcome reconciler arrives here.".to_owned(),
        lead: "Nothing needs to be done.".to_owned(),
        blocks: vec![
            Block::Paragraph(sent),
            Block::command("A pass by hand", "firstcome-reconciler once"),
        ],
        footer: Vec::new(),
    }
    .render()
}
