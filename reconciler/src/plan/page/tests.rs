//! Tests that the shortcut for consistent pages agrees with the full comparison.

use proptest::prelude::*;

use super::super::RepairPolicy;
use super::*;
use crate::collect::snapshot::{DeadLetter, DropFacts, DropRevocations, Promises, sample};
use crate::topic::InFlight;

fn facts(quantity: Slot, count: i64) -> DropFacts {
    let (coupon, drop) = sample(1, quantity);
    DropFacts {
        coupon,
        drop,
        meta_matches: Some(true),
        allow_list_differs: false,
        count: Some(count),
        users: 1,
        free: 0,
        waiting: 0,
        first_waiting: Vec::new(),
        failed_claims: 0,
        read_at_ms: 1_000_000,
        latest_ms: 1_000_000,
        tail_known: true,
        revocations: DropRevocations::default(),
        promises: Promises::default(),
        gate_closed: false,
    }
}

fn user(n: i64) -> UserId {
    format!("u-{n}").parse().unwrap()
}

/// Returns a page with slots `from..from + people`, each with its user and row.
fn page(from: i64, people: i64, to: Option<i64>, count: i64) -> SlotRange {
    let slots = from.max(1)..from.max(1) + people;
    let row = |slot| RowFacts {
        slot: Slot::try_from(slot).unwrap(),
        user: user(slot),
        claimed_at: DateTime::UNIX_EPOCH,
    };
    let users = slots.clone().map(|slot| (slot, user(slot))).collect();
    SlotRange {
        from,
        to,
        count,
        users,
        rows: slots.map(row).collect(),
        ..SlotRange::default()
    }
}

/// Introduces one fault.
fn spoil(page: &mut SlotRange, how: u32, at: usize) {
    let message = |slot: i64| InFlight {
        slot: Slot::try_from(slot.max(1)).unwrap(),
        user: user(slot),
        claimed_at: DateTime::UNIX_EPOCH,
    };
    let slot = page.users.get(at).map_or(1, |(slot, _)| *slot);
    match how {
        0 if at < page.users.len() => drop(page.users.remove(at)),
        1 if at < page.rows.len() => drop(page.rows.remove(at)),
        2 if at < page.users.len() => page.users[at].1 = user(900),
        3 if at < page.users.len() => page.users[at].0 += 1,
        4 if at < page.rows.len() => page.rows[at].slot += 1,
        5 => page.free.push(slot),
        6 => page.in_flight.push(message(slot)),
        7 => page.dead_letters.push(DeadLetter {
            id: 1,
            coupon: None,
            drop: None,
            slot: Some(slot),
            user: Some(user(slot)),
            claimed_at: None,
            reason: String::new(),
            unreadable: None,
            is_of_message: true,
            trace: None,
        }),
        8 => page.claimants_wrong.push(user(slot)),
        9 => page.claimants_on_gaps.push((slot + 1, user(901))),
        10 => page.count += 1,
        _ => page.count -= 1,
    }
}

#[test]
fn consistent_page_is_recognized_by_its_first_and_last_slots() {
    for (from, people, to, count, quantity, expected) in [
        (1, 5, Some(5), 5, 5, true),
        (-9, 5, None, 5, 100, true),
        (6, 5, Some(10), 400, 500, true),
        (6, 4, Some(10), 400, 500, false), // the last slot is missing
        (6, 5, None, 12, 500, false),      // two more slots were given away
        (6, 5, None, 9, 500, false),       // the counter is behind
        (6, 5, None, 12, 10, true), // the counter exceeds the quantity, which the sum reveals later
        (1, 0, None, 0, 5, true),
        (1, 0, None, 1, 5, false),
    ] {
        let page = page(from, people, to, count);
        assert_eq!(
            page.is_in_order(quantity),
            expected,
            "{from} {people} {to:?} {count} {quantity}"
        );
    }
}

proptest! {
    #[test]
    fn shortcut_for_consistent_pages_agrees_with_full_comparison(
        from in prop::sample::select(vec![-9_i64, 1, 6]),
        people in 0_i64..6,
        ends in any::<bool>(),
        quantity in 1_u32..13,
        spoils in prop::collection::vec((0_u32..12, 0_usize..6), 0..2),
        count in prop::option::weighted(0.2, 0_i64..14),
    ) {
        let last = from.max(1) + people - 1;
        let mut page = page(from, people, ends.then_some(last.max(from)), count.unwrap_or(last));
        for (how, at) in spoils {
            spoil(&mut page, how, at);
        }
        let facts = facts(quantity, page.count);
        let mut short = Planner::new(RepairPolicy::default(), &facts);
        let mut long = Planner::new(RepairPolicy::default(), &facts);
        short.page(&page);
        long.count_in(&page);
        long.decide_on(&page);
        prop_assert_eq!(format!("{short:?}"), format!("{long:?}"));
        let questions = page.questions(i64::from(quantity));
        if page.is_in_order(i64::from(quantity)) {
            prop_assert_eq!(questions, crate::collect::snapshot::Questions::default());
            prop_assert!(long.items.is_empty() && long.gaps == 0);
        }
    }
}
