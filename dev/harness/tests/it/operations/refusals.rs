//! A store that answers but refuses counts as down. Within a minute, one mail names the refusal,
//! and the store's metric is 0. `/readyz` of a process that cannot work without the store gives the
//! reason. When the refusal is over, one mail says so.

use std::io::Write as _;
use std::path::Path;

use firstcome_shared::report::{FailureCause, StoreRefusal};
use firstcome_stack::KafkaCluster;

use crate::drift::support::subjects;
use crate::prelude::*;

/// The target, plus extra time for a busy machine.
const WITHIN: Duration = Duration::from_secs(90);

async fn is_not_ready(probe: &Http, refusal: StoreRefusal) -> bool {
    let ready = probe.get("/readyz").await;
    ready.status == 503 && ready.body.to_string().contains(refusal.facts().says)
}

/// Waits for the mail about a refusal. It must contain the command for this refusal.
async fn is_mailed(world: &World, refusal: StoreRefusal) {
    let facts = refusal.facts();
    let mail = mailed(world, &["action needed", facts.says]).await;
    assert!(mail.text.contains(facts.command[0]), "{}", mail.text);
}

/// Waits for the mail that a refusal is over, and checks that exactly one mail had reported it.
async fn is_over(world: &World, refusal: StoreRefusal) {
    let store = match refusal.facts().store {
        FailureCause::Redis => "refusal of Redis",
        FailureCause::Mysql => "refusal of MySQL",
        FailureCause::Kafka => "refusal of Kafka",
        FailureCause::Other => unreachable!(),
    };
    mailed(world, &["resolved", store]).await;
    let subjects = subjects(world);
    let about_it = ["action needed", refusal.facts().says];
    let told = subjects
        .iter()
        .filter(|subject| about_it.iter().all(|words| subject.contains(words)));
    assert_eq!(told.count(), 1, "{subjects:#?}");
    world.mail.clear();
}

/// The limit for the mail about a refusal, with the product's default delay.
const MAILED_WITHIN: Duration = Duration::from_secs(60);

/// The usual first failure of a full or read-only disk, with Redis's default `save`. The other
/// refusals of Redis differ only in their text (`shared/tests/scripts`).
#[tokio::test]
async fn a_failed_redis_snapshot_is_reported_by_its_cause() {
    let refusal = StoreRefusal::RedisDisk;
    let (f, server) = Fixture::with_own_redis("misconf", &[]).await;
    // A folder of this name makes every snapshot fail.
    std::fs::create_dir_all(server.data_dir().join("dump.rdb/x")).unwrap();
    let daemon = f.world.daemon().await;
    let coupon = f.api.open_coupon(1_000).await;
    let save = async |when: &str| {
        let set = ["CONFIG", "SET", "save", when];
        f.world.redis.command::<()>(&set).await;
    };
    save("3600 1").await;
    f.world.redis.command::<()>(&["BGSAVE"]).await;
    let what = "both are not ready, and the metric is down";
    eventually(what, WITHIN, async || {
        let up = f.api.http().metric("firstcome_redis_up", &[]).await;
        let are_not_ready =
            is_not_ready(f.api.http(), refusal).await && is_not_ready(daemon.http(), refusal).await;
        are_not_ready && up == Some(0.0)
    })
    .await;
    is_mailed(&f.world, refusal).await;
    save("").await;
    let admitted = f.api.until_answered(coupon.id, "u-1").await;
    assert!(admitted.promised().is_some(), "{admitted:?}");
    is_over(&f.world, refusal).await;
}

