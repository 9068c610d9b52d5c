//! MySQL that is down, slow or silent: no claim is lost or becomes a dead letter.

use std::time::Duration;

use firstcome_stack::ProxyFault;

use super::world::{ConsumeWorld, until};

#[tokio::test(flavor = "multi_thread")]
async fn retry_finds_the_rows_of_a_write_whose_response_was_lost() {
    let (world, drop, proxy, through) = ConsumeWorld::behind_proxy(300).await;
    let consumer = world.consumer(&[&through, "--database-timeout-ms=500"]);
    world.claim(drop, 1..=100).await;
    world.until_rows(100).await;
    for (fault, slots) in [
        (ProxyFault::DropReplies, 101..=200),
        (ProxyFault::BlackHole, 201..=300),
    ] {
        let before = proxy.counters().accepted;
        proxy.set(fault).await.unwrap();
        world.claim(drop, slots).await;
        until("attempts", async || proxy.counters().accepted > before + 1).await;
        proxy.set(ProxyFault::Pass).await.unwrap();
    }
    world.ends_exact(300, [consumer]).await;
}

/// The first consumer waits for a MySQL that does not answer. It must poll during one such write,
/// so that another consumer gets partitions, and must not write or commit for partitions that it
/// lost. Neither the database timeout nor the group ends the wait before the test's limit.
#[tokio::test(flavor = "multi_thread")]
async fn consumer_waiting_for_mysql_hands_its_partitions_to_another() {
    let (world, drop, proxy, through) = ConsumeWorld::behind_proxy(400).await;
    let patient = [
        "--database-timeout-ms=600000",
        "--consume-stuck-seconds=600",
    ];
    let stuck = world.consumer(&[&through, patient[0], patient[1]]);
    world.claim(drop, 1..=4).await;
    world.until_rows(4).await;
    proxy.set(ProxyFault::BlackHole).await.unwrap();
    world.claim(drop, 5..=200).await;
    let able = world.consumer(&[]);
    until("rows by the second consumer", async || {
        world.rows().await >= 98
    })
    .await;
    proxy.set(ProxyFault::Pass).await.unwrap();
    world.claim(drop, 201..=400).await;
    world.ends_exact(400, [stuck, able]).await;
}

/// Each write takes longer than the loop waits before it pauses and polls, so that rebalances
/// happen during writes.
#[tokio::test(flavor = "multi_thread")]
async fn rebalances_during_slow_writes_lose_nothing() {
    let (world, drop, proxy, through) = ConsumeWorld::behind_proxy(600).await;
    let arguments = [&*through, "--consume-batch-max=25"];
    world.claim(drop, 1..=600).await;
    let first = world.consumer(&arguments);
    until("some rows", async || world.rows().await > 0).await;
    proxy
        .set(ProxyFault::Delay(Duration::from_millis(60)))
        .await
        .unwrap();
    let second = world.consumer(&arguments);
    until("more rows", async || world.rows().await > 150).await;
    let third = world.consumer(&arguments);
    until("more rows", async || world.rows().await > 300).await;
    first.stop().await;
    until("more rows", async || world.rows().await > 450).await;
    second.stop().await;
    world.ends_exact(600, [third]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_stopped_without_mysql_leaves_unwritten_messages_to_the_next() {
    let (world, drop, proxy, through) = ConsumeWorld::behind_proxy(200).await;
    let consumer = world.consumer(&[&through]);
    world.claim(drop, 1..=100).await;
    world.until_rows(100).await;
    proxy.set(ProxyFault::Cut).await.unwrap();
    world.claim(drop, 101..=200).await;
    consumer.stop().await;
    assert_eq!(world.read_up_to().await, 100);
    world
        .consume_until("the rest", async || world.rows().await == 200)
        .await;
    world.assert_exact(200).await;
}
