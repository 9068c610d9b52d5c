use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use firstcome_stack::{RedisCluster, RedisClusterOptions, RedisOptions, RedisServer};

use crate::{Wire, eventually, redis, redis_and_replicas};

async fn start() -> RedisCluster {
    RedisCluster::start(RedisClusterOptions::default())
        .await
        .unwrap()
}

async fn setting(server: &RedisServer, name: &str) -> String {
    let mut wire = Wire::connect(server.port()).await.unwrap();
    assert_eq!(wire.ask(&format!("CONFIG GET {name}")).await.unwrap(), "*2");
    for _ in 0..3 {
        wire.hear().await.unwrap();
    }
    wire.hear().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_is_replaced_and_returns_as_a_replica() {
    let cluster = start().await;
    let urls: Vec<_> = cluster.nodes().iter().map(RedisServer::url).collect();
    assert_eq!((urls.len(), urls.join(",")), (6, cluster.urls()));
    assert_eq!(cluster.env()[0], ("REDIS_MODE", "cluster".to_owned()));
    for (name, value) in [
        ("appendfsync", "always"),
        ("min-replicas-to-write", "1"),
        ("min-replicas-max-lag", "10"),
    ] {
        assert_eq!(setting(cluster.node(5).unwrap(), name).await, value);
    }
    let old = cluster.primary_of("a").await.unwrap();
    redis_and_replicas(old.port(), "SET a 1", 1).await;
    for other in cluster
        .nodes()
        .iter()
        .filter(|node| node.port() != old.port())
    {
        let slot = cluster.slot_of("a").await.unwrap();
        let moved = format!("-MOVED {slot} 127.0.0.1:{}", old.port());
        assert_eq!(redis(other.port(), "SET a 1").await.unwrap(), moved);
    }
    let replica = cluster.replicas_of(old).await.unwrap()[0].port();
    // The replica receives a write after its answer.
    eventually("the replica has it", async || {
        let mut wire = Wire::connect(replica).await.unwrap();
        assert_eq!(wire.ask("READONLY").await.unwrap(), "+OK");
        wire.ask("GET a").await.unwrap() == "1"
    })
    .await;

    old.kill().await.unwrap();
    assert!(cluster.primary_of("a").await.is_err());
    eventually("a replica is promoted", async || {
        cluster.primary_of("a").await.is_ok()
    })
    .await;
    let new = cluster.primary_of("a").await.unwrap();
    // It was the primary's only replica.
    eventually("the slots are served", async || {
        redis(new.port(), "GET a").await.unwrap() == "1"
    })
    .await;
    assert!(
        redis(new.port(), "SET a 2")
            .await
            .unwrap()
            .starts_with("-NOREPLICAS")
    );

    old.start_again().await.unwrap();
    cluster.wait_until_whole().await.unwrap();
    assert_eq!(cluster.primary_of("a").await.unwrap().port(), new.port());
    assert_eq!(
        cluster.replicas_of(new).await.unwrap()[0].port(),
        old.port()
    );
    assert_eq!(redis(new.port(), "SET a 2").await.unwrap(), "+OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_replicas_the_promoted_one_accepts_writes_at_once() {
    let options = RedisClusterOptions {
        replicas: 2,
        ..RedisClusterOptions::default()
    };
    let cluster = RedisCluster::start(options).await.unwrap();
    assert_eq!(cluster.nodes().len(), 9);
    let old = cluster.primary_of("a").await.unwrap();
    old.freeze().await.unwrap();
    eventually("writes continue", async || {
        let Ok(new) = cluster.primary_of("a").await else {
            return false;
        };
        redis(new.port(), "SET a 1").await.unwrap() == "+OK"
    })
    .await;
    old.thaw().await.unwrap();
    cluster.wait_until_whole().await.unwrap();
    let new = cluster.primary_of("a").await.unwrap();
    assert_ne!(new.port(), old.port());
    assert_eq!(cluster.replicas_of(new).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_over_on_demand() {
    let cluster = start().await;
    let old = cluster.primary_of("a").await.unwrap();
    assert_eq!(redis(old.port(), "SET a 1").await.unwrap(), "+OK");
    let new = cluster.fail_over(old).await.unwrap();
    assert_eq!(cluster.primary_of("a").await.unwrap().port(), new.port());
    cluster.wait_until_whole().await.unwrap();
    assert_eq!(redis(new.port(), "GET a").await.unwrap(), "1");
    assert!(
        cluster
            .fail_over(old)
            .await
            .unwrap_err()
            .to_string()
            .contains("no replica")
    );

    // `old` is the replica now, and needs no consent.
    new.freeze().await.unwrap();
    assert_eq!(cluster.take_over(new).await.unwrap().port(), old.port());
    new.thaw().await.unwrap();
    cluster.wait_until_whole().await.unwrap();
    assert_eq!(cluster.primary_of("a").await.unwrap().port(), old.port());
    assert_eq!(redis(old.port(), "GET a").await.unwrap(), "1");
}

/// Sends one command, following redirections from the node at `port`.
async fn follow(wires: &mut HashMap<u16, Wire>, mut port: u16, command: &str) -> String {
    let mut asking = false;
    loop {
        let wire = match wires.entry(port) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(Wire::connect(port).await.unwrap()),
        };
        if asking {
            assert_eq!(wire.ask("ASKING").await.unwrap(), "+OK");
        }
        let answer = wire.ask(command).await.unwrap();
        let words: Vec<_> = answer.split(' ').collect();
        match words[..] {
            [kind @ ("-MOVED" | "-ASK"), _, address] => {
                asking = kind == "-ASK";
                port = address.rsplit(':').next().unwrap().parse().unwrap();
            }
            ["-TRYAGAIN", ..] => {}
            _ => return answer,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_moves_with_its_keys_while_clients_write() {
    const KEYS: u64 = 500;
    let cluster = start().await;
    let slot = cluster.slot_of("{a}").await.unwrap();
    let from = cluster.primary_of_slot(slot).await.unwrap();
    let to = cluster.nodes()[..3]
        .iter()
        .find(|node| node.port() != from.port())
        .unwrap();
    let stop = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    let writes = async {
        let mut wires = HashMap::new();
        while !stop.load(Ordering::Relaxed) {
            let round = rounds.load(Ordering::Relaxed) + 1;
            for key in 0..KEYS {
                // A lost or repeated write would make the count differ for good.
                let counted = follow(&mut wires, from.port(), &format!("INCR {{a}}{key}")).await;
                assert_eq!(counted, format!(":{round}"));
            }
            rounds.store(round, Ordering::Relaxed);
        }
    };
    let moves = async {
        eventually("there are keys", async || {
            rounds.load(Ordering::Relaxed) > 0
        })
        .await;
        cluster.move_slot(slot, to).await.unwrap();
        assert_eq!(cluster.primary_of("{a}").await.unwrap().port(), to.port());
        cluster.move_slot(slot, from).await.unwrap();
        cluster.move_slot(slot, from).await.unwrap();
        cluster.move_slot(slot, to).await.unwrap();
        stop.store(true, Ordering::Relaxed);
    };
    tokio::time::timeout(Duration::from_secs(60), async {
        tokio::join!(writes, moves)
    })
    .await
    .unwrap();
    let count = async |node: &RedisServer| {
        redis(node.port(), &format!("CLUSTER COUNTKEYSINSLOT {slot}"))
            .await
            .unwrap()
    };
    assert_eq!(
        (count(from).await, count(to).await),
        (":0".to_owned(), format!(":{KEYS}"))
    );
    // No migration is left over.
    cluster.wait_until_whole().await.unwrap();
    let moved = redis(from.port(), "GET {a}0").await.unwrap();
    assert_eq!(moved, format!("-MOVED {slot} 127.0.0.1:{}", to.port()));
    assert_eq!(
        redis(to.port(), "GET {a}0").await.unwrap(),
        rounds.load(Ordering::Relaxed).to_string()
    );

    let stranger = RedisServer::start(RedisOptions::default()).await.unwrap();
    assert!(
        cluster
            .move_slot(slot, &stranger)
            .await
            .unwrap_err()
            .to_string()
            .contains("no node of this cluster")
    );
}
