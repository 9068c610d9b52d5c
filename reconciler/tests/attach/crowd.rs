//! Differences planted among many users while a crowd claims on the attached system: all are found,
//! and none is invented.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use firstcome_reconciler::report::{Kind, Status};
use firstcome_stack::eventually;
use rand::RngExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::program::LIMIT;
use crate::world::{World, pass, users};

struct Size {
    users: u32,
    planted: u32,
    /// The last pass begins within this time.
    crowd: Duration,
    claims_per_second: u32,
    /// Longer than the lag of the crowd's consumers, also on a busy machine.
    in_flight: &'static str,
    shape: Shape,
}

/// How the attached system counts and hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// INCR, and a consumer that gets each claim at once.
    CountsUp,
    /// DECR of a stock, and a list of messages.
    CountsDownWithQueue,
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_differences_are_found_and_none_is_invented_while_a_crowd_claims() {
    let one_pass = |shape, in_flight| {
        crowd(Size {
            users: 3_000,
            planted: 400,
            crowd: Duration::ZERO,
            claims_per_second: 200,
            in_flight,
            shape,
        })
    };
    // A pass waits once, but twice beside a queue, so that both take ten seconds.
    tokio::join!(
        one_pass(Shape::CountsUp, "10s"),
        one_pass(Shape::CountsDownWithQueue, "5s")
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "release"] // half an hour, or ATTACH_MINUTES
async fn ten_thousand_differences_among_a_hundred_thousand_users_are_found() {
    let minutes = minutes_or(30);
    for shape in [Shape::CountsUp, Shape::CountsDownWithQueue] {
        crowd(Size {
            users: 100_000,
            planted: 10_000,
            crowd: Duration::from_mins(minutes) / 2,
            claims_per_second: 100,
            in_flight: "5s",
            shape,
        })
        .await;
    }
}

fn minutes_or(default: u64) -> u64 {
    std::env::var("ATTACH_MINUTES").map_or(default, |it| it.parse().unwrap())
}

/// Number of messages that wait while the consumer stands still.
const WAITING: u32 = 1_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "release"] // ten minutes, or ATTACH_MINUTES
async fn consumer_that_stands_still_with_a_thousand_messages_leaves_nothing_to_repair() {
    let standing = Duration::from_mins(minutes_or(10));
    let shape = Shape::CountsDownWithQueue;
    let world = Arc::new(World::new().await);
    let before = 50_u32;
    let all = before + WAITING;
    world.add_members("@users", users(0..before)).await;
    world.rows(7, users(0..before)).await;
    let stock = format!("INSERT INTO stock VALUES (7, {QUANTITY})");
    world.sql(&stock).await;
    let count = shape.count(before.into());
    let () = world.redis(&format!("SET @count {count}")).await;
    let attached = world.attached(&shape.file("5s"));
    assert_eq!(pass(&attached).await.status, Status::Clean);

    shape.take(&world, WAITING).await;
    world.add_members("@users", users(before..all)).await;
    let messages: Vec<String> = users(before..all).collect();
    let () = world
        .redis(&format!("RPUSH @queue {}", messages.join(" ")))
        .await;
    let standing_state = [before.into(), 0, all.into(), shape.count(all.into())];
    let began = Instant::now();
    let mut passes = 0;
    while began.elapsed() < standing {
        let run = pass(&attached).await;
        let found: Vec<Kind> = run.all_findings().map(|it| it.kind).collect();
        assert_eq!(found, [Kind::Stalled], "{run:?}");
        assert_eq!(world.numbers().await, standing_state);
        passes += 1;
    }
    let stood = began.elapsed().as_secs();
    // The consumer works again.
    let closed = CancellationToken::new();
    closed.cancel();
    pop(world.clone(), closed).await;
    let run = pass(&attached).await;
    assert!(run.status == Status::Clean && run.drops[0].exact, "{run:?}");
    let rows = i64::from(all);
    assert_eq!(world.numbers().await, [rows, 0, rows, shape.count(rows)]);
    println!(
        "{passes} passes in {stood} s beside {WAITING} messages that wait: 0 unissued, 0 repairs"
    );
}

const QUANTITY: i64 = 4_000_000;

const FILE: &str = r#"
max_rows_per_second = 1000000
[[campaign]]
name = "Crowd"
mode = "repair"
QUANTITY
in_flight = "IN_FLIGHT"
repair_limit = 1000000
users = { key = "@users", type = "set" }
count = { key = "@count", means = "MEANS" }
rows = { table = "coupon", user = "user_id", where = { event_id = 7 } }
failed = { table = "failed_event", user = "user_id", where = { event_id = 7 }, done = "delete" }
"#;

impl Shape {
    fn file(self, in_flight: &str) -> String {
        let (means, quantity) = match self {
            Self::CountsUp => ("tickets", format!("quantity = {QUANTITY}")),
            Self::CountsDownWithQueue => (
                "left",
                "quantity_sql = \"SELECT total FROM stock WHERE id = 7\"\nqueue = { list = \"@queue\" }"
                    .to_owned(),
            ),
        };
        FILE.replace("IN_FLIGHT", in_flight)
            .replace("MEANS", means)
            .replace("QUANTITY", &quantity)
    }

