//! Tests each kind of finding with a state and the expected repair.

use firstcome_shared::mysql::revoked::{Revocation, Revocations};

use super::*;

pub(super) fn found(kind: Kind, slot: i64, who: u32) -> (Kind, Option<i64>, Option<String>) {
    (kind, Some(slot), Some(format!("u-{who}")))
}

pub(super) fn of_drop(kind: Kind) -> (Kind, Option<i64>, Option<String>) {
    (kind, None, None)
}

/// Repairs the world. Asserts that nothing more is found, and that the drop is exact unless a
/// promise is broken.
pub(super) fn mended(mut world: DropWorld) -> DropWorld {
    world.apply(&world.plan());
    assert_eq!(world.findings(), [], "{world:#?}");
    assert_eq!(world.plan().exact, world.broken.is_empty(), "{world:#?}");
    world
}

#[test]
fn exact_drop_needs_no_repair_and_reports_what_was_compared() {
    let plan = DropWorld::exact(12, 12).plan();
    assert!(plan.items.is_empty() && plan.exact && !plan.sealable);
    assert_eq!((plan.examined.users, plan.examined.rows), (12, 12));
    assert!(
        DropWorld {
            closed: true,
            ..DropWorld::exact(12, 12)
        }
        .plan()
        .sealable
    );
}

#[test]
fn promise_without_row_is_issued_once_it_cannot_be_in_flight() {
    let mut world = DropWorld::exact(12, 12);
    world.rows.remove(&7);
    assert_eq!(
        world.findings(),
        [found(Kind::Unissued, 7, 7)],
        "an unknown age counts as old"
    );
    world.ages.insert(7, 1_999);
    assert_eq!(
        (world.findings(), world.plan().young),
        (vec![], 1),
        "younger than the publishing deadline"
    );
    world.ages.insert(7, 2_000);
    assert_eq!(world.findings(), [found(Kind::Unissued, 7, 7)]);
    world.in_flight.push((7, user(7)));
    assert_eq!(
        (world.findings(), world.plan().young),
        (vec![], 0),
        "its message waits on the topic"
    );
    // Redis's clock was this far ahead when user 7 was admitted.
    for minutes in [1, 59, 24 * 60] {
        let mut ahead = DropWorld::exact(12, 12);
        ahead.rows.remove(&7);
        ahead.ages.insert(7, -minutes * 60_000);
        assert_eq!(
            ahead.plan().young,
            0,
            "must not count as young for another {minutes} minutes"
        );
        assert_eq!(ahead.findings(), [found(Kind::Unissued, 7, 7)]);
        // The same age is plausible if the user was admitted during the pass.
        ahead.lasts_ms = minutes * 60_000;
        assert_eq!(
            (ahead.findings(), ahead.plan().young),
            (vec![], 1),
            "the pass has lasted {minutes} minutes"
        );
    }
    // Small corrections of the clock are ignored.
    let mut ahead = DropWorld::exact(12, 12);
    ahead.rows.remove(&7);
    ahead.ages.insert(7, -4_000);
    assert_eq!((ahead.findings(), ahead.plan().young), (vec![], 1));
    world.ages.insert(7, 60_000);
    assert_eq!(
        world.findings(),
        [found(Kind::Unissued, 7, 7)],
        "its message has waited too long"
    );
    world.in_flight.clear();
    assert_eq!(mended(world).rows[&7], user(7));
}

#[test]
fn user_of_a_row_that_redis_lost_is_restored() {
    let mut world = DropWorld::exact(12, 12);
    world.users.remove(&user(3));
    world.users.remove(&user(12));
    assert_eq!(
        world.findings(),
        [
            found(Kind::MissingAdmission, 3, 3),
            found(Kind::MissingAdmission, 12, 12)
        ]
    );
    assert_eq!(mended(world).users[&user(3)], 3);
}

