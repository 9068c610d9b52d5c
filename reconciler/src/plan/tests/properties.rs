//! Property tests with generated worlds: any mix of users, counters, free slots, rows, messages,
//! dead letters and waiting users.

use super::*;
use crate::pass::ROUNDS;

prop_compose! {
    fn worlds()(
        quantity in 1_u32..14,
        scope in any::<bool>(),
        closed in any::<bool>(),
        meta in prop::sample::select(vec![None, Some(true), Some(true), Some(true), Some(false)]),
        gate_closed in prop::bool::weighted(0.2),
        count in prop::option::weighted(0.95, -2_i64..20),
        users in prop::collection::btree_map(1_u32..24, -1_i64..18, 0..16),
        free in prop::collection::btree_set(1_i64..18, 0..4),
        waiting in prop::collection::btree_set(20_u32..30, 0..4),
        rows in prop::collection::btree_map(1_u32..14, 1_u32..24, 0..14),
        elsewhere in prop::collection::btree_set(1_u32..24, 0..2),
        in_flight in prop::collection::vec((1_u32..16, 1_u32..26), 0..3),
        ages in prop::collection::hash_map(1_i64..18, prop::sample::select(vec![100_i64, 5_000, 90_000]), 0..8),
        failed in prop::collection::vec((prop::option::of(-1_i64..18), prop::option::weighted(0.9, 1_u32..26)), 0..4),
        kept in prop::sample::select(vec![1, 3, 10_000]),
    ) -> DropWorld {
        let once_per = if scope { OncePer::Coupon } else { OncePer::Drop };
        // Rows obey the schema: slots are within the quantity, and each user has at most one row,
        // in this drop or elsewhere.
        let elsewhere: BTreeSet<UserId> = elsewhere.into_iter().filter(|_| scope).map(user).collect();
        let mut people = BTreeSet::new();
        let rows = rows
            .into_iter()
            .filter(|(slot, who)| *slot <= quantity && !elsewhere.contains(&user(*who)) && people.insert(*who))
            .map(|(slot, who)| (slot, user(who)))
            .collect();
        DropWorld {
            quantity, once_per, closed, meta, gate_closed, count,
            users: users.into_iter().map(|(who, slot)| (user(who), slot)).collect(),
            free,
            waiting: waiting.into_iter().map(user).collect(),
            rows,
            elsewhere,
            topic_away: false,
            in_flight: in_flight.into_iter().map(|(slot, who)| (slot, user(who))).collect(),
            ages,
            lasts_ms: 0,
            failed: (1_i64..).zip(failed).map(|(id, (slot, who))| (id, slot, who.map(user))).collect(),
            broken: BTreeSet::new(),
            paused: false,
            list_differs: gate_closed,
            kept,
        }
    }
}

fn actionable(plan: &Plan) -> Vec<&super::super::Planned> {
    plan.items
        .iter()
        .filter(|item| item.action.is_some())
        .collect()
}

/// Repairs the world as passes do, in rounds, since one repair may reveal another. If a plan does
/// not keep all repairs, each page is repaired once per pass, and several passes may be needed.
/// Returns whether nothing was left to repair after the allowed number of passes.
fn repair(world: &mut DropWorld) -> bool {
    let passes = if world.kept < RepairPolicy::default().kept {
        20
    } else {
        1
    };
    (0..passes).any(|_| repair_in_one_pass(world))
}