/// The first write that finds no space decides how MySQL behaves. An insert gets an error, because
/// its table is full. A commit waits for space in the binary log without an error, and so does
/// every later commit, including those of passes and of the outbox.
#[tokio::test]
#[ignore = "release"]
async fn a_full_disk_of_a_real_mysql_is_reported_by_its_cause() {
    // Sets the redo log to the size that it has in a new data folder. Otherwise MySQL enlarges the
    // log in its first seconds, and exits if there is no space for that.
    let extra_args = vec!["--innodb-redo-log-capacity=8M".to_owned()];
    let server = MysqlServer::start(MysqlOptions {
        disk_mb: Some(400),
        ..MysqlOptions::with(extra_args)
    })
    .await
    .unwrap();
    let stores = WorldStores::shared().await.with_mysql_at(&server.url());
    let world = World::on(stores, "small-disk").await;
    // A commit that waits for space must end within the limit for the mail.
    world.set("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "4000");
    // The product's default delay before alerts instead of the one for tests.
    world.set("FIRSTCOME_TEST_ALERT_PATIENCE_SECONDS", "");
    let f = Fixture::of(world).await;
    let daemon = f.world.daemon().await;
    let coupon = f.api.open_coupon(100_000).await;
    let filler = server.small_disk().unwrap().join("filler");
    let begun = Instant::now();
    fill(&filler);
    let mut users = 0;
    let refusal = eventually_some("the full disk is mailed", WITHIN, async || {
        // Most inserts need no new space, so it takes many.
        if users < 5_000 {
            let some: Vec<String> = (users..users + 100).map(|n| format!("u-{n}")).collect();
            users += 100;
            rush(&[&f.api], coupon.id, &some, 50).await;
        }
        let subjects = subjects(&f.world);
        let busy = server.query(BUSY).await;
        [StoreRefusal::MysqlCommits, StoreRefusal::MysqlDisk]
            .into_iter()
            .find(|refusal| {
                let says = refusal.facts().says;
                subjects.iter().any(|subject| subject.contains(says))
            })
            .ok_or_else(|| format!("{subjects:?} {busy:?} {}", server.log_tail(20)))
    })
    .await;
    let took = begun.elapsed();
    eprintln!("{refusal:?} is mailed after {took:?}");
    assert!(took < MAILED_WITHIN, "{refusal:?}: {took:?}");
    is_mailed(&f.world, refusal).await;
    let subjects = subjects(&f.world);
    assert_eq!(subjects.len(), 1, "{subjects:#?}");
    let is_told = is_not_ready(daemon.http(), refusal).await;
    assert!(is_told || f.consumer.get("/readyz").await.status == 503);
    std::fs::remove_file(&filler).unwrap();
    mailed(&f.world, &["resolved", "refusal of MySQL"]).await;
    all_issued(&f.world, coupon.drop, users).await;
}

/// Lists what MySQL's connections do, for the failure message.
const BUSY: &str = "SELECT state, command, MAX(time), COUNT(*), MIN(LEFT(info, 60)) \
    FROM performance_schema.processlist WHERE command <> 'Sleep' GROUP BY state, command";

/// Fills all space that is left.
fn fill(file: &Path) {
    let mut filler = std::fs::File::create(file).unwrap();
    let zeros = vec![0; 1 << 16];
    while filler.write_all(&zeros).is_ok() {}
    while filler.write_all(&[0]).is_ok() {}
}

/// Only the consumer gets MySQL's error about a full disk. The reconciler does not.
#[tokio::test]
async fn a_full_mysql_disk_is_reported_although_only_the_consumer_meets_it() {
    let f = Fixture::new("full-disk").await;
    let _daemon = f.world.daemon().await;
    let coupon = f.api.open_coupon(1_000).await;
    let full = "CREATE TRIGGER full BEFORE INSERT ON issued_coupons FOR EACH ROW SIGNAL SQLSTATE 'HY000' \
                SET MYSQL_ERRNO = 1114, MESSAGE_TEXT = \"The table 'issued_coupons' is full\"";
    f.world.sql.query(full).await;
    let claim = f.api.until_answered(coupon.id, "u-1").await;
    assert!(claim.promised().is_some(), "{claim:?}");
    is_mailed(&f.world, StoreRefusal::MysqlDisk).await;
    assert_eq!(f.consumer.get("/readyz").await.status, 503);
    f.world.sql.query("DROP TRIGGER full").await;
    is_over(&f.world, StoreRefusal::MysqlDisk).await;
    all_issued(&f.world, coupon.drop, 1).await;
}

/// One of three brokers is dead, and the topic requires all three. Kafka never requires more
/// replicas than a partition has, so a single broker cannot refuse for this reason.
#[tokio::test]
#[ignore = "release"]
async fn too_few_kafka_replicas_are_reported_by_their_cause() {
    let cluster = KafkaCluster::start().await.unwrap();
    let stores = WorldStores::shared().await.with_kafka_cluster(&cluster);
    let f = Fixture::of(World::on(stores, "few-replicas").await).await;
    let _daemon = f.world.daemon().await;
    let coupon = f.api.open_coupon(1_000).await;
    // Kafka resets settings that this request omits to the brokers' defaults.
    let settings = [
        ("min.insync.replicas", "3"),
        ("max.message.bytes", "65536"),
        ("compression.type", "producer"),
    ];
    f.world.topic.alter(&settings).await;
    cluster.broker(3).unwrap().kill().await.unwrap();
    let mut number = 0;
    let what = "claims are not queued, and the metric is down";
    eventually(what, WITHIN, async || {
        number += 1;
        let claim = f.api.claim(coupon.id, &format!("u-{number}")).await;
        let up = f.api.http().metric("firstcome_kafka_up", &[]).await;
        matches!(claim, Answer::Accepted { queued: false, .. }) && up == Some(0.0)
    })
    .await;
    let ready = f.api.http().get("/readyz").await;
    assert_eq!(ready.status, 200, "claims go on");
    is_mailed(&f.world, StoreRefusal::KafkaOther).await;
    cluster.broker(3).unwrap().start_again().await.unwrap();
    eventually("claims are queued", WITHIN, async || {
        number += 1;
        let claim = f.api.claim(coupon.id, &format!("u-{number}")).await;
        matches!(claim, Answer::Accepted { queued: true, .. })
    })
    .await;
    assert_eq!(
        f.api.http().get("/readyz").await.body["notes"]["kafka"],
        "ok"
    );
    mailed(&f.world, &["resolved", "refusal of Kafka"]).await;
}
