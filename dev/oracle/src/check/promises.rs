//! Checks that every promise has a final row on its slot or is listed as broken, and that no two
//! promises contradict each other. A slot that a look-up shows is a promise, too, and a look-up
//! shows the last promise in its drop (in the coupon, if its scope is one per coupon) that was
//! answered before it began.

use std::collections::{BTreeMap, HashMap};

use super::index::{Index, once_per_coupon};
use super::revoked::may_be_revoked;
use crate::event::RecordedAnswer;
use crate::history::{Ended, History, Operation};
use crate::verdict::Figures;
use crate::violation::{Rule, Violation};

pub(super) fn check(
    history: &History,
    index: &Index<'_>,
    figures: &mut Figures,
    found: &mut Vec<Violation>,
) {
    // Each promise, with the line of the last request that got it.
    let all: BTreeMap<(u64, i64, &str), usize> = history
        .operations
        .iter()
        .filter_map(|op| {
            op.promise()
                .map(|(drop, slot)| ((drop, slot, op.person.as_str()), op.line))
        })
        .collect();
    figures.promises = all.len();
    // A slot listed as broken may have been given out again, to the same user or to another.
    let stands = |((drop, slot, person), asked): (&(u64, i64, &str), &usize)| {
        !index.is_broken(*drop, *slot, person)
            && !may_be_revoked(history, index, *drop, person, *asked)
    };
    let standing: Vec<_> = all
        .iter()
        .filter(|one| stands(*one))
        .map(|(promise, _)| *promise)
        .collect();
    figures.kept = all
        .keys()
        .filter(|promise| index.last.contains(*promise))
        .count();
    figures.broken = all
        .keys()
        .filter(|p| index.is_broken(p.0, p.1, p.2))
        .count();
    found.extend(
        history
            .operations
            .iter()
            .filter_map(|op| hidden(history, index, op)),
    );
    for &(drop, slot, person) in &standing {
        if !history.finals.contains_key(&drop) || index.last.contains(&(drop, slot, person)) {
            continue;
        }
        found.push(match index.holds.get(&(drop, person)) {
            Some(row) => Violation::new(Rule::OtherSlot, drop, slot, person)
                .because(format!("has slot {row}")),
            None => Violation::new(Rule::Lost, drop, slot, person),
        });
    }
    contradictions(history, &standing, found);
    accepted_twice(history, index, found);
}

fn accepted_twice(history: &History, index: &Index<'_>, found: &mut Vec<Violation>) {
    let mut accepted = HashMap::new();
    for op in &history.operations {
        let Ended::Ok(RecordedAnswer::Accepted { drop, slot }) = op.ended else {
            continue;
        };
        let person = op.person.as_str();
        if let Some(asked) = accepted.insert((drop, person), op.line)
            && !index.broken.contains_key(&(drop, person))
            && !may_be_revoked(history, index, drop, person, asked)
        {
            let twice = Violation::new(Rule::AcceptedTwice, drop, slot, person);
            found.push(twice.at(op.ended_line.unwrap_or_default()));
        }
    }
}

/// Finds a valid promise that this look-up does not show.
fn hidden(history: &History, index: &Index<'_>, op: &Operation) -> Option<Violation> {
    let Ended::Ok(RecordedAnswer::Shown { slot: shown, .. }) = op.ended else {
        return None;
    };
    let before = index.answered(op.coupon, &op.person).iter().rev();
    let mut before = before.filter(|one| one.ended_line.is_some_and(|end| end < op.line));
    let concerns = |drop| Some(drop) == op.drop || once_per_coupon(history, drop).is_some();
    let (drop, slot, asked) = before.find_map(|one| {
        let (drop, slot) = one.promise().filter(|promise| concerns(promise.0))?;
        Some((drop, slot, one.line))
    })?;
    let is_right = shown == Some(slot) && Some(drop) == op.drop
        || index.broken.contains_key(&(drop, op.person.as_str()))
        || may_be_revoked(history, index, drop, &op.person, asked);
    let denied = Violation::new(Rule::Denied, drop, slot, &op.person).at(op.ended_line?);
    let what = shown.map_or_else(|| "no slot".to_owned(), |shown| format!("slot {shown}"));
    (!is_right).then(|| denied.because(format!("a look-up shows {what}")))
}

fn contradictions(history: &History, standing: &[(u64, i64, &str)], found: &mut Vec<Violation>) {
    let mut by_slot = BTreeMap::new();
    let mut by_person = BTreeMap::new();
    let mut by_coupon = BTreeMap::new();
    for &(drop, slot, person) in standing {
        if let Some(one) = by_slot.insert((drop, slot), person) {
            let twice = Violation::new(Rule::PromisedTwice, drop, slot, person);
            found.push(twice.because(format!("also to {one}")));
        }
        if let Some(one) = by_person.insert((drop, person), slot) {
            let both = Violation::new(Rule::Contradiction, drop, slot, person);
            found.push(both.because(format!("also slot {one}")));
        }
        let Some(coupon) = once_per_coupon(history, drop) else {
            continue;
        };
        if let Some(one) = by_coupon.insert((coupon, person), drop)
            && one != drop
        {
            let both = Violation::new(Rule::Contradiction, drop, slot, person);
            found.push(both.because(format!("also in drop {one}, but one per user is allowed")));
        }
    }
}
