//! Differences planted among many users while a crowd claims on the attached system: all are
//! found, and none is invented. Time is real.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use firstcome_shared::report::{ActionKind, Finding, Kind, Outcome};
use firstcome_stack::eventually_some;
use rand::RngExt as _;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::daemon::{Daemon, told};
use crate::world::World;

/// How long a condition may take on a busy machine.
const LIMIT: Duration = Duration::from_mins(5);

struct Size {
    users: u32,
    planted: u32,
    /// The last plants come within this time.
    crowd: Duration,
    claims_per_second: u32,
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
    let once = |shape| {
        crowd(Size {
            users: 3_000,
            planted: 400,
            crowd: Duration::ZERO,
            claims_per_second: 200,
            shape,
        })
    };
    tokio::join!(once(Shape::CountsUp), once(Shape::CountsDownWithQueue));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "release"] // half an hour, or ATTACH_MINUTES
async fn ten_thousand_differences_among_a_hundred_thousand_users_are_found() {
    let minutes = std::env::var("ATTACH_MINUTES").map_or(30, |it| it.parse().unwrap());
    for shape in [Shape::CountsUp, Shape::CountsDownWithQueue] {
        crowd(Size {
            users: 100_000,
            planted: 10_000,
            crowd: Duration::from_mins(minutes) / 2,
            claims_per_second: 100,
            shape,
        })
        .await;
    }
}

const QUANTITY: u32 = 4_000_000;

/// Longer than the lag of the crowd's consumers, also on a busy machine.
const FILE: &str = "[[campaign]]
name = 'Crowd'
quantity = 4000000
promised = { set = '@users' }
issued = 'SELECT user_id FROM coupon'
count = { key = '@count', counts = 'COUNTS' }
failed = 'SELECT id, user_id FROM failed'
queue = QUEUE
in_flight = '5s'
mode = 'repair'
resolve = 'DELETE FROM failed WHERE id = :failed'
issue = ['INSERT INTO coupon (user_id) VALUES (:user)']
check = []";

const TABLES: [&str; 2] = [
    "CREATE TABLE coupon (id BIGINT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40) UNIQUE)",
    "CREATE TABLE failed (id BIGINT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40))",
];

