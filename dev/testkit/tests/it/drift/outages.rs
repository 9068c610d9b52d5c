//! MySQL fails in the middle of a pass: the run is recorded as failed as soon as possible, and the
//! next pass completes the repairs. An old error of Kafka fails no pass.

use std::time::Duration;

use firstcome_stack::ProxyFault;
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Answer, Fixture, LIMIT, World, WorldStores, eventually, people, rush, status_of,
};
use serde_json::json;

use crate::drift::support::{Hindered, assert_settled, clean_pass, inject, mailed};
use crate::faults::waves::{breakable_mysql, kafka_behind_proxy};

/// Limit until the clients of a dead broker give up.
const GIVEN_UP: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_run_that_loses_mysql_is_recorded_as_failed_once_mysql_is_back() {
    let (mysql, _turn) = breakable_mysql().await;
    let fixture = Fixture::on(WorldStores::shared().await.with_mysql(mysql), "d-no-mysql").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("No database", 200, 200).await;
    let proxy = mysql.proxy().await.unwrap();
    let slow = Hindered::over(world, mysql, proxy, &[("RECONCILE_CRON", "* * * * * *")]).await;
    assert_eq!(slow.daemon.process.status(), None);
    inject(world, &coupon, Drift::Unissued, 3).await;
    let lost = slow.begin_slow_pass(world).await;
    mysql.kill().await.unwrap();
    let ready = async || slow.daemon.http().get("/readyz").await.status;
    eventually(
        "the daemon reports that it is not ready",
        LIMIT,
        async || ready().await == 503,
    )
    .await;
    slow.proxy.set(ProxyFault::Pass).await.unwrap();
    mysql.start_again().await.unwrap();
    eventually("the run is recorded as failed", GIVEN_UP, async || {
        let status = status_of(world, &lost).await;
        assert!(
            matches!(status.as_deref(), Some("running" | "failed")),
            "{status:?}"
        );
        status.as_deref() == Some("failed")
    })
    .await;
    let repaired = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'repaired'";
    eventually("a later pass has repaired", LIMIT, async || {
        world.sql.number(repaired).await >= 1
    })
    .await;
    assert_settled(world, &coupon, 200, 200, &answers).await;
    mailed(world, &["repaired", "No database"]).await;
    assert_eq!(slow.daemon.process.stop().await, 0);
    clean_pass(world, &coupon).await;
}

#[tokio::test]
async fn an_old_connection_error_of_kafka_does_not_fail_the_next_pass() {
    let (server, proxy, _turn) = kafka_behind_proxy().await;
    let world = World::on(WorldStores::shared().await.with_kafka(server), "old-error").await;
    let api = world.serve().await;
    world.open().await;
    let coupon = api.open_coupon(20).await;
    rush(&[&api], coupon.id, &people(5), 5).await;
    let daemon = world.daemon().await;
    for _ in 0..3 {
        // The messages stay unread, so each pass reads the topic over the connection of the
        // previous pass.
        assert_eq!(daemon.reconcile(&json!({})).await.error, None);
        proxy.cut_now().await;
        eventually("Kafka takes messages again", GIVEN_UP, async || {
            let user = format!("u-{:08x}", rand::random::<u32>());
            !matches!(
                api.claim(coupon.id, &user).await,
                Answer::Accepted { queued: false, .. }
            )
        })
        .await;
    }
}
