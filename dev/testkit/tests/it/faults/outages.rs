//! A Redis master that is cut off from its replica. Most other single faults are in `single`.

use firstcome_stack::{ProxyFault, RedisOptions, RedisServer};
use firstcome_testkit::{WorldStores, eventually, holders};

use super::waves::{HEALED, Waves, follows, impatient, replication};

#[tokio::test]
#[ignore = "release"]
async fn a_master_cut_off_from_its_replica_admits_nobody_until_reconnected() {
    let lag = [
        "--min-replicas-to-write",
        "1",
        "--min-replicas-max-lag",
        "2",
        "--repl-ping-replica-period",
        "1",
    ];
    let extra_args = lag.map(str::to_owned).to_vec();
    let master = RedisServer::start(RedisOptions {
        extra_args,
        ..RedisOptions::default()
    })
    .await
    .unwrap();
    let link = master.proxy().await.unwrap();
    let options = RedisOptions {
        replica_of: Some(link.port()),
        ..RedisOptions::default()
    };
    let _replica = RedisServer::start(options).await.unwrap();
    let stores = WorldStores::shared().await.with_redis(&master);
    follows(&master).await;
    let waves = Waves::begin(impatient(stores, "cut-off").await).await;
    waves
        .survives(async |waves| {
            link.set(ProxyFault::Cut).await.unwrap();
            eventually("the master has lost its replica", HEALED, async || {
                replication(&master)
                    .await
                    .contains("min_slaves_good_slaves:0")
            })
            .await;
            let before = holders(&waves.world, &waves.coupon).await;
            assert_eq!(
                waves.wave().await,
                [("unavailable".into(), 20)].into(),
                "another server may have become the master"
            );
            assert_eq!(holders(&waves.world, &waves.coupon).await, before);
            link.set(ProxyFault::Pass).await.unwrap();
        })
        .await;
}