impl Shape {
    fn file(self) -> String {
        let (counts, queue) = match self {
            Self::CountsUp => ("up", "[]"),
            Self::CountsDownWithQueue => ("down", "[{ list = '@queue' }]"),
        };
        FILE.replace("COUNTS", counts).replace("QUEUE", queue)
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
    let world = Arc::new(World::new(&TABLES).await);
    let names: Vec<String> = (0..size.users).map(|n| format!("user-{n}")).collect();
    world.add_members("@users", names.clone()).await;
    world.add_rows(names).await;
    let count = match shape {
        Shape::CountsUp => 0,
        Shape::CountsDownWithQueue => QUANTITY,
    };
    let () = world.redis(&format!("SET @count {count}")).await;
    shape.take(&world, size.users).await;
    let stop = CancellationToken::new();
    let crowd = Crowd {
        world: world.clone(),
        shape,
        per_second: size.claims_per_second,
    };
    let claims = tokio::spawn(crowd.claim(stop.clone()));
    let daemon = world.daemon(&shape.file());
    let began = Instant::now();
    let mut rounds = 0_u32;
    while began.elapsed() < size.crowd || rounds == 0 {
        let planted = plant(&world, &size, rounds).await;
        let found = find(&daemon, &planted).await;
        put_right(&world, &daemon, &found).await;
        rounds += 1;
    }
    stop.cancel();
    let claimed = claims.await.unwrap();
    assert_eq!(told(&daemon.settle().await), [""; 0]);
    let all = i64::from(size.users + rounds * size.planted) + claimed;
    let rows = world.number("SELECT COUNT(*) FROM coupon").await;
    assert_eq!([rows, world.redis("SCARD @users").await], [all, all]);
    println!(
        "{shape:?}: {rounds} rounds, {} differences found and put right, {claimed} claims \
        meanwhile",
        rounds * size.planted
    );
}

/// Waits until exactly these users are named. No pass names another.
async fn find(daemon: &Daemon, planted: &BTreeSet<String>) -> Vec<Finding> {
    eventually_some("all planted users are named", LIMIT, async || {
        daemon.engine.advance(None).await;
        let run = daemon.pass().await;
        let found: Vec<Finding> = run.all_findings().cloned().collect();
        let named: BTreeSet<String> = found.iter().filter_map(|it| it.user_id.clone()).collect();
        let invented: Vec<_> = named.difference(planted).take(3).collect();
        assert!(invented.is_empty(), "{invented:?} {:?}", told(&found));
        let users = found.iter().filter(|it| it.user_id.is_some());
        assert_eq!(users.count(), found.len(), "{:?}", told(&found));
        if named == *planted {
            return Ok(found);
        }
        Err(format!("{} of {}", named.len(), planted.len()))
    })
    .await
}

/// A person confirms the rows, adds the missing members and closes what has a row.
async fn put_right(world: &World, daemon: &Daemon, found: &[Finding]) {
    // A repair gives way to a crowd that locks a row or keeps a store busy, and is confirmed again.
    // Of one whose COMMIT was answered too late, the next look says whether it is left.
    eventually_some("all rows are written", LIMIT, async || {
        let confirmed = daemon.confirm().await;
        let repairs = confirmed.iter().filter(|it| it.action == ActionKind::Issue);
        let left = repairs.filter(|it| it.result != Outcome::Applied);
        let left: Vec<&str> = left.map(|it| it.detail.as_str()).collect();
        match left[..] {
            [] => Ok(()),
            [first, ..] => Err(format!("{} are left: {first}", left.len())),
        }
    })
    .await;
    let users = |kind: Kind| {
        let left = found.iter();
        let left = left.filter(move |it| it.kind == kind && it.result == Outcome::Skipped);
        left.filter_map(|it| it.user_id.clone())
    };
    world
        .add_members("@users", users(Kind::MissingAdmission))
        .await;
    let closed: Vec<String> = users(Kind::FailedClaim).collect();
    let closed = closed.join("', '");
    world
        .sql(&format!("DELETE FROM failed WHERE user_id IN ('{closed}')"))
        .await;
}

/// Plants differences of new users. A quarter each has no row, is no member, has a failed event,
/// and has a failed event and a row.
async fn plant(world: &World, size: &Size, round: u32) -> BTreeSet<String> {
    let quarter = |number: u32| {
        let users = 0..size.planted / 4;
        users
            .map(|n| format!("planted-{round}-{number}-{n}"))
            .collect::<Vec<String>>()
    };
    let [no_row, no_member, failed, closed] = [0, 1, 2, 3].map(quarter);
    size.shape.take(world, size.planted).await;
    world
        .add_rows([no_member.clone(), closed.clone()].concat())
        .await;
    let members = [no_row.clone(), failed.clone(), closed.clone()];
    world.add_members("@users", members.concat()).await;
    let events = [failed.clone(), closed.clone()].concat();
    let values = events.iter().map(|user| format!("('{user}')"));
    let values = values.collect::<Vec<_>>().join(", ");
    world
        .sql(&format!("INSERT INTO failed (user_id) VALUES {values}"))
        .await;
    [no_row, no_member, failed, closed]
        .concat()
        .into_iter()
        .collect()
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
        let mut every = interval(Duration::from_secs(1) / self.per_second);
        let mut consumers = JoinSet::new();
        let mut claimed = 0;
        while !stop.is_cancelled() {
            every.tick().await;
            let user = format!("crowd-{claimed}");
            self.shape.take(&self.world, 1).await;
            let () = self.world.redis(&format!("SADD @users {user}")).await;
            claimed += 1;
            if self.shape == Shape::CountsDownWithQueue {
                let () = self.world.redis(&format!("RPUSH @queue {user}")).await;
            }
            consumers.spawn(consume(self.world.clone(), self.shape, user));
            while let Some(consumed) = consumers.try_join_next() {
                consumed.unwrap();
            }
        }
        consumers.join_all().await;
        claimed
    }
}

/// Inserts a row up to a second later, of the user of the claim or of the first message.
async fn consume(world: Arc<World>, shape: Shape, user: String) {
    let user = match shape {
        Shape::CountsUp => user,
        Shape::CountsDownWithQueue => world.redis("LPOP @queue").await,
    };
    let lag = rand::rng().random_range(0..900);
    sleep(Duration::from_millis(lag)).await;
    world.add_rows([user]).await;
}
