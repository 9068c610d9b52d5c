//! The admission gate on real servers. Each event happens to a server on which a coupon is open and
//! one of its two slots is given.

use std::time::Duration;

use firstcome_shared::domain::{CouponId, OncePer};
use firstcome_shared::redis::RedisMode;
use firstcome_shared::redis::admission::{Admission, AdmissionError};
use firstcome_shared::redis::gate::{Gate, Opened};
use firstcome_shared::redis::settings::Written;
use firstcome_stack::{ProxyFault, RedisCluster, RedisOptions, RedisServer, eventually_some};
use redis::FromRedisValue;

use crate::command::Start;
use crate::world::{
    DROP, ScriptWorld, accepted, already, begun, connect, connect_to, gate_of, opened, server,
};

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn ask<T: FromRedisValue>(server: &RedisServer, words: &[&str]) -> T {
    let mut conn = server.connection().await.unwrap();
    redis::cmd(words[0])
        .arg(&words[1..])
        .query_async(&mut conn)
        .await
        .unwrap()
}

/// Waits until `INFO replication` of a server has this line.
async fn says(server: &RedisServer, line: &str) {
    let asked = async {
        while !ask::<String>(server, &["INFO", "replication"])
            .await
            .contains(line)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, asked)
        .await
        .unwrap_or_else(|_| panic!("not within {LIMIT:?}: {line}"));
}

/// Whether admission is open after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Open,
    /// Closed for all claims, and for writes of the previous era.
    Closed,
    /// Closed for callers whose era of the coupon differs from Redis's.
    AnotherEra,
}

const CASES: [(Event, After); 15] = [
    (Event::Nothing, After::Open),
    (Event::ScriptFlush, After::Open),
    (Event::FirstReplica, After::Open),
    (Event::Set(None), After::Closed),
    (Event::Set(Some("open")), After::Closed),
    (Event::LaterEra, After::AnotherEra),
    (Event::OlderGateRestored, After::AnotherEra),
    (Event::Restart, After::Closed),
    (Event::FlushAll, After::Closed),
    (Event::FlushDb, After::Closed),
    (Event::AskReplica, After::Closed),
    (Event::AskPromoted, After::Closed),
    (Event::Demoted, After::Closed),
    (Event::DemotedAndSynced, After::Closed),
    (Event::DemotedAndPromoted, After::Closed),
];

