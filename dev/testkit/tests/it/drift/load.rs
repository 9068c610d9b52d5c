//! Under load, claims in flight are not drift, and real losses are found at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firstcome_testkit::drift::{Drift, Injected};
use firstcome_testkit::{Fixture, World, all_issued, coupon_body, eventually, people, rush, tally};

use crate::drift::support::{assert_settled, injector};

const PEOPLE: usize = 3_000;
const DEADLINE_MS: i64 = 2_000;

#[tokio::test]
async fn passes_during_a_rush_report_only_real_losses_and_report_them_first() {
    let fixture = Fixture::new("d-load").await;
    let world = &fixture.world;
    assert_eq!(fixture.consumer.process.stop().await, 0);
    // Slower than the crowd, so that many claims are always in flight.
    let _consumer = world
        .consume_with(&[("CONSUME_MAX_ROWS_PER_SECOND", "250")])
        .await;
    let coupon = fixture
        .api
        .create_coupon(&coupon_body("Rush", u32::try_from(PEOPLE).unwrap() + 10, 0))
        .await;
    let daemon = world
        .daemon_with(&[("RECONCILE_CRON", "* * * * * *")])
        .await;
    let users = people(PEOPLE);
    let half = PEOPLE / 2;
    let mut answers = rush(&[&fixture.api], coupon.id, &users[..half], 64).await;

    // In the middle of the rush: users whose messages never arrive, and rows that are deleted.
    let rest = tokio::spawn(rush(&[&fixture.api], coupon.id, &users[half..], 64));
    let mut injector = injector(world, &coupon).await;
    let ghosts = injector.make(Drift::Unpublished, 5).await.unwrap();
    let ghosts_known_at = now_ms(world).await + DEADLINE_MS;
    let old = format!(
        "SELECT COUNT(*) FROM issued_coupons WHERE claimed_at < UTC_TIMESTAMP(3) - INTERVAL {DEADLINE_MS}000 MICROSECOND"
    );
    eventually(
        "some rows belong to users admitted long ago",
        Duration::from_secs(30),
        async || world.sql.number(&old).await > 100,
    )
    .await;
    let deleted = delete_old(world, coupon.drop, 5).await;
    let deleted_at = now_ms(world).await;
    answers.extend(rest.await.unwrap());
    assert_eq!(tally(&answers), [("accepted".to_owned(), PEOPLE)].into());
    all_issued(world, coupon.drop, PEOPLE + 5).await;
    eventually(
        "a pass has seen the end of the rush",
        Duration::from_secs(30),
        async || {
            let after =
                "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'clean' AND rows_examined > ";
            world.sql.number(&format!("{after}{PEOPLE}")).await >= 2
        },
    )
    .await;
    assert_eq!(daemon.process.stop().await, 0);

    let findings =
        "SELECT f.user_id, f.kind, f.result, f.run_id FROM reconcile_findings f ORDER BY f.id";
    let findings = world.sql.query(findings).await;
    let named: BTreeSet<&str> = findings.iter().map(|f| f[0].as_str()).collect();
    let lost: BTreeSet<&str> = ghosts
        .people
        .iter()
        .map(|h| h.user.as_str())
        .chain(deleted.iter().map(String::as_str))
        .collect();
    assert_eq!(named, lost, "exactly the lost users");
    assert_eq!(findings.len(), lost.len(), "each once: {findings:?}");
    assert!(
        findings
            .iter()
            .all(|f| f[1] == "unissued" && f[2] == "applied"),
        "{findings:?}"
    );
    let by_person: BTreeMap<&str, &str> = findings
        .iter()
        .map(|f| (f[0].as_str(), f[3].as_str()))
        .collect();
    let ghost_names: Vec<&str> = names(&ghosts);
    first_that_could_know(world, &by_person, &ghost_names, ghosts_known_at).await;
    first_that_could_know(
        world,
        &by_person,
        &deleted.iter().map(String::as_str).collect::<Vec<_>>(),
        deleted_at,
    )
    .await;
    busy_enough(world).await;

    assert_settled(
        world,
        &coupon,
        u32::try_from(PEOPLE).unwrap() + 10,
        PEOPLE + 5,
        &answers,
    )
    .await;
}

fn names(done: &Injected) -> Vec<&str> {
    done.people.iter().map(|hit| hit.user.as_str()).collect()
}

/// MySQL's clock, which is Redis's too on one machine.
async fn now_ms(world: &World) -> i64 {
    world
        .sql
        .number("SELECT CAST(ROUND(UNIX_TIMESTAMP(NOW(3)) * 1000) AS SIGNED)")
        .await
}

async fn delete_old(world: &World, drop: i64, n: u32) -> Vec<String> {
    let oldest = format!(
        "SELECT slot, user_id FROM issued_coupons WHERE drop_id = {drop} ORDER BY slot LIMIT {n}"
    );
    let rows = world.sql.query(&oldest).await;
    for row in &rows {
        world
            .sql
            .query(&format!(
                "DELETE FROM issued_coupons WHERE drop_id = {drop} AND slot = {}",
                row[0]
            ))
            .await;
    }
    rows.into_iter().map(|row| row[1].clone()).collect()
}

/// Checks that no pass that began after `at` ended without finding these.
async fn first_that_could_know(
    world: &World,
    found_by: &BTreeMap<&str, &str>,
    people: &[&str],
    at: i64,
) {
    let after = format!(
        "SELECT id FROM reconcile_runs WHERE UNIX_TIMESTAMP(started_at) * 1000 >= {at} ORDER BY started_at LIMIT 1"
    );
    let first = world.sql.query(&after).await[0][0].clone();
    for person in people {
        // Ids are ordered by time.
        assert!(
            found_by[person] <= first.as_str(),
            "{person} was found by {}, not by {first} before it",
            found_by[person]
        );
    }
}

/// Checks that passes really saw messages in flight, and that there were several passes.
async fn busy_enough(world: &World) {
    let seen = "SELECT COUNT(*) FROM reconcile_runs WHERE CAST(drops->>'$[0].before.in_flight' AS SIGNED) > 100";
    let seen = world.sql.number(seen).await;
    assert!(seen >= 3, "only {seen} passes saw much in flight");
    let failed = "SELECT COUNT(*) FROM reconcile_runs WHERE status NOT IN ('clean', 'repaired')";
    assert_eq!(world.sql.number(failed).await, 0);
}
