//! Checks every read of the rows: each row was requested, slots and users are unique, there are not
//! more rows than slots, and no row disappears.

use std::collections::HashMap;

use super::allowed;
use super::index::{Index, once_per_coupon, refused};
use super::revoked::may_be_revoked;
use crate::histories::history::{History, RowsRead};
use crate::histories::violation::Violation;

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
        found.push(Violation::TooMany {
            drop,
            rows,
            line,
            quantity,
        });
    }
    let mut slots = HashMap::new();
    let mut people = HashMap::new();
    for row in &read.rows {
        let slot = row.slot;
        let person = row.person.clone();
        if u64::try_from(slot).map_or(true, |slot| slot < 1 || slot > quantity) {
            found.push(Violation::NoSuchSlot {
                drop,
                slot,
                line,
                quantity,
            });
        }
        if let Some(one) = slots.insert(slot, person.clone()) {
            found.push(Violation::SlotDoubled {
                drop,
                slot,
                line,
                one,
                other: person.clone(),
            });
        }
        if let Some(one) = people.insert(&row.person, slot) {
            let person = person.clone();
            found.push(Violation::PersonDoubled {
                person,
                one_drop: drop,
                one,
                other_drop: drop,
                other: slot,
            });
        }
        let mut before = index
            .asked(facts.coupon, &row.person)
            .iter()
            .filter(|op| op.line < line)
            .peekable();
        if before.peek().is_none() {
            found.push(Violation::NeverAsked {
                drop,
                slot,
                person,
                line,
            });
        } else if before.all(|op| refused(op)) {
            found.push(Violation::NeverAdmitted {
                drop,
                slot,
                person,
                line,
            });
        } else if !allowed::may_be_admitted(history, index, (facts.coupon, &row.person), line) {
            found.push(Violation::HeldUnlisted {
                drop,
                slot,
                person,
                line,
            });
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
                let person = row.person.clone();
                found.push(Violation::PersonDoubled {
                    person,
                    one_drop,
                    one,
                    other_drop: read.drop,
                    other: row.slot,
                });
            }
        }
    }
}

/// Checks that every row that was ever read still exists at the end.
pub(super) fn stay(history: &History, index: &Index<'_>, found: &mut Vec<Violation>) {
    for RowsRead { line, drop, rows } in &history.reads {
        let gone = rows.iter().filter(|row| {
            let here = (*drop, row.slot, row.person.as_str());
            let may_go = may_be_revoked(history, index, *drop, &row.person, 0);
            history.finals.contains_key(drop) && !index.last.contains(&here) && !may_go
        });
        found.extend(gone.map(|row| Violation::Vanished {
            drop: *drop,
            slot: row.slot,
            person: row.person.clone(),
            line: *line,
        }));
    }
    let none_revoked = index.revoking.is_empty();
    for &(line, drop, rows) in history.counts.iter().filter(|_| none_revoked) {
        let last = history.finals.get(&drop).map(|last| last.rows.len() as u64);
        if last.is_some_and(|last| last < rows) {
            found.push(Violation::RowsVanished { drop, rows, line });
        }
    }
}
