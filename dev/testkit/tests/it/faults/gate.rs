//! The admission gate: each coupon has a separate one, and any restart of Redis may have lost data.

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::{
    Clocks, Fixture, World, WorldStores, all_issued, assert_exact, coupon_body, eventually, people,
    rush,
};
use serde_json::json;

use super::waves::{HEALED, impatient, until_promised};

async fn own_redis() -> (RedisServer, WorldStores) {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let stores = WorldStores::shared().await.with_redis(&server);
    (server, stores)
}

async fn restart(server: &RedisServer) {
    server.kill().await.unwrap();
    server.start_again().await.unwrap();
}

/// Whatever closes a coupon, it is opened again without a schedule: here one that an API creates
/// while the others are being rebuilt.
#[tokio::test]
async fn a_coupon_created_while_others_are_rebuilt_opens_without_a_schedule() {
    let (_server, stores) = own_redis().await;
    let world = impatient(stores, "gate-new").await;
    world.set("RECONCILE_CRON", "0 0 0 1 1 *");
    let fixture = Fixture::of(world).await;
    let api = &fixture.api;
    let (old, mut answers) = fixture.held("Old", 20, 5).await;
    let daemon = fixture.world.daemon().await;
    fixture.world.redis.command::<()>(&["FLUSHALL"]).await;
    let new = api.open_coupon(20).await;
    let someone = people(6).split_off(5);
    until_promised(api, new.id, &someone[0]).await;
    until_promised(api, old.id, &someone[0]).await;
    answers.extend(rush(&[api], old.id, &people(20), 20).await);
    all_issued(&fixture.world, old.drop, 20).await;
    assert_exact(&fixture.world, &old, 20, &answers).await;
    assert_eq!(daemon.process.stop().await, 0);
}

/// Longer than a pass takes, so admission that opens earlier did not wait for the deadline.
const DEADLINE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn two_daemons_wait_for_the_slowest_apis_deadline_after_every_loss() {
    let (server, stores) = own_redis().await;
    let world = impatient(stores, "gate-two").await;
    let own_deadline = world.setting("PUBLISH_DEADLINE_MS");
    world.set("PUBLISH_DEADLINE_MS", &DEADLINE.as_millis().to_string());
    let fixture = Fixture::of(world).await;
    fixture.world.set("PUBLISH_DEADLINE_MS", &own_deadline);
    let (coupon, _) = fixture.held("Two", 20, 10).await;
    let daemons = [fixture.world.daemon().await, fixture.world.daemon().await];
    // The first round has both daemons, the others only one of them.
    for (round, stands_still) in [None, Some(0), Some(1)].into_iter().enumerate() {
        for daemon in &daemons {
            daemon.process.thaw();
        }
        // A daemon that is suspended during a pass keeps its locks for a while.
        let running = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'running'";
        eventually("no pass is running", HEALED, async || {
            fixture.world.sql.number(running).await == 0
        })
        .await;
        if let Some(at) = stands_still {
            daemons[at].process.freeze();
        }
        let begun = Instant::now();
        restart(&server).await;
        eventually("admission is open", HEALED, async || {
            fixture
                .api
                .claim(coupon.id, &people(1)[0])
                .await
                .promised()
                .is_some()
        })
        .await;
        let closed = begun.elapsed();
        assert!(
            closed >= DEADLINE,
            "round {round}: closed for {closed:?} only"
        );
    }
    for daemon in daemons {
        daemon.process.thaw();
        assert_eq!(daemon.process.stop().await, 0);
    }
}

/// The previous Redis admitted users to the drop. By the clock of the new one, the drop is not open
/// yet.
#[tokio::test]
#[ignore = "release"]
async fn daemons_wait_after_a_loss_even_if_the_new_redis_has_a_slow_clock() {
    let clocks = Clocks::new().unwrap();
    let clock = clocks.clock("redis").unwrap();
    let server = RedisServer::start(RedisOptions {
        env: clock.env().to_vec(),
        ..RedisOptions::default()
    })
    .await
    .unwrap();
    let world = World::on(
        WorldStores::shared().await.with_redis(&server),
        "gate-clock",
    )
    .await;
    world.set("PUBLISH_DEADLINE_MS", &DEADLINE.as_millis().to_string());
    let fixture = Fixture::of(world).await;
    let mut body = coupon_body("Behind", 20, 0);
    body["schedule"]["opens_at"] = json!(Utc::now() - TimeDelta::seconds(2));
    let (coupon, _) = fixture.held_of(&body, 5).await;
    server.kill().await.unwrap();
    clock.set(-20).unwrap();
    server.start_again().await.unwrap();
    let begun = Instant::now();
    let run = fixture.world.pass().await;
    let took = begun.elapsed();
    assert!(
        took >= DEADLINE,
        "earlier messages may still arrive, but the pass took only {took:?}: {run:#?}"
    );
    let not_open = fixture.api.claim(coupon.id, "u-late").await;
    assert!(
        not_open.promised().is_none(),
        "by its clock nothing is open yet: {not_open:?}"
    );
}
