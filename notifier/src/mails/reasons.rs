//! Lists of findings: those with the same reason share a line, so that even a thousand take only
//! one.

use std::collections::BTreeSet;

use firstcome_shared::domain::DropId;
use firstcome_shared::report::wording::{self, LONGEST, grouped};
use firstcome_shared::report::{ActionKind, Finding};

/// Maximum number of lines in a list. The run contains the others.
const LINES: usize = 8;

/// Maximum number of slots, users or dead letters named in one line.
const NAMED: usize = 5;

/// A finding and the drop whose report contains it.
pub(super) type PlacedFinding<'a> = (Option<DropId>, &'a Finding);

/// The state of the findings in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FindingState {
    /// They were repaired.
    Repaired,
    /// A pass repairs them, or tries to.
    Open,
    /// A campaign is only observed.
    Observed,
}

/// One line for each label and reason, the largest group first.
pub(super) fn reasons(findings: &[PlacedFinding<'_>], state: FindingState) -> Vec<String> {
    let mut groups: Vec<(LineKey, Vec<PlacedFinding<'_>>)> = Vec::new();
    for placed in findings {
        let reason = LineKey::new(placed.1, state);
        match groups.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, group)) => group.push(*placed),
            None => groups.push((reason, vec![*placed])),
        }
    }
    groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.len()));
    let rest: u64 = groups
        .iter()
        .skip(LINES)
        .flat_map(|(_, group)| group)
        .map(|(_, finding)| finding.cause.number())
        .sum();
    let shown = groups.iter().take(LINES);
    let mut lines: Vec<String> = shown.map(|(reason, group)| reason.line(group)).collect();
    if rest > 0 {
        lines.push(format!("and {} more: the run has them", grouped(rest)));
    }
    lines
}

/// What findings of one line have in common.
#[derive(PartialEq, Eq)]
struct LineKey {
    /// What was done or is to do; empty if the detail alone says it.
    label: String,
    detail: String,
    is_dead_letter: bool,
}

impl LineKey {
    fn new(finding: &Finding, state: FindingState) -> Self {
        let words = wording::words(finding.action);
        let label = match (state, finding.action) {
            (FindingState::Repaired, _) => words.done.to_owned(),
            (FindingState::Open | FindingState::Observed, ActionKind::Report) => String::new(),
            (FindingState::Open, _) => format!("{}, {}", finding.kind.as_str(), words.to_do),
            (FindingState::Observed, _) => finding.kind.as_str().to_owned(),
        };
        Self {
            label,
            detail: wording::line(&finding.detail, LONGEST),
            is_dead_letter: finding.dead_letter.is_some(),
        }
    }

    /// Writes the number of findings, their reason, and where they are: the number of drops, or the
    /// first slots of a single drop, and the users if they are few.
    fn line(&self, group: &[PlacedFinding<'_>]) -> String {
        let found = || group.iter().map(|(_, finding)| *finding);
        let drops: BTreeSet<Option<DropId>> = group.iter().map(|(drop, _)| *drop).collect();
        let mut whom = Vec::new();
        if drops.len() > 1 {
            whom.push(format!("{} drops", drops.len()));
        } else {
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
        let ids = found().filter_map(|found| Some(found.dead_letter?.to_string()));
        let letters = list(ids).filter(|_| self.is_dead_letter).map(|ids| {
            let claims = if group.len() == 1 { "claim" } else { "claims" };
            format!("failed {claims} {ids}")
        });
        let mut parts = vec![self.label.clone()];
        parts.extend(letters);
        parts.push(self.detail.clone());
        parts.retain(|part| !part.is_empty());
        let text = format!("{many}{}", parts.join(": "));
        if whom.is_empty() {
            text
        } else {
            format!("{text} ({})", whom.join(" · "))
        }
    }
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
    use firstcome_shared::report::{Kind, Outcome};

    fn finding(user: &str, slot: i64, detail: &str) -> Finding {
        Finding {
            slot: Some(slot),
            user_id: Some(user.to_owned()),
            ..Finding::new(Kind::Unissued, ActionKind::Issue, Outcome::Applied, detail)
        }
    }

    fn listed(findings: &[Finding]) -> Vec<String> {
        let placed: Vec<PlacedFinding<'_>> =
            findings.iter().map(|finding| (None, finding)).collect();
        reasons(&placed, FindingState::Repaired)
    }

    #[test]
    fn findings_with_the_same_reason_share_a_line() {
        let mut findings = vec![finding("customer-9", 9, "no message")];
        findings.extend([3, 1].map(|slot| finding("someone-4711", slot, "no row")));
        assert_eq!(
            listed(&findings),
            [
                "2 × missing row written: no row (slot 3, 1 · s•••11, s•••11)",
                "missing row written: no message (slot 9 · c•••-9)",
            ]
        );
    }

    #[test]
    fn dead_letters_with_the_same_reason_are_listed_by_their_ids() {
        let letter = |id| Finding {
            dead_letter: Some(id),
            ..finding("customer-9", 9, "the drop has no such slot")
        };
        assert_eq!(
            listed(&[letter(7), letter(9)]),
            [
                "2 × missing row written: failed claims 7, 9: the drop has no such slot \
                (slot 9, 9 · c•••-9, c•••-9)"
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