#[test]
fn user_on_another_slot_moves_to_the_slot_of_their_row() {
    let mut world = DropWorld::exact(12, 10);
    world.users.insert(user(3), 11);
    world.count = Some(11);
    world.free.insert(3);
    assert_eq!(world.findings(), [found(Kind::MissingAdmission, 3, 3)]);
    assert_eq!(mended(world).users[&user(3)], 3);
}

#[test]
fn inconsistent_counter_is_corrected() {
    for count in [0, 3, 11, 500] {
        let mut world = DropWorld::exact(12, 10);
        world.count = Some(count);
        assert_eq!(
            world.findings(),
            [of_drop(Kind::CountMismatch)],
            "count {count}"
        );
        assert_eq!(mended(world).count, Some(10));
    }
    let mut nobody = DropWorld::exact(12, 0);
    nobody.count = Some(-1);
    assert_eq!(nobody.findings(), [of_drop(Kind::CountMismatch)]);
    assert_eq!(mended(nobody).count, Some(0));
}

#[test]
fn user_with_the_row_keeps_a_shared_slot_and_the_other_user_moves() {
    let mut world = DropWorld::exact(12, 10);
    world.users.insert(user(99), 4);
    assert_eq!(world.findings(), [found(Kind::SlotConflict, 4, 99)]);
    let world = mended(world);
    assert_eq!((world.users[&user(4)], world.users[&user(99)]), (4, 11));
    assert_eq!(world.rows[&11], user(99));
}

#[test]
fn user_without_row_keeps_slot_when_the_other_user_returns_to_their_row() {
    let mut world = DropWorld::exact(12, 10);
    world.users.insert(user(3), 10);
    world.rows.remove(&10);
    assert_eq!(
        world.findings(),
        [
            found(Kind::MissingAdmission, 3, 3),
            found(Kind::Unissued, 10, 10)
        ]
    );
    let world = mended(world);
    assert_eq!((world.users[&user(3)], world.users[&user(10)]), (3, 10));
}

#[test]
fn user_with_two_dead_letters_gets_a_slot_named_by_one_of_them() {
    let mut world = DropWorld::exact(12, 3);
    world.failed = vec![(1, None, Some(user(20))), (2, Some(5), Some(user(20)))];
    world.apply(&world.plan());
    assert_eq!(world.rows[&5], user(20));
}

#[test]
fn second_user_on_a_slot_heads_the_waiting_list_if_no_slot_is_free() {
    let mut world = DropWorld::exact(12, 12);
    world.waiting = vec![user(50)];
    world.users.insert(user(99), 4);
    let world = mended(world);
    assert_eq!(world.waiting, [user(99), user(50)]);
    assert_eq!(world.broken, BTreeSet::from([user(99)]));
}

#[test]
fn users_above_the_quantity_get_free_slots_in_order_or_wait() {
    let mut world = DropWorld::exact(12, 12);
    world.users.remove(&user(5));
    world.rows.remove(&5);
    world.free.insert(5);
    for n in [13, 14] {
        world.users.insert(user(n), i64::from(n));
    }
    world.count = Some(14);
    assert_eq!(
        world.findings(),
        [
            found(Kind::OverAdmitted, 13, 13),
            found(Kind::OverAdmitted, 14, 14)
        ]
    );
    let world = mended(world);
    assert_eq!(world.rows[&5], user(13));
    assert_eq!(
        (world.waiting, world.broken),
        (vec![user(14)], BTreeSet::from([user(14)]))
    );
}

#[test]
fn broken_promise_heads_the_waiting_list_and_prevents_sealing() {
    let mut world = DropWorld {
        closed: true,
        ..DropWorld::exact(12, 12)
    };
    world.broken.insert(user(50));
    assert_eq!(world.findings(), [found(Kind::OverAdmitted, 99, 50)]);
    world.waiting = vec![user(51)];
    world = mended(world);
    assert_eq!(world.waiting, [user(50), user(51)]);
    assert!(!world.plan().sealable);
    world.quantity = 13;
    world.apply(&world.plan());
    assert_eq!(world.rows[&13], user(50));
    assert!(world.plan().exact && world.plan().sealable, "{world:#?}");
}