fn repair_in_one_pass(world: &mut DropWorld) -> bool {
    let mut has_repaired_pages = false;
    for _ in 0..ROUNDS {
        let plan = world.plan();
        if actionable(&plan).is_empty() {
            return true;
        }
        if plan.beyond.is_empty() || world.facts().is_lost() || has_repaired_pages {
            world.apply(&plan);
        } else {
            world.apply_pages(&plan);
            has_repaired_pages = true;
        }
    }
    actionable(&world.plan()).is_empty()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(4_000), ..ProptestConfig::default() })]

    /// Mails mask the user of a finding, but not the text of its `detail`.
    #[test]
    fn no_detail_contains_a_user_id(world in worlds()) {
        for item in world.plan().items {
            prop_assert!(!item.detail.contains("u-"), "{}", item.detail);
        }
    }

    #[test]
    fn repairs_terminate_and_leave_nothing_to_find(world in worlds(), topic_away in prop::bool::weighted(0.2)) {
        let mut mended = DropWorld { topic_away, ..world };
        let has_ended = repair(&mut mended);
        prop_assert!(has_ended, "left: {:#?}\nof {mended:#?}", mended.plan().items);
    }

    #[test]
    fn rows_are_never_surplus_duplicated_or_deleted(world in worlds()) {
        let mut mended = world.clone();
        repair(&mut mended);
        prop_assert!(mended.rows.keys().all(|slot| (1..=world.quantity).contains(slot)));
        let people: BTreeSet<_> = mended.rows.values().collect();
        prop_assert_eq!(people.len(), mended.rows.len());
        prop_assert!(mended.rows.values().all(|who| !mended.elsewhere.contains(who)));
        for (slot, who) in &world.rows {
            prop_assert_eq!(mended.rows.get(slot), Some(who), "a row was deleted");
        }
    }

    #[test]
    fn every_promise_is_kept_or_listed_as_broken(world in worlds()) {
        let mut mended = world.clone();
        repair(&mut mended);
        for who in world.users.keys() {
            let holds = mended.row_of(who).is_some() || mended.users.contains_key(who);
            prop_assert!(holds || mended.broken.contains(who), "{who} was forgotten: {mended:#?}");
        }
        // Once no claim can be in flight, a promise may only stay broken if no slot is left.
        mended.ages.clear();
        repair(&mut mended);
        let left = i64::from(mended.quantity) - i64::try_from(mended.users.len()).unwrap();
        prop_assert!(mended.broken.is_empty() || left <= 0, "{left} slots left, broken: {mended:#?}");
    }

    #[test]
    fn redis_is_consistent_after_repairs_and_waiting_users_get_free_slots(world in worlds()) {
        let mut mended = world;
        repair(&mut mended);
        // No claim is in flight from here on.
        mended.ages.clear();
        repair(&mut mended);
        let slots: BTreeSet<i64> = mended.users.values().copied().collect();
        prop_assert_eq!(slots.len(), mended.users.len(), "two users have the same slot");
        prop_assert!(slots.iter().all(|s| (1..=i64::from(mended.quantity)).contains(s)));
        prop_assert!(slots.is_disjoint(&mended.free));
        prop_assert_eq!(mended.count.unwrap_or(-1), i64::try_from(mended.users.len() + mended.free.len()).unwrap());
        prop_assert!(mended.waiting.is_empty() || mended.users.len() >= mended.quantity as usize);
        for (slot, who) in &mended.rows {
            prop_assert_eq!(mended.users.get(who), Some(&i64::from(*slot)), "a row has no admission");
        }
    }
}

/// A message and a dead letter name different users for the same slot, and the message's user has a
/// dead letter for another slot.
#[test]
fn message_and_dead_letter_for_the_same_slot_both_lead_to_a_row() {
    for kept in [1, 10_000] {
        let mut world = DropWorld {
            count: Some(9),
            users: [(user(2), 0)].into(),
            in_flight: vec![(9, user(3))],
            failed: vec![(1, Some(9), Some(user(1))), (2, Some(6), Some(user(3)))],
            kept,
            ..DropWorld::exact(10, 0)
        };
        assert!(repair(&mut world), "{world:#?}");
        for number in 1..=3 {
            let slot = world.row_of(&user(number)).map(|(_, slot)| i64::from(slot));
            assert!(slot.is_some(), "{number}: {world:#?}");
            let admitted = world.users.get(&user(number)).copied();
            assert_eq!(admitted, slot, "{number}: {world:#?}");
        }
    }
}
