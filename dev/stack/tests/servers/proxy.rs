use std::time::{Duration, Instant};

use firstcome_stack::{FaultProxy, ProxyFault, RedisOptions, RedisServer};

use crate::{Wire, eventually, redis};

/// Starts a Redis with a proxy, and a client that has already used it.
async fn start() -> (RedisServer, FaultProxy, Wire) {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let proxy = server.proxy().await.unwrap();
    let mut wire = Wire::connect(proxy.port()).await.unwrap();
    assert_eq!(wire.ask("PING").await.unwrap(), "+PONG");
    (server, proxy, wire)
}

async fn eventually_is_1(server: &RedisServer, key: &str) {
    let get = format!("GET {key}");
    eventually("the command has run", async || {
        redis(server.port(), &get)
            .await
            .is_ok_and(|value| value == "1")
    })
    .await;
}

#[tokio::test]
async fn pass_forwards_and_counts() {
    let (server, proxy, mut wire) = start().await;
    assert_eq!(
        server.url_via(&proxy),
        format!("redis://127.0.0.1:{}", proxy.port())
    );
    assert_eq!(wire.ask("INCR a").await.unwrap(), ":1");
    let counters = proxy.counters();
    assert_eq!((counters.accepted, counters.open), (1, 1));
    assert_eq!(
        (counters.bytes_to_server, counters.bytes_to_client),
        (6 + 8, 7 + 4)
    );
    drop(wire);
    eventually("the session ends", async || proxy.counters().open == 0).await;
}

#[tokio::test]
async fn delay_applies_in_both_directions() {
    let (_server, proxy, mut wire) = start().await;
    let delay = Duration::from_millis(40);
    proxy.set(ProxyFault::Delay(delay)).await.unwrap();
    let begun = Instant::now();
    assert_eq!(wire.ask("PING").await.unwrap(), "+PONG");
    assert!(begun.elapsed() >= delay * 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn cut_closes_and_refuses_until_the_fault_ends() {
    let (_server, proxy, mut wire) = start().await;
    proxy.set(ProxyFault::Cut).await.unwrap();
    assert!(wire.is_closed().await);
    assert!(Wire::connect(proxy.port()).await.is_err());
    assert_eq!(proxy.counters().open, 0);
    proxy.set(ProxyFault::Pass).await.unwrap();
    assert_eq!(redis(proxy.port(), "PING").await.unwrap(), "+PONG");
}

#[tokio::test]
async fn cut_now_closes_only_current_connections() {
    let (_server, proxy, mut wire) = start().await;
    proxy.cut_now().await;
    assert!(wire.is_closed().await);
    assert_eq!(redis(proxy.port(), "PING").await.unwrap(), "+PONG");
    assert_eq!(proxy.counters().accepted, 2);
}

#[tokio::test]
async fn black_hole_withholds_everything_and_delivers_it_at_the_end() {
    let (server, proxy, mut wire) = start().await;
    proxy.set(ProxyFault::BlackHole).await.unwrap();
    wire.say("INCR a").await.unwrap();
    let mut new = Wire::connect(proxy.port()).await.unwrap();
    new.say("INCR b").await.unwrap();
    eventually("the proxy has taken the new connection", async || {
        proxy.counters().accepted == 2
    })
    .await;
    assert_eq!(redis(server.port(), "EXISTS a b").await.unwrap(), ":0");
    assert_eq!(proxy.counters().bytes_to_server, 6);
    proxy.set(ProxyFault::Pass).await.unwrap();
    assert_eq!(wire.hear().await.unwrap(), ":1");
    assert_eq!(new.hear().await.unwrap(), ":1");
}

#[tokio::test]
async fn dead_host_stays_silent_while_another_replaces_it() {
    let (server, proxy, mut wire) = start().await;
    proxy.set(ProxyFault::BlackHole).await.unwrap();
    proxy.strand_now();
    server.kill().await.unwrap();
    let mut new = Wire::connect(proxy.port()).await.unwrap();
    new.say("INCR b").await.unwrap();
    wire.say("INCR a").await.unwrap();
    let other = RedisServer::start(RedisOptions::default()).await.unwrap();
    proxy.set_upstream(other.port());
    proxy.set(ProxyFault::Pass).await.unwrap();
    assert_eq!(new.hear().await.unwrap(), ":1");
    assert_eq!(redis(other.port(), "EXISTS a b").await.unwrap(), ":1");
    assert_eq!(proxy.counters().open, 2, "the old connection is still open");
}

#[tokio::test]
async fn dropped_replies_leave_the_command_executed() {
    let (server, proxy, mut wire) = start().await;
    proxy.set(ProxyFault::DropReplies).await.unwrap();
    wire.say("INCR a").await.unwrap();
    eventually_is_1(&server, "a").await;
    eventually("the reply is dropped", async || {
        proxy.counters().bytes_dropped == 4
    })
    .await;
    assert_eq!(proxy.counters().bytes_to_client, 7);
    proxy.set(ProxyFault::Pass).await.unwrap();
    assert!(wire.is_closed().await);
    assert_eq!(redis(proxy.port(), "PING").await.unwrap(), "+PONG");
}

#[tokio::test]
async fn half_close_ends_the_replies_while_requests_still_arrive() {
    let (server, proxy, mut wire) = start().await;
    proxy.set(ProxyFault::HalfClose).await.unwrap();
    assert!(wire.is_closed().await);
    wire.say("INCR a").await.unwrap();
    eventually_is_1(&server, "a").await;
}

#[tokio::test]
async fn closing_one_direction_leaves_the_other_open() {
    let (_server, _proxy, mut wire) = start().await;
    wire.say("PING").await.unwrap();
    assert_eq!(wire.rest().await, "+PONG\r\n");
}
