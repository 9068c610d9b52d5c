//! Redis comes back without some of what it said, or another comes in its place.

use std::path::PathBuf;

use firstcome_stack::{Fault, FaultProxy, RedisOptions, RedisServer};
use firstcome_testkit::{Keys, Stores, eventually};

use super::scene::{HEALED, Scene, impatient};
use crate::claims::many::holders;

async fn on_a_redis_of_its_own(redis: &RedisServer, name: &str) -> Scene {
    Scene::begin(impatient(Stores::shared().await.with_redis(redis), name).await).await
}

/// The file that Redis appends to.
fn append_only_file(redis: &RedisServer) -> PathBuf {
    let folder = redis.data_dir().unwrap().join("appendonlydir");
    let mut files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files.find(|path| path.to_string_lossy().ends_with(".incr.aof")).expect("an append-only file")
}

#[tokio::test]
async fn an_append_only_file_that_was_cut_off_breaks_no_promise() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let scene = on_a_redis_of_its_own(&redis, "aof-cut").await;
    scene
        .survives(async |scene| {
            scene.wave().await;
            scene.issued(40).await;
            redis.kill().await.unwrap();
            let file = append_only_file(&redis);
            let whole = std::fs::metadata(&file).unwrap().len();
            // In the middle of a command, about half of the admissions ago.
            std::fs::File::options().write(true).open(&file).unwrap().set_len(whole * 6 / 10 + 1).unwrap();
            redis.start_again().await.unwrap();
            assert!(redis.log_tail(40).contains("truncat"), "{}", redis.log_tail(40));
        })
        .await;
}

#[tokio::test]
async fn a_redis_that_was_emptied_breaks_no_promise() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let scene = on_a_redis_of_its_own(&redis, "flushall").await;
    scene
        .survives(async |scene| {
            // Half of them are rows, the others still on their way.
            scene.wave().await;
            scene.world.redis.command::<()>(&["FLUSHALL"]).await;
            let told = scene.wave().await;
            assert!(told.contains_key("unavailable"), "closed until it is rebuilt: {told:?}");
        })
        .await;
}

#[tokio::test]
async fn a_stale_replica_that_is_promoted_breaks_no_promise() {
    // Set up against being cut off, as start-up demands; the fail-over comes before that takes hold.
    let extra_args = ["--min-replicas-to-write", "1"].map(str::to_owned).to_vec();
    let master = RedisServer::start(RedisOptions { extra_args, ..RedisOptions::default() }).await.unwrap();
    let link = master.proxy().await.unwrap();
    let options = RedisOptions { replica_of: Some(link.port()), ..RedisOptions::default() };
    let replica = RedisServer::start(options).await.unwrap();
    // Everybody reaches Redis by one address, behind which another server can take its place.
    let address = master.proxy().await.unwrap();
    let stores = Stores::shared().await.with_redis_at(&master.url_via(&address));
    follows(&master).await;
    let scene = Scene::begin(impatient(stores, "promoted").await).await;
    scene
        .survives(async |scene| {
            let behind = Keys::new(&replica.url(), &scene.world.setting("REDIS_KEY_PREFIX"));
            let users = behind.of_drop(scene.coupon.id, scene.coupon.drop, "users");
            let known = async || behind.command::<i64>(&["ZCARD", &users]).await;
            eventually("the replica has followed", HEALED, async || known().await == 20).await;
            // Silent, not closed: for its lag the master takes the replica for a good one.
            link.set(Fault::BlackHole).await.unwrap();
            assert_eq!(scene.wave().await, [("accepted".into(), 20)].into());
            assert_eq!(holders(&scene.world, &scene.coupon).await, 40);
            promote(&behind, &address, &replica).await;
            assert_eq!(known().await, 20, "it lags behind by half");
            let told = scene.wave().await;
            assert!(told.contains_key("unavailable"), "the gate of a promoted replica is closed: {told:?}");
            master.kill().await.unwrap();
        })
        .await;
}

#[tokio::test]
async fn a_master_that_is_cut_off_from_its_replica_admits_nobody_until_it_is_back() {
    let lag = ["--min-replicas-to-write", "1", "--min-replicas-max-lag", "2", "--repl-ping-replica-period", "1"];
    let extra_args = lag.map(str::to_owned).to_vec();
    let master = RedisServer::start(RedisOptions { extra_args, ..RedisOptions::default() }).await.unwrap();
    let link = master.proxy().await.unwrap();
    let options = RedisOptions { replica_of: Some(link.port()), ..RedisOptions::default() };
    let _replica = RedisServer::start(options).await.unwrap();
    let stores = Stores::shared().await.with_redis(&master);
    follows(&master).await;
    let scene = Scene::begin(impatient(stores, "cut-off").await).await;
    scene
        .survives(async |scene| {
            link.set(Fault::Cut).await.unwrap();
            eventually("the master notices", HEALED, async || {
                replication(&master).await.contains("min_slaves_good_slaves:0")
            })
            .await;
            let before = holders(&scene.world, &scene.coupon).await;
            assert_eq!(scene.wave().await, [("unavailable".into(), 20)].into(), "another may be the master by now");
            assert_eq!(holders(&scene.world, &scene.coupon).await, before);
            link.set(Fault::Pass).await.unwrap();
        })
        .await;
}

#[tokio::test]
async fn a_redis_whose_replicas_need_not_follow_is_refused_at_start_up() {
    let master = RedisServer::start(RedisOptions::default()).await.unwrap();
    let options = RedisOptions { replica_of: Some(master.port()), ..RedisOptions::default() };
    let _replica = RedisServer::start(options).await.unwrap();
    let world = impatient(Stores::shared().await.with_redis(&master), "unfenced").await;
    follows(&master).await;
    for (program, args) in [("firstcome-api", ["serve"]), ("firstcome-reconciler", ["once"])] {
        let process = world.start(program, &args, &[]);
        assert_ne!(process.ended(HEALED).await, 0);
        assert!(process.log().contains("set `min-replicas-to-write 1`"), "{}", process.log());
    }
}

async fn replication(server: &RedisServer) -> String {
    Keys::new(&server.url(), "").command(&["INFO", "replication"]).await
}

/// Waits until the replica of this master is up to date.
async fn follows(master: &RedisServer) {
    eventually("the replica follows", HEALED, async || replication(master).await.contains("state=online")).await;
}

async fn promote(behind: &Keys, address: &FaultProxy, replica: &RedisServer) {
    behind.command::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    address.set_upstream(replica.port());
    address.cut_now().await;
}
