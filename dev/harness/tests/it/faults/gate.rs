//! The admission gate: each coupon has a separate one, and any restart of Redis may have lost data.

use super::waves::impatient;
use crate::prelude::*;

async fn own_redis() -> (RedisServer, WorldStores) {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let stores = WorldStores::shared().await.with_redis(&server);
    (server, stores)
}

/// A closed coupon opens without a scheduled pass, whatever closed it. Here an API creates the
/// coupon while the others are being rebuilt.
#[tokio::test]
async fn a_coupon_created_while_others_are_rebuilt_opens_without_a_scheduled_pass() {
    let (_server, stores) = own_redis().await;
    let world = impatient(stores, "gate-new").await;
    world.set("RECONCILE_CRON", "0 0 0 1 1 *");
    let fixture = Fixture::of(world).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (old, _) = fixture.held("Old", 20, 5).await;
    let _daemon = world.daemon().await;
    // The row of the claim below is written long after the deadlines.
    fixture.consumer.process.kill().await;
    let stall = [("FIRSTCOME_STALL_AT", "rows_begun:1:8000")];
    let _consumer = world.consume_with(&stall).await;
    rush_until_answered(&[api], old.id, &people(6)[5..], 1).await;
    world.redis.command::<()>(&["FLUSHALL"]).await;
    let new = api.open_coupon(20).await;
    let someone = people(7).split_off(6);
    api.until_promised(new.id, &someone[0]).await;
    api.until_promised(old.id, &someone[0]).await;
    rush_until_answered(&[api], old.id, &people(20), 20).await;
    all_issued(world, old.drop, 20).await;
    assert_exact(world, &old, 20).await;
}

/// The API stalls between Redis's answer and the topic, as if it were suspended. When it continues,
/// the slot belongs to another user. At the end, an API stalls after the topic has the claim.
#[tokio::test]
async fn a_stalled_claim_gets_unavailable_and_is_not_published_after_a_loss_of_redis() {
    let (_server, stores) = own_redis().await;
    let world = impatient(stores, "gate-late").await;
    let fixture = Fixture::of(world).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let coupon = api.open_coupon(20).await;
    let stall = [("FIRSTCOME_STALL_AT", "claim_admitted:1:12000")];
    let stalled = world.serve_with(&stall).await;
    stalled.until_ready().await;
    let late = stalled.claim(coupon.id, "u-late");
    let other = async {
        eventually("Redis has the claim", LIMIT, async || {
            let count = world.redis.of_drop(coupon.id, coupon.drop, "count");
            world.redis.command::<Option<u32>>(&["GET", &count]).await == Some(1)
        })
        .await;
        // Only Redis had the claim.
        world.redis.command::<()>(&["FLUSHALL"]).await;
        let daemon = world.daemon().await;
        api.until_promised(coupon.id, "u-other").await;
        daemon
    };
    let (late, _daemon) = tokio::join!(late, other);
    assert!(late.is("unavailable"), "{late:?}");
    all_issued(world, coupon.drop, 1).await;
    let other = api.until_answered(coupon.id, "u-other").await;
    assert_eq!(other.promised(), Some((coupon.drop, 1)));
    let letters = "SELECT COUNT(*) FROM failed_claims";
    assert_eq!(world.sql.number(letters).await, 0);
    // The topic has this claim, but its API continues only after the deadlines.
    let stall = [("FIRSTCOME_STALL_AT", "claim_published:1:3000")];
    let slow = world.serve_with(&stall).await;
    slow.until_ready().await;
    let late = slow.claim(coupon.id, "u-slow").await;
    assert!(late.is("unavailable"), "{late:?}");
}

/// Longer than a pass takes. If admission opens earlier, it did not wait for the deadline.
const DEADLINE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn each_of_two_daemons_waits_for_the_apis_longer_deadline_after_a_redis_restart() {
    let (server, stores) = own_redis().await;
    let world = impatient(stores, "gate-two").await;
    let own_deadline = world.setting("PUBLISH_DEADLINE_MS");
    world.set("PUBLISH_DEADLINE_MS", &DEADLINE.as_millis().to_string());
    let fixture = Fixture::of(world).await;
    let (api, world) = (&fixture.api, &fixture.world);
    world.set("PUBLISH_DEADLINE_MS", &own_deadline);
    let (coupon, _) = fixture.held("Two", 20, 10).await;
    let daemons = [world.daemon().await, world.daemon().await];
    // The first round has both daemons, the others only one of them.
    for (round, stands_still) in [None, Some(0), Some(1)].into_iter().enumerate() {
        for daemon in &daemons {
            daemon.process.thaw();
        }
        // A daemon that is suspended during a pass keeps its locks for a while.
        let running = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'running'";
        eventually("no pass is running", LIMIT, async || {
            world.sql.number(running).await == 0
        })
        .await;
        if let Some(at) = stands_still {
            daemons[at].process.freeze();
        }
        let begun = Instant::now();
        server.restart().await.unwrap();
        api.until_promised(coupon.id, &people(1)[0]).await;
        let closed = begun.elapsed();
        assert!(closed >= DEADLINE, "round {round}: only {closed:?}");
    }
}
