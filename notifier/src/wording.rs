//! The wording of mails and lists: a noun for each kind, a label for each action.

use std::collections::{BTreeMap, HashSet};

use super::alerts::About;
use super::clean;
use crate::report::{ActionKind, Finding, Kind};

/// One line about a problem, with the ids of `everyone` masked.
pub(super) fn summary(about: About, findings: &[Finding], everyone: &HashSet<&str>) -> String {
    let n = findings.len();
    let seen = || findings.first().map(|finding| clean::detail(&finding.detail, everyone)).unwrap_or_default();
    match about {
        About::RunFailed => format!("a pass failed: {}", seen()),
        About::Braked => format!("{} held back until a person confirms", count(n, "repair is", "repairs are")),
        About::BrokenPromise => count(n, "broken promise", "broken promises"),
        // A single finding of no person says it best itself.
        About::Left(_) if n == 1 && findings[0].slot.is_none() && findings[0].user_id.is_none() => seen(),
        About::Left(kind) => things(kind, n).replacen(' ', " unrepaired ", 1),
        About::Stalled | About::ClosedBelowQuantity => seen(),
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

/// With a capital letter.
pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
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
        Kind::RevokedAdmission => count(n, "revoked claim in Redis", "revoked claims in Redis"),
        Kind::RevokedRow => count(n, "row of a revoked claim", "rows of revoked claims"),
        Kind::Unfilled => count(n, "slot to fill", "slots to fill"),
        Kind::RedisLost => count(n, "loss of data in Redis", "losses of data in Redis"),
        Kind::Stalled => count(n, "stall", "stalls"),
    }
}

/// What was done, in few words: "3 reissued, 1 put back".
pub(super) fn done<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> String {
    let mut counts: BTreeMap<(u8, ActionKind), usize> = BTreeMap::new();
    for finding in findings {
        *counts.entry((words(finding.action).rank, finding.action)).or_default() += 1;
    }
    let phrase = |((_, action), n): ((u8, ActionKind), usize)| match action {
        ActionKind::Rebuild => format!("{} rebuilt in Redis", count(n, "drop", "drops")),
        // One such finding is a single counter, or a single gate.
        ActionKind::SetCount | ActionKind::WriteMeta | ActionKind::GrantLicence => words(action).done.to_owned(),
        _ => format!("{} {}", grouped(n as u64), words(action).done),
    };
    let phrases: Vec<String> = counts.into_iter().map(phrase).collect();
    match phrases.len() {
        0..=3 => phrases.join(", "),
        more => format!("{}, {} more", phrases[..3].join(", "), more - 3),
    }
}

/// What an action is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct ActionWords {
    /// What concerns people comes first.
    rank: u8,
    /// Once it was done.
    pub(super) done: &'static str,
    /// Where it was held back or did not take.
    pub(super) to_do: &'static str,
}

pub(super) fn words(action: ActionKind) -> ActionWords {
    let (rank, done, to_do) = match action {
        ActionKind::Issue => (0, "reissued", "write the row"),
        ActionKind::Readmit => (1, "admitted anew", "admit anew in a free slot"),
        ActionKind::Move => (2, "moved to another slot", "move to another slot"),
        ActionKind::Promote => (3, "promoted from the waiting list", "promote from the waiting list"),
        ActionKind::Withdraw => (4, "taken off a second slot", "take off the second slot"),
        ActionKind::Revoke => (4, "revoked", "finish the revocation"),
        ActionKind::PutBack => (5, "put back into Redis", "put back into Redis"),
        ActionKind::ResolveDuplicate => (6, "settled as duplicate", "settle as duplicate"),
        ActionKind::Rebuild => (7, "rebuilt in Redis", "rebuild in Redis"),
        ActionKind::SetCount => (8, "counter and free slots set right", "set counter and free slots right"),
        ActionKind::WriteMeta => (9, "settings in Redis set right", "set the settings in Redis right"),
        ActionKind::GrantLicence => (10, "admission reopened", "reopen admission"),
        ActionKind::Report => (11, "repaired", "repair"),
    };
    ActionWords { rank, done, to_do }
}
