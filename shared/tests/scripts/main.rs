//! Compares the scripts on a real Redis with a model of their contracts. For any sequence of
//! claims, repairs, operators' changes and manual changes, every result and every key matches the
//! model, and the invariants hold.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admitted;
mod allowed;
mod choice;
mod command;
mod gate;
mod model;
mod odd;
mod reads;
mod world;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use firstcome_shared::domain::OncePer;
use firstcome_shared::redis::admission::Admission;
use firstcome_shared::redis::repair::{SeenSlot, SlotChange, Wanted, Withheld};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use command::{ScriptCommand, ScriptRepair, Start, Tamper, commands};
use model::Model;
use world::{ScriptWorld, change};

#[test]
fn scripts_match_their_model() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(world::server());
    let coupon = Cell::new(0);
    let seen = RefCell::new(Coverage::new());
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&commands(), |(start, commands)| {
        coupon.set(coupon.get() + 1);
        let url = server.url();
        let seen = &mut seen.borrow_mut();
        runtime.block_on(play(&url, coupon.get(), &start, &commands, seen))
    });
    if let Err(error) = result {
        panic!("{}", error.to_string().replace(char::is_whitespace, " "));
    }
    let seen = seen.into_inner();
    println!("{seen:?}");
    for case in [
        "accepted",
        "waiting",
        "sold_out",
        "unverified",
        "stale",
        "together",
    ] {
        let times = seen.get(case).copied().unwrap_or(0);
        assert!(times > Config::default().cases / 4, "{case}: {times} times");
    }
}

async fn play(
    url: &str,
    coupon: i64,
    start: &Start,
    commands: &[ScriptCommand],
    seen: &mut Coverage,
) -> Result<(), TestCaseError> {
    let mut world = ScriptWorld::open(url, coupon, start).await;
    let mut model = Model::new(start, world.era);
    for (at, command) in commands.iter().enumerate() {
        let before = model.clone();
        let bytes_before = world.dump().await;
        let (answer, admissions) = world.apply(command).await;
        let expected = model.apply(command, world.era);
        prop_assert_eq!(
            &answer,
            &expected,
            "answer {} to {:?}, from {:?}",
            at,
            command,
            &before
        );
        prop_assert_eq!(
            world.look().await,
            model.shown(),
            "after {} {:?}, from {:?}",
            at,
            command,
            &before
        );
        if answer == "Stale" || matches!(command, ScriptCommand::Stale(_)) {
            prop_assert_eq!(
                world.dump().await,
                bytes_before,
                "{:?} is of another era and changed something",
                command
            );
        }
        if let ScriptCommand::Claim(people) = command {
            // Check each result against the state that the earlier ones of the same call have left.
            let mut now = before.clone();
            for (person, admission) in people.iter().zip(&admissions) {
                admitted_rightly(&now, *admission)?;
                *seen.entry(admission.word()).or_default() += 1;
                now.apply(&ScriptCommand::Claim(vec![*person]), world.era);
            }
            *seen.entry("together").or_default() += u32::from(people.len() > 1);
        }
        *seen.entry("stale").or_default() += u32::from(answer == "Stale");
    }
    Ok(())
}

/// Checks invariants of each claim, independent of the model: no slot is given while the counters
/// disagree, or given twice, or above the quantity; and `sold_out` is returned only if no more
/// slots are left than users wait.
fn admitted_rightly(before: &Model, admission: Admission) -> Result<(), TestCaseError> {
    let quantity = before.quantity().unwrap_or(0);
    match admission {
        Admission::Accepted(slot) => {
            let slot = i64::from(slot);
            prop_assert!(
                before.adds_up(),
                "slot {} was given although the numbers do not add up: {:?}",
                slot,
                before
            );
            prop_assert!(
                (1..=quantity).contains(&slot),
                "slot {} of {}",
                slot,
                quantity
            );
            prop_assert!(
                !before.is_held(slot),
                "slot {} was given twice: {:?}",
                slot,
                before
            );
        }
        Admission::Waiting(_) => prop_assert!(before.adds_up(), "{:?}", before),
        Admission::SoldOut => {
            prop_assert!(before.adds_up(), "{:?}", before);
            prop_assert!(
                before.left() <= before.waiting(),
                "sold out with slots left for more than wait: {:?}",
                before
            );
        }
        _ => {}
    }
    Ok(())
}

/// Counts the cases that occurred, to ensure that the histories cover enough of them.
type Coverage = BTreeMap<&'static str, u32>;

#[tokio::test]
async fn ended_revocation_voids_only_earlier_admissions() {
    let (_server, mut world) = ScriptWorld::start(Start::new(5, OncePer::Coupon, 0)).await;
    let long_ago = world.revoke('a', 1, None).await - 1;
    world.revoke('a', 1, Some(long_ago)).await;
    assert_eq!(world.claims("a").await, "[Accepted(1)]", "it has ended");
    // The release for the same revocation arrives twice, and late.
    world.revoke('a', 1, None).await;
    world.revoke('a', 1, Some(long_ago)).await;
    assert_eq!(
        world.look().await.users,
        [(1, "a".to_owned())].into(),
        "a newer claim is not released"
    );
    // The revocation ends in the future, so all present claims are older.
    world.revoke('a', 2, Some(long_ago + 3_600_000)).await;
    assert!(world.look().await.users.is_empty());
    assert_eq!(
        world.claims("a").await,
        "[Unverified]",
        "Redis's clock was set back"
    );
    world.revoke('a', 3, None).await;
    assert_eq!(world.claims("ab").await, "[Revoked, Accepted(1)]");
    // Redis's clock was wrong when this claim was admitted.
    assert_eq!(world.claims("c").await, "[Accepted(2)]");
    let ahead = long_ago + 3_600_000;
    world.given_at(2, ahead).await;
    assert_eq!(
        world.revoke('c', 4, None).await,
        ahead,
        "the end covers the revoked claim"
    );
}

