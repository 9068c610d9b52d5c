//! Random systems: after several passes and confirmations, everything is exact or reported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};

use firstcome_reconciler::report::{Kind, Outcome, Status};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::world::{World, confirm, dry_run, pass};

static CASES: AtomicU32 = AtomicU32::new(0);

/// A system: for each user, whether the user is a member, and the number of the user's rows and
/// failed events; and the numbers of the system.
#[derive(Debug, Clone)]
struct System {
    quantity: u64,
    people: Vec<(bool, usize, usize)>,
    count: Option<i64>,
    count_means: &'static str,
    users_mean: &'static str,
}

fn systems() -> impl Strategy<Value = System> {
    let rows = prop::sample::select(vec![0_usize, 0, 0, 0, 1, 1, 1, 1, 2]);
    let failed = prop::sample::select(vec![0_usize, 0, 0, 0, 1, 2]);
    let person = (prop::bool::weighted(0.8), rows, failed);
    let numbers = (1..14_u64, prop::option::weighted(0.9, 0..30_i64));
    let count_means = prop::sample::select(vec!["tickets", "issued"]);
    let users_mean = prop::sample::select(vec!["admitted", "admitted", "applied", "nothing"]);
    let all = (
        numbers,
        prop::collection::vec(person, 0..14),
        count_means,
        users_mean,
    );
    all.prop_map(
        |((quantity, count), people, count_means, users_mean)| System {
            quantity,
            people,
            count,
            count_means,
            users_mean,
        },
    )
}

#[test]
fn random_systems_are_exact_or_reported_after_confirmations_and_lose_no_row() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::without_key());
    let cases = std::env::var("SYSTEMS").map_or(20, |text| text.parse().unwrap());
    let config = Config {
        cases,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let ran = TestRunner::new(config).run(&systems(), |system| {
        runtime.block_on(check(&world, &system));
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
}

const FILE: &str = r#"
[[campaign]]
name = "any NUMBER"
mode = "repair"
in_flight = "0.001s"
repair_limit = 1000
users = { key = "@users", type = "set", means = "MEAN" }
count = { key = "@count", means = "COUNT" }
rows = { table = "coupon", user = "user_id", where = { event_id = 7 }, duplicates = "reported" }
failed = { table = "failed_event", user = "user_id", where = { event_id = 7 }, done = "delete" }
quantity ="#;

async fn check(world: &World, system: &System) {
    world.sql("TRUNCATE coupon").await;
    world.sql("TRUNCATE failed_event").await;
    let () = world.redis("DEL @users @count").await;
    let many = |of: fn(&(bool, usize, usize)) -> usize| {
        let people = system.people.iter().enumerate();
        people.flat_map(move |(n, it)| std::iter::repeat_n(format!("user-{n}"), of(it)))
    };
    world.add_members("@users", many(|it| it.0.into())).await;
    world.rows(7, many(|it| it.1)).await;
    world.failed(7, many(|it| it.2)).await;
    if let Some(count) = system.count {
        let () = world.redis(&format!("SET @count {count}")).await;
    }
    let number = CASES.fetch_add(1, Ordering::Relaxed);
    let mut file = format!("{FILE} {}", system.quantity).replace("COUNT", system.count_means);
    // Each case has its own campaign: a difference that keeps coming back in one is not repaired.
    file = file.replace("NUMBER", &number.to_string());
    file = file.replace("MEAN", system.users_mean);
    if system.users_mean == "nothing" {
        let users = file.lines().filter(|line| !line.starts_with("users"));
        file = users.collect::<Vec<_>>().join("\n");
    }
    let attached = world.attached(&file);
    let before = rows(world).await;
    pass(&attached).await;
    confirm(&attached).await;
    dry_run(&attached).await;
    confirm(&attached).await;
    // If all repairs were held back until then, an event that has become a duplicate is closed now.
    pass(&attached).await;
    let last = pass(&attached).await;
    let report = &last.drops[0];
    let after = rows(world).await;
    let is_kept = |(user, rows): (&String, &u64)| after.get(user) >= Some(rows);
    assert!(before.iter().all(is_kept), "a deleted row");
    let [had, given] = [&before, &after].map(|rows| rows.values().sum::<u64>());
    let most = system.quantity.max(had);
    assert!(given <= most, "{given} rows: {report:#?}");
    let mut left = report.findings.iter();
    let is_left = left.all(|it| it.result == Outcome::Skipped);
    let is_last = is_left && last.status != Status::Repaired;
    assert!(is_last, "a later pass repairs: {report:#?}");
    let is_exact = report.findings.is_empty() && report.unproven.is_none();
    assert_eq!(report.exact, is_exact, "{report:#?}");
    // Whatever is not exact is a finding with its user.
    let named = |kinds: &[Kind]| -> BTreeSet<String> {
        let found = report.findings.iter().filter(|it| kinds.contains(&it.kind));
        found.filter_map(|it| it.user_id.clone()).collect()
    };
    let members: BTreeSet<String> = world.redis("SMEMBERS @users").await;
    let mut taken = given;
    if system.users_mean == "admitted" {
        // The user of a row beyond the quantity is not added to Redis, and has a coupon, too.
        let users = after.keys().filter(|user| !members.contains(*user)).count();
        taken = taken.max((members.len() + users) as u64);
        let left = named(&[Kind::OverAdmitted, Kind::FailedClaim]);
        let has_coupon = |user: &String| after.contains_key(user) || left.contains(user);
        assert!(members.iter().all(has_coupon), "{report:#?}");
    }
    let beyond = named(&[Kind::OverIssued]);
    let mut users = after.keys();
    let are_members = users.all(|user| members.contains(user) || beyond.contains(user));
    assert!(are_members || system.users_mean == "nothing", "{report:#?}");
    let twice = after.iter().filter(|(_, rows)| **rows > 1);
    let twice = twice.map(|(user, _)| user.clone()).collect();
    assert_eq!(named(&[Kind::DuplicateRow]), twice);
    let all = report.findings.iter();
    let surplus = all.filter(|it| it.kind == Kind::OverIssued).count();
    assert_eq!(surplus as u64, given.saturating_sub(system.quantity));
    let open = "SELECT DISTINCT user_id FROM failed_event";
    let open = world.sql(open).await.concat();
    assert_eq!(named(&[Kind::FailedClaim]), open.into_iter().collect());
    let count: Option<u64> = world.redis("GET @count").await;
    let count = count.unwrap_or_default();
    let can_go_on = count < system.quantity || taken >= system.quantity;
    let of_count = [Kind::CountMismatch, Kind::Unfilled];
    let is_named = report.findings.iter().any(|it| of_count.contains(&it.kind));
    let fits = if system.count_means == "issued" {
        // A refused claim may hold a counter past the end, so it is only named.
        count == taken || count > system.quantity.max(taken) && is_named
    } else {
        count >= taken && can_go_on
    };
    assert!(fits, "count {count}, taken {taken}: {report:#?}");
}

async fn rows(world: &World) -> BTreeMap<String, u64> {
    let rows = "SELECT user_id, COUNT(*) FROM coupon GROUP BY user_id";
    let rows = world.sql(rows).await.into_iter();
    rows.map(|row| (row[0].clone(), row[1].parse().unwrap()))
        .collect()
}
