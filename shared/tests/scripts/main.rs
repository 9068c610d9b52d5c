//! Compares the scripts on a real Redis with a model of their contracts. In random sequences of
//! claims, rebuilds, operators' changes and losses of keys, every result and every key of the drop
//! must match the model, and the invariants must hold. Single cases have their own tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admitted;
mod allowed;
mod choice;
mod command;
mod gate;
mod leases;
mod lost;
mod model;
mod project;
mod reads;
mod refusing;
mod watching;
mod whole_keys;
mod world;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use firstcome_shared::domain::OncePer;
use firstcome_shared::redis::admission::Admission;
use firstcome_stack::Clocks;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use command::{FencedCommand, ScriptCommand, Start, commands};
use leases::{BEGUN_AT_MS, Leases, TimedWorld};
use model::{Model, OTHER_DROP};
use world::{ScriptWorld, revocation};

#[test]
fn scripts_match_their_model() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let clocks = Clocks::new().unwrap();
    let clock = clocks.clock("redis").unwrap();
    let server = runtime.block_on(world::server_with(&clock));
    let coupon = Cell::new(0);
    let seen = RefCell::new(Coverage::new());
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: Config::default().max_shrink_iters.min(2_000),
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&commands(), |(start, commands)| {
        coupon.set(coupon.get() + 1);
        let url = server.url();
        let seen = &mut seen.borrow_mut();
        let world = TimedWorld::open(&url, coupon.get(), &start, &clock);
        runtime.block_on(async { play(world.await, &start, &commands, seen).await })
    });
    if let Err(error) = result {
        panic!("{}", error.to_string().replace(char::is_whitespace, " "));
    }
    let seen = seen.into_inner();
    println!("{seen:?}");
    let cases = "accepted waiting sold_out unverified stale together rebuilt leased withheld";
    for case in cases.split(' ') {
        let times = seen.get(case).copied().unwrap_or(0);
        assert!(times > Config::default().cases / 4, "{case}: {times} times");
    }
}

async fn play(
    mut world: TimedWorld<'_>,
    start: &Start,
    commands: &[ScriptCommand],
    seen: &mut Coverage,
) -> Result<(), TestCaseError> {
    let mut model = Model::new(start);
    let mut leases = Leases::default();
    for (at, command) in commands.iter().enumerate() {
        let before = model.clone();
        let bytes_before = world.dump().await;
        let (answer, admissions) = world.apply(command).await;
        let expected = model.apply(command);
        let step = format!("step {at}, {command:?}, from {before:?}");
        prop_assert_eq!(&answer, &expected, "{}", step);
        prop_assert_eq!(world.read_state().await, model.state(), "after {}", step);
        let is_late = matches!(command, ScriptCommand::Stale(_) | ScriptCommand::Late(_));
        if answer == "Stale" || is_late {
            let bytes = world.dump().await;
            prop_assert_eq!(
                bytes,
                bytes_before,
                "another era changed something: {}",
                step
            );
        }
        leases.judge(command, &answer, &admissions, &model)?;
        let revoked = model.revoked_holders();
        prop_assert!(revoked.is_empty(), "{:?} after {}", revoked, step);
        *seen.entry("rebuilt").or_default() += u32::from(model.is_rebuilt(&before));
        if let ScriptCommand::Claim(people) | ScriptCommand::Lease(people) = command {
            // Check each result against the state that the earlier ones of the same call have left.
            let mut now = before.clone();
            for (person, admission) in people.iter().zip(&admissions) {
                admitted_rightly(&now, *admission)?;
                *seen.entry(<&str>::from(admission)).or_default() += 1;
                let is_withheld = *admission == Admission::SoldOut && now.left() > now.waiting();
                *seen.entry("withheld").or_default() += u32::from(is_withheld);
                now.apply(&ScriptCommand::Claim(vec![*person]));
            }
            *seen.entry("leased").or_default() += u32::from(answer.contains("lease"));
            *seen.entry("together").or_default() += u32::from(people.len() > 1);
        }
        *seen.entry("stale").or_default() += u32::from(answer == "Stale");
    }
    Ok(())
}

