//! A consumer whose loop stands still is not alive and loses its partitions. A consumer whose store
//! is down is alive.

use firstcome_stack::ProxyFault;
use firstcome_testkit::{Http, Running, World, WorldStores, eventually, shared};

use crate::faults::waves::{HEALED, Waves, impatient};

/// Creates a world whose consumer is not alive after three seconds without progress, and loses its
/// partitions after six.
async fn soon_stuck(name: &str) -> World {
    let world = impatient(WorldStores::shared().await, name).await;
    world.set("FIRSTCOME_TEST_CONSUME_STUCK_SECONDS", "3");
    world
}

async fn is_not_ready(consumer: &Running<Http>, why: &str) {
    eventually(
        &format!("the consumer is not ready: {why}"),
        HEALED,
        async || {
            let reply = consumer.get("/readyz").await;
            reply.status == 503 && reply.text.contains(why)
        },
    )
    .await;
}

#[tokio::test]
async fn a_stuck_consumer_reports_the_problem_and_loses_its_partitions() {
    let waves = Waves::begin(soon_stuck("stuck").await).await;
    waves
        .survives(async |waves| {
            waves
                .consumer_with(&[("FIRSTCOME_STALL_AT", "rows_committed")])
                .await;
            waves.promised_wave().await;
            waves.consumer_says("stall point").await;
            let other = waves.world.consume().await;
            let stuck = std::mem::replace(&mut waves.consumer, other);
            waves.promised_wave().await;
            is_not_ready(&stuck, "the loop has stood still").await;
            // These claims are still on the topic, so only a consumer can have issued them.
            waves.issued(60).await;
            assert_eq!(stuck.get("/healthz").await.status, 503);
            stuck.process.kill().await;
        })
        .await;
}

#[tokio::test]
async fn a_consumer_that_exceeds_max_poll_interval_and_resumes_breaks_no_promise() {
    let waves = Waves::begin(soon_stuck("max-poll").await).await;
    waves
        .survives(async |waves| {
            waves
                .consumer_with(&[("FIRSTCOME_STALL_AT", "rows_committed:1:7500")])
                .await;
            waves.promised_wave().await;
            waves.consumer_says("stall point").await;
            let _other = waves.world.consume().await;
            waves.promised_wave().await;
            waves.issued(60).await;
            waves.consumer_says("MAXPOLL").await;
            is_ready(&waves.consumer).await;
        })
        .await;
}

async fn is_ready(consumer: &Running<Http>) {
    eventually("the consumer is ready again", HEALED, async || {
        consumer.get("/readyz").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_consumer_whose_mysql_is_silent_keeps_running_and_resumes() {
    let stack = shared().await;
    let proxy = stack.mysql.proxy().await.unwrap();
    let world = soon_stuck("silent-mysql").await;
    world.set(
        "DATABASE_URL",
        &stack.mysql.database_url_via(&proxy, world.database()),
    );
    let waves = Waves::begin(world).await;
    waves
        .survives(async |waves| {
            proxy.set(ProxyFault::BlackHole).await.unwrap();
            waves.wave().await;
            is_not_ready(&waves.consumer, "mysql").await;
            // An attempt takes 1.5 s, so a loop that stands still would not be alive long before
            // the sixth.
            eventually("the consumer has retried six times", HEALED, async || {
                waves
                    .consumer
                    .metric("firstcome_consumer_retries_total", &[])
                    .await
                    >= Some(6.0)
            })
            .await;
            assert_eq!(waves.consumer.get("/healthz").await.status, 200);
            proxy.set(ProxyFault::Pass).await.unwrap();
        })
        .await;
}