#[test]
fn user_with_slots_in_two_drops_of_a_coupon_loses_the_second() {
    let mut world = DropWorld {
        once_per: OncePer::Coupon,
        ..DropWorld::exact(12, 10)
    };
    world.rows.remove(&10);
    world.elsewhere.insert(user(10));
    assert_eq!(world.findings(), [found(Kind::OverAdmitted, 10, 10)]);
    assert!(!mended(world).users.contains_key(&user(10)));
}

#[test]
fn free_slots_go_to_waiting_users_in_order_even_after_closing() {
    for closed in [false, true] {
        let mut world = DropWorld {
            closed,
            ..DropWorld::exact(12, 11)
        };
        world.waiting = vec![user(50), user(51)];
        assert_eq!(
            world.findings(),
            [(Kind::Unfilled, None, Some("u-50".to_owned()))]
        );
        world.apply(&world.plan());
        assert_eq!(
            (&world.rows[&12], world.waiting.as_slice()),
            (&user(50), [user(51)].as_slice())
        );
        assert_eq!(world.findings(), []);
    }
}

#[test]
fn drop_closed_while_paused_with_users_waiting_needs_an_operator() {
    let world = DropWorld {
        closed: true,
        paused: true,
        waiting: vec![user(50)],
        ..DropWorld::exact(12, 11)
    };
    let plan = world.plan();
    assert_eq!(world.findings(), [of_drop(Kind::Unfilled)]);
    assert!(plan.items[0].needs_person && !plan.sealable);
    assert_eq!(
        DropWorld {
            closed: false,
            ..world
        }
        .findings(),
        []
    );
}

#[test]
fn drop_closed_with_slots_left_is_reported_and_sealable() {
    let plan = DropWorld {
        closed: true,
        ..DropWorld::exact(12, 11)
    }
    .plan();
    assert_eq!(plan.items.len(), 1);
    assert!(plan.items[0].kind == Kind::Unfilled && !plan.items[0].needs_person);
    assert!(plan.exact && plan.sealable);
}

#[test]
fn lost_drop_is_rebuilt_from_rows_and_messages() {
    let mut world = DropWorld::exact(12, 9);
    world.rows.remove(&9);
    world.in_flight = vec![(9, user(9))];
    world.lose_redis();
    assert_eq!(world.findings(), [of_drop(Kind::RedisLost)]);
    world.apply(&world.plan());
    assert_eq!(world.users, DropWorld::exact(12, 9).users);
    assert_eq!(world.findings(), []);
}

#[test]
fn unreadable_topic_blocks_slots_for_new_users() {
    let reports = |world: &DropWorld| {
        let plan = world.plan();
        assert!(!plan.exact && !plan.sealable, "{plan:#?}");
        plan.items
            .iter()
            .all(|item| item.action.is_none() && item.detail.contains("until what is on its way"))
    };
    let away = || DropWorld {
        topic_away: true,
        ..DropWorld::exact(12, 9)
    };
    let mut lost = away();
    lost.lose_redis();
    assert!(
        reports(&lost),
        "users that only messages name would be lost"
    );
    lost.rows.clear();
    assert!(
        reports(&lost),
        "an empty MySQL does not prove that nobody has claimed"
    );
    // A user was deleted manually, so the message may be the only evidence of the claim.
    let mut gap = away();
    gap.users.remove(&user(4));
    gap.rows.remove(&4);
    assert!(reports(&gap));
    let mut waits = away();
    waits.waiting = vec![user(20)];
    assert!(reports(&waits));
    // Users may still get a row, or be restored to the slot that they already hold.
    let mut own = away();
    own.rows.remove(&4);
    own.users.remove(&user(5));
    assert_eq!(
        own.findings(),
        [
            found(Kind::MissingAdmission, 5, 5),
            found(Kind::Unissued, 4, 4)
        ]
    );
    mended(own);
    for mut world in [lost, gap, waits] {
        world.topic_away = false;
        mended(world);
    }
}

