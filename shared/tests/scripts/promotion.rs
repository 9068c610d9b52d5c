//! The gate of a server that was demoted and promoted again: the same process with the same script
//! cache, and older data.

use std::time::Duration;

use firstcome_shared::domain::OncePer;
use firstcome_shared::redis::admission::AdmissionError;
use firstcome_stack::{ProxyFault, RedisOptions, RedisServer};
use redis::{Client, FromRedisValue};

use crate::command::{ScriptCommand, Start};
use crate::world::ScriptWorld;

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn ask<T: FromRedisValue>(server: &RedisServer, words: &[&str]) -> T {
    let mut conn = Client::open(server.url())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    redis::cmd(words[0])
        .arg(&words[1..])
        .query_async(&mut conn)
        .await
        .unwrap()
}

/// Waits until `INFO replication` of a server contains this line.
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

#[tokio::test]
async fn a_demoted_master_answers_nothing_from_its_data() {
    let options = RedisOptions {
        appendonly: false,
        ..RedisOptions::default()
    };
    let (master, other) = tokio::try_join!(
        RedisServer::start(options.clone()),
        RedisServer::start(options)
    )
    .unwrap();
    let start = Start {
        quantity: 1,
        waiting_list: 0,
        once_per: OncePer::Coupon,
    };
    let mut world = ScriptWorld::open(&master.url(), 1, &start).await;
    assert_eq!(
        world.apply(&ScriptCommand::Claim(vec!['a', 'b'])).await.0,
        "[Accepted(1), SoldOut]"
    );
    // It follows nobody yet: the link to its new master is cut.
    let proxy = other.proxy().await.unwrap();
    proxy.set(ProxyFault::Cut).await.unwrap();
    ask::<()>(
        &master,
        &["REPLICAOF", "127.0.0.1", &proxy.port().to_string()],
    )
    .await;
    for person in ["a", "b"] {
        let claimed = world
            .redis
            .claim(&world.keys, &person.parse().unwrap())
            .await;
        assert!(
            matches!(claimed, Err(AdmissionError::Closed)),
            "{person}: {claimed:?}"
        );
    }
}

#[tokio::test]
async fn the_script_refuses_clients_that_missed_a_demotion_and_promotion() {
    let options = RedisOptions {
        appendonly: false,
        ..RedisOptions::default()
    };
    let master = RedisServer::start(options.clone()).await.unwrap();
    let start = Start {
        quantity: 5,
        waiting_list: 0,
        once_per: OncePer::Coupon,
    };
    let mut world = ScriptWorld::open(&master.url(), 1, &start).await;
    assert_eq!(
        world.apply(&ScriptCommand::Claim(vec!['a'])).await.0,
        "[Accepted(1)]"
    );
    let replica = RedisServer::start(RedisOptions {
        replica_of: Some(master.port()),
        ..options
    })
    .await
    .unwrap();
    says(&replica, "master_link_status:up").await;
    // From here on the replica's data is old.
    ask::<()>(&replica, &["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(
        world.apply(&ScriptCommand::Claim(vec!['b'])).await.0,
        "[Accepted(2)]"
    );
    let standing = world
        .redis
        .standing(&world.keys, &"b".parse().unwrap())
        .await
        .unwrap();
    assert_eq!((standing.slot, standing.trusted), (Some(2), true));
    ask::<()>(
        &master,
        &["REPLICAOF", "127.0.0.1", &replica.port().to_string()],
    )
    .await;
    says(&master, "master_link_status:up").await;
    ask::<()>(&master, &["REPLICAOF", "NO", "ONE"]).await;
    // It has not read the gate since it was open.
    let claimed = world.redis.claim(&world.keys, &"c".parse().unwrap()).await;
    assert!(
        matches!(claimed, Err(AdmissionError::Closed)),
        "slot 2 is promised: {claimed:?}"
    );
    let standing = world
        .redis
        .standing(&world.keys, &"b".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(
        (standing.slot, standing.trusted),
        (None, false),
        "it holds slot 2, and the data is older"
    );
}
