//! A host becomes silent while its connections stay open and its address leads to another host.
//! Processes with default settings leave it soon.

use std::time::{Duration, Instant};

use firstcome_stack::FaultProxy;
use firstcome_testkit::scale::print;
use firstcome_testkit::{
    Answer, ApiClient, Fixture, MadeCoupon, ReconcilerClient, World, WorldStores, eventually,
    holders, people, rush, shared,
};
use futures_util::future::join_all;
use parking_lot::Mutex;
use serde_json::json;

/// Limit for a busy machine. The target on an idle one is five seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// Number of concurrent requests. It exceeds the number of connections that a process has to a
/// store.
const AT_ONCE: usize = 24;

/// Returns the seconds from `begun` until concurrent claims, look-ups and a change are answered
/// normally.
async fn answers(
    api: &ApiClient,
    coupon: &MadeCoupon,
    users: &Mutex<impl Iterator<Item = String>>,
    begun: Instant,
) -> [f64; 3] {
    let renamed = json!({"name": "renamed"});
    tokio::join!(
        async {
            eventually("claims are queued", LIMIT, async || {
                let some: Vec<String> = users.lock().by_ref().take(AT_ONCE).collect();
                let claims = rush(&[api], coupon.id, &some, AT_ONCE).await;
                claims
                    .iter()
                    .all(|(_, answer)| matches!(answer, Answer::Accepted { queued: true, .. }))
            })
            .await;
            begun.elapsed().as_secs_f64()
        },
        async {
            eventually("look-ups are answered", LIMIT, async || {
                let looks = join_all((0..AT_ONCE).map(|_| api.try_me(coupon.id, "nobody"))).await;
                looks
                    .iter()
                    .all(|look| look.as_ref().is_ok_and(|reply| reply.status == 200))
            })
            .await;
            begun.elapsed().as_secs_f64()
        },
        async {
            let change = async || {
                api.try_patch(coupon.id, &renamed)
                    .await
                    .is_ok_and(|reply| reply.status == 200)
            };
            eventually("a change is made", LIMIT, change).await;
            begun.elapsed().as_secs_f64()
        },
    )
    .into()
}

async fn passes(daemon: &ReconcilerClient) -> bool {
    let run = daemon.ask(&json!({})).await.body;
    run["status"] == "clean" || run["status"] == "repaired"
}

/// Prints the time in seconds until the last process has left the silent host.
async fn is_left(store: &str, world: World, host: &FaultProxy) {
    for of_a_test in ["STORE_TIMEOUT_MS", "FIRSTCOME_TEST_QUESTION_TIMEOUT_MS"] {
        world.set(of_a_test, "");
    }
    let Fixture {
        world,
        api,
        consumer: _consumer,
    } = Fixture::of(world).await;
    let daemon = world.daemon().await;
    let coupon = api.open_coupon(100_000).await;
    let users = Mutex::new(people(100_000).into_iter());
    answers(&api, &coupon, &users, Instant::now()).await;
    eventually("a pass succeeds", LIMIT, async || passes(&daemon).await).await;
    let all = "SELECT COUNT(*) FROM issued_coupons";
    let by_consumer = " WHERE issued_by = 'consumer'";
    let by_consumer = format!("{all}{by_consumer}");
    let admitted = holders(&world, &coupon).await;
    eventually("nothing is in flight", LIMIT, async || {
        world.sql.number(all).await == admitted
    })
    .await;
    let before = world.sql.number(&by_consumer).await;
    let begun = Instant::now();
    host.strand_now();
    let (api, consumer, daemon) = tokio::join!(
        answers(&api, &coupon, &users, begun),
        async {
            eventually("the consumer has left the silent host", LIMIT, async || {
                world.sql.number(&by_consumer).await > before
            })
            .await;
            begun.elapsed().as_secs_f64()
        },
        async {
            eventually("the daemon has left the silent host", LIMIT, async || {
                passes(&daemon).await
            })
            .await;
            begun.elapsed().as_secs_f64()
        },
    );
    println!(
        "{store}, seconds: claims, questions and changes {api:.1?}, the consumer {consumer:.1}, a pass {daemon:.1}"
    );
    let what = format!(
        "host of {store} silent with its connections open, default settings: all processes have left it"
    );
    print(
        &what,
        api.into_iter().fold(consumer.max(daemon), f64::max),
        "≤ 5 s",
    );
}

#[tokio::test]
async fn processes_leave_a_silent_redis_within_seconds_by_default() {
    let redis = &shared().await.redis;
    let host = redis.proxy().await.unwrap();
    let world = World::new("left-redis").await;
    world.set("REDIS_URL", &redis.url_via(&host));
    is_left("Redis", world, &host).await;
}

#[tokio::test]
async fn processes_leave_a_silent_mysql_within_seconds_by_default() {
    let mysql = &shared().await.mysql;
    let host = mysql.proxy().await.unwrap();
    let world = World::new("left-mysql").await;
    world.set(
        "DATABASE_URL",
        &mysql.database_url_via(&host, world.database()),
    );
    is_left("MySQL", world, &host).await;
}

#[tokio::test]
async fn processes_leave_a_silent_kafka_within_seconds_by_default() {
    let (server, host, _turn) = crate::faults::waves::kafka_behind_proxy().await;
    is_left(
        "Kafka",
        World::on(WorldStores::shared().await.with_kafka(server), "left-kafka").await,
        host,
    )
    .await;
}
