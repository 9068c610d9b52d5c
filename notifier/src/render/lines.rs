//! Tables of numbers, and findings as lines.

use std::collections::{BTreeMap, HashSet};

use super::letter::{Block, Table, TableRow};
use crate::report::{ActionKind, Finding, Kind, Numbers};
use crate::{clean, wording};

/// Lines of one kind in one drop; the run has the others.
const LINES: usize = 20;

pub(super) fn numbers(before: &Numbers, after: &Numbers) -> Table {
    let count = |n: i64| u64::try_from(n).map_or_else(|_| n.to_string(), wording::grouped);
    let row = |what: &str, before: String, after: String| TableRow {
        strong: before != after,
        cells: vec![what.to_owned(), before, after],
    };
    let unsigned = |what, before, after| row(what, wording::grouped(before), wording::grouped(after));
    let mut rows = vec![
        row("Highest slot given out", count(before.count), count(after.count)),
        unsigned("People holding a slot", before.users, after.users),
        unsigned("Rows", before.rows, after.rows),
        unsigned("Failed claims", before.failed_claims, after.failed_claims),
        unsigned("In flight", before.in_flight, after.in_flight),
    ];
    if before.free + after.free > 0 {
        rows.push(unsigned("Slots given back", before.free, after.free));
    }
    if before.waiting + after.waiting > 0 {
        rows.push(unsigned("People waiting", before.waiting, after.waiting));
    }
    Table { head: vec![String::new(), "before".to_owned(), "after".to_owned()], rows }
}

/// What was done by itself, by kind.
pub(super) fn done<'a>(findings: impl Iterator<Item = &'a Finding>, people: &HashSet<&str>) -> Vec<Block> {
    let mut kinds: BTreeMap<Kind, Vec<&Finding>> = BTreeMap::new();
    for finding in findings {
        kinds.entry(finding.kind).or_default().push(finding);
    }
    let group = |(kind, findings): (Kind, Vec<&Finding>)| {
        let done = wording::done(findings.iter().copied());
        let heading = format!("Done: {done} ({}: {})", kind.as_str(), wording::meaning(kind));
        // What the heading says of all need not be said of each.
        let differ =
            findings.iter().any(|finding| wording::action_label(finding) != wording::action_label(findings[0]));
        let word = |finding: &Finding| differ.then(|| wording::action_label(finding).to_owned());
        [Block::Heading(heading), Block::List(lines(&findings, people, &word))]
    };
    kinds.into_iter().flat_map(group).collect()
}

/// What would be done, where something was tried or held back.
pub(super) fn open_line(finding: &Finding) -> Option<String> {
    (finding.action != ActionKind::Report).then(|| format!("{}: {}", finding.kind.as_str(), wording::to_do(finding)))
}

pub(super) fn lines(
    findings: &[&Finding],
    people: &HashSet<&str>,
    word: &dyn Fn(&Finding) -> Option<String>,
) -> Vec<String> {
    let mut lines: Vec<String> = findings.iter().take(LINES).map(|f| line(f, people, word(f))).collect();
    if findings.len() > LINES {
        lines.push(format!("and {} more: see the run", wording::grouped((findings.len() - LINES) as u64)));
    }
    lines
}

fn line(finding: &Finding, people: &HashSet<&str>, word: Option<String>) -> String {
    let slot = finding.slot.map(|slot| format!("slot {slot}"));
    let user = finding.user_id.as_deref().map(clean::person);
    let detail = Some(clean::detail(&finding.detail, people)).filter(|detail| !detail.is_empty());
    [slot, user, word, detail].into_iter().flatten().collect::<Vec<_>>().join(" · ")
}
