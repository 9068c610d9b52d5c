//! Differences planted among many users while a crowd claims on the attached system: all are found,
//! and none is invented.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use firstcome_reconciler::report::Status;
use rand::RngExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::world::{World, pass, users};

struct Size {
    users: u32,
    planted: u32,
    crowd: Duration,
    claims_per_second: u32,
    /// Longer than the lag of the crowd's consumers, also on a busy machine.
    in_flight: &'static str,
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_differences_are_found_and_none_is_invented_while_a_crowd_claims() {
    crowd(Size {
        users: 3_000,
        planted: 400,
        crowd: Duration::from_secs(4),
        claims_per_second: 200,
        in_flight: "1.5s",
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "release"] // half an hour, or ATTACH_MINUTES
async fn ten_thousand_differences_among_a_hundred_thousand_users() {
    let minutes = std::env::var("ATTACH_MINUTES").map_or(30, |it| it.parse().unwrap());
    crowd(Size {
        users: 100_000,
        planted: 10_000,
        crowd: Duration::from_mins(minutes),
        claims_per_second: 100,
        in_flight: "5s",
    })
    .await;
}

const FILE: &str = r#"
max_rows_per_second = 1000000
[[campaign]]
name = "Crowd"
mode = "repair"
quantity = 4000000
in_flight = "IN_FLIGHT"
repair_limit = 1000000
users = { key = "@users", type = "set" }
count = { key = "@count", means = "tickets" }
rows = { table = "coupon", user = "user_id", where = { event_id = 7 } }
failed = { table = "failed_event", user = "user_id", where = { event_id = 7 }, done = "delete" }
"#;

async fn crowd(size: Size) {
    let world = Arc::new(World::new().await);
    world.members("@users", users(0..size.users)).await;
    world.rows(7, users(0..size.users)).await;
    let () = world.redis(&format!("SET @count {}", size.users)).await;
    let stop = CancellationToken::new();
    let claims = tokio::spawn(claim(world.clone(), size.claims_per_second, stop.clone()));
    let attached = world.attached(&FILE.replace("IN_FLIGHT", size.in_flight));
    let began = Instant::now();
    let mut passes = 0_u32;
    while began.elapsed() < size.crowd || passes == 0 {
        let all_planted = plant(&world, &size, passes).await;
        let run = pass(&attached).await;
        let found = run.all_findings().filter_map(|it| it.user_id.clone());
        // Exactly these were repaired, and nobody of the crowd.
        assert_eq!(found.collect::<BTreeSet<_>>(), all_planted);
        let (status, number) = (run.status, run.all_findings().count());
        assert_eq!((status, number), (Status::Repaired, all_planted.len()));
        passes += 1;
    }
    stop.cancel();
    let claimed = claims.await.unwrap();
    let run = pass(&attached).await;
    assert!(run.status == Status::Clean && run.drops[0].exact, "{run:?}");
    let planted = passes * size.planted;
    let all = i64::from(size.users + planted) + claimed;
    assert_eq!(world.numbers().await, [all, 0, all, all]);
    println!(
        "{passes} passes, {planted} differences found and repaired, {claimed} claims meanwhile"
    );
}

/// Plants differences of new users, since what comes back again and again is not repaired. A quarter
/// each: no row, no member, failed, and failed although it has a row.
async fn plant(world: &World, size: &Size, pass: u32) -> BTreeSet<String> {
    let quarter = |number: u32| {
        let users = 0..size.planted / 4;
        let users = users.map(|n| format!("planted-{pass}-{number}-{n}"));
        users.collect::<Vec<String>>()
    };
    let [no_row, no_member, failed, duplicate] = [0, 1, 2, 3].map(quarter);
    let () = world
        .redis(&format!("INCRBY @count {}", size.planted))
        .await;
    let members = [no_row.clone(), failed.clone(), duplicate.clone()];
    world.members("@users", members.concat()).await;
    let rows = [no_member.clone(), duplicate.clone()];
    world.rows(7, rows.concat()).await;
    let events = [failed.clone(), duplicate.clone()];
    world.failed(7, events.concat()).await;
    let all = [no_row, no_member, failed, duplicate].concat();
    all.into_iter().collect()
}

/// A system as in the write-ups: INCR, SADD, and a consumer that inserts up to a second later.
/// Returns how many claimed.
async fn claim(world: Arc<World>, per_second: u32, stop: CancellationToken) -> i64 {
    let mut every = tokio::time::interval(Duration::from_secs(1) / per_second);
    let mut consumers = JoinSet::new();
    let mut claimed = 0;
    while !stop.is_cancelled() {
        every.tick().await;
        let user = format!("crowd-{claimed}");
        let () = world.redis("INCR @count").await;
        let () = world.redis(&format!("SADD @users {user}")).await;
        claimed += 1;
        let (world, lag) = (world.clone(), rand::rng().random_range(0..900));
        consumers.spawn(async move {
            tokio::time::sleep(Duration::from_millis(lag)).await;
            world.rows(7, [user]).await;
        });
        while let Some(consumed) = consumers.try_join_next() {
            consumed.unwrap();
        }
    }
    consumers.join_all().await;
    claimed
}
