//! A host dies silently or stops being the master. Connections to it stay open, and new ones lead
//! to another host. Every process leaves it within seconds.

use std::time::Duration;

use firstcome_stack::{FaultProxy, ProxyFault, RedisOptions, RedisServer, WireProtocol};
use firstcome_testkit::{Answer, PrefixedKeys, WorldStores, eventually, shared};

use super::waves::{HEALED, Waves, follows, impatient, kafka_behind_proxies};

/// Limit for leaving a silent host, on a busy machine. The kernel's timeout alone would take a
/// quarter of an hour.
const LEFT: Duration = Duration::from_secs(20);

async fn admission_is(open: bool, waves: &Waves) {
    let what = if open {
        "admission is open"
    } else {
        "admission is closed"
    };
    eventually(what, HEALED, async || {
        (waves.api.http().get("/readyz").await.status == 200) == open
    })
    .await;
}

async fn passes_again(waves: &Waves) {
    eventually("the daemon has left the host", LEFT, async || {
        let run = waves.daemon.ask(&serde_json::json!({})).await.body;
        run["status"] == "clean" || run["status"] == "repaired"
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_temporarily_refuses_the_password_is_retried() {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let address = server.proxy().await.unwrap();
    let with = |password: &str, port: u16| format!("redis://:{password}@127.0.0.1:{port}");
    let change = async |url: String, to: &str| {
        PrefixedKeys::new(&url, "")
            .command::<()>(&["CONFIG", "SET", "requirepass", to])
            .await;
    };
    change(server.url(), "one").await;
    let stores = WorldStores::shared()
        .await
        .with_redis_at(&with("one", address.port()));
    let waves = Waves::begin(impatient(stores, "password").await).await;
    waves
        .survives(async |waves| {
            change(with("one", server.port()), "two").await;
            address.cut_now().await;
            admission_is(false, waves).await;
            change(with("two", server.port()), "one").await;
            admission_is(true, waves).await;
        })
        .await;
}

async fn promote(replica: &RedisServer, address: &FaultProxy, master: &RedisServer) {
    let command = async |server: &RedisServer, args: &[&str]| {
        PrefixedKeys::new(&server.url(), "")
            .command::<()>(args)
            .await;
    };
    command(replica, &["REPLICAOF", "NO", "ONE"]).await;
    address.set_upstream(replica.port());
    command(
        master,
        &["REPLICAOF", "127.0.0.1", &replica.port().to_string()],
    )
    .await;
}

#[tokio::test]
async fn clients_leave_a_demoted_redis() {
    let extra_args = ["--min-replicas-to-write", "1"].map(str::to_owned).to_vec();
    let fenced = RedisOptions {
        extra_args,
        ..RedisOptions::default()
    };
    let master = RedisServer::start(fenced.clone()).await.unwrap();
    let options = RedisOptions {
        replica_of: Some(master.port()),
        ..fenced
    };
    let replica = RedisServer::start(options).await.unwrap();
    let address = master.proxy().await.unwrap();
    let stores = WorldStores::shared()
        .await
        .with_redis_at(&master.url_via(&address));
    follows(&master).await;
    Waves::begin(impatient(stores, "demoted").await)
        .await
        .survives(async |waves| {
            promote(&replica, &address, &master).await;
            // The old connections still lead to a server that has the script but is no longer the
            // master.
            admission_is(false, waves).await;
            admission_is(true, waves).await;
            assert_eq!(waves.wave().await, [("accepted".into(), 20)].into());
            let promoted =
                PrefixedKeys::new(&replica.url(), &waves.world.setting("REDIS_KEY_PREFIX"));
            let users = promoted.of_drop(waves.coupon.id, waves.coupon.drop, "users");
            assert_eq!(
                promoted.command::<i64>(&["ZCARD", &users]).await,
                40,
                "the new master has them"
            );
        })
        .await;
}

/// Makes the process with this index in [`Own`] use its stores.
async fn works(waves: &mut Waves, process: usize) {
    if process == 2 {
        return passes_again(waves).await;
    }
    let by_consumer = "SELECT COUNT(*) FROM issued_coupons WHERE issued_by = 'consumer'";
    let before = waves.world.sql.number(by_consumer).await;
    eventually("the API works", LEFT, async || {
        let renamed = waves
            .api
            .patch(waves.coupon.id, &serde_json::json!({"name": "renamed"}))
            .await
            .status
            == 200;
        renamed
            && matches!(
                waves.next(1).await[0].1,
                Answer::Accepted { queued: true, .. }
            )
    })
    .await;
    if process == 1 {
        let writes = async || waves.world.sql.number(by_consumer).await > before;
        eventually("the consumer works", LEFT, writes).await;
    }
}

/// For each process in `tried` in turn, the host completes handshakes and sends nothing else, while
/// it answers the other processes. The process must reconnect until the address leads to another
/// host.
async fn each_alone_leaves_it(
    name: &str,
    store: (WorldStores, &str, WireProtocol),
    urls: [String; 3],
    ways: &[FaultProxy; 3],
    tried: &[usize],
) {
    let (stores, setting, protocol) = store;
    let world = impatient(stores, name).await;
    let urls = urls.map(|url| url.replace("DATABASE", world.database()));
    let own = urls.each_ref().map(|url| [(setting, url.as_str())]);
    let mut waves = Waves::begin_each(world, 200, own.each_ref().map(<[_; 1]>::as_slice)).await;
    waves.wave().await;
    for process in tried.iter().copied() {
        let way = &ways[process];
        let before = way.counters().accepted;
        way.set(ProxyFault::Mute(protocol)).await.unwrap();
        waves.next(1).await;
        eventually("the process reconnects repeatedly", LEFT, async || {
            // A producer without messages sends nothing.
            if process == 0 {
                waves.next(1).await;
            }
            way.counters().accepted > before + 1
        })
        .await;
        // Without an API the consumer has no work.
        for other in (0..3).filter(|other| *other != process && (process, *other) != (0, 1)) {
            works(&mut waves, other).await;
        }
        way.strand_now();
        way.set(ProxyFault::Pass).await.unwrap();
        works(&mut waves, process).await;
    }
    waves.healed().await;
}

async fn ways_to(port: u16) -> [FaultProxy; 3] {
    let way = || FaultProxy::start(port);
    tokio::try_join!(way(), way(), way()).unwrap().into()
}

#[tokio::test]
async fn a_process_leaves_a_redis_host_that_is_silent_only_to_it() {
    let redis = &shared().await.redis;
    let ways = ways_to(redis.port()).await;
    let urls = ways.each_ref().map(|way| redis.url_via(way));
    let store = (
        WorldStores::shared().await,
        "REDIS_URL",
        WireProtocol::Redis,
    );
    // The consumer does not use Redis.
    each_alone_leaves_it("mute-redis", store, urls, &ways, &[0, 2]).await;
}

#[tokio::test]
async fn a_process_leaves_a_mysql_host_that_is_silent_only_to_it() {
    let mysql = &shared().await.mysql;
    let ways = ways_to(mysql.port()).await;
    let urls = ways
        .each_ref()
        .map(|way| mysql.database_url_via(way, "DATABASE"));
    let store = (
        WorldStores::shared().await,
        "DATABASE_URL",
        WireProtocol::Mysql,
    );
    each_alone_leaves_it("mute-mysql", store, urls, &ways, &[0, 1, 2]).await;
}

#[tokio::test]
async fn a_process_leaves_a_kafka_host_that_is_silent_only_to_it() {
    let (server, ways, _turn) = kafka_behind_proxies().await;
    let urls = ways
        .each_ref()
        .map(|way| format!("127.0.0.1:{}", way.port()));
    let store = (
        WorldStores::shared().await.with_kafka(server),
        "KAFKA_BROKERS",
        WireProtocol::Kafka,
    );
    // The reconciler reads the topic over connections that last for one pass only.
    each_alone_leaves_it("mute-kafka", store, urls, ways, &[0, 1]).await;
}
