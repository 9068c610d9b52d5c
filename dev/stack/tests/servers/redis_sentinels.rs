use firstcome_stack::{RedisSentinels, RedisSentinelsOptions};

use crate::{eventually, redis, redis_and_replicas};

async fn start() -> RedisSentinels {
    RedisSentinels::start(RedisSentinelsOptions::default())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_master_is_replaced_and_comes_back_as_a_replica() {
    let group = start().await;
    let urls: Vec<_> = group
        .sentinels()
        .iter()
        .map(|one| format!("redis://127.0.0.1:{}", one.port()))
        .collect();
    assert_eq!((urls.len(), urls.join(",")), (3, group.urls()));
    assert_eq!(
        group.env()[2],
        ("REDIS_SENTINEL_MASTER", group.master_name().to_owned())
    );
    let first = group.current_master().await.unwrap();
    assert_eq!(first.port(), group.node(0).unwrap().port());
    redis_and_replicas(first.port(), "SET a 1", 2).await;

    first.kill().await.unwrap();
    let second = group.master_after(first).await.unwrap();
    assert_eq!(redis(second.port(), "GET a").await.unwrap(), "1");
    // The other replica follows it.
    eventually("writes continue", async || {
        redis(second.port(), "SET a 2").await.unwrap() == "+OK"
    })
    .await;

    first.start_again().await.unwrap();
    assert!(
        redis(first.port(), "SET a 3")
            .await
            .unwrap()
            .starts_with('-')
    );
    group.wait_until_whole().await.unwrap();
    assert!(
        redis(first.port(), "SET a 3")
            .await
            .unwrap()
            .starts_with("-READONLY")
    );
    assert_eq!(redis(first.port(), "GET a").await.unwrap(), "2");

    // A promoted replica is still a master after a restart.
    second.kill().await.unwrap();
    second.start_again().await.unwrap();
    group.wait_until_whole().await.unwrap();
    assert_eq!(
        redis(group.current_master().await.unwrap().port(), "GET a")
            .await
            .unwrap(),
        "2"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_master_is_replaced_and_refuses_writes_when_resumed() {
    let group = start().await;
    let old = group.current_master().await.unwrap();
    old.freeze().await.unwrap();
    let new = group.master_after(old).await.unwrap();
    eventually("writes continue", async || {
        redis(new.port(), "SET a 1").await.unwrap() == "+OK"
    })
    .await;
    old.thaw().await.unwrap();
    group.wait_until_whole().await.unwrap();
    assert!(
        redis(old.port(), "SET a 2")
            .await
            .unwrap()
            .starts_with("-READONLY")
    );

    // A manual failover works too, and a restarted sentinel has kept its knowledge.
    group.sentinels()[0].kill().await.unwrap();
    group.sentinels()[0].start_again().await.unwrap();
    group.wait_until_whole().await.unwrap();
    let third = group.fail_over().await.unwrap();
    assert_ne!(third.port(), new.port());
    group.wait_until_whole().await.unwrap();
    assert_eq!(redis(third.port(), "GET a").await.unwrap(), "1");
}
