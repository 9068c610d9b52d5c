//! The admission gate is each coupon's own, and a loss belongs to a life of Redis.

use std::time::{Duration, Instant};

use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::{Fixture, Keys, Stores, all_issued, assert_exact, eventually, people, rush};

use super::waves::{HEALED, Waves, impatient, replication};

async fn own_redis() -> (RedisServer, Stores) {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let stores = Stores::shared().await.with_redis(&server);
    (server, stores)
}

async fn restart(server: &RedisServer) {
    server.kill().await.unwrap();
    server.start_again().await.unwrap();
}

#[tokio::test]
async fn a_coupon_that_cannot_be_verified_keeps_no_other_closed() {
    let (server, stores) = own_redis().await;
    let fixture = Fixture::of(impatient(stores, "gate-own").await).await;
    let (odd, _) = fixture.held("Odd", 20, 5).await;
    let (good, mut answers) = fixture.held("Good", 20, 5).await;
    let free = fixture.world.redis.of_drop(odd.id, odd.drop, "free");
    fixture.world.redis.command::<()>(&["SET", &free, "not a sorted set"]).await;
    let daemon = fixture.world.daemon().await;
    restart(&server).await;
    let someone = people(6).split_off(5);
    eventually("the other coupon is open", HEALED, async || {
        fixture.api.claim(good.id, &someone[0]).await.promised().is_some()
    })
    .await;
    assert!(fixture.api.claim(odd.id, &someone[0]).await.is("unavailable"));
    fixture.world.redis.command::<()>(&["DEL", &free]).await;
    eventually("it is open too, once it is mended", HEALED, async || {
        fixture.api.claim(odd.id, &someone[0]).await.promised().is_some()
    })
    .await;
    answers.extend(rush(&[&fixture.api], good.id, &people(20), 20).await);
    all_issued(&fixture.world, good.drop, 20).await;
    assert_exact(&fixture.world, &good, 20, &answers).await;
    assert_eq!(daemon.process.stop().await, 0);
}

#[tokio::test]
async fn admission_reopens_while_a_pass_is_running() {
    let (server, stores) = own_redis().await;
    let fixture = Fixture::of(impatient(stores, "gate-beside").await).await;
    let (coupon, mut answers) = fixture.held("Beside", 20, 10).await;
    let daemon = fixture.world.settled_daemon().await;
    let stall = [("FIRSTCOME_STALL_AT", "run_begun")];
    let pass = fixture.world.start("firstcome-reconciler", &["once"], &stall);
    let runs = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'running' AND triggered_by = 'cli'";
    eventually("the pass has begun", HEALED, async || fixture.world.sql.number(runs).await == 1).await;
    restart(&server).await;
    eventually("admission is open", HEALED, async || {
        let answer = fixture.api.claim(coupon.id, &people(11)[10]).await;
        answer.promised().is_some()
    })
    .await;
    assert_eq!(fixture.world.sql.number(runs).await, 1, "the pass is still running");
    pass.kill().await;
    answers.extend(rush(&[&fixture.api], coupon.id, &people(20), 20).await);
    all_issued(&fixture.world, coupon.drop, 20).await;
    assert_exact(&fixture.world, &coupon, 20, &answers).await;
    assert_eq!(daemon.process.stop().await, 0);
}

/// Longer than a pass takes, so that what is shorter did not wait.
const DEADLINE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn two_daemons_wait_after_every_loss_for_the_slowest_api_s_deadline() {
    let (server, stores) = own_redis().await;
    let world = impatient(stores, "gate-two").await;
    let own_deadline = world.setting("PUBLISH_DEADLINE_MS");
    world.set("PUBLISH_DEADLINE_MS", &DEADLINE.as_millis().to_string());
    let fixture = Fixture::of(world).await;
    fixture.world.set("PUBLISH_DEADLINE_MS", &own_deadline);
    let (coupon, _) = fixture.held("Two", 20, 10).await;
    let daemons = [fixture.world.settled_daemon().await, fixture.world.settled_daemon().await];
    for round in 0..2 {
        let begun = Instant::now();
        restart(&server).await;
        eventually("admission is open", HEALED, async || {
            fixture.api.claim(coupon.id, &people(1)[0]).await.promised().is_some()
        })
        .await;
        let closed = begun.elapsed();
        assert!(closed >= DEADLINE, "round {round}: closed for {closed:?} only");
    }
    for daemon in daemons {
        assert_eq!(daemon.process.stop().await, 0);
    }
}

#[tokio::test]
async fn a_master_that_was_demoted_and_promoted_again_is_closed() {
    let (master, stores) = own_redis().await;
    let command = async |server: &RedisServer, args: &[&str]| Keys::new(&server.url(), "").command::<()>(args).await;
    Waves::begin(impatient(stores, "gate-flip").await)
        .await
        .survives(async |fixture| {
            let options = RedisOptions { replica_of: Some(master.port()), ..RedisOptions::default() };
            let replica = RedisServer::start(options).await.unwrap();
            let keys = Keys::new(&replica.url(), &fixture.world.setting("REDIS_KEY_PREFIX"));
            let users = keys.of_drop(fixture.coupon.id, fixture.coupon.drop, "users");
            eventually("the replica has the first wave", HEALED, async || {
                keys.command::<i64>(&["ZCARD", &users]).await == 20
            })
            .await;
            // From here on the replica's data is old.
            command(&replica, &["REPLICAOF", "NO", "ONE"]).await;
            assert_eq!(fixture.wave().await, [("accepted".into(), 20)].into());
            let port = replica.port().to_string();
            command(&master, &["REPLICAOF", "127.0.0.1", &port]).await;
            eventually("the master has the old data", HEALED, async || {
                assert!(fixture.api.claim(fixture.coupon.id, "u-early").await.is("unavailable"), "it takes no writes");
                replication(&master).await.contains("master_link_status:up")
            })
            .await;
            command(&master, &["REPLICAOF", "NO", "ONE"]).await;
            assert!(fixture.api.claim(fixture.coupon.id, "u-late").await.is("unavailable"), "its data is older");
        })
        .await;
}
