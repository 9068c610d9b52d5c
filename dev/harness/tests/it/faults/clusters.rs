//! Redis and Kafka as clusters, MySQL with a replica: servers that die, hash slots that move, and a
//! master that is cut off from its replica.

use std::collections::BTreeMap;

use firstcome_harness::{ApiClient, PrefixedKeys, StoreUrls, exact, holders, rush_until_settled};
use firstcome_stack::{ClusterStack, KafkaCluster, RedisCluster};
use parking_lot::Mutex;

use super::waves::{Waves, assert_nobody_is_listed, follows, impatient, replication};
use crate::prelude::*;

/// Time limit until all coupons are exact, counted from the end of the last fault.
const EXACT_WITHIN: Duration = Duration::from_secs(60);

/// Returns the number of users of each coupon. `make faults` sets `REQUESTS=30000`.
fn users() -> usize {
    let requests = std::env::var("REQUESTS").ok();
    requests.map_or(3_000, |text| text.parse().unwrap())
}

async fn begin() -> (ClusterStack, World) {
    let stack = ClusterStack::start().await.unwrap();
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
    cluster: &'a RedisCluster,
    world: &World,
    coupon: &MadeCoupon,
) -> &'a RedisServer {
    let key = world.redis.of_coupon(coupon.id, "claimants");
    cluster.primary_of(&key).await.unwrap()
}

async fn on(cluster: &RedisCluster, name: &str) -> World {
    let stores = WorldStores::shared().await;
    let stores = stores.with_redis_servers(&cluster.urls(), &cluster.env());
    impatient(stores, name).await
}

/// Creates a coupon, and another one on another master. Returns the first with its master, and the
/// other.
async fn on_two_masters<'a>(
    cluster: &'a RedisCluster,
    world: &World,
    api: &ApiClient,
    body: &Value,
) -> (MadeCoupon, &'a RedisServer, MadeCoupon) {
    let first = api.create_coupon(body).await;
    let master = primary_of(cluster, world, &first).await;
    loop {
        let other = api.create_coupon(body).await;
        if primary_of(cluster, world, &other).await.port() != master.port() {
            return (first, master, other);
        }
    }
}

