//! Random systems: after a pass, its confirmation, and a third pass, everything is exact or named.

use std::collections::{BTreeMap, BTreeSet};

use firstcome_reconciler::report::{Kind, Outcome, Run, Status};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::world::{World, confirmed, pass, pass_with};

/// A system: who is a member, how many rows and failed events each user has, and the numbers.
#[derive(Debug, Clone)]
struct System {
    quantity: u64,
    people: Vec<(bool, usize, usize)>,
    count: Option<i64>,
    means: &'static str,
    users: Option<&'static str>,
}

fn systems() -> impl Strategy<Value = System> {
    let rows = prop_oneof![4 => Just(1_usize), 4 => Just(0), 1 => Just(2)];
    let failed = prop_oneof![4 => Just(0_usize), 1 => Just(1), 1 => Just(2)];
    let person = (prop::bool::weighted(0.8), rows, failed);
    let users =
        prop_oneof![3 => Just(Some("admitted")), 1 => Just(Some("applied")), 1 => Just(None)];
    (
        1..14_u64,
        prop::collection::vec(person, 0..14),
        prop::option::weighted(0.9, 0..30_i64),
        prop_oneof![Just("tickets"), Just("issued")],
        users,
    )
        .prop_map(|(quantity, people, count, means, users)| System {
            quantity,
            people,
            count,
            means,
            users,
        })
}

#[test]
fn random_systems_are_exact_or_named_after_a_pass_and_no_row_is_deleted() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::without_key());
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(40);
    let mut runner = TestRunner::new(Config {
        cases,
        max_shrink_iters: 200,
        ..Config::default()
    });
    let event = std::cell::Cell::new(0);
    let ran = runner.run(&systems(), |system| {
        event.set(event.get() + 1);
        runtime.block_on(check(&world, &system, event.get()));
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
}

async fn check(world: &World, system: &System, event: u32) {
    let name = |n: usize| format!("user-{n}");
    let many = |of: fn(&(bool, usize, usize)) -> usize| {
        let people = system.people.iter().enumerate();
        people
            .flat_map(move |(n, it)| std::iter::repeat_n(name(n), of(it)))
            .collect::<Vec<_>>()
    };
    world
        .members(&format!("@u{event}"), many(|it| usize::from(it.0)))
        .await;
    world.rows(event, many(|it| it.1)).await;
    world.failed(event, many(|it| it.2)).await;
    if let Some(count) = system.count {
        let () = world.redis(&format!("SET @c{event} {count}")).await;
    }
    let users = system.users.map(|means| {
        format!("users = {{ key = \"@u{event}\", type = \"set\", means = \"{means}\" }}\n")
    });
    let file = format!(
        "[[campaign]]\nname = \"e{event}\"\nmode = \"repair\"\nquantity = {}\nin_flight = \"0.001s\"\nrepair_limit = 1000\n{}\
         count = {{ key = \"@c{event}\", means = \"{}\" }}\n\
         rows = {{ table = \"coupon\", user = \"user_id\", where = {{ event_id = {event} }}, duplicates = \"reported\" }}\n\
         failed = {{ table = \"failed_event\", user = \"user_id\", where = {{ event_id = {event} }}, done = \"delete\" }}",
        system.quantity,
        users.unwrap_or_default(),
        system.means,
    );
    let attached = world.attached(&file);
    let before = rows(world, event).await;
    pass(&attached).await;
    pass_with(&attached, confirmed(&attached)).await;
    let last = pass(&attached).await;
    let after = rows(world, event).await;
    for (user, rows) in &before {
        assert!(after.get(user) >= Some(rows), "a row was deleted: {user}");
    }
    let [had, has] = [&before, &after].map(|rows| rows.values().sum::<u64>());
    assert!(
        has <= system.quantity.max(had),
        "{has} rows of {}",
        system.quantity
    );
    let is_left = |it: &firstcome_reconciler::report::Finding| it.result != Outcome::Skipped;
    assert!(
        !last.drops[0].findings.iter().any(is_left),
        "a third pass repairs: {last:#?}"
    );
    assert!(
        matches!(last.status, Status::Clean | Status::Drift),
        "{last:#?}"
    );
    named(world, system, event, &last, &after).await;
}

async fn rows(world: &World, event: u32) -> BTreeMap<String, u64> {
    let sql =
        format!("SELECT user_id, COUNT(*) FROM coupon WHERE event_id = {event} GROUP BY user_id");
    let rows = world.sql(&sql).await;
    rows.into_iter()
        .map(|row| (row[0].clone(), row[1].parse().unwrap()))
        .collect()
}

/// What is not exact is a finding with its user.
async fn named(
    world: &World,
    system: &System,
    event: u32,
    last: &Run,
    rows: &BTreeMap<String, u64>,
) {
    let report = &last.drops[0];
    let of = |kinds: &[Kind]| -> BTreeSet<String> {
        let found = report.findings.iter().filter(|it| kinds.contains(&it.kind));
        found.filter_map(|it| it.user_id.clone()).collect()
    };
    let given: u64 = rows.values().sum();
    let members: Vec<String> = world.redis(&format!("SMEMBERS @u{event}")).await;
    let without_row = members
        .iter()
        .filter(|user| !rows.contains_key(*user))
        .cloned();
    let mut taken = given;
    if system.users == Some("admitted") {
        taken = taken.max(members.len() as u64);
        let left = of(&[Kind::OverAdmitted, Kind::FailedClaim]);
        let unnamed: Vec<String> = without_row.filter(|user| !left.contains(user)).collect();
        assert!(unnamed.is_empty(), "{unnamed:?} {report:#?}");
    }
    if system.users.is_some() {
        assert!(
            rows.keys().all(|user| members.contains(user)),
            "{report:#?}"
        );
    }
    let twice: BTreeSet<String> = rows
        .iter()
        .filter(|(_, n)| **n > 1)
        .map(|(user, _)| user.clone())
        .collect();
    assert_eq!(of(&[Kind::DuplicateRow]), twice);
    let surplus = report
        .findings
        .iter()
        .filter(|it| it.kind == Kind::OverIssued)
        .count() as u64;
    assert_eq!(surplus, given.saturating_sub(system.quantity));
    let open = world
        .sql(&format!(
            "SELECT DISTINCT user_id FROM failed_event WHERE event_id = {event}"
        ))
        .await;
    let open: BTreeSet<String> = open.into_iter().map(|mut row| row.swap_remove(0)).collect();
    assert_eq!(of(&[Kind::FailedClaim]), open);
    let count: Option<u64> = world.redis(&format!("GET @c{event}")).await;
    let count = count.unwrap_or_default();
    let fits = match system.means {
        "issued" => count == taken,
        _ => count >= taken && (count < system.quantity || taken >= system.quantity),
    };
    assert!(fits, "count {count}, taken {taken}: {report:#?}");
    assert_eq!(report.exact, report.findings.is_empty(), "{report:#?}");
}
