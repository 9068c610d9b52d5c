//! A consumer whose loop stands still is not alive and loses its partitions. A consumer whose store
//! is down is alive.

use firstcome_testkit::{Http, Running, World, WorldStores, eventually};

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
