//! Lists of findings: those with the same reason take one line, so that a thousand of them do too.

use std::collections::BTreeSet;

use firstcome_shared::domain::DropId;

use crate::alerts::number;
use crate::report::{ActionKind, Finding};
use crate::wording::{self, LONGEST, grouped};

/// Maximum number of lines in a list. The run contains the others.
const LINES: usize = 8;

/// Maximum number of slots, users, coupons or drops named in one line.
const NAMED: usize = 5;

/// A finding and the drop whose report contains it.
pub(super) type Placed<'a> = (Option<DropId>, &'a Finding);

/// One line for each label and reason, the largest group first. Reasons that differ only in numbers
/// share a line, which quotes the first.
pub(super) fn reasons(findings: &[Placed<'_>], is_repaired: bool) -> Vec<String> {
    let mut groups: Vec<(String, Vec<Placed<'_>>)> = Vec::new();
    for placed in findings {
        let text = text(placed.1, is_repaired);
        let key = wording::without_numbers(&text);
        match groups
            .iter_mut()
            .find(|(first, _)| wording::without_numbers(first) == key)
        {
            Some((_, group)) => group.push(*placed),
            None => groups.push((text, vec![*placed])),
        }
    }
    groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.len()));
    let shown = groups
        .iter()
        .take(LINES)
        .map(|(text, group)| line(text, group));
    let rest = groups.iter().skip(LINES).flat_map(|(_, group)| group);
    let rest = number(rest.map(|(_, finding)| *finding));
    let more = format!("and {} more: the run has them", grouped(rest));
    shown.chain((rest > 0).then_some(more)).collect()
}

fn text(finding: &Finding, is_repaired: bool) -> String {
    let words = wording::words(finding.action);
    let label = match finding.action {
        _ if is_repaired => words.done.to_owned(),
        ActionKind::Report => String::new(),
        _ => format!("{}, {}", finding.kind.as_str(), words.to_do),
    };
    let detail = wording::line(&finding.detail, LONGEST);
    let parts = [label, detail].into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(": ")
}

fn line(text: &str, group: &[Placed<'_>]) -> String {
    let many = match group.len() {
        1 => String::new(),
        many => format!("{} × ", grouped(many as u64)),
    };
    let drops: BTreeSet<Option<DropId>> = group.iter().map(|(drop, _)| *drop).collect();
    let found = || group.iter().map(|(_, finding)| *finding);
    let places = found().filter_map(|it| {
        // A drop's report names its own place.
        let coupon = it.coupon_id.filter(|_| drops.contains(&None))?;
        Some(format!("coupon {coupon}"))
    });
    let slots = found().filter_map(|it| it.slot.filter(|_| drops.len() == 1));
    let users = found().filter_map(|it| it.user_id.as_deref().map(wording::person));
    let across = (drops.len() > 1).then(|| format!("{} drops", drops.len()));
    let whom = [
        across,
        list("", places.collect()),
        list("slot ", slots.map(|slot| slot.to_string()).collect()),
        list("", users.collect::<Vec<_>>()).filter(|_| group.len() <= NAMED),
    ];
    let whom: Vec<String> = whom.into_iter().flatten().collect();
    if whom.is_empty() {
        format!("{many}{text}")
    } else {
        format!("{many}{text} ({})", whom.join(" · "))
    }
}

/// Names the first of these.
fn list(label: &str, all: Vec<String>) -> Option<String> {
    let more = if all.len() > NAMED { ", …" } else { "" };
    let named: Vec<String> = all.into_iter().take(NAMED).collect();
    (!named.is_empty()).then(|| format!("{label}{}{more}", named.join(", ")))
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
        reasons(&placed, true)
    }

    #[test]
    fn findings_that_differ_only_in_numbers_share_a_line() {
        let mut findings = vec![finding("customer-9", 9, "no message")];
        findings.extend([3, 1].map(|n| finding("someone-4711", n, &format!("{n} s, no row"))));
        assert_eq!(
            listed(&findings),
            [
                "2 × issued late: 3 s, no row (slot 3, 1 · s•••11, s•••11)",
                "issued late: no message (slot 9 · c•••-9)",
            ]
        );
    }

    #[test]
    fn long_list_is_truncated() {
        let words = "ab bc cd de ef fg gh hi ij jk kl".split(' ');
        let many: Vec<Finding> = words.map(|word| finding("customer-1", 1, word)).collect();
        let lines = listed(&many);
        assert_eq!(lines.len(), LINES + 1);
        assert!(lines[LINES].starts_with("and 3 more"));
        let same: Vec<Finding> = (0..100).map(|n| finding("customer-1", n, "x")).collect();
        assert_eq!(
            listed(&same),
            ["100 × issued late: x (slot 0, 1, 2, 3, 4, …)"]
        );
    }
}