#[test]
fn lost_drop_is_rebuilt_with_users_named_only_by_dead_letters() {
    let mut world = DropWorld::exact(12, 9);
    world.lose_redis();
    for slot in [3, 4, 5] {
        world.rows.remove(&slot);
    }
    world.in_flight = vec![(5, user(5))];
    // The last two dead letters contradict a row and a message, which take precedence.
    world.failed = vec![
        (1, Some(3), Some(user(3))),
        (2, Some(4), Some(user(4))),
        (3, Some(1), Some(user(30))),
        (4, Some(5), Some(user(31))),
    ];
    let plan = world.plan();
    let rebuilt = plan.items.iter().find_map(|item| match &item.action {
        Some(Action::Drop(DropRepair::Everything { holdings, .. })) => Some(holdings),
        _ => None,
    });
    let mut rebuilt: Vec<_> = rebuilt
        .unwrap()
        .iter()
        .map(|change| match change.wanted {
            Wanted::Slot { slot, has_row, .. } => (slot, change.user.clone(), has_row),
            other => panic!("{other:?}"),
        })
        .collect();
    rebuilt.sort();
    assert_eq!(
        rebuilt,
        [1, 2, 3, 4, 5, 6, 7, 8, 9].map(|n| (n, user(n), !(3..=5).contains(&n)))
    );
    world.apply(&world.plan());
    assert_eq!(
        world.findings(),
        [],
        "only the message is still in flight: {world:#?}"
    );
}

#[test]
fn redis_from_an_old_copy_regains_admissions_above_its_counter() {
    let mut world = DropWorld {
        gate_closed: true,
        ..DropWorld::exact(12, 9)
    };
    world.rows.remove(&9);
    world.in_flight = vec![(9, user(9))];
    for n in [8, 9] {
        world.users.remove(&user(n));
    }
    world.count = Some(7);
    assert_eq!(
        world.findings(),
        [
            found(Kind::MissingAdmission, 8, 8),
            found(Kind::MissingAdmission, 9, 9)
        ]
    );
    world.apply(&world.plan());
    assert_eq!((world.users.len(), world.count), (9, Some(9)));
}

#[test]
fn dead_letters_are_issued_readmitted_resolved_or_left_open() {
    let mut world = DropWorld::exact(12, 8);
    world.rows.remove(&8);
    world.failed = vec![
        (1, Some(8), Some(user(8))),   // is admitted, but has no row
        (2, Some(9), Some(user(9))),   // is not admitted; the slot is free
        (3, Some(2), Some(user(2))),   // has a row
        (4, Some(3), Some(user(40))),  // another user has the slot
        (5, Some(0), Some(user(41))),  // the drop has no such slot
        (6, Some(99), Some(user(42))), // the drop has no such slot
        (7, Some(5), None),            // names no user
        (8, Some(8), Some(user(8))),   // a second dead letter of user 8
    ];
    world.apply(&world.plan());
    assert_eq!(world.rows[&8], user(8));
    assert_eq!(world.rows[&9], user(9));
    assert_eq!(world.rows[&10], user(40));
    assert_eq!(
        world.failed.iter().map(|f| f.0).collect::<Vec<_>>(),
        [5, 6, 7]
    );
    let plan = world.plan();
    assert!(
        plan.items
            .iter()
            .all(|i| i.needs_person && i.kind == Kind::FailedClaim)
            && plan.items.len() == 3
    );
}

#[test]
fn repair_limit_applies_to_repairs_but_not_to_promised_rows() {
    let mut forgotten = DropWorld::exact(300, 300);
    for n in 1..=61 {
        forgotten.users.remove(&user(n));
    }
    assert!(forgotten.plan().over_limit);
    forgotten.users.insert(user(1), 1);
    assert!(!forgotten.plan().over_limit, "60 is 20 % of 300");
    let mut unissued = DropWorld::exact(300, 300);
    unissued.rows.clear();
    assert!(!unissued.plan().over_limit);
    let mut emptied = DropWorld::exact(300, 300);
    emptied.users.retain(|_, slot| *slot > 100);
    emptied.rows.retain(|slot, _| *slot > 100);
    assert!(emptied.plan().over_limit, "100 slots would become free");
}

