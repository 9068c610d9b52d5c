//! A Redis refuses its password for a while, or stops being the master. Connections to it stay
//! open, and new ones lead to another host. (`operations::silent_hosts` has hosts that die
//! silently.)

use firstcome_stack::{FaultProxy, RedisOptions, RedisServer};
use firstcome_testkit::{PrefixedKeys, WorldStores, eventually};

use super::waves::{HEALED, Waves, follows, impatient};

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