#[tokio::test]
async fn counter_repair_takes_at_most_quantity_steps() {
    let (_server, mut world) = ScriptWorld::start(Start::new(5, OncePer::Drop, 0)).await;
    world.claims("a").await;
    world
        .apply(&ScriptCommand::Tamper(Tamper::AddUser(
            'b',
            1_000_000_000_000_000,
        )))
        .await;
    let counted = tokio::time::timeout(
        Duration::from_secs(20),
        world.apply(&ScriptCommand::Repair(ScriptRepair::Count)),
    )
    .await;
    assert_eq!(
        counted.expect("the walk stops at the quantity").0,
        "Changed",
        "two users, one of them beyond the quantity"
    );
}

#[tokio::test]
async fn slot_taken_by_a_repair_is_reserved_until_the_counter_is_repaired() {
    let (_server, mut world) = ScriptWorld::start(Start::new(2, OncePer::Drop, 0)).await;
    world.claims("a").await;
    // The user was admitted again to the same slot, so the admission differs from the one that was
    // read.
    world.given_at(1, 2_000).await;
    let seen = |at_ms| SlotChange {
        seen: Some(SeenSlot {
            slot: 1,
            at_ms: Some(at_ms),
        }),
        ..change('a', None, Wanted::Nothing)
    };
    let fence = world.fence.clone();
    let said = world.set_slots(&fence, &[seen(1_000)], None).await;
    assert_eq!(said, r#"Applied(["Changed"])"#);
    let said = world.set_slots(&fence, &[seen(2_000)], None).await;
    assert_eq!(said, r#"Applied(["Applied(None)"])"#);
    assert_eq!(world.look().await.free, [].into(), "held, not free");
    assert_eq!(world.claims("b").await, "[Unverified]");
    world
        .apply(&ScriptCommand::Repair(ScriptRepair::Count))
        .await;
    assert_eq!(world.claims("b").await, "[Accepted(1)]");
}

#[tokio::test]
async fn slot_changes_are_checked_against_every_key_and_counted() {
    let (_server, mut world) = ScriptWorld::start(Start::new(5, OncePer::Coupon, 5)).await;
    let fence = world.fence.clone();
    let on_slot = |person, slot, at_ms| {
        let has_row = false;
        let wanted = Wanted::Slot {
            slot,
            at_ms,
            has_row,
        };
        [change(person, None, wanted)]
    };
    let elsewhere = ScriptCommand::Tamper(Tamper::ClaimedElsewhere('a'));
    world.apply(&elsewhere).await;
    let said = world.set_slots(&fence, &on_slot('a', 1, None), None).await;
    assert_eq!(said, r#"Applied(["Changed"])"#, "another drop has the user");

    world.claims("b").await;
    let lost = ScriptCommand::Tamper(Tamper::RemoveUser('b'));
    world.apply(&lost).await;
    let before = world.version().await;
    for person in ['a', 'b'] {
        let off = [change(person, None, Wanted::Nothing)];
        world.set_slots(&fence, &off, None).await;
    }
    let claimants = world.look().await.claimants;
    assert_eq!(claimants, [("a".into(), "99:3".into())].into());
    assert!(world.version().await > before);

    world.revoke('c', 1, Some(1_000)).await;
    let on_2 = on_slot('c', 2, Some(1_000));
    let said = world.set_slots(&fence, &on_2, None).await;
    assert_eq!(said, r#"Applied(["Revoked"])"#);
    let on_2 = on_slot('c', 2, Some(1_001));
    let said = world.set_slots(&fence, &on_2, None).await;
    assert_eq!(said, r#"Applied(["Applied(Some(2))"])"#);

    let held = ScriptCommand::Tamper(Tamper::AddFree(2));
    world.apply(&held).await;
    let to_front = [change('d', None, Wanted::Front(1))];
    world.set_slots(&fence, &to_front, None).await;
    assert_eq!(world.look().await.waiting, ["d"]);
    let any = [change('d', None, Wanted::Any)];
    let said = world.set_slots(&fence, &any, None).await;
    assert_eq!(said, r#"Applied(["Applied(Some(3))"])"#, "2 is held");
    assert_eq!(world.look().await.waiting, [""; 0]);
}

#[tokio::test]
async fn settings_of_an_ended_era_or_of_a_drop_in_use_are_refused() {
    let (_server, mut world) = ScriptWorld::start(Start::new(5, OncePer::Drop, 0)).await;
    let ended = (world.fence.clone(), world.era);
    world.next_era().await;
    (world.fence, world.era) = ended;
    assert_eq!(world.apply(&ScriptCommand::Load(2)).await.0, "Stale");
    let lower = ScriptCommand::Lower(2, 4);
    assert_eq!(world.apply(&lower).await.0, "Unverified");
    let withheld = world.redis.withhold(&world.keys, 2).await.unwrap();
    assert_eq!(withheld, Withheld::InUse, "it has opened");
}