/// Checks invariants of each claim, whatever result the model expects: no slot is given while the
/// counters disagree, or given twice, or above the quantity; and `sold_out` is returned only if no
/// more slots are left than users wait, or the drop is leased.
fn admitted_rightly(before: &Model, admission: Admission) -> Result<(), TestCaseError> {
    let is_right = match admission {
        Admission::Accepted(given) => {
            let slot = i64::from(given.slot);
            let is_in_quantity = (1..=before.quantity().unwrap_or(0)).contains(&slot);
            before.adds_up() && is_in_quantity && !before.is_held(slot)
        }
        Admission::Waiting(_) => before.adds_up(),
        Admission::SoldOut => {
            before.adds_up() && (before.left() <= before.waiting() || before.is_leased())
        }
        _ => true,
    };
    prop_assert!(is_right, "{:?} from {:?}", admission, before);
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
        world.read_state().await.users,
        [(1, "a".to_owned())].into(),
        "a newer claim is not released"
    );
    // The revocation ends in the future, so all present claims are older.
    world.revoke('a', 2, Some(long_ago + 3_600_000)).await;
    assert!(world.read_state().await.users.is_empty());
    let claimed = world.claims("a").await;
    assert_eq!(claimed, "[Unverified]", "Redis's clock was set back");
    world.revoke('a', 3, None).await;
    assert_eq!(
        world.claims("ab").await,
        "[Unverified, Accepted(1)]",
        "it will end"
    );
    // Redis's clock was wrong when this claim was admitted.
    assert_eq!(world.claims("c").await, "[Accepted(2)]");
    let ahead = long_ago + 3_600_000;
    world.given_at(2, ahead).await;
    let until = world.revoke('c', 4, None).await;
    assert_eq!(until, ahead, "the end covers the revoked claim");
}

/// A slot that was given now would be older than the end of the user's revocation, and so be void.
#[tokio::test]
async fn waiting_user_keeps_the_place_while_the_clock_of_redis_is_set_back() {
    let clocks = Clocks::new().unwrap();
    let clock = clocks.clock("redis").unwrap();
    let server = world::server_with(&clock).await;
    clock.stop_at_ms(BEGUN_AT_MS).unwrap();
    let start = Start::new(1, OncePer::Coupon, 2);
    let mut world = ScriptWorld::open(&server.url(), 1, &start).await;
    world.revoke('b', 1, Some(BEGUN_AT_MS)).await;
    clock.stop_at_ms(BEGUN_AT_MS + 1).unwrap();
    let claimed = world.claims("abc").await;
    assert_eq!(claimed, "[Accepted(1), Waiting(1), Waiting(2)]");
    world.revoke('a', 2, None).await;
    let promote = ScriptCommand::Fenced(FencedCommand::Promote(2));
    clock.stop_at_ms(BEGUN_AT_MS - 3_600_000).unwrap();
    // Other users are not delayed.
    assert_eq!(world.apply(&promote).await.0, "Done([('c', 1)])");
    assert_eq!(world.read_state().await.waiting, ["b"]);
    world.revoke('c', 3, None).await;
    assert_eq!(world.apply(&promote).await.0, "Done([])");
    clock.stop_at_ms(BEGUN_AT_MS + 1).unwrap();
    assert_eq!(world.apply(&promote).await.0, "Done([('b', 1)])");
}

/// The user waited in the other drop, and got a slot of this one before the revocation arrived.
#[tokio::test]
async fn revocation_that_names_another_drop_releases_the_claim() {
    let (_server, mut world) = ScriptWorld::start(Start::new(5, OncePer::Coupon, 0)).await;
    world.claims("a").await;
    let mut of_another = revocation("a", 1, None);
    of_another.drop_id = OTHER_DROP;
    let revoke = world
        .redis
        .revoke(&world.keys, OncePer::Coupon, &of_another);
    revoke.await.unwrap();
    let left = world.read_state().await;
    // Only the field without a name, which marks the key, may remain.
    let is_gone = left.users.is_empty() && left.claimants.keys().all(String::is_empty);
    assert!(is_gone, "{left:?}");
}

#[tokio::test]
async fn settings_of_an_ended_era_are_refused() {
    let (_server, mut world) = ScriptWorld::start(Start::new(5, OncePer::Drop, 0)).await;
    let ended = (world.fence.clone(), world.era);
    world.next_era().await;
    (world.fence, world.era) = ended;
    assert_eq!(world.apply(&ScriptCommand::Load(2)).await.0, "Stale");
    let lower = ScriptCommand::Lower(2, 4);
    assert_eq!(world.apply(&lower).await.0, "Unverified");
}
