//! The wording of mails and lists: a noun for each kind, a label for each action.

use std::collections::{BTreeMap, HashSet};

use super::alerts::About;
use super::clean;
use crate::report::{ActionKind, Finding, Kind};

/// One line on something that is left, with the ids of `everyone` masked.
pub(super) fn summary(about: About, findings: &[Finding], everyone: &HashSet<&str>) -> String {
    let n = findings.len();
    let seen = || findings.first().map(|finding| clean::detail(&finding.detail, everyone)).unwrap_or_default();
    match about {
        About::RunFailed => format!("the pass failed: {}", seen()),
        About::Stalled => format!("stalled: {}", seen()),
        About::Braked => format!("{} held back until a person confirms", count(n, "repair is", "repairs are")),
        About::BrokenPromise => count(n, "broken promise", "broken promises"),
        // What concerns no person in particular is said best by what was seen.
        About::Left(_) if n == 1 && findings[0].slot.is_none() && findings[0].user_id.is_none() => seen(),
        About::Left(kind) => format!("{} left", things(kind, n)),
        About::ClosedBelowQuantity => seen(),
    }
}

/// A number with its noun.
pub(super) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", grouped(n as u64), if n == 1 { one } else { many })
}

pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// So many findings of a kind, as a noun.
pub(super) fn things(kind: Kind, n: usize) -> String {
    match kind {
        Kind::Unissued => count(n, "promise without a row", "promises without a row"),
        Kind::FailedClaim => count(n, "failed claim", "failed claims"),
        Kind::MissingAdmission => count(n, "row without an admission", "rows without an admission"),
        Kind::CountMismatch => count(n, "counter that does not add up", "counters that do not add up"),
        Kind::SlotConflict => count(n, "slot conflict", "slot conflicts"),
        Kind::OverAdmitted => count(n, "admission too many", "admissions too many"),
        Kind::Unfilled => count(n, "drop with slots to fill", "drops with slots to fill"),
        Kind::RedisLost => count(n, "loss of data in Redis", "losses of data in Redis"),
        Kind::Stalled => count(n, "stall", "stalls"),
    }
}

/// What a kind of finding means, for somebody who has never seen one.
pub(super) fn meaning(kind: Kind) -> &'static str {
    match kind {
        Kind::Unissued => "people were told yes and their row never came",
        Kind::FailedClaim => "claims were kept in the backup table instead of becoming rows",
        Kind::MissingAdmission => "people hold a row but Redis did not know them",
        Kind::CountMismatch => "what Redis counts did not add up",
        Kind::SlotConflict => "two people were on one slot",
        Kind::OverAdmitted => "more people were admitted than may be",
        Kind::Unfilled => "slots were left",
        Kind::RedisLost => "Redis lost data or its scripts",
        Kind::Stalled => "something does not move or can't be reached",
    }
}

/// What was done, in few words: "3 reissued, 1 put back".
pub(super) fn done<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> String {
    let mut counts: BTreeMap<(u8, &str), usize> = BTreeMap::new();
    for finding in findings {
        *counts.entry(ranked_label(finding)).or_default() += 1;
    }
    let phrases: Vec<String> = counts
        .into_iter()
        .map(
            |((_, label), n)| {
                if is_counted(label) { format!("{} {label}", grouped(n as u64)) } else { label.to_owned() }
            },
        )
        .collect();
    match phrases.len() {
        0..=3 => phrases.join(", "),
        more => format!("{}, {} more", phrases[..3].join(", "), more - 3),
    }
}

/// The label of what was done, with its rank: what concerns people comes first.
fn ranked_label(finding: &Finding) -> (u8, &'static str) {
    match finding.action {
        ActionKind::Issue => (0, "reissued"),
        ActionKind::Readmit => (1, "admitted anew"),
        ActionKind::Move => (2, "moved to another slot"),
        ActionKind::Promote if finding.user_id.is_none() => (3, "people promoted from the waiting list"),
        ActionKind::Promote => (3, "promoted from the waiting list"),
        ActionKind::Withdraw => (4, "second slots taken back"),
        ActionKind::PutBack => (5, "put back into Redis"),
        ActionKind::ResolveDuplicate => (6, "settled as duplicate"),
        ActionKind::Rebuild => (7, "rebuilt in Redis"),
        ActionKind::SetCount => (8, "counter set right"),
        ActionKind::WriteMeta => (8, "settings in Redis set right"),
        ActionKind::GrantLicence => (9, "admission reopened"),
        ActionKind::Report => (10, "repaired"),
    }
}

/// One such finding may stand for many people, or for a single counter: a number before it would puzzle.
fn is_counted(label: &str) -> bool {
    !matches!(
        label,
        "counter set right"
            | "settings in Redis set right"
            | "admission reopened"
            | "rebuilt in Redis"
            | "people promoted from the waiting list"
    )
}

/// The same label for one finding.
pub(super) fn action_label(finding: &Finding) -> &'static str {
    ranked_label(finding).1
}

/// What would be done about a finding that was held back or did not take.
pub(super) fn to_do(finding: &Finding) -> &'static str {
    match finding.action {
        ActionKind::Issue => "write the row",
        ActionKind::Readmit => "admit anew in a free slot",
        ActionKind::Move => "move to another slot",
        ActionKind::Promote => "promote from the waiting list",
        ActionKind::Withdraw => "take the second slot back",
        ActionKind::GrantLicence => "reopen admission",
        ActionKind::PutBack => "put back into Redis",
        ActionKind::ResolveDuplicate => "settle as duplicate",
        ActionKind::Rebuild => "rebuild in Redis",
        ActionKind::SetCount => "set the counter right",
        ActionKind::WriteMeta => "set the settings in Redis right",
        ActionKind::Report => "repair",
    }
}
