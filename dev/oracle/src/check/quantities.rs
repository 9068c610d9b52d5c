//! Checks quantities. The other checks take a drop's quantity from MySQL, where a faulty system may
//! have written anything. No change concerns a drop that is closed, and a change may be in progress
//! while it closes, so at the end it may have any quantity that was asked for.

use crate::history::{History, QuantityChange, RecordedDrop};
use crate::violation::{Rule, Violation};

pub(super) fn check(history: &History, found: &mut Vec<Violation>) {
    for (drop, facts) in &history.drops {
        let changes = history.changes.values();
        let changes: Vec<&QuantityChange> = changes
            .filter(|change| change.coupon == facts.coupon && may_be_made(change))
            .collect();
        found.extend(unasked(*drop, facts, &changes));
        let last = history.finals.get(drop);
        let Some(last) = last.filter(|_| facts.closed.is_none()) else {
            continue;
        };
        let quantity = facts.quantity_at(last.line);
        let expected = may_be_last(facts, &changes);
        if !expected.contains(&quantity) {
            let why = format!("{quantity} instead of {expected:?}");
            found.push(Violation::new(Rule::ForgottenQuantity, *drop, 0, "").because(why));
        }
    }
}

fn may_be_made(change: &QuantityChange) -> bool {
    change.ended.is_none_or(|ended| ended.made)
}

/// Finds the first quantity that no operator asked for before it was read.
fn unasked(drop: u64, facts: &RecordedDrop, changes: &[&QuantityChange]) -> Option<Violation> {
    let (_, first) = facts.quantities.first()?;
    let is_asked = |&(line, quantity): &(usize, u64)| {
        let mut before = changes.iter().filter(|change| change.line < line);
        quantity == *first || before.any(|change| change.quantity == quantity)
    };
    let (line, quantity) = facts.quantities.iter().find(|read| !is_asked(read))?;
    let unasked = Violation::new(Rule::UnaskedQuantity, drop, 0, "").at(*line);
    Some(unasked.because(format!("the quantity is {quantity}")))
}

/// Returns the quantities that a drop may have at the end: of changes without an answer, and of
/// those that were made, unless another one that was made began after their answer.
fn may_be_last(facts: &RecordedDrop, changes: &[&QuantityChange]) -> Vec<u64> {
    let began_last = changes
        .iter()
        .filter(|change| change.ended.is_some())
        .map(|change| change.line)
        .max();
    let may_stand = |change: &&&QuantityChange| {
        let ended = change.ended.map(|ended| ended.line);
        ended.is_none_or(|line| began_last.is_none_or(|last| last < line))
    };
    let last = changes.iter().filter(may_stand);
    let mut last: Vec<u64> = last.map(|change| change.quantity).collect();
    if began_last.is_none() {
        let first = facts.quantities.first();
        last.extend(first.map(|(_, quantity)| *quantity));
    }
    last
}