    /// Returns the counter after this many coupons were given out.
    fn count(self, given: i64) -> i64 {
        match self {
            Self::CountsUp => given,
            Self::CountsDownWithQueue => QUANTITY - given,
        }
    }

    /// Counts this many coupons as given out.
    async fn take(self, world: &World, number: u32) {
        let word = match self {
            Self::CountsUp => "INCRBY",
            Self::CountsDownWithQueue => "DECRBY",
        };
        let () = world.redis(&format!("{word} @count {number}")).await;
    }
}

async fn crowd(size: Size) {
    let shape = size.shape;
    let world = Arc::new(World::new().await);
    world.add_members("@users", users(0..size.users)).await;
    world.rows(7, users(0..size.users)).await;
    let stock = format!("INSERT INTO stock VALUES (7, {QUANTITY})");
    world.sql(&stock).await;
    let count = shape.count(size.users.into());
    let () = world.redis(&format!("SET @count {count}")).await;
    let stop = CancellationToken::new();
    let crowd = Crowd {
        world: world.clone(),
        shape,
        per_second: size.claims_per_second,
    };
    let claims = tokio::spawn(crowd.claim(stop.clone()));
    let attached = world.attached(&shape.file(size.in_flight));
    eventually("the crowd claims", LIMIT, async || {
        world.redis::<u32>("SCARD @users").await > size.users + size.claims_per_second
    })
    .await;
    let began = Instant::now();
    let mut passes = 0_u32;
    while began.elapsed() < size.crowd || passes == 0 {
        let all_planted = plant(&world, &size, passes).await;
        let run = pass(&attached).await;
        let found = run.all_findings().filter_map(|it| it.user_id.clone());
        // Exactly these were repaired, and no user of the crowd.
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
    assert_eq!(world.numbers().await, [all, 0, all, shape.count(all)]);
    println!(
        "{shape:?}: {passes} passes, {planted} differences found and repaired, {claimed} claims meanwhile"
    );
}

/// Plants differences of new users, since a difference that keeps coming back is not repaired. A
/// quarter each has no row, is no member, has a failed event, and has a failed event and a row.
async fn plant(world: &World, size: &Size, pass: u32) -> BTreeSet<String> {
    let quarter = |number: u32| {
        let users = 0..size.planted / 4;
        let users = users.map(|n| format!("planted-{pass}-{number}-{n}"));
        users.collect::<Vec<String>>()
    };
    let [no_row, no_member, failed, duplicate] = [0, 1, 2, 3].map(quarter);
    size.shape.take(world, size.planted).await;
    let members = [no_row.clone(), failed.clone(), duplicate.clone()];
    world.add_members("@users", members.concat()).await;
    let rows = [no_member.clone(), duplicate.clone()];
    world.rows(7, rows.concat()).await;
    let events = [failed.clone(), duplicate.clone()];
    world.failed(7, events.concat()).await;
    let all = [no_row, no_member, failed, duplicate].concat();
    all.into_iter().collect()
}

/// A system as in published write-ups: a counter, SADD, and a consumer that inserts up to a second
/// later.
struct Crowd {
    world: Arc<World>,
    shape: Shape,
    per_second: u32,
}

impl Crowd {
    /// Claims until stopped. Returns the number of claims.
    async fn claim(self, stop: CancellationToken) -> i64 {
        let mut every = tokio::time::interval(Duration::from_secs(1) / self.per_second);
        let mut consumers = JoinSet::new();
        let mut claimed = 0;
        let closed = CancellationToken::new();
        let popping = tokio::spawn(pop(self.world.clone(), closed.clone()));
        while !stop.is_cancelled() {
            every.tick().await;
            let user = format!("crowd-{claimed}");
            self.shape.take(&self.world, 1).await;
            let () = self.world.redis(&format!("SADD @users {user}")).await;
            claimed += 1;
            match self.shape {
                Shape::CountsUp => _ = consumers.spawn(consume(self.world.clone(), user)),
                Shape::CountsDownWithQueue => {
                    let () = self.world.redis(&format!("RPUSH @queue {user}")).await;
                }
            }
            while let Some(consumed) = consumers.try_join_next() {
                consumed.unwrap();
            }
        }
        consumers.join_all().await;
        closed.cancel();
        popping.await.unwrap();
        claimed
    }
}

/// Inserts a row up to a second later.
async fn consume(world: Arc<World>, user: String) {
    let lag = rand::rng().random_range(0..900);
    tokio::time::sleep(Duration::from_millis(lag)).await;
    world.rows(7, [user]).await;
}

/// Pops messages until the list is empty and nobody pushes any more.
async fn pop(world: Arc<World>, closed: CancellationToken) {
    let mut consumers = JoinSet::new();
    loop {
        let is_last = closed.is_cancelled();
        let popped: Option<String> = world.redis("LPOP @queue").await;
        match popped {
            Some(user) => _ = consumers.spawn(consume(world.clone(), user)),
            None if is_last => break,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
        while let Some(consumed) = consumers.try_join_next() {
            consumed.unwrap();
        }
    }
    consumers.join_all().await;
}