/// During a rush on three coupons, each on its own primary, one server of each store and one
/// process of each kind die at the same time.
#[tokio::test]
#[ignore = "release"]
async fn all_coupons_are_exact_after_one_server_of_each_kind_dies_during_a_rush() {
    let (stack, world) = begin().await;
    let start = async || tokio::join!(world.serve(), world.consume(), world.daemon_with(&[]));
    let ((api, consumer, daemon), kept) = tokio::join!(start(), start());
    for api in [&api, &kept.0] {
        api.until_ready().await;
    }
    // Nine in ten users get a slot. The servers die when half of the slots are given out.
    let quantity = u32::try_from(users() * 9 / 10).unwrap();
    let mut coupons = BTreeMap::new();
    while coupons.len() < 3 {
        let coupon = api.open_coupon(quantity).await;
        let port = primary_of(&stack.redis, &world, &coupon).await.port();
        coupons.entry(port).or_insert(coupon);
    }
    let coupons: Vec<MadeCoupon> = coupons.into_values().collect();
    let apis = Mutex::new([ApiClient::clone(&api), ApiClient::clone(&kept.0)]);
    let crowds = coupons
        .iter()
        .map(|coupon| rush_until_settled(|| apis.lock().to_vec(), coupon.id, people(users()), 60));
    let faults = async {
        let half = i64::from(quantity) / 2;
        eventually("half of the slots are given out", 5 * LIMIT, async || {
            holders(&world, &coupons[0]).await > half
        })
        .await;
        let redis = primary_of(&stack.redis, &world, &coupons[0]).await;
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
        let key = world.redis.of_coupon(coupons[0].id, "claimants");
        eventually("a replica of Redis has taken over", LIMIT, async || {
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
    let (_answered, (_again, last_fault)) =
        tokio::join!(futures_util::future::join_all(crowds), faults);
    for coupon in &coupons {
        let left = EXACT_WITHIN.saturating_sub(last_fault.elapsed());
        eventually_some("the coupon is exact", left, async || {
            exact(&world.sql, &world.redis, coupon, quantity).await
        })
        .await;
    }
    for coupon in &coupons {
        assert_exact(&world, coupon, quantity).await;
    }
    assert_nobody_is_listed(&world).await;
    for process in [&kept.0.process, &kept.1.process, &kept.2.process] {
        assert_eq!(process.status(), None, "{}", process.log());
    }
}

/// A cluster that does not require all hash slots serves those that are left.
#[tokio::test]
#[ignore = "release"]
async fn coupons_of_other_masters_are_reopened_while_one_master_and_its_replica_are_dead() {
    let cluster = RedisCluster::start().await.unwrap();
    for node in cluster.nodes() {
        let set = ["CONFIG", "SET", "cluster-require-full-coverage", "no"];
        let keys = PrefixedKeys::new(&node.url(), "");
        keys.command::<()>(&set).await;
    }
    let world = on(&cluster, "one-master").await;
    let (api, _consumer, daemon) =
        tokio::join!(world.serve(), world.consume(), world.daemon_with(&[]));
    api.until_ready().await;
    let body = coupon_body("Any", 100, 0);
    let (lost, master, kept) = on_two_masters(&cluster, &world, &api, &body).await;
    let mut dead = vec![master];
    for node in cluster.nodes() {
        let followed = format!("master_port:{}\r", master.port());
        if replication(node).await.contains(&followed) {
            dead.push(node);
        }
    }
    assert_eq!(dead.len(), 2);
    for node in &dead {
        node.kill().await.unwrap();
    }
    // Programs that are started now serve the coupons of the others.
    daemon.process.kill().await;
    let (fresh, daemon) = tokio::join!(world.serve(), world.daemon_with(&[]));
    fresh.until_ready().await;
    close(&world, &kept).await;
    fresh.until_promised(kept.id, &people(1)[0]).await;
    eventually_some("a pass names the dead master", LIMIT, async || {
        let run = daemon.ask(&json!({})).await.body;
        let error = run["error"].as_str().unwrap_or_default();
        let is_named = error.contains("does not answer as a master");
        is_named.then_some(()).ok_or(format!("{run:#}"))
    })
    .await;
    for node in &dead {
        node.start_again().await.unwrap();
    }
    api.until_promised(lost.id, &people(1)[0]).await;
}

/// One master of three answers and refuses every write: too few replicas follow it, or its memory is
/// full. Its coupons wait. Those of the others are served, compared, promoted and reopened, also by
/// programs that are started meanwhile.
#[tokio::test]
#[ignore = "release"]
async fn a_master_that_refuses_writes_concerns_only_its_coupons() {
    let cluster = RedisCluster::start().await.unwrap();
    let world = on(&cluster, "one-refuses").await;
    let fixture = Fixture::of(world).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let body = coupon_body("Any", 3, 2);
    let (refused, master, kept) = on_two_masters(&cluster, world, api, &body).await;
    let users = people(5);
    for coupon in [&refused, &kept] {
        for user in &users[..3] {
            api.until_promised(coupon.id, user).await;
        }
        all_issued(world, coupon.drop, 3).await;
    }
    let node = PrefixedKeys::new(&master.url(), "");
    for (setting, value, before) in [("min-replicas-to-write", "5", "1"), ("maxmemory", "1", "0")] {
        let is_first = value == "5";
        node.command::<()>(&["CONFIG", "SET", setting, value]).await;
        // A pass of this coupon needs a write: the API of the return could not finish it.
        let giver = usize::from(!is_first);
        let returned = api.give_back(refused.id, &users[giver]).await;
        assert!(returned.is_err(), "{returned:?}");
        let (fresh, daemon) = tokio::join!(world.serve(), world.daemon_with(&[]));
        fresh.until_ready().await;
        assert!(!fresh.claim(refused.id, "u-late").await.is_accepted());
        let next = &users[3 + giver];
        let answer = fresh.claim(kept.id, next).await;
        assert_eq!(answer.word(), "waiting");
        let lost = format!("DELETE FROM issued_coupons WHERE drop_id = {}", kept.drop);
        world.sql.query(&lost).await;
        all_issued(world, kept.drop, 3).await;
        fresh.give_back(kept.id, &users[giver]).await.unwrap();
        fresh.until_promised(kept.id, next).await;
        close(world, &kept).await;
        fresh.until_promised(kept.id, next).await;
        eventually_some(
            "a pass of the others says what Redis refuses",
            LIMIT,
            async || {
                let run = daemon.ask(&json!({})).await.body;
                let error = run["error"].as_str().unwrap_or_default();
                let mut drops = run["drops"].as_array().into_iter().flatten();
                let is_said = error.contains("Redis refuses")
                    && drops.any(|report| report["drop_id"] == json!(kept.drop));
                is_said.then_some(()).ok_or(format!("{run:#}"))
            },
        )
        .await;
        node.command::<()>(&["CONFIG", "SET", setting, before])
            .await;
        if is_first {
            eventually("a pass finishes the return", LIMIT, async || {
                daemon.ask(&json!({})).await;
                let answer = fresh.claim(refused.id, &users[giver]).await;
                answer.is("revoked")
            })
            .await;
        } else {
            // Without memory, Redis could not be asked what is returned.
            eventually("a repeated return succeeds", LIMIT, async || {
                fresh.give_back(refused.id, &users[giver]).await.is_ok()
            })
            .await;
        }
    }
}

#[tokio::test]
#[ignore = "release"]
async fn claims_are_stored_in_mysql_while_two_of_three_brokers_are_dead() {
    let cluster = KafkaCluster::start().await.unwrap();
    let stores = WorldStores::shared().await.with_kafka_cluster(&cluster);
    let waves = Waves::begin(impatient(stores, "brokers").await).await;
    let survived = waves.survives(async |waves| {
        let [first, second] = [1, 2].map(|id| cluster.broker(id).unwrap());
        let (one, other) = tokio::join!(first.kill(), second.kill());
        one.and(other).unwrap();
        let answers = waves.next(20).await;
        let kept = |answer: &Answer| matches!(answer, Answer::Accepted { queued: false, .. });
        let honest = |answer: &Answer| kept(answer) || answer.is("unavailable");
        assert!(
            answers.iter().all(|(_, answer)| honest(answer)),
            "one broker alone acknowledges nothing: {answers:?}"
        );
        let accepted = answers.iter().filter(|(_, answer)| kept(answer)).count();
        let written = "SELECT COUNT(*) FROM issued_coupons WHERE issued_by = 'api'";
        let written = waves.world.sql.number(written).await;
        let is_written = accepted > 0 && usize::try_from(written).unwrap() >= accepted;
        assert!(is_written, "{accepted} {written}");
        let (one, other) = tokio::join!(first.start_again(), second.start_again());
        one.and(other).unwrap();
    });
    survived.await;
}

#[tokio::test]
#[ignore = "release"]
async fn hash_slots_that_move_away_and_back_during_a_rush_break_no_promise() {
    let cluster = RedisCluster::start().await.unwrap();
    let world = on(&cluster, "slots").await;
    // Without scheduled passes, only the watch can see that hash slots have moved.
    world.set("RECONCILE_CRON", "0 0 0 1 1 *");
    let waves = Waves::begin(world).await;
    let survived = waves.survives(async |waves| {
        let name = waves.world.redis.of_coupon(waves.coupon.id, "claimants");
        let slot = cluster.slot_of(&name).await.unwrap();
        let first = cluster.primary_of(&name).await.unwrap();
        let mut primaries = cluster.nodes()[..3].iter();
        let second = primaries.find(|node| node.port() != first.port()).unwrap();
        for to in [second, first] {
            waves
                .next_while(10, async |_| cluster.move_slot(slot, to).await.unwrap())
                .await;
            waves
                .api
                .until_promised(waves.coupon.id, &people(1)[0])
                .await;
        }
    });
    survived.await;
}

/// A hash slot is being moved: first no key of its coupon has moved, then only the gate. The coupon
/// waits. The others are compared and promoted, and every API is ready.
#[tokio::test]
#[ignore = "release"]
async fn a_hash_slot_that_is_being_moved_concerns_only_its_coupons() {
    let cluster = RedisCluster::start().await.unwrap();
    let fixture = Fixture::of(on(&cluster, "one-moves").await).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let daemon = world.daemon_with(&[]).await;
    let body = coupon_body("Any", 3, 2);
    let (moved, _, kept) = on_two_masters(&cluster, world, api, &body).await;
    let users = people(5);
    for coupon in [&moved, &kept] {
        for user in &users[..3] {
            api.until_promised(coupon.id, user).await;
        }
        all_issued(world, coupon.drop, 3).await;
    }
    let gate = world.redis.of_coupon(moved.id, "gate");
    let slot = cluster.slot_of(&gate).await.unwrap();
    let target = primary_of(&cluster, world, &kept).await;
    cluster.begin_move(slot, target).await.unwrap();
    for (gives, next) in [(0, 3), (1, 4)] {
        let lost = format!("DELETE FROM issued_coupons WHERE drop_id = {}", kept.drop);
        world.sql.query(&lost).await;
        all_issued(world, kept.drop, 3).await;
        assert_eq!(api.claim(kept.id, &users[next]).await.word(), "waiting");
        api.give_back(kept.id, &users[gives]).await.unwrap();
        api.until_promised(kept.id, &users[next]).await;
        let ready = api.http().get("/readyz").await;
        assert_eq!(ready.status, 200, "{}", ready.body);
        let is_first = gives == 0;
        if is_first {
            cluster.move_key(&gate, target).await.unwrap();
        }
    }
    eventually_some("a pass names the hash slot", LIMIT, async || {
        let run = daemon.ask(&json!({})).await.body;
        let error = run["error"].as_str().unwrap_or_default();
        let is_named = error.contains("hash slot");
        is_named.then_some(()).ok_or(format!("{run:#}"))
    })
    .await;
    cluster.move_slot(slot, target).await.unwrap();
    api.until_promised(moved.id, &users[0]).await;
    clean_pass(world, &moved).await;
}

#[tokio::test]
#[ignore = "release"]
async fn a_master_cut_off_from_its_replica_admits_nobody_until_reconnected() {
    let lag = "--min-replicas-to-write 1 --min-replicas-max-lag 2 --repl-ping-replica-period 1";
    let options = RedisOptions {
        extra_args: lag.split(' ').map(str::to_owned).collect(),
        ..RedisOptions::default()
    };
    let master = RedisServer::start(options).await.unwrap();
    let link = master.proxy().await.unwrap();
    let options = RedisOptions {
        replica_of: Some(link.port()),
        ..RedisOptions::default()
    };
    let _replica = RedisServer::start(options).await.unwrap();
    let stores = WorldStores::shared().await.with_redis(&master);
    follows(&master).await;
    let waves = Waves::begin(impatient(stores, "cut-off").await).await;
    let survived = waves.survives(async |waves| {
        link.set(ProxyFault::Cut).await.unwrap();
        eventually("the master has lost its replica", LIMIT, async || {
            let replication = replication(&master).await;
            replication.contains("min_slaves_good_slaves:0")
        })
        .await;
        // The master cannot know whether another server has taken its place.
        let before = holders(&waves.world, &waves.coupon).await;
        assert_eq!(waves.wave().await, [("unavailable".into(), 20)].into());
        assert_eq!(holders(&waves.world, &waves.coupon).await, before);
        link.set(ProxyFault::Pass).await.unwrap();
    });
    survived.await;
}
