//! Redis, Kafka and MySQL run as clusters. During a rush on three coupons, one server of each and
//! one process of each kind die at the same time. Every coupon must be exact within a minute.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use firstcome_stack::{ClusterStack, MailOptions, RedisServer};
use firstcome_testkit::{
    ApiClient, LIMIT, MadeCoupon, PromisedAnswer, StoreUrls, World, WorldStores, assert_exact,
    eventually, eventually_some, exact, holders, people, rush,
};
use parking_lot::Mutex;

use super::waves::HEALED;

/// Time limit, counted from the end of the last fault.
const EXACT_WITHIN: Duration = Duration::from_secs(60);

/// Returns the number of users of each coupon. A release uses `REQUESTS=30000`.
fn users() -> usize {
    let requests = std::env::var("REQUESTS").ok();
    requests.and_then(|text| text.parse().ok()).unwrap_or(3_000)
}

async fn begin() -> (ClusterStack, World) {
    let stack = ClusterStack::start(MailOptions::default())
        .await
        .unwrap_or_else(|error| panic!("{error:#}"));
    let mysql = &stack.mysql;
    let urls = StoreUrls {
        mysql: mysql.primary.database_url_via(&mysql.address, ""),
        ..StoreUrls::default()
    };
    let stores = WorldStores::at(urls)
        .with_redis_servers(&stack.redis.urls(), &stack.redis.env())
        .with_kafka_cluster(&stack.kafka);
    let world = World::on(stores, "clusters").await;
    for (name, value) in [
        ("RECONCILE_CRON", "*/2 * * * * *"),
        ("STORE_TIMEOUT_MS", "2000"),
        ("PUBLISH_DEADLINE_MS", "1000"),
        ("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "5000"),
    ] {
        world.set(name, value);
    }
    (stack, world)
}

async fn primary_of<'a>(
    stack: &'a ClusterStack,
    world: &World,
    coupon: &MadeCoupon,
) -> &'a RedisServer {
    let key = world.redis.claimants(coupon.id);
    stack.redis.primary_of(&key).await.unwrap()
}

/// Creates a coupon on each of the three primaries.
async fn coupons(
    stack: &ClusterStack,
    world: &World,
    api: &ApiClient,
    quantity: u32,
) -> Vec<MadeCoupon> {
    let mut coupons = BTreeMap::new();
    while coupons.len() < 3 {
        let coupon = api.open_coupon(quantity).await;
        let port = primary_of(stack, world, &coupon).await.port();
        coupons.entry(port).or_insert(coupon);
    }
    coupons.into_values().collect()
}

/// Lets all users repeat their claims, alternating between both APIs, until they get a slot or
/// `sold_out`.
async fn until_answered(
    apis: &Mutex<[ApiClient; 2]>,
    coupon: i64,
    mut users: Vec<String>,
) -> Vec<PromisedAnswer> {
    let mut answers = Vec::new();
    while !users.is_empty() {
        let [one, other] = apis.lock().clone();
        let some = rush(&[&one, &other], coupon, &users, 60).await;
        let is_left =
            |(_, answer): &&PromisedAnswer| answer.promised().is_none() && !answer.is("sold_out");
        users = some
            .iter()
            .filter(is_left)
            .map(|(user, _)| user.clone())
            .collect();
        answers.extend(some);
    }
    answers
}

#[tokio::test]
#[ignore = "release"]
async fn all_coupons_are_exact_after_one_server_of_each_kind_dies_during_a_rush() {
    let (stack, world) = begin().await;
    let start = async || tokio::join!(world.serve(), world.consume(), world.daemon_with(&[]));
    let ((api, consumer, daemon), kept) = tokio::join!(start(), start());
    for api in [&api, &kept.0] {
        eventually("admission is open", HEALED, async || {
            api.http().get("/readyz").await.status == 200
        })
        .await;
    }
    // Nine in ten users get a slot, so some slots are left when the servers die.
    let quantity = u32::try_from(users() * 9 / 10).unwrap();
    let coupons = coupons(&stack, &world, &api, quantity).await;
    let apis = Mutex::new([ApiClient::clone(&api), ApiClient::clone(&kept.0)]);
    let crowds = coupons
        .iter()
        .map(|coupon| until_answered(&apis, coupon.id, people(users())));
    let faults = async {
        let half = i64::from(quantity) / 2;
        eventually("half of the slots are given out", 5 * LIMIT, async || {
            holders(&world, &coupons[0]).await > half
        })
        .await;
        let redis = primary_of(&stack, &world, &coupons[0]).await;
        let leader = world.topic.leader(0).await.unwrap();
        let broker = stack.kafka.broker(leader).unwrap();
        let (one, two, three, ..) = tokio::join!(
            redis.kill(),
            broker.kill(),
            stack.mysql.primary.kill(),
            api.process.kill(),
            consumer.process.kill(),
            daemon.process.kill(),
        );
        one.and(two).and(three).unwrap();
        let key = world.redis.claimants(coupons[0].id);
        eventually("a replica of Redis has taken over", HEALED, async || {
            let now = stack.redis.primary_of(&key).await;
            now.is_ok_and(|now| now.port() != redis.port())
        })
        .await;
        redis.start_again().await.unwrap();
        stack.redis.wait_until_whole().await.unwrap();
        stack.mysql.fail_over().await.unwrap();
        // One broker and one MySQL stay dead. The others continue without them.
        let again = start().await;
        apis.lock()[0] = ApiClient::clone(&again.0);
        (again, Instant::now())
    };
    let (answers, (_again, last_fault)) =
        tokio::join!(futures_util::future::join_all(crowds), faults);
    for coupon in &coupons {
        let left = EXACT_WITHIN.saturating_sub(last_fault.elapsed());
        eventually_some("the coupon is exact", left, async || {
            exact(&world.sql, &world.redis, coupon, quantity).await
        })
        .await;
    }
    println!("exact {:.1?} after the last fault", last_fault.elapsed());
    for (coupon, answers) in coupons.iter().zip(&answers) {
        assert_exact(&world, coupon, quantity, answers).await;
    }
    let left = world.sql.query("SELECT * FROM broken_promises").await;
    assert!(left.is_empty(), "{left:?}");
    eventually("a deep pass finds nothing", HEALED, async || {
        let once = world.once_with(&["--deep"], &[]).await;
        once.code == 0 && once.run().all_findings().count() == 0
    })
    .await;
    for process in [&kept.0.process, &kept.1.process, &kept.2.process] {
        assert_eq!(process.status(), None, "{}", process.log());
    }
}