#[test]
fn closed_gate_limits_only_repairs_that_take_slots_from_users() {
    let mut older = DropWorld {
        gate_closed: true,
        ..DropWorld::exact(300, 300)
    };
    for n in 1..=100 {
        older.users.remove(&user(n));
    }
    assert!(!older.plan().over_limit, "restoring users does not count");
    for n in 101..=180 {
        let next = if n == 180 { 101 } else { n + 1 };
        older.users.insert(user(n), i64::from(next));
    }
    let mut plan = older.plan();
    assert!(plan.over_limit, "80 users are on slots of other users");
    assert_eq!(plan.repairs, 80);
    let waiting = plan.take_waiting(true);
    let takes = |item: &&Planned| item.action.as_ref().is_some_and(Action::takes);
    assert_eq!(waiting.iter().filter(takes).count(), 80);
    assert!(plan.counter_waits);
    assert_eq!(plan.items.len(), 100);
    let only_adds = |item: &Planned| item.action.as_ref().is_some_and(Action::only_adds);
    assert!(plan.items.iter().all(only_adds));
}

#[test]
fn different_repairs_have_different_fingerprints() {
    let without = |people: std::ops::RangeInclusive<u32>| {
        let mut world = DropWorld::exact(300, 300);
        for n in people {
            world.users.remove(&user(n));
        }
        let plan = world.plan();
        (plan.repairs, plan.fingerprint)
    };
    assert_eq!(without(1..=70), without(1..=70));
    assert_eq!(without(1..=70).0, without(2..=71).0);
    assert_ne!(without(1..=70).1, without(2..=71).1);
    let kept = |kept| {
        let mut world = DropWorld {
            kept,
            ..DropWorld::exact(300, 300)
        };
        world.users.retain(|_, slot| *slot > 70);
        let plan = world.plan();
        (plan.repairs, plan.fingerprint)
    };
    assert_eq!(
        kept(3),
        kept(10_000),
        "kept and counted repairs have the same weight and fingerprint"
    );
}

#[test]
fn settings_that_did_not_reach_redis_are_written_again() {
    let world = DropWorld {
        meta: Some(false),
        ..DropWorld::exact(12, 5)
    };
    assert_eq!(world.findings(), [of_drop(Kind::CountMismatch)]);
}

#[test]
fn dead_letters_that_need_an_operator_are_listed_up_to_a_limit() {
    let mut world = DropWorld::exact(12, 12);
    world.failed = (1..=25)
        .map(|id| (id, Some(3), Some(user(100 + u32::try_from(id).unwrap()))))
        .collect();
    let plan = world.plan();
    assert_eq!(
        (
            plan.items.len(),
            plan.numbers.failed_claims,
            plan.examined.failed_claims
        ),
        (11, 25, 25)
    );
    let detail = &plan.items[10].detail;
    assert_eq!(
        plan.items[10].case,
        crate::report::FindingCase::MoreLeft(15)
    );
    assert!(
        detail.contains("15 because another user has its slot")
            && detail.contains("for example 11, 12, 13"),
        "{detail}"
    );
}

#[test]
fn unresolved_dead_letter_does_not_make_others_duplicates() {
    let mut world = DropWorld::exact(12, 12);
    world.failed = (1..=25)
        .map(|id| (id, Some(412), Some(user(100))))
        .collect();
    let plan = world.plan();
    assert!(
        plan.items.iter().all(|item| item.action.is_none()),
        "{:#?}",
        plan.items
    );
    assert_eq!(plan.items.len(), 11);
}

