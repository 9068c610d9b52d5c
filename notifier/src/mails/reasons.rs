//! Lists of findings: those with the same reason share a line, so that even a thousand take only
//! one.

use std::collections::BTreeSet;

use firstcome_shared::domain::DropId;

use crate::alerts::number;
use crate::report::{ActionKind, Finding};
use crate::wording::{self, LONGEST, grouped};

/// Maximum number of lines in a list. The run contains the others.
const LINES: usize = 8;

/// Maximum number of slots, users or dead letters named in one line.
const NAMED: usize = 5;

/// A finding and the drop whose report contains it.
pub(super) type Placed<'a> = (Option<DropId>, &'a Finding);

/// The state of the findings in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    /// They were repaired.
    Repaired,
    /// A pass repairs them, or tries to.
    Open,
    /// A campaign is only observed.
    Observed,
}

/// One line for each label and reason, the largest group first. Reasons that differ only in numbers
/// share a line, which quotes the first.
pub(super) fn reasons(findings: &[Placed<'_>], listed: Listed) -> Vec<String> {
    let mut groups: Vec<(String, String, Vec<Placed<'_>>)> = Vec::new();
    for placed in findings {
        let text = text(placed.1, listed);
        let key = text.replace(|c: char| c.is_ascii_digit(), "");
        match groups.iter_mut().find(|(known, ..)| *known == key) {
            Some((.., group)) => group.push(*placed),
            None => groups.push((key, text, vec![*placed])),
        }
    }
    groups.sort_by_key(|(.., group)| std::cmp::Reverse(group.len()));
    let rest = groups.iter().skip(LINES).flat_map(|(.., group)| group);
    let rest = number(rest.map(|(_, finding)| *finding));
    let shown = groups.iter().take(LINES);
    let mut lines: Vec<String> = shown.map(|(_, text, group)| line(text, group)).collect();
    if rest > 0 {
        lines.push(format!("and {} more: the run has them", grouped(rest)));
    }
    lines
}

fn text(finding: &Finding, listed: Listed) -> String {
    let words = wording::words(finding.action);
    let detail = wording::line(&finding.detail, LONGEST);
    let label = match (listed, finding.action) {
        (Listed::Repaired, _) => words.done.to_owned(),
        (Listed::Open | Listed::Observed, ActionKind::Report) => return detail,
        (Listed::Open, _) => format!("{}, {}", finding.kind.as_str(), words.to_do),
        (Listed::Observed, _) => finding.kind.as_str().to_owned(),
    };
    let separator = if detail.is_empty() { "" } else { ": " };
    format!("{label}{separator}{detail}")
}

/// Writes the number of findings, their reason, and where they are: the number of drops, or the
/// first slots of a single drop, and the users if they are few.
fn line(text: &str, group: &[Placed<'_>]) -> String {
    let drops: BTreeSet<Option<DropId>> = group.iter().map(|(drop, _)| *drop).collect();
    let mut whom = Vec::new();
    if drops.len() > 1 {
        whom.push(format!("{} drops", drops.len()));
    }
    let found = || group.iter().map(|(_, finding)| *finding);
    if drops.len() == 1 {
        let slots = list(found().filter_map(|it| it.slot).map(|it| it.to_string()));
        whom.extend(slots.map(|slots| format!("slot {slots}")));
    }
    if group.len() <= NAMED {
        let users = found().filter_map(|it| it.user_id.as_deref());
        whom.extend(list(users.map(wording::person)));
    }
    let many = match group.len() {
        1 => String::new(),
        many => format!("{} × ", grouped(many as u64)),
    };
    // The text names only the first dead letter. If there are several, list them.
    let letters = list(
        found()
            .filter_map(|it| it.dead_letter)
            .map(|it| it.to_string()),
    );
    let text = match (group[0].1.dead_letter, letters) {
        (Some(first), Some(letters)) if group.len() > 1 => {
            let one = format!("failed claim {first}");
            text.replacen(&one, &format!("failed claims {letters}"), 1)
        }
        _ => text.to_owned(),
    };
    if whom.is_empty() {
        return format!("{many}{text}");
    }
    format!("{many}{text} ({})", whom.join(" · "))
}

/// Lists the first few, and says if there are more.
fn list(all: impl Iterator<Item = String>) -> Option<String> {
    let all: Vec<String> = all.take(NAMED + 1).collect();
    let more = if all.len() > NAMED { ", …" } else { "" };
    let named = all
        .iter()
        .take(NAMED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    (!named.is_empty()).then(|| format!("{named}{more}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Kind, Outcome};

    fn finding(user: &str, slot: i64, detail: &str) -> Finding {
        Finding {
            slot: Some(slot),
            user_id: Some(user.to_owned()),
            ..Finding::new(Kind::Unissued, ActionKind::Issue, Outcome::Applied, detail)
        }
    }

    fn listed(findings: &[Finding]) -> Vec<String> {
        let placed: Vec<Placed<'_>> = findings.iter().map(|finding| (None, finding)).collect();
        reasons(&placed, Listed::Repaired)
    }

    #[test]
    fn findings_that_differ_only_in_numbers_share_a_line() {
        let mut findings = vec![finding("customer-9", 9, "no message")];
        findings.extend([3, 1].map(|n| finding("someone-4711", n, &format!("{n} s, no row"))));
        assert_eq!(
            listed(&findings),
            [
                "2 × missing row written: 3 s, no row (slot 3, 1 · s•••11, s•••11)",
                "missing row written: no message (slot 9 · c•••-9)",
            ]
        );
    }

    #[test]
    fn long_lists_of_reasons_and_of_slots_are_truncated() {
        let words = "ab bc cd de ef fg gh hi ij jk kl".split(' ');
        let many: Vec<Finding> = words.map(|word| finding("customer-1", 1, word)).collect();
        let lines = listed(&many);
        assert_eq!(lines.len(), LINES + 1);
        assert!(lines[LINES].starts_with("and 3 more"));
        let same: Vec<Finding> = (0..100).map(|n| finding("customer-1", n, "x")).collect();
        assert_eq!(
            listed(&same),
            ["100 × missing row written: x (slot 0, 1, 2, 3, 4, …)"]
        );
    }
}
