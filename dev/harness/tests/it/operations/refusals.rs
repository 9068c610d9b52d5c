//! A store that answers and refuses is down: within a minute one mail names the refusal, `/readyz`
//! gives the reason, the metric is down, and one mail says that it is over.

use std::time::Duration;

use firstcome_harness::{Answer, Fixture, Http, World, WorldStores, all_issued, eventually};
use firstcome_shared::report::{FailureCause, StoreRefusal};
use firstcome_stack::{MysqlOptions, MysqlServer, RedisServer};

use crate::drift::support::{mailed, read};

/// The target, and what a busy machine takes longer.
const WITHIN: Duration = Duration::from_secs(90);

async fn is_not_ready(probe: &Http, refusal: StoreRefusal) -> bool {
    let ready = probe.get("/readyz").await;
    ready.status == 503 && ready.body.to_string().contains(refusal.facts().says)
}

/// Waits for the mail about a refusal, which gives its command.
async fn is_mailed(world: &World, refusal: StoreRefusal) {
    let facts = refusal.facts();
    let mail = mailed(world, &["action needed", facts.says]).await;
    assert!(mail.text.contains(facts.command[0]), "{}", mail.text);
}

/// Waits for the mail that a refusal is over, and checks that there was one about it.
async fn is_over(world: &World, store: &str) {
    mailed(world, &["resolved", store]).await;
    let mails = world.mail.mails();
    let subjects: Vec<String> = mails.iter().map(|mail| read(mail).subject).collect();
    let told = subjects.iter().filter(|it| it.contains("refuses"));
    assert_eq!(told.count(), 1, "{subjects:#?}");
    world.mail.clear();
}

/// A refusal, and the commands that make Redis refuse and end it, with `|` between the words.
type Scene = (
    StoreRefusal,
    &'static [&'static str],
    &'static [&'static str],
);

/// Makes a private Redis refuse, and waits until everything tells it.
async fn redis_refuses(name: &str, prepare: impl FnOnce(&RedisServer), scenes: &[Scene]) {
    let (f, server) = Fixture::with_own_redis(name, &[]).await;
    prepare(&server);
    let daemon = f.world.daemon().await;
    let coupon = f.api.open_coupon(1_000).await;
    let run = async |commands: &[&str]| {
        for command in commands {
            let words: Vec<&str> = command.split('|').collect();
            f.world.redis.command::<()>(&words).await;
        }
    };
    for (number, (refusal, begin, end)) in scenes.iter().enumerate() {
        run(begin).await;
        eventually(
            "both are not ready, and the metric is down",
            WITHIN,
            async || {
                let up = f.api.http().metric("firstcome_redis_up", &[]).await;
                let are_not_ready = is_not_ready(f.api.http(), *refusal).await
                    && is_not_ready(daemon.http(), *refusal).await;
                are_not_ready && up == Some(0.0)
            },
        )
        .await;
        let once = f.world.once_with(&["--dry-run"], &[]).await;
        assert_eq!(once.code, 2, "{}", once.log);
        let error = once.run().error.unwrap_or_default();
        let said = StoreRefusal::from_error(FailureCause::Redis, &error);
        assert_eq!(said, Some(*refusal), "{error}");
        is_mailed(&f.world, *refusal).await;
        run(end).await;
        eventually("claims are admitted", WITHIN, async || {
            let claim = f.api.claim(coupon.id, &format!("u-{number}")).await;
            matches!(claim, Answer::Accepted { .. } | Answer::Already { .. })
        })
        .await;
        is_over(&f.world, "refusal of Redis").await;
    }
}

/// The usual first failure of a full or read-only disk, with Redis's default `save`.
#[tokio::test]
async fn redis_whose_snapshot_failed_is_told_as_what_it_is() {
    // A folder of this name makes every snapshot fail.
    let block = |server: &RedisServer| {
        std::fs::create_dir_all(server.data_dir().join("dump.rdb/x")).unwrap();
    };
    let scene: Scene = (
        StoreRefusal::RedisSnapshot,
        &["CONFIG|SET|save|3600 1", "BGSAVE"],
        &["CONFIG|SET|save|"],
    );
    redis_refuses("misconf", block, &[scene]).await;
}