#[test]
fn dead_letter_keeps_its_slot_if_stale_redis_has_its_user_on_a_revoked_slot() {
    // User 4's claim of slot 4 was revoked, and the user was then promised slot 11. After that,
    // Redis started from an old copy.
    let mut world = DropWorld::exact(20, 10);
    world.rows.remove(&4);
    world.failed.push((1, Some(11), Some(user(4))));
    world.ages.insert(4, 60_000);
    let facts = world.facts();
    let mut page = with_revoked(world.page(1, None), 4);
    page.dead_letters[0].claimed_at = Some(at(NOW_MS - 10_000));
    let mut planner = Planner::new(RepairPolicy::default(), &facts);
    planner.page(&page);
    let issued = planner
        .finish()
        .items
        .into_iter()
        .filter_map(|item| match item.action {
            Some(Action::Row(RowChange {
                claim,
                letter: Some(_),
                put_back,
            })) => Some((claim.slot, claim.user_id, put_back)),
            _ => None,
        });
    assert_eq!(issued.collect::<Vec<_>>(), [(11, user(4), true)]);
}

#[test]
fn duplicate_dead_letter_of_a_lost_drop_waits_until_the_topic_is_read() {
    let mut world = DropWorld {
        meta: None,
        topic_away: true,
        kept: 1,
        ..DropWorld::exact(3, 0)
    };
    // The plan keeps only one repair, for dead letter 1. The one for dead letter 2 is only counted.
    world.failed = vec![
        (1, Some(1), Some(user(1))),
        (2, Some(2), Some(user(2))),
        (3, None, Some(user(2))),
    ];
    for order in [[0, 1, 2], [0, 2, 1], [2, 0, 1]] {
        let failed = order.map(|at| world.failed[at].clone()).into();
        let plan = DropWorld {
            failed,
            ..world.clone()
        }
        .plan();
        assert!(
            plan.items.iter().all(|item| item.action.is_none()),
            "{order:?}: {:#?}",
            plan.items
        );
    }
}

/// Adds a revocation to the page: user `number` lost slot `number`, and may claim again.
fn with_revoked(page: SlotRange, number: u32) -> SlotRange {
    let until = at(NOW_MS - 30_000).naive_utc();
    let revocation = Revocation {
        id: 1,
        coupon_id: 1,
        drop_id: 1,
        slot: Some(number),
        user_id: user(number).to_string(),
        reason: "asked for it".into(),
        revoked_by: "Kim".into(),
        may_claim_again: true,
        revoked_at: until,
        again_from: Some(until),
    };
    SlotRange {
        revoked: Revocations::new(vec![revocation], OncePer::Drop, DropId(1)),
        ..page
    }
}

#[test]
fn claim_keeps_its_slot_if_stale_redis_has_a_revoked_claim_on_it() {
    // Slot 4 was revoked and then promised to user 99. After that, Redis started from an old copy.
    for is_dead_letter in [true, false] {
        let mut world = DropWorld::exact(12, 10);
        world.rows.remove(&4);
        world.ages.insert(4, 60_000);
        if is_dead_letter {
            world.failed.push((1, Some(4), Some(user(99))));
        } else {
            world.in_flight.push((4, user(99)));
        }
        let facts = world.facts();
        let mut planner = Planner::new(RepairPolicy::default(), &facts);
        planner.page(&with_revoked(world.page(1, None), 4));
        let given = planner
            .finish()
            .items
            .into_iter()
            .map(|item| match item.action {
                Some(Action::Row(RowChange {
                    claim,
                    put_back: true,
                    ..
                })) => (claim.slot, claim.user_id),
                Some(Action::Slot(SlotChange {
                    user,
                    seen: None,
                    wanted: Wanted::Slot { slot, .. },
                })) => (slot, user),
                other => panic!("dead letter {is_dead_letter}: {other:?}"),
            });
        assert_eq!(
            given.collect::<Vec<_>>(),
            [(4, user(99))],
            "dead letter {is_dead_letter}"
        );
    }
}
