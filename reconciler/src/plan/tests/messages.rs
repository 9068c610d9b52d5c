//! Tests messages whose time of claim contradicts their drop.

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

#[test]
fn message_restores_its_user_if_the_row_is_written_after_the_page_was_read() {
    let world = DropWorld {
        in_flight: vec![(11, user(99))],
        gate_closed: true,
        ..DropWorld::exact(12, 10)
    };
    for (slot, expected) in [(11, vec![ActionKind::PutBack]), (12, vec![])] {
        let facts = world.facts();
        let mut page = world.page(1, None);
        page.has_row.insert(user(99), (DropId(1), slot));
        let mut planner = Planner::new(RepairPolicy::default(), &facts);
        planner.page(&page);
        let kinds: Vec<_> = planner.items.iter().map(Planned::action_kind).collect();
        assert_eq!(kinds, expected, "row on slot {slot}");
    }
}
