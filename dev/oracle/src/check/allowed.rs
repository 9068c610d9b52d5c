//! Allow lists. A user was certainly on the list, or off it, if this follows from every change that
//! may have been the last to take effect. A change without an answer may have taken effect at any
//! time after its request, or never. If a user's membership was certain during a whole request, the
//! answer must match it. Removing a user revokes nothing, so it excuses neither a broken promise
//! nor a missing row.

use std::ops::RangeInclusive;

use super::index::{Index, drop_of, once_per_coupon, refused};
use super::revoked::may_be_revoked;
use crate::event::RecordedAnswer;
use crate::history::{Ended, History, Operation, OperationKind};
use crate::violation::{Rule, Violation};

pub(super) fn check(history: &History, index: &Index<'_>, found: &mut Vec<Violation>) {
    for op in history
        .operations
        .iter()
        .filter(|op| op.act == OperationKind::Claim)
    {
        let Some(line) = op.ended_line else {
            continue;
        };
        let coupon = op.coupon;
        let person = &op.person;
        let of_coupon = |rule| {
            let drop = drop_of(op).unwrap_or_default();
            let why = format!("coupon {coupon}");
            Violation::new(rule, drop, 0, person).at(line).because(why)
        };
        let waits = matches!(op.ended, Ended::Ok(RecordedAnswer::Waiting { .. }));
        if waits || refused(op) {
            found.extend(denied(history, index, op, line));
        }
        let Ended::Ok(answer) = &op.ended else {
            continue;
        };
        let given = match answer {
            RecordedAnswer::NotAllowed => {
                if !may_be(history, index, (coupon, person), false, op.line..=line) {
                    found.push(of_coupon(Rule::TurnedAway));
                }
                continue;
            }
            // `Accepted` gives the slot in this request. Other answers may refer to an earlier
            // request.
            RecordedAnswer::Accepted { .. } => {
                may_be(history, index, (coupon, person), true, op.line..=line)
            }
            RecordedAnswer::AlreadyClaimed { .. } | RecordedAnswer::Waiting { .. } => {
                may_be_admitted(history, index, (coupon, person), line)
            }
            _ => continue,
        };
        if !given {
            found.push(of_coupon(Rule::GivenUnlisted));
        }
    }
}

/// Finds a valid promise that contradicts this later answer to the same user.
fn denied(history: &History, index: &Index<'_>, op: &Operation, line: usize) -> Option<Violation> {
    let asks = drop_of(op);
    let person = op.person.as_str();
    let before = index
        .answered(op.coupon, person)
        .iter()
        .filter(|one| one.ended_line.is_some_and(|end| end < op.line));
    let mut standing =
        before.filter_map(|one| one.promise().map(|(drop, slot)| (drop, slot, one.line)));
    let denied = standing.find(|&(drop, slot, since)| {
        (Some(drop) == asks || once_per_coupon(history, drop).is_some())
            && !index.is_broken(drop, slot, person)
            && !may_be_revoked(history, index, drop, person, since)
    });
    denied.map(|(drop, slot, _)| Violation::new(Rule::Denied, drop, slot, person).at(line))
}

/// Whether the allow list may have permitted some request of a user before a line.
pub(super) fn may_be_admitted(
    history: &History,
    index: &Index<'_>,
    who: (u64, &str),
    line: usize,
) -> bool {
    let asked = index
        .asked(who.0, who.1)
        .filter(|op| op.line < line && !refused(op));
    // A request without an answer may take effect late.
    let mut moments = asked.map(|op| match (&op.ended, op.ended_line) {
        (Ended::Ok(_), Some(end)) => op.line..=end.min(line),
        _ => op.line..=line,
    });
    moments.any(|during| may_be(history, index, who, true, during))
}

/// Whether a user may have been on a coupon's list (`on` is true) or off it (`on` is false) at some
/// moment between two lines.
fn may_be(
    history: &History,
    index: &Index<'_>,
    who: (u64, &str),
    on: bool,
    during: RangeInclusive<usize>,
) -> bool {
    let (from, to) = during.into_inner();
    let Some(first) = history.lists.get(&who.0) else {
        return on;
    };
    let changes = index.listing.get(&who).map_or(&[][..], Vec::as_slice);
    let done = |op: &Operation| op.ended_line.filter(|_| matches!(op.ended, Ended::Ok(_)));
    // Whether a change after line `since`, which ended before line `from`, certainly reversed it.
    let is_undone = |since: usize| {
        let mut others = changes
            .iter()
            .filter(|op| op.act != OperationKind::List { on } && op.line > since);
        others.any(|op| done(op).is_some_and(|end| end < from))
    };
    let so_at_first = first.contains(who.1) == on && !is_undone(0);
    let mut same = changes.iter().filter(|op| {
        op.act == OperationKind::List { on } && op.line < to && op.ended != Ended::Failed
    });
    so_at_first || same.any(|op| done(op).is_none_or(|end| !is_undone(end)))
}

/// Whether the user of this operation got `NotAllowed`, either from it or from an operation that
/// ended after it began.
pub(super) fn is_sent_away_after(index: &Index<'_>, op: &Operation) -> bool {
    let sent_away = |other: &&Operation| other.ended == Ended::Ok(RecordedAnswer::NotAllowed);
    let mut others = index.asked(op.coupon, &op.person).filter(sent_away);
    others.any(|other| other.ended_line.is_some_and(|end| end > op.line))
}
