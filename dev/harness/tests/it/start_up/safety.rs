//! Settings of Redis and of the topic that could lose a promise.

use std::time::Duration;

use firstcome_harness::{Fixture, LIMIT, PrefixedKeys, WorldStores, eventually};
use firstcome_reconciler::report::Kind;
use firstcome_stack::{RedisOptions, RedisServer};

use super::refuses;
use crate::faults::waves::{follows, impatient};

#[tokio::test]
async fn unsafe_settings_are_reported_and_refused_at_start_until_corrected() {
    let master = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = impatient(WorldStores::shared().await.with_redis(&master), "unsafe").await;
    world.set("FIRSTCOME_TEST_JOBS_SECONDS", "1");
    let fixture = Fixture::of(world).await;
    let (world, _) = (&fixture.world, fixture.held("Any", 5, 5).await);
    let daemon = world.daemon().await;
    let told = async || {
        // Each poll runs a whole pass, so poll less often.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let run = daemon.reconcile(&serde_json::json!({})).await;
        run.all_findings()
            .map(|found| (found.kind, found.detail.clone()))
            .collect::<Vec<_>>()
    };
    let set = async |name: &str, value: &str| {
        PrefixedKeys::new(&master.url(), "")
            .command::<()>(&["CONFIG", "SET", name, value])
            .await;
    };
    let is_silent = async || {
        eventually("nothing is reported", LIMIT, async || {
            told().await.is_empty()
        })
        .await;
    };
    is_silent().await;
    let options = RedisOptions {
        replica_of: Some(master.port()),
        ..RedisOptions::default()
    };
    let _replica = RedisServer::start(options).await.unwrap();
    follows(&master).await;
    let is_told = async |advice: &str| {
        eventually(advice, LIMIT, async || {
            matches!(&told().await[..], [(Kind::Stalled, detail)] if detail.contains(advice))
        })
        .await;
    };
    is_told("set `min-replicas-to-write 1`").await;
    for (program, args) in [
        ("firstcome-api", ["serve"]),
        ("firstcome-reconciler", ["once"]),
    ] {
        refuses(
            &world.start(program, &args, &[]),
            &["set `min-replicas-to-write 1`"],
        )
        .await;
    }
    set("min-replicas-to-write", "1").await;
    is_silent().await;
    set("min-replicas-max-lag", "60").await;
    is_told("the second is 60 now").await;
    set("min-replicas-max-lag", "10").await;
    set("maxmemory-policy", "allkeys-lru").await;
    is_told("noeviction").await;
    set("maxmemory-policy", "noeviction").await;
    set("appendonly", "no").await;
    is_told("appendonly yes").await;
    set("appendonly", "yes").await;
    is_silent().await;
    let compacted = ("cleanup.policy", "compact");
    let limit = ("max.message.bytes", "65536");
    world.topic.alter(&[compacted, limit]).await;
    is_told("--add-config cleanup.policy=delete").await;
    world.topic.alter(&[limit]).await;
    is_silent().await;
}
