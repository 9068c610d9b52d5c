//! Redis, Kafka and MySQL run as clusters. During a rush on ten coupons, one server of each dies at
//! the same time. Every coupon must be exact within a minute.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use firstcome_stack::{ClusterStack, MailOptions, RedisServer};
use firstcome_testkit::{
    ApiClient, Http, MadeCoupon, PromisedAnswer, ReconcilerClient, Running, StoreUrls, World,
    WorldStores, assert_exact, eventually, exact, people,
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::waves::HEALED;

const COUPONS: usize = 10;

/// Concurrent requests.
const AT_ONCE: usize = 200;

/// Number of outstanding requests when the servers die. It is at most half of all requests.
const STILL_TO_COME: usize = 15_000;

/// Limit for a hundred thousand requests on a busy machine.
const RUSH: Duration = Duration::from_secs(600);

/// Time limit, counted from the end of the last fault.
const EXACT_WITHIN: Duration = Duration::from_secs(60);

/// Settings of the processes: frequent passes, and no delays that the test does not need.
const SETTINGS: [(&str, &str); 4] = [
    ("RECONCILE_CRON", "*/2 * * * * *"),
    ("STORE_TIMEOUT_MS", "2000"),
    ("PUBLISH_DEADLINE_MS", "1000"),
    ("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "5000"),
];

/// Returns the number of requests for all coupons together. A release uses `REQUESTS=100000`.
fn requests() -> usize {
    std::env::var("REQUESTS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20_000)
}

/// Users who repeat their claims until they get a slot or `sold_out`.
struct AskingCrowd {
    coupons: Vec<MadeCoupon>,
    apis: Mutex<[ApiClient; 2]>,
    permits: Semaphore,
    asked: AtomicUsize,
    answers: Mutex<Vec<Vec<PromisedAnswer>>>,
}

impl AskingCrowd {
    fn new(coupons: Vec<MadeCoupon>, apis: [ApiClient; 2]) -> Arc<Self> {
        let apis = Mutex::new(apis);
        let answers = Mutex::new(vec![Vec::new(); coupons.len()]);
        Arc::new(Self {
            coupons,
            apis,
            permits: Semaphore::new(AT_ONCE),
            asked: AtomicUsize::new(0),
            answers,
        })
    }

    /// Alternates between the coupons. A slow request does not delay the others.
    async fn come(self: Arc<Self>, everybody: Vec<String>) {
        let mut tasks = tokio::task::JoinSet::new();
        for (number, person) in everybody.into_iter().enumerate() {
            for coupon in 0..self.coupons.len() {
                let crowd = self.clone();
                let person = person.clone();
                tasks.spawn(async move { crowd.until_answered(coupon, &person, number).await });
            }
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    }

    /// Alternates between both APIs.
    async fn until_answered(&self, coupon: usize, person: &str, number: usize) {
        for attempt in 0.. {
            let permit = self.permits.acquire().await.unwrap();
            let api = self.apis.lock()[(number + attempt) % 2].clone();
            let answer = api.claim(self.coupons[coupon].id, person).await;
            drop(permit);
            self.asked
                .fetch_add(usize::from(attempt == 0), Ordering::Relaxed);
            let settled = answer.promised().is_some() || answer.is("sold_out");
            self.answers.lock()[coupon].push((person.to_owned(), answer));
            if settled {
                return;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// Two processes of each kind.
struct TwoOfEach {
    apis: [Running<ApiClient>; 2],
    consumers: [Running<Http>; 2],
    daemons: [Running<ReconcilerClient>; 2],
}

impl TwoOfEach {
    async fn start(world: &World) -> Self {
        let (apis, consumers, daemons) = tokio::join!(
            async { [world.serve().await, world.serve().await] },
            async { [world.consume().await, world.consume().await] },
            async { [world.daemon().await, world.daemon().await] },
        );
        Self {
            apis,
            consumers,
            daemons,
        }
    }

    /// Kills the first process of each kind.
    async fn kill_one_each(&self) {
        tokio::join!(
            self.apis[0].process.kill(),
            self.consumers[0].process.kill(),
            self.daemons[0].process.kill()
        );
    }

    /// Restarts the killed processes, and directs the crowd to them.
    async fn start_again(&mut self, world: &World, crowd: &AskingCrowd) {
        let (api, consumer, daemon) = tokio::join!(world.serve(), world.consume(), world.daemon());
        crowd.apis.lock()[0] = ApiClient::clone(&api);
        self.apis[0] = api;
        self.consumers[0] = consumer;
        self.daemons[0] = daemon;
    }
}

async fn begin() -> (ClusterStack, World) {
    let stack = ClusterStack::start(MailOptions::default())
        .await
        .unwrap_or_else(|error| panic!("{error:#}"));
    let mysql = stack
        .mysql
        .primary
        .database_url_via(&stack.mysql.address, "");
    let urls = StoreUrls {
        mysql,
        ..StoreUrls::default()
    };
    let stores = WorldStores::at(urls)
        .with_redis_servers(&stack.redis.urls(), &stack.redis.env())
        .with_kafka_cluster(&stack.kafka);
    let world = World::on(stores, "clusters").await;
    for (name, value) in SETTINGS {
        world.set(name, value);
    }
    (stack, world)
}

async fn primary_of<'a>(
    stack: &'a ClusterStack,
    world: &World,
    coupon: &MadeCoupon,
) -> &'a RedisServer {
    stack
        .redis
        .primary_of(&world.redis.claimants(coupon.id))
        .await
        .unwrap()
}

/// Creates ten coupons that are spread over the primaries.
async fn spread_coupons(
    stack: &ClusterStack,
    world: &World,
    api: &ApiClient,
    quantity: u32,
) -> Vec<MadeCoupon> {
    let mut coupons = Vec::new();
    let mut primaries = BTreeSet::new();
    for _ in 0..COUPONS {
        let coupon = api.open_coupon(quantity).await;
        primaries.insert(primary_of(stack, world, &coupon).await.port());
        coupons.push(coupon);
    }
    assert_eq!(primaries.len(), 3, "coupons are on each primary");
    coupons
}

/// Kills a primary of Redis, a broker, MySQL's primary and one process of each kind at once.
/// Returns the Redis primary.
async fn one_of_everything_dies<'a>(
    stack: &'a ClusterStack,
    world: &World,
    processes: &TwoOfEach,
    coupon: &MadeCoupon,
) -> &'a RedisServer {
    let redis = primary_of(stack, world, coupon).await;
    let broker = stack
        .kafka
        .broker(world.topic.leader(0).await.unwrap())
        .unwrap();
    let (one, two, three, ()) = tokio::join!(
        redis.kill(),
        broker.kill(),
        stack.mysql.primary.kill(),
        processes.kill_one_each()
    );
    one.and(two).and(three).unwrap();
    redis
}

/// Waits until a replica has become the primary of this coupon and the killed server is back as its
/// replica.
async fn redis_is_whole(
    stack: &ClusterStack,
    world: &World,
    dead: &RedisServer,
    coupon: &MadeCoupon,
) {
    let key = world.redis.claimants(coupon.id);
    eventually("a replica of Redis has taken over", HEALED, async || {
        stack
            .redis
            .primary_of(&key)
            .await
            .is_ok_and(|now| now.port() != dead.port())
    })
    .await;
    dead.start_again().await.unwrap();
    stack.redis.wait_until_whole().await.unwrap();
}

#[tokio::test]
async fn all_coupons_are_exact_after_one_server_of_each_kind_dies_during_a_rush() {
    let (stack, world) = begin().await;
    let mut processes = TwoOfEach::start(&world).await;
    let api = &processes.apis[0];
    eventually("admission is open", HEALED, async || {
        api.http().get("/readyz").await.status == 200
    })
    .await;

    // Nine in ten users get a slot, so some slots are left when the servers die.
    let everybody = people(requests() / COUPONS);
    let quantity = u32::try_from(everybody.len() * 9 / 10).unwrap();
    let coupons = spread_coupons(&stack, &world, api, quantity).await;
    let crowd = AskingCrowd::new(
        coupons,
        processes.apis.each_ref().map(|api| ApiClient::clone(api)),
    );
    let begun = Instant::now();
    let rush = tokio::spawn(crowd.clone().come(everybody));
    let before = requests() - STILL_TO_COME.min(requests() / 2);
    eventually("most have asked", RUSH, async || {
        crowd.asked.load(Ordering::Relaxed) >= before
    })
    .await;

    let dead = one_of_everything_dies(&stack, &world, &processes, &crowd.coupons[0]).await;
    let died = Instant::now();
    let died_after = begun.elapsed();
    tokio::join!(
        redis_is_whole(&stack, &world, dead, &crowd.coupons[0]),
        async { stack.mysql.fail_over().await.unwrap() },
        processes.start_again(&world, &crowd),
    );
    // One broker and one MySQL stay dead. The others continue without them.
    let last_fault = Instant::now();
    rush.await.unwrap();
    let rushed = begun.elapsed();
    for coupon in &crowd.coupons {
        let left = EXACT_WITHIN.saturating_sub(last_fault.elapsed());
        firstcome_testkit::eventually_some("the coupon is exact", left, async || {
            exact(&world.sql, &world.redis, coupon, quantity).await
        })
        .await;
    }
    let since_last = last_fault.elapsed();
    let since_kills = died.elapsed();
    let answers = std::mem::take(&mut *crowd.answers.lock());
    println!(
        "{} requests for {COUPONS} × {quantity} in {rushed:.1?}, everything died after {died_after:.1?}; exact \
         {since_last:.1?} after the last fault, {since_kills:.1?} after the kills",
        answers.iter().map(Vec::len).sum::<usize>(),
    );
    assert!(
        since_last <= EXACT_WITHIN,
        "exact {since_last:?} after the last fault"
    );

    for (coupon, answers) in crowd.coupons.iter().zip(&answers) {
        assert_exact(&world, coupon, quantity, answers).await;
    }
    let left = world.sql.query("SELECT * FROM broken_promises").await;
    assert!(left.is_empty(), "{left:?}");
    eventually("a deep pass finds nothing", HEALED, async || {
        let once = world.once_with(&["--deep"], &[]).await;
        once.code == 0 && once.run().all_findings().count() == 0
    })
    .await;
    for process in [
        &processes.apis[1].process,
        &processes.consumers[1].process,
        &processes.daemons[1].process,
    ] {
        assert_eq!(process.status(), None, "{}", process.log());
    }
}
