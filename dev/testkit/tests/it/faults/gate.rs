//! The admission gate: each coupon has a separate one, and any restart of Redis may have lost data.

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Clocks, Fixture, MadeCoupon, PrefixedKeys, World, WorldStores, all_issued, assert_exact,
    coupon_body, eventually, people, rush,
};
use serde_json::json;

use super::waves::{HEALED, impatient, replication, until_promised};
use crate::drift::support::{inject, lose_rows};

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
    let (server, stores) = own_redis().await;
    let world = impatient(stores, "gate-new").await;
    world.set("RECONCILE_CRON", "0 0 0 1 1 *");
    let fixture = Fixture::of(world).await;
    let api = &fixture.api;
    let (old, mut answers) = fixture.held("Old", 20, 5).await;
    let daemon = fixture.world.daemon().await;
    command(&server, &["FLUSHALL"]).await;
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

async fn command(server: &RedisServer, args: &[&str]) {
    PrefixedKeys::new(&server.url(), "")
        .command::<()>(args)
        .await;
}

/// Starts a replica that has all current data of this drop but gets none of the later data.
async fn left_behind(
    master: &RedisServer,
    world: &World,
    coupon: &MadeCoupon,
    people: i64,
) -> RedisServer {
    let options = RedisOptions {
        replica_of: Some(master.port()),
        ..RedisOptions::default()
    };
    let replica = RedisServer::start(options).await.unwrap();
    let keys = PrefixedKeys::new(&replica.url(), &world.setting("REDIS_KEY_PREFIX"));
    let users = keys.of_drop(coupon.id, coupon.drop, "users");
    let has_all = async || keys.command::<i64>(&["ZCARD", &users]).await == people;
    eventually("the replica has all users", HEALED, has_all).await;
    command(&replica, &["REPLICAOF", "NO", "ONE"]).await;
    replica
}

/// Makes a running master a replica of that server. It takes over that server's data.
async fn demote(master: &RedisServer, to_replica_of: &RedisServer) {
    command(
        master,
        &["REPLICAOF", "127.0.0.1", &to_replica_of.port().to_string()],
    )
    .await;
    let has_data = async || replication(master).await.contains("master_link_status:up");
    eventually("the master has the old data", HEALED, has_data).await;
}

/// Runs a pass, swaps Redis while the pass is suspended before it inserts rows, and fails if the
/// pass writes to the new Redis.
async fn swapped_in_mid_pass(world: &World, swap: impl AsyncFnOnce()) {
    let pass = world.start(
        "firstcome-reconciler",
        &["once"],
        &[("FIRSTCOME_STALL_AT", "repair_begun:1:5000")],
    );
    eventually("the pass has reached the point", HEALED, async || {
        pass.log().contains("stall point")
    })
    .await;
    // Keeps the pass suspended for as long as the swap takes.
    pass.freeze();
    swap().await;
    let after_swap = world.redis.dump().await;
    pass.thaw();
    assert_ne!(pass.ended(HEALED).await, 0, "{}", pass.log());
    assert!(
        world.redis.dump().await == after_swap,
        "the pass wrote to Redis after the swap: {}",
        pass.log()
    );
}

#[tokio::test]
async fn a_pass_does_not_repair_after_a_restart_of_redis() {
    let (server, stores) = own_redis().await;
    let fixture = Fixture::of(World::on(stores, "gate-restarted").await).await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Restarted", 20, 20).await;
    inject(world, &coupon, Drift::MissingAdmission, 3).await;
    // The restart loses no data, so Redis is still in the same era.
    swapped_in_mid_pass(world, async || restart(&server).await).await;
    world.pass().await;
    assert_exact(world, &coupon, 20, &answers).await;
}

#[tokio::test]
#[ignore = "release"]
async fn a_pass_does_not_repair_after_its_redis_was_demoted_and_promoted() {
    let (master, stores) = own_redis().await;
    let fixture = Fixture::of(World::on(stores, "gate-round").await).await;
    let world = &fixture.world;
    let (coupon, mut answers) = fixture.held("Round", 20, 10).await;
    let replica = left_behind(&master, world, &coupon, 10).await;
    answers.extend(rush(&[&fixture.api], coupon.id, &people(20)[10..], 10).await);
    all_issued(world, coupon.drop, 20).await;
    // The row is inserted; then ten users are missing in the new Redis.
    lose_rows(world, &coupon, "= 1").await;
    let swap = async || {
        demote(&master, &replica).await;
        command(&master, &["REPLICAOF", "NO", "ONE"]).await;
    };
    swapped_in_mid_pass(world, swap).await;
    world.pass().await;
    assert_exact(world, &coupon, 20, &answers).await;
}
