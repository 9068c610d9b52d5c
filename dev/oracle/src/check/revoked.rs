//! Revocations. A revocation is permanent unless the user may claim again: after its answer the
//! user holds nothing of the drop (of the coupon, if its scope is one per coupon) and gets no
//! promise, neither from a claim nor from a look-up. A look-up that shows a revocation counts as its
//! answer, unless the user may claim again. A revocation without an answer may have taken effect at
//! any time, or never. It excuses only broken promises. If the user may claim again, requests sent
//! before the answer are void, and requests sent after it count.

use super::index::{Index, once_per_coupon};
use crate::event::RecordedAnswer;
use crate::history::{Ended, History, Operation, OperationKind};
use crate::violation::{Rule, Violation};

/// An answer that says that a claim is revoked.
struct Answered<'a> {
    /// The request that got the answer.
    op: &'a Operation,
    /// The line of the answer.
    line: usize,
    drop: u64,
    is_permanent: bool,
}

impl<'a> Answered<'a> {
    fn new(index: &Index<'_>, op: &'a Operation) -> Option<Self> {
        let (drop, is_permanent) = match (&op.ended, op.act) {
            (Ended::Ok(RecordedAnswer::Revoked { drop }), OperationKind::Revoke { again }) => {
                (*drop, !again)
            }
            // Which revocation it shows is unknown, so none may allow another claim.
            _ if op.shows_revocation() && may_take_effect(index, op).all(is_permanent) => {
                (op.drop?, true)
            }
            _ => return None,
        };
        Some(Self {
            op,
            line: op.ended_line?,
            drop,
            is_permanent,
        })
    }

    /// Whether an answer to the same user contradicts the revocation.
    fn is_denied_by(&self, index: &Index<'_>, other: &Operation) -> bool {
        if other.line < self.line {
            return false;
        }
        if self.is_permanent {
            return true;
        }
        // Unless the user has claimed again, no look-up may show a slot.
        let is_void = |claim: &Operation| {
            let ended = claim.ended_line.filter(|_| claim.ended != Ended::Unknown);
            ended.is_some_and(|ended| ended < self.op.line) || Some(claim.line) > other.ended_line
        };
        let mut claims = index.asked(other.coupon, &other.person);
        other.act == OperationKind::LookUp && claims.all(is_void)
    }
}

pub(super) fn check(history: &History, index: &Index<'_>, found: &mut Vec<Violation>) {
    let operations = || history.operations.iter();
    found.extend(operations().filter_map(|op| never_revoked(index, op)));
    for revoked in operations().filter_map(|op| Answered::new(index, op)) {
        let Answered { op, line, drop, .. } = revoked;
        let in_scope = |other: u64| other == drop || is_same_coupon(history, drop, other);
        let held = index.holds.iter().filter(|((held, person), _)| {
            revoked.is_permanent && *person == op.person && in_scope(*held)
        });
        for (&(held, person), &slot) in held {
            found.push(Violation::new(Rule::RevokedHeld, held, slot, person).at(line));
        }
        let answers = index.answered(op.coupon, &op.person).iter();
        for other in answers.filter(|other| revoked.is_denied_by(index, other)) {
            let Some((promised, slot)) = other.promise().filter(|(drop, _)| in_scope(*drop)) else {
                continue;
            };
            let (rule, line) = if other.act == OperationKind::LookUp {
                (Rule::RevokedShown, other.ended_line.unwrap_or_default())
            } else {
                (Rule::RevokedPromised, line)
            };
            found.push(Violation::new(rule, promised, slot, &op.person).at(line));
        }
    }
}

/// Finds a look-up that shows a revocation although every request to revoke the claim began later
/// or was refused.
fn never_revoked(index: &Index<'_>, op: &Operation) -> Option<Violation> {
    let line = op.ended_line.filter(|_| op.shows_revocation())?;
    let is_requested = may_take_effect(index, op).any(|revoking| revoking.line < line);
    let never = Violation::new(
        Rule::NeverRevoked,
        op.drop.unwrap_or_default(),
        0,
        &op.person,
    );
    (!is_requested).then(|| never.at(line))
}

/// Returns the revocations of the user of this operation that were not refused.
fn may_take_effect<'a>(
    index: &'a Index<'_>,
    op: &'a Operation,
) -> impl Iterator<Item = &'a Operation> {
    let revoking = index.revoking.get(&(op.coupon, op.person.as_str()));
    let revoking = revoking.into_iter().flatten().copied();
    revoking.filter(|op| op.ended != Ended::Failed)
}

fn is_permanent(op: &Operation) -> bool {
    op.act == OperationKind::Revoke { again: false }
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

fn is_same_coupon(history: &History, one: u64, other: u64) -> bool {
    once_per_coupon(history, one)
        .is_some_and(|coupon| once_per_coupon(history, other) == Some(coupon))
}
