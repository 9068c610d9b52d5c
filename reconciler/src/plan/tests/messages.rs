//! Tests messages whose time of claim contradicts their drop.

use firstcome_shared::mysql::issued::IssuedRow;

use super::*;
use crate::report::ActionKind;

/// Returns the actions for the user on slot 11, whose dead letter or unread message was claimed at
/// the given time.
fn for_late_comer(
    world: &DropWorld,
    claimed_at: DateTime<Utc>,
    is_of_message: bool,
) -> Vec<ActionKind> {
    let mut facts = world.facts();
    facts.drop.sealed_at = world.closed.then(|| at(NOW_MS));
    let mut page = world.page(1, None);
    for letter in &mut page.dead_letters {
        letter.claimed_at = Some(claimed_at);
        letter.is_of_message = is_of_message;
    }
    for message in &mut page.in_flight {
        message.claimed_at = claimed_at;
    }
    let mut planner = Planner::new(RepairPolicy::default(), &facts);
    planner.page(&page);
    planner.items.iter().map(Planned::action_kind).collect()
}

#[test]
fn message_that_contradicts_its_drop_does_not_restore_its_user() {
    use ActionKind::{Issue, PutBack, Report};
    let in_time = at(NOW_MS - 60_000);
    let too_late = at(NOW_MS) + TimeDelta::days(30);
    let with_letter = DropWorld {
        failed: vec![(1, Some(11), Some(user(99)))],
        ..DropWorld::exact(12, 10)
    };
    assert_eq!(for_late_comer(&with_letter, in_time, true), [Issue]);
    assert_eq!(for_late_comer(&with_letter, too_late, true), [Report]);
    assert_eq!(
        for_late_comer(&with_letter, too_late, false),
        [Issue],
        "an operator entered it"
    );
    let sealed = DropWorld {
        closed: true,
        ..with_letter.clone()
    };
    assert_eq!(for_late_comer(&sealed, in_time, true), [Report]);

    let mut admitted = with_letter;
    admitted.users.insert(user(99), 11);
    admitted.count = Some(11);
    assert_eq!(
        for_late_comer(&admitted, too_late, true),
        [Issue],
        "Redis has them"
    );
    admitted.closed = true;
    assert_eq!(
        for_late_comer(&admitted, in_time, true),
        [Issue],
        "Redis has them"
    );

    let with_message = DropWorld {
        in_flight: vec![(11, user(99))],
        gate_closed: true,
        ..DropWorld::exact(12, 10)
    };
    assert_eq!(for_late_comer(&with_message, in_time, true), [PutBack]);
    assert_eq!(for_late_comer(&with_message, too_late, true), []);
    assert_eq!(
        for_late_comer(
            &DropWorld {
                closed: true,
                ..with_message
            },
            in_time,
            true
        ),
        []
    );
}

/// The page's part in Redis is read before its part in MySQL.
#[test]
fn admission_between_the_two_parts_of_a_page_is_no_finding() {
    for slot in [5, 11] {
        let mut before = DropWorld::exact(12, 10);
        before.users.remove(&user(5));
        before.rows.remove(&5);
        before.free.insert(5);
        let facts = before.facts();
        let mut page = before.page(1, None);
        page.rows.push(RowFacts {
            slot,
            user: user(99),
            claimed_at: at(NOW_MS),
        });
        page.rows.sort_by_key(|row| row.slot);
        page.now_on_slot = [(user(99), i64::from(slot))].into();
        let mut planner = Planner::new(RepairPolicy::default(), &facts);
        planner.page(&page);
        assert_eq!(planner.finish().items, [], "slot {slot}");
    }
}

#[test]
fn users_are_restored_to_slots_of_rows_written_while_a_page_is_read() {
    let at = chrono::DateTime::UNIX_EPOCH.naive_utc();
    let row = |drop_id, slot| IssuedRow {
        drop_id,
        slot,
        coupon_id: 1,
        user_id: user(99).to_string(),
        code: "CODE".into(),
        claimed_at: at,
        issued_at: at,
        issued_by: "consumer".into(),
    };
    let base = DropWorld {
        gate_closed: true,
        ..DropWorld::exact(12, 10)
    };
    let by_message = DropWorld {
        in_flight: vec![(11, user(99))],
        ..base.clone()
    };
    let by_letter = DropWorld {
        failed: vec![(1, Some(11), Some(user(99)))],
        ..base
    };
    for (world, drop, slot, restored) in [
        (&by_message, 1, 11, true),
        (&by_message, 1, 12, true),
        (&by_message, 2, 11, false),
        (&by_letter, 1, 11, true),
    ] {
        let facts = world.facts();
        let mut page = world.page(1, None);
        let rows = vec![row(drop, slot), row(drop, slot)];
        page.note_rows_of_people(DropId(1), OncePer::Coupon, rows);
        let mut planner = Planner::new(RepairPolicy::default(), &facts);
        planner.page(&page);
        let mut items = planner.items.iter();
        let put_back = items.find(|item| item.action_kind() == ActionKind::PutBack);
        let expected = restored.then_some(Some(i64::from(slot)));
        assert_eq!(
            put_back.map(|item| item.slot),
            expected,
            "row on slot {slot} of drop {drop}"
        );
    }
}

#[test]
fn name_that_is_no_user_id_takes_no_slot_from_a_user_who_was_promised_it() {
    let odd = UserId::from_store("odd person".to_owned());
    let mut lost = DropWorld::exact(12, 9);
    lost.users.remove(&user(9));
    lost.rows.remove(&9);
    lost.users.insert(odd.clone(), 9);
    let by_message = DropWorld {
        in_flight: vec![(9, user(9))],
        ..lost.clone()
    };
    let by_letter = DropWorld {
        failed: vec![(1, Some(9), Some(user(9)))],
        ..lost
    };
    for mut world in [by_message, by_letter] {
        for _ in 0..3 {
            world.apply(&world.plan());
        }
        assert_eq!(world.users.get(&user(9)), Some(&9), "{world:#?}");
        assert!(!world.users.contains_key(&odd), "{world:#?}");
    }
}

#[test]
fn lost_drop_waits_for_the_topic_even_if_redis_has_a_clock_that_is_behind() {
    let mut world = DropWorld {
        topic_away: true,
        ..DropWorld::exact(4, 3)
    };
    world.lose_redis();
    let mut facts = world.facts();
    facts.read_at_ms -= 2 * 3_600_000;
    let mut planner = Planner::new(RepairPolicy::default(), &facts);
    planner.page(&world.page(1, None));
    let items = planner.finish().items;
    assert!(!items.is_empty());
    assert!(items.iter().all(|item| item.action.is_none()), "{items:?}");
}
