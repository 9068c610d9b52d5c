//! Judges a history. Everything that can be decided is decided; one violation does not hide
//! another.

mod allowed;
mod amount;
mod promises;
mod revoked;
mod rows;

use std::collections::{HashMap, HashSet};

use crate::event::{Answer, OncePer};
use crate::history::{Act, Ended, History, Operation, Read};
use crate::verdict::{Figures, Judgement, Verdict};
use crate::violation::Violation;

/// Judges a history.
///
/// Violations come first, then doubt: without a single promise, or without the last rows of a drop,
/// nothing has been shown.
pub fn check(history: &History) -> Judgement {
    let index = Index::new(history);
    let mut found = Vec::new();
    let mut figures = Figures {
        operations: history.operations.len(),
        answered: history.operations.iter().filter(|op| matches!(op.ended, Ended::Ok(_))).count(),
        unknown: history.operations.iter().filter(|op| op.ended == Ended::Unknown).count(),
        reads: history.reads.len() + history.counts.len() + history.finals.len(),
        rows: history.finals.values().map(|last| last.rows.len()).sum(),
        ..Figures::default()
    };
    promises::check(history, &index, &mut figures, &mut found);
    for read in history.reads.iter().chain(history.finals.values()) {
        rows::check(history, &index, read, &mut found);
    }
    rows::across_drops(history, &mut found);
    rows::stay(history, &index, &mut found);
    amount::check(history, &index, &mut found);
    revoked::check(history, &index, &mut found);
    allowed::check(history, &index, &mut found);
    found.sort();
    found.dedup();
    Judgement { verdict: verdict(history, &figures, found), figures }
}

fn verdict(history: &History, figures: &Figures, found: Vec<Violation>) -> Verdict {
    if !found.is_empty() {
        return Verdict::Violated(found);
    }
    if let Some(drop) = history.drops.keys().find(|drop| !history.finals.contains_key(drop)) {
        return Verdict::Unknown(format!("the rows of drop {drop} at the end were not recorded"));
    }
    if figures.promises == 0 {
        return Verdict::Unknown("nothing was promised to anybody, so nothing was shown".into());
    }
    Verdict::Pass
}

/// What all checks look up.
struct Index<'a> {
    /// Coupon and person → their operations.
    asked: HashMap<(u64, &'a str), Vec<&'a Operation>>,
    /// The same of what revokes.
    revoking: HashMap<(u64, &'a str), Vec<&'a Operation>>,
    /// The same of what changes the allow list.
    listing: HashMap<(u64, &'a str), Vec<&'a Operation>>,
    /// Drop, slot and person of every row at the end.
    last: HashSet<(u64, i64, &'a str)>,
    /// Drop and person → slot at the end.
    holds: HashMap<(u64, &'a str), i64>,
    /// Drop and person → slots listed as broken; `None` is any slot.
    broken: HashMap<(u64, &'a str), Vec<Option<i64>>>,
}

impl<'a> Index<'a> {
    fn new(history: &'a History) -> Self {
        let mut index = Self {
            asked: HashMap::new(),
            revoking: HashMap::new(),
            listing: HashMap::new(),
            last: HashSet::new(),
            holds: HashMap::new(),
            broken: HashMap::new(),
        };
        for op in &history.operations {
            let of = match op.act {
                Act::Claim => &mut index.asked,
                Act::Revoke { .. } => &mut index.revoking,
                Act::List { .. } => &mut index.listing,
            };
            of.entry((op.coupon, &op.person)).or_default().push(op);
        }
        for Read { drop, rows, .. } in history.finals.values() {
            for row in rows {
                index.last.insert((*drop, row.slot, &row.person));
                index.holds.insert((*drop, &row.person), row.slot);
            }
        }
        for (drop, person, slot) in &history.broken {
            index.broken.entry((*drop, person)).or_default().push(*slot);
        }
        index
    }

    /// A person's claims of a coupon.
    fn asked(&'a self, coupon: u64, person: &'a str) -> &'a [&'a Operation] {
        self.asked.get(&(coupon, person)).map_or(&[], Vec::as_slice)
    }

    fn is_broken(&self, drop: u64, slot: i64, person: &str) -> bool {
        let listed = self.broken.get(&(drop, person));
        listed.is_some_and(|slots| slots.iter().any(|listed| listed.is_none_or(|listed| listed == slot)))
    }
}

/// Drop and slot of a promise.
fn promise(op: &Operation) -> Option<(u64, i64)> {
    match &op.ended {
        Ended::Ok(Answer::Accepted { drop, slot } | Answer::AlreadyClaimed { drop, slot }) => Some((*drop, *slot)),
        _ => None,
    }
}

/// Nothing was given, and no place on the waiting list.
fn refused(op: &Operation) -> bool {
    matches!(op.ended, Ended::Failed | Ended::Ok(Answer::SoldOut | Answer::NotAllowed))
}

/// The drop an operation was about: what the answer says, else what was asked for, else the only
/// one of its coupon.
fn drop_of(history: &History, op: &Operation) -> Option<u64> {
    let only = || {
        let mut of_coupon = history.drops.iter().filter(|(_, facts)| facts.coupon == op.coupon);
        of_coupon.next().filter(|_| of_coupon.next().is_none()).map(|(drop, _)| *drop)
    };
    promise(op).map(|(drop, _)| drop).or(op.drop).or_else(only)
}

fn once_per_coupon(history: &History, drop: u64) -> Option<u64> {
    history.drops.get(&drop).filter(|facts| facts.once_per == OncePer::Coupon).map(|facts| facts.coupon)
}
