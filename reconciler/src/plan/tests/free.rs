//! Tests when a slot without a holder becomes free, and when it may still belong to a user.

use super::table::{found, mended, of_drop};
use super::*;
use crate::report::ActionKind;

#[test]
fn slot_without_holder_or_evidence_of_a_claim_becomes_free() {
    let mut world = DropWorld::exact(12, 10);
    world.users.remove(&user(4));
    world.rows.remove(&4);
    assert_eq!(world.findings(), [of_drop(Kind::CountMismatch)]);
    assert_eq!(mended(world).free, BTreeSet::from([4]));
}

#[test]
fn slot_without_holder_stays_held_while_its_claim_may_be_in_flight() {
    let mut world = DropWorld::exact(12, 9);
    world.users.remove(&user(9));
    world.rows.remove(&9);
    world.waiting.push(user(20));
    world.ages.insert(9, 2_999);
    let plan = world.plan();
    assert_eq!(plan.items, [], "even the promotion waits");
    assert_eq!((plan.young, plan.exact, plan.left), (1, false, 3));
    world.ages.insert(9, 3_000);
    assert!(
        world
            .plan()
            .items
            .iter()
            .any(|item| item.action == Some(Action::Drop(DropRepair::Count)))
    );
    mended(world);
}

#[test]
fn repairing_a_slot_does_not_free_others_whose_claims_may_be_in_flight() {
    let mut deleted = DropWorld::exact(12, 9);
    deleted
        .users
        .retain(|who, _| *who != user(2) && *who != user(8));
    deleted.rows.remove(&8);
    let young = DropWorld {
        ages: [(8, 100)].into(),
        ..deleted.clone()
    };
    let unread = DropWorld {
        topic_away: true,
        ..deleted.clone()
    };
    for (mut world, why) in [
        (young, "given away just now"),
        (unread, "its message may be unread"),
    ] {
        assert_eq!(
            world.findings().first(),
            Some(&found(Kind::MissingAdmission, 2, 2)),
            "{why}"
        );
        world.apply(&world.plan());
        assert_eq!(
            (world.users.get(&user(2)), world.count),
            (Some(&2), Some(9)),
            "{why}"
        );
        assert!(world.free.is_empty(), "{why}");
        assert!(world.plan().counter_waits && !world.plan().exact, "{why}");
    }
    deleted.apply(&deleted.plan());
    assert_eq!(deleted.free, [8].into());
}

/// Once the counter is set, the next claims get the slots without a holder.
#[test]
fn dead_letter_user_is_restored_before_the_counter_is_set() {
    let mut world = DropWorld::exact(12, 9);
    world
        .users
        .retain(|who, _| *who != user(8) && *who != user(9));
    world.rows.retain(|slot, _| *slot < 8);
    world.failed.push((1, Some(9), Some(user(9))));
    let kinds: Vec<_> = world
        .plan()
        .items
        .iter()
        .map(Planned::action_kind)
        .collect();
    assert_eq!(
        kinds,
        [ActionKind::Issue, ActionKind::SetCount],
        "slot 8 is free"
    );
    world.count = Some(7);
    world.failed[0].1 = Some(8);
    let plan = world.plan();
    assert_eq!(
        plan.items.len(),
        1,
        "with this user the counter is correct: {:?}",
        plan.items
    );
    mended(world);
}

#[test]
fn user_restored_from_two_sources_is_counted_once() {
    let mut world = DropWorld::exact(4, 3);
    world.users.remove(&user(3));
    world.rows.remove(&3);
    world.failed.push((1, Some(3), Some(user(3))));
    let facts = world.facts();
    let mut planner = Planner::new(RepairPolicy::default(), &facts);
    let page = SlotRange {
        claimants_on_gaps: vec![(3, user(3))],
        ..world.pages().remove(0)
    };
    planner.page(&page);
    let plan = planner.finish();
    assert!(
        plan.items
            .iter()
            .all(|item| item.action != Some(Action::Drop(DropRepair::Count))),
        "{:?}",
        plan.items
    );
    assert_eq!(plan.left, 1);
}

#[test]
fn dead_letter_waits_until_its_user_can_be_moved() {
    // Two users are on slot 9, which is not on the same page as the dead letter. Slot 1 was given
    // away recently, so the counter has to wait.
    let mut world = DropWorld::exact(9, 0);
    world.count = Some(7);
    world.users = [(user(1), 9), (user(2), 9)].into();
    world.ages.insert(1, 100);
    world.failed.push((1, None, Some(user(2))));
    world.apply(&world.plan());
    assert_eq!(world.rows, [(9, user(1))].into());
    assert_eq!(
        world.findings(),
        [],
        "the move and the repairs that depend on it wait"
    );
    world.ages.clear();
    let world = mended(world);
    assert_eq!(
        (world.users.len(), world.rows.len(), world.failed.len()),
        (2, 2, 0)
    );
}

/// Two messages name slot 4. User 2 was moved to another slot in an earlier conflict, and the
/// consumer lags behind.
#[test]
fn slot_named_by_two_messages_goes_to_the_user_without_another_slot() {
    let mut world = DropWorld::exact(12, 9);
    world.users.remove(&user(4));
    world.rows.remove(&4);
    world.in_flight = vec![(4, user(2)), (4, user(4))];
    assert_eq!(world.findings(), [found(Kind::MissingAdmission, 4, 4)]);
    world.apply(&world.plan());
    assert_eq!((world.users.get(&user(4)), world.free.len()), (Some(&4), 0));
}
