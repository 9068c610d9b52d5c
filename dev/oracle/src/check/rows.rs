//! Checks every read of the rows: the user of each row claimed and may have been admitted, slots
//! and users are unique, there are not more rows than slots, and no row disappears.

use std::collections::HashMap;

use super::allowed;
use super::index::{Index, drop_of, once_per_coupon, refused};
use super::revoked::may_be_revoked;
use crate::history::{History, RowsRead};
use crate::violation::{Rule, Violation};

pub(super) fn check(
    history: &History,
    index: &Index<'_>,
    read: &RowsRead,
    found: &mut Vec<Violation>,
) {
    let drop = read.drop;
    let line = read.line;
    let Some(facts) = history.drops.get(&drop) else {
        return;
    };
    let quantity = facts.quantity_at(line);
    let rows = read.rows.len() as u64;
    if rows > quantity {
        let why = format!("{rows} rows of {quantity}");
        found.push(
            Violation::new(Rule::TooMany, drop, 0, "")
                .at(line)
                .because(why),
        );
    }
    let mut slots = HashMap::new();
    let mut people = HashMap::new();
    for row in &read.rows {
        let slot = row.slot;
        let of = |rule| Violation::new(rule, drop, slot, &row.person).at(line);
        if u64::try_from(slot).map_or(true, |slot| slot < 1 || slot > quantity) {
            found.push(of(Rule::NoSuchSlot).because(format!("the quantity is {quantity}")));
        }
        if let Some(one) = slots.insert(slot, &row.person) {
            found.push(of(Rule::SlotDoubled).because(format!("also a row of {one}")));
        }
        if let Some(one) = people.insert(&row.person, slot) {
            found.push(of(Rule::UserDoubled).because(format!("also on slot {one}")));
        }
        let mut before = index
            .asked(facts.coupon, &row.person)
            .filter(|op| op.line < line && drop_of(op).is_none_or(|asked| asked == drop))
            .peekable();
        if before.peek().is_none() {
            found.push(of(Rule::NeverAsked));
        } else if before.all(refused) {
            found.push(of(Rule::NeverAdmitted));
        } else if !allowed::may_be_admitted(history, index, (facts.coupon, &row.person), line) {
            found.push(of(Rule::HeldUnlisted));
        }
    }
}

/// Checks that no user has two rows in a coupon whose scope is one per coupon.
pub(super) fn across_drops(history: &History, found: &mut Vec<Violation>) {
    let mut people = HashMap::new();
    for read in history.finals.values() {
        let Some(coupon) = once_per_coupon(history, read.drop) else {
            continue;
        };
        for row in &read.rows {
            let here = (read.drop, row.slot);
            let Some((one_drop, one)) = people.insert((coupon, &row.person), here) else {
                continue;
            };
            // Two rows in the same drop are already reported.
            if one_drop != read.drop {
                let why = format!("also on slot {one} of drop {one_drop}");
                let doubled = Violation::new(Rule::UserDoubled, read.drop, row.slot, &row.person);
                found.push(doubled.because(why));
            }
        }
    }
}

/// Checks that every row that was ever read still exists at the end, unless the user's claim may
/// have been revoked.
pub(super) fn stay(history: &History, index: &Index<'_>, found: &mut Vec<Violation>) {
    for RowsRead { line, drop, rows } in &history.reads {
        let gone = rows.iter().filter(|row| {
            let here = (*drop, row.slot, row.person.as_str());
            let may_go = may_be_revoked(history, index, *drop, &row.person, 0);
            history.finals.contains_key(drop) && !index.last.contains(&here) && !may_go
        });
        found.extend(
            gone.map(|row| Violation::new(Rule::Vanished, *drop, row.slot, &row.person).at(*line)),
        );
    }
}
