//! Revocations. A revocation is permanent unless the user may claim again: after its answer the
//! user holds nothing of the drop (of the coupon, if its scope is one per coupon) and gets no
//! promise. A revocation without an answer may have taken effect at any time, or never. It excuses
//! only broken promises. If the user may claim again, requests sent before the answer are void, and
//! requests sent after it count.

use super::index::{Index, once_per_coupon, promise};
use crate::event::RecordedAnswer;
use crate::history::{Ended, History, Operation, OperationKind};
use crate::violation::{Rule, Violation};

pub(super) fn check(history: &History, index: &Index<'_>, found: &mut Vec<Violation>) {
    for op in history
        .operations
        .iter()
        .filter(|op| op.act == OperationKind::Revoke { again: false })
    {
        let (Ended::Ok(RecordedAnswer::Revoked { drop }), Some(line)) = (&op.ended, op.ended_line)
        else {
            continue;
        };
        let in_scope = |other: u64| other == *drop || is_same_coupon(history, *drop, other);
        for (&(held, person), &slot) in index.holds.iter().filter(|((held, _), _)| in_scope(*held))
        {
            if person == op.person {
                found.push(Violation::new(Rule::RevokedHeld, held, slot, person).at(line));
            }
        }
        let asked = index.asked(op.coupon, &op.person).iter();
        for (promised, slot) in asked
            .filter(|asked| asked.line > line)
            .filter_map(|asked| promise(asked))
        {
            if in_scope(promised) {
                let again = Violation::new(Rule::RevokedPromised, promised, slot, &op.person);
                found.push(again.at(line));
            }
        }
    }
}

/// Whether a user's claim in a drop may have been revoked. `asked` is the line of the last request
/// that got the claim, or 0 if unknown.
pub(super) fn may_be_revoked(
    history: &History,
    index: &Index<'_>,
    drop: u64,
    person: &str,
    asked: usize,
) -> bool {
    let Some(facts) = history.drops.get(&drop) else {
        return false;
    };
    let is_over = |op: &Operation| {
        op.act == OperationKind::Revoke { again: true }
            && matches!(op.ended, Ended::Ok(_))
            && op.ended_line.is_some_and(|ended| ended < asked)
    };
    let revoking = index
        .revoking
        .get(&(facts.coupon, person))
        .map_or(&[][..], Vec::as_slice);
    revoking
        .iter()
        .any(|op| concerns(history, op, drop) && !is_over(op))
}

fn concerns(history: &History, op: &Operation, drop: u64) -> bool {
    match &op.ended {
        Ended::Failed => false,
        Ended::Ok(RecordedAnswer::Revoked { drop: revoked }) => {
            *revoked == drop || is_same_coupon(history, *revoked, drop)
        }
        _ => once_per_coupon(history, drop).is_some() || op.drop.is_none_or(|asked| asked == drop),
    }
}

pub(super) fn is_same_coupon(history: &History, one: u64, other: u64) -> bool {
    once_per_coupon(history, one)
        .is_some_and(|coupon| once_per_coupon(history, other) == Some(coupon))
}