#[tokio::test]
#[ignore = "release"]
async fn redis_that_refuses_for_other_reasons_is_told_as_what_it_is() {
    let memory: Scene = (
        StoreRefusal::RedisMemory,
        &["CONFIG|SET|maxmemory|1"],
        &["CONFIG|SET|maxmemory|0"],
    );
    let replicas: Scene = (
        StoreRefusal::RedisFewReplicas,
        &["CONFIG|SET|min-replicas-to-write|1"],
        &["CONFIG|SET|min-replicas-to-write|0"],
    );
    let replica: Scene = (
        StoreRefusal::RedisReplica,
        &["REPLICAOF|127.0.0.1|1"],
        &["REPLICAOF|NO|ONE"],
    );
    redis_refuses("refuses", |_| {}, &[memory, replicas, replica]).await;
}

#[tokio::test]
async fn mysql_that_takes_no_writes_is_told_as_what_it_is() {
    let server = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    let stores = WorldStores::shared().await.with_mysql_at(&server.url());
    let world = World::on(stores, "mysql-refuses").await;
    let f = Fixture::of(world).await;
    let daemon = f.world.daemon().await;
    let coupon = f.api.open_coupon(1_000).await;
    server
        .query("SET GLOBAL super_read_only = ON")
        .await
        .unwrap();
    let claim = f.api.claim(coupon.id, "u-1").await;
    assert!(matches!(claim, Answer::Accepted { .. }), "{claim:?}");
    eventually("the reconciler is not ready", WITHIN, async || {
        is_not_ready(daemon.http(), StoreRefusal::MysqlReadOnly).await
    })
    .await;
    is_mailed(&f.world, StoreRefusal::MysqlReadOnly).await;
    server.query("SET GLOBAL read_only = OFF").await.unwrap();
    is_over(&f.world, "refusal of MySQL").await;
}

/// MySQL's own error of a full disk, which the consumer meets and the reconciler does not.
#[tokio::test]
async fn full_disk_of_mysql_is_told_although_only_the_consumer_meets_it() {
    let f = Fixture::new("full-disk").await;
    let _daemon = f.world.daemon().await;
    let coupon = f.api.open_coupon(1_000).await;
    let full = "CREATE TRIGGER full BEFORE INSERT ON issued_coupons FOR EACH ROW SIGNAL SQLSTATE 'HY000' \
                SET MYSQL_ERRNO = 1114, MESSAGE_TEXT = \"The table 'issued_coupons' is full\"";
    f.world.sql.query(full).await;
    let claim = f.api.claim(coupon.id, "u-1").await;
    assert!(matches!(claim, Answer::Accepted { .. }), "{claim:?}");
    is_mailed(&f.world, StoreRefusal::MysqlDisk).await;
    assert_eq!(f.consumer.get("/readyz").await.status, 503);
    f.world.sql.query("DROP TRIGGER full").await;
    is_over(&f.world, "refusal of MySQL").await;
    all_issued(&f.world, coupon.drop, 1).await;
}

/// One broker whose topic asks for two replicas refuses every message as three do that lost two.
#[tokio::test]
#[ignore = "release"]
async fn kafka_with_too_few_replicas_is_told_as_what_it_is() {
    let f = Fixture::new("few-replicas").await;
    let _daemon = f.world.daemon().await;
    let coupon = f.api.open_coupon(1_000).await;
    f.world.topic.alter(&[("min.insync.replicas", "2")]).await;
    let mut number = 0;
    eventually("claims are not queued", WITHIN, async || {
        number += 1;
        let claim = f.api.claim(coupon.id, &format!("u-{number}")).await;
        matches!(claim, Answer::Accepted { queued: false, .. })
    })
    .await;
    let ready = f.api.http().get("/readyz").await;
    assert_eq!(ready.status, 200, "claims go on");
    is_mailed(&f.world, StoreRefusal::KafkaFewReplicas).await;
    let up = f.api.http().metric("firstcome_kafka_up", &[]).await;
    assert_eq!(up, Some(0.0));
    f.world.topic.alter(&[("min.insync.replicas", "1")]).await;
    eventually("claims are queued", WITHIN, async || {
        let claim = f.api.claim(coupon.id, "u-1").await;
        f.api.http().get("/readyz").await.body["notes"]["kafka"] == "ok"
            && claim.promised().is_some()
    })
    .await;
    mailed(&f.world, &["resolved", "refusal of Kafka"]).await;
}
