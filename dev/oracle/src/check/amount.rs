//! Checks that the final number of rows reaches the quantity if enough users wanted a slot, or if a
//! user waits. Once a drop has closed, only users who wait get slots.

use std::collections::HashSet;

use super::allowed::is_sent_away_after;
use super::index::{Index, drop_of, once_per_coupon};
use super::revoked::may_be_revoked;
use crate::event::RecordedAnswer;
use crate::history::{Ended, History, OperationKind, RowsRead};
use crate::violation::{Rule, Violation};

pub(super) fn check(history: &History, index: &Index<'_>, found: &mut Vec<Violation>) {
    found.extend(
        history
            .finals
            .values()
            .filter_map(|last| too_few(history, index, last)),
    );
}

/// Finds slots that are left although enough users wanted one: users with an answer and users with
/// a row. Users who only saw timeouts may never have reached the system, so they count only if they
/// have a row.
///
/// Users who got `sold_out` also count. If a slot becomes free afterwards while nobody waits, they
/// get it only by claiming again, so a recorded run must let users claim again once the faults are
/// over. Users whose last answer was `not_allowed` do not count.
fn too_few(history: &History, index: &Index<'_>, last: &RowsRead) -> Option<Violation> {
    let drop = last.drop;
    let facts = history.drops.get(&drop)?;
    let quantity = facts.quantity_at(last.line);
    let rows = last.rows.len() as u64;
    if rows >= quantity {
        return None;
    }
    let mut wanted: HashSet<&str> = last.rows.iter().map(|row| row.person.as_str()).collect();
    let mut waits = false;
    for op in history
        .operations
        .iter()
        .filter(|op| op.act == OperationKind::Claim && drop_of(op) == Some(drop))
    {
        let Ended::Ok(answer) = &op.ended else {
            continue;
        };
        let gone =
            may_be_revoked(history, index, drop, &op.person, 0) || is_sent_away_after(index, op);
        if gone || holds_elsewhere(history, index, drop, &op.person) {
            continue;
        }
        let without =
            wanted.insert(&op.person) || !index.holds.contains_key(&(drop, op.person.as_str()));
        waits |= without && matches!(answer, RecordedAnswer::Waiting { .. });
    }
    let asked = wanted.len() as u64;
    // Waiting users must get the remaining slots, however many users asked.
    let why = format!("{rows} rows of {quantity}, and {asked} users claimed");
    let few = Violation::new(Rule::TooFew, drop, 0, "").because(why);
    (asked >= quantity && facts.closed.is_none() || waits).then_some(few)
}

fn holds_elsewhere(history: &History, index: &Index<'_>, drop: u64, person: &str) -> bool {
    let Some(coupon) = once_per_coupon(history, drop) else {
        return false;
    };
    let mut others = history
        .drops
        .iter()
        .filter(|(other, facts)| **other != drop && facts.coupon == coupon);
    others.any(|(other, _)| index.holds.contains_key(&(*other, person)))
}