#[derive(Debug, Clone, Copy)]
enum Event {
    Nothing,
    ScriptFlush,
    FirstReplica,
    /// The gate is deleted or garbled.
    Set(Option<&'static str>),
    /// MySQL is in a later era.
    LaterEra,
    OlderGateRestored,
    /// The process restarts; nothing is lost.
    Restart,
    FlushAll,
    FlushDb,
    AskReplica,
    AskPromoted,
    /// A demoted master follows no server yet.
    Demoted,
    /// A demoted master reads its own identity in its new master's data.
    DemotedAndSynced,
    DemotedAndPromoted,
}

pub(crate) async fn replica_of(master: &RedisServer) -> RedisServer {
    let replica = RedisServer::start(RedisOptions {
        replica_of: Some(master.port()),
        ..RedisOptions::default()
    })
    .await
    .unwrap();
    says(&replica, "master_link_status:up").await;
    replica
}

/// Starts a server that has all data of `master`, and no longer replicates from it.
async fn left_behind(master: &RedisServer) -> RedisServer {
    let replica = replica_of(master).await;
    ask::<()>(&replica, &["REPLICAOF", "NO", "ONE"]).await;
    replica
}

async fn demote(master: &RedisServer, port: u16) {
    ask::<()>(master, &["REPLICAOF", "127.0.0.1", &port.to_string()]).await;
}

/// Triggers the event. Returns the server to query from then on, if it is another one, and a server
/// that must stay alive, if there is one.
async fn happens(
    event: Event,
    server: &RedisServer,
    world: &mut ScriptWorld,
) -> (Option<RedisServer>, Option<RedisServer>) {
    let gate = world.keys.gate.clone();
    match event {
        Event::Nothing => {}
        Event::ScriptFlush => ask::<()>(server, &["SCRIPT", "FLUSH"]).await,
        Event::FirstReplica => return (None, Some(replica_of(server).await)),
        Event::Set(None) => ask::<()>(server, &["DEL", &gate]).await,
        Event::Set(Some(text)) => ask::<()>(server, &["SET", &gate, text]).await,
        Event::LaterEra => world.era += 1,
        Event::OlderGateRestored => {
            let older: String = ask(server, &["GET", &gate]).await;
            world.next_era().await;
            ask::<()>(server, &["SET", &gate, &older]).await;
        }
        Event::Restart => {
            server.kill().await.unwrap();
            server.start_again().await.unwrap();
        }
        Event::FlushAll => ask::<()>(server, &["FLUSHALL"]).await,
        Event::FlushDb => ask::<()>(server, &["FLUSHDB"]).await,
        Event::AskReplica => return (Some(replica_of(server).await), None),
        Event::AskPromoted => return (Some(left_behind(server).await), None),
        Event::Demoted => {
            // The link to the server's new master is cut.
            let proxy = server.proxy().await.unwrap();
            proxy.set(ProxyFault::Cut).await.unwrap();
            demote(server, proxy.port()).await;
        }
        Event::DemotedAndSynced | Event::DemotedAndPromoted => {
            let other = left_behind(server).await;
            demote(server, other.port()).await;
            says(server, "master_link_status:up").await;
            if matches!(event, Event::DemotedAndPromoted) {
                ask::<()>(server, &["REPLICAOF", "NO", "ONE"]).await;
            }
            return (None, Some(other));
        }
    }
    (None, None)
}

/// Retries errors of the connection that broke together with the server process.
async fn answered(world: &ScriptWorld) -> Result<Admission, AdmissionError> {
    let asked = async {
        loop {
            let answer = world.claim("a").await;
            if !matches!(answer, Err(AdmissionError::Redis(_))) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, asked).await.expect("no answer")
}

#[tokio::test]
async fn gate_stays_open_only_after_events_that_lose_nothing() {
    let start = Start::new(2, OncePer::Coupon, 0);
    for (event, expected) in CASES {
        let server = RedisServer::start(RedisOptions::default()).await.unwrap();
        let mut world = ScriptWorld::open(&server.url(), 1, &start).await;
        let first = world.claim("a").await.unwrap();
        assert_eq!(first, accepted(DROP, 1), "{event:?}");
        let (asked, _lives) = happens(event, &server, &mut world).await;
        if let Some(asked) = &asked {
            world.redis = connect(&asked.url());
        }
        assert_gate(&format!("{event:?}"), &world, expected).await;
    }
}

/// Checks the answers to claims, the state that the API reads, and that writes of an era in which
/// data may have been lost are refused.
async fn assert_gate(event: &str, world: &ScriptWorld, expected: After) {
    let found = match answered(world).await {
        Ok(admission) if admission == already(DROP, 1) => After::Open,
        Err(AdmissionError::Closed) => After::Closed,
        Err(AdmissionError::AnotherEra) => After::AnotherEra,
        other => panic!("{event}: {other:?}"),
    };
    assert_eq!(found, expected, "{event}");
    let user = "a".parse().unwrap();
    let standing = world
        .redis
        .standing(&world.keys, OncePer::Drop, world.era, &user)
        .await;
    let is_open = expected == After::Open;
    let is_trusted = standing.is_ok_and(|standing| standing.trusted);
    assert_eq!(is_trusted, is_open, "{event}");
    if expected == After::Closed {
        let ScriptWorld {
            redis,
            keys,
            fence,
            meta,
            ..
        } = world;
        let written = redis.load(keys, fence, 2, meta).await.unwrap();
        let opened = redis.open(world.coupon, fence, &[]).await.unwrap();
        assert_eq!(
            (written, opened),
            (Written::Stale, Opened::Stale),
            "{event}"
        );
    }
}

/// An event in a cluster that holds the coupon.
#[derive(Debug, Clone, Copy)]
enum GroupEvent {
    Single(Event),
    /// A replica is promoted; nothing is lost.
    FailOver,
    FailOverAndBack,
    /// Another server of the cluster gets the coupon with all its keys.
    SlotMoved,
}

const GROUP_CASES: [(GroupEvent, After); 5] = [
    (GroupEvent::Single(Event::ScriptFlush), After::Open),
    (GroupEvent::FailOver, After::Closed),
    (GroupEvent::FailOverAndBack, After::Closed),
    (GroupEvent::SlotMoved, After::Closed),
    (GroupEvent::Single(Event::Restart), After::Closed),
];

/// Waits until the primary of a slot answers.
async fn primary_of(cluster: &RedisCluster, slot: u16) -> &RedisServer {
    eventually_some("a primary answers", LIMIT, async || {
        cluster.primary_of_slot(slot).await
    })
    .await
}

async fn happens_in(cluster: &RedisCluster, event: GroupEvent, world: &mut ScriptWorld) {
    let key = world.keys.gate.clone();
    match event {
        GroupEvent::Single(event) => {
            let slot = cluster.slot_of(&key).await.unwrap();
            happens(event, primary_of(cluster, slot).await, world).await;
        }
        GroupEvent::FailOver => cluster.fail_over(&key).await.unwrap(),
        GroupEvent::FailOverAndBack => {
            for _ in 0..2 {
                cluster.fail_over(&key).await.unwrap();
            }
        }
        GroupEvent::SlotMoved => {
            let slot = cluster.slot_of(&key).await.unwrap();
            let from = primary_of(cluster, slot).await.port();
            let first = primary_of(cluster, 0).await;
            let to = if first.port() == from {
                primary_of(cluster, 16_383).await
            } else {
                first
            };
            cluster.move_slot(slot, to).await.unwrap();
            cluster.wait_until_whole().await.unwrap();
        }
    }
}

#[tokio::test]
async fn gate_in_a_cluster_stays_open_only_after_events_that_lose_nothing() {
    // A failover because a node was slow would close the gate.
    let node_timeout = Duration::from_secs(15);
    let cluster = RedisCluster::with_node_timeout(node_timeout);
    let cluster = cluster.await.unwrap();
    let start = Start::new(2, OncePer::Coupon, 0);
    for (coupon, (event, expected)) in (1..).zip(GROUP_CASES) {
        cluster.wait_until_whole().await.unwrap();
        let redis = connect_to(&cluster.urls(), RedisMode::Cluster);
        let mut world = ScriptWorld::open_on(redis, coupon, &start).await;
        let first = world.claim("a").await.unwrap();
        assert_eq!(first, accepted(DROP, 1), "{event:?}");
        happens_in(&cluster, event, &mut world).await;
        assert_gate(&format!("{event:?}"), &world, expected).await;
    }
}

#[tokio::test]
async fn no_era_begins_on_a_changed_gate_and_only_the_current_era_opens_it() {
    let server = server().await;
    let redis = connect(&server.url());
    let coupon = CouponId(1);
    let first = opened(&redis, coupon, 1).await;
    let seen = gate_of(&redis, coupon).await;
    let servers = redis.servers().await.unwrap();
    let this = servers.holding(coupon);
    let next = begun(&redis, coupon, 2).await;
    for late in [&seen, &Gate::default()] {
        let begun = redis.begin_era_on(coupon, this.unwrap(), late, 3).await;
        assert_eq!(begun.unwrap(), None);
    }
    let open = async |fence| redis.open(coupon, fence, &[]).await.unwrap();
    assert_eq!(open(&first).await, Opened::Stale);
    assert_eq!(gate_of(&redis, coupon).await, Gate::closed(&next));
    assert_eq!(open(&next).await, Opened::Yes);
    assert_eq!(open(&next).await, Opened::Yes, "it is open");
    assert!(gate_of(&redis, coupon).await.is_open(this, 2));
}
