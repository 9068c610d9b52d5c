//! A message that waits in a queue is not a lost promise: lists, sorted sets, streams, topics with
//! their retry topics, and an outbox, on real servers.

use std::time::Duration;

use chrono::Utc;
use firstcome_attach::PassOptions;
use firstcome_shared::report::{Finding, Run, Trigger};
use firstcome_stack::{KafkaServer, ProxyFault, eventually, eventually_some};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::groups::GroupInfo;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use crate::daemon::{Daemon, told, why};
use crate::harm::{SET, rows};
use crate::world::{World, servers, users};

/// How long a condition may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A stage that stands for so long is told.
const STANDS: Duration = Duration::from_secs(301);

/// No Kafka listens here.
const NONE: &str = "localhost:1";

/// Users who had a row before, messages that wait, and how many of them are lost.
const BEFORE: u32 = 20;
const WAITING: u32 = 1_000;
const LOST: u32 = 5;

fn all() -> std::ops::Range<u32> {
    BEFORE..BEFORE + WAITING
}

fn file(queue: &str) -> String {
    SET.file
        .replace("queue = []", &format!("queue = {queue}"))
        .replace("quantity = 100", "quantity = 2000")
}

/// A campaign that was sold to 20 users through this queue, and whose first plan was confirmed.
/// A look follows each of the steps `show`, so that it sees each list filled once.
async fn trusted(brokers: &str, queue: &str, opens: &[&str], show: &[&str]) -> (World, Daemon) {
    let world = World::new(&[firstcome_shops::published::COUPON]).await;
    world.run(opens).await;
    let daemon = world.daemon(&format!("kafka = '{brokers}'\n{}", file(queue)));
    for some in [0..BEFORE - 1, BEFORE - 1..BEFORE] {
        world.add_members("@users", users(some.clone())).await;
        world.add_rows(users(some)).await;
        daemon.pass().await;
    }
    for step in show {
        world.run(&[step]).await;
        daemon.pass().await;
    }
    assert_eq!(told(&daemon.settle().await), [""; 0]);
    world.run(&["SADD @users 9000"]).await;
    assert_eq!(told(&daemon.settle().await), ["1 unissued planned"]);
    daemon.confirm().await;
    (world, daemon)
}

/// The stage does not move: that is told, and nobody is called lost.
async fn must_stand(world: &World, daemon: &Daemon, said: &[&str]) {
    daemon.settle().await;
    daemon.engine.clock.forward(STANDS);
    let found = daemon.settle().await;
    assert_eq!(told(&found), ["1 stalled skipped"], "{found:#?}");
    for said in said {
        assert!(why(&found).contains(said), "{found:#?}");
    }
    assert_eq!(rows(world).await, i64::from(BEFORE) + 1);
}

/// The consumer has processed all but the lost messages: those are repaired.
async fn must_repair(world: &World, daemon: &Daemon) {
    world.add_rows(users(BEFORE..BEFORE + WAITING - LOST)).await;
    let found = daemon.settle().await;
    assert_eq!(
        told(&found),
        [format!("{LOST} unissued applied")],
        "{}",
        why(&found)
    );
    assert_eq!(rows(world).await, i64::from(BEFORE + WAITING) + 1);
}

#[tokio::test]
async fn messages_in_a_list_a_sorted_set_or_an_outbox_are_not_lost_promises() {
    let list = (
        "{ list = '@queue' }",
        ["RPUSH @queue x", "DEL @queue"],
        "RPUSH @queue",
    );
    let set = (
        "{ sorted_set = '@queue' }",
        ["ZADD @queue 1 x", "DEL @queue"],
        "ZADD @queue 1",
    );
    for (stage, show, push) in [list, set] {
        let (world, daemon) = trusted(NONE, &format!("[{stage}]"), &[], &show).await;
        world.add_members("@users", users(all())).await;
        for user in users(all()) {
            let _new: i64 = world.redis(&format!("{push} {user}")).await;
        }
        must_stand(&world, &daemon, &["queue stage 1", "1000"]).await;
        world.run(&["DEL @queue"]).await;
        must_repair(&world, &daemon).await;
    }
    let outbox = "[{ sql = 'SELECT COUNT(*) FROM outbox' }]";
    let opens = ["CREATE TABLE outbox (n INT)"];
    let (world, daemon) = trusted(NONE, outbox, &opens, &[]).await;
    world.add_members("@users", users(all())).await;
    world
        .run(&["INSERT INTO outbox VALUES (1), (2), (3)"])
        .await;
    must_stand(&world, &daemon, &["queue stage 1", "3"]).await;
    world.run(&["TRUNCATE TABLE outbox"]).await;
    must_repair(&world, &daemon).await;
}

#[tokio::test]
async fn messages_in_a_stream_are_not_lost_promises() {
    let opens = ["XGROUP CREATE @stream workers $ MKSTREAM"];
    let queue = "[{ stream = '@stream', group = 'workers' }]";
    let (world, daemon) = trusted(NONE, queue, &opens, &[]).await;
    world.add_members("@users", users(all())).await;
    for user in users(all()) {
        let _id: String = world.redis(&format!("XADD @stream * user {user}")).await;
    }
    must_stand(&world, &daemon, &["stream", "1000"]).await;
    // The entries were delivered, and the worker died.
    let read = "XREADGROUP GROUP workers worker-1 COUNT 2000 STREAMS @stream >";
    let _entries: redis::Value = world.redis(read).await;
    must_stand(&world, &daemon, &["worker-1"]).await;
    // Another worker goes on with what comes later.
    let goes_on = "XREADGROUP GROUP workers worker-2 NOACK STREAMS @stream >";
    for _ in 0..2 {
        world.run(&["XADD @stream * user 0", goes_on]).await;
        let run = daemon.pass().await;
        let found: Vec<_> = run.all_findings().cloned().collect();
        assert_eq!(told(&found), ["1 stalled skipped"], "{found:#?}");
    }
    let pending: Vec<(String, String, u64, u64)> =
        world.redis("XPENDING @stream workers - + 2000").await;
    let ids: Vec<String> = pending.into_iter().map(|it| it.0).collect();
    // Nobody can read an entry that was deleted.
    world.run(&[&format!("XDEL @stream {}", ids[0])]).await;
    world
        .run(&[&format!("XACK @stream workers {}", ids[1..].join(" "))])
        .await;
    must_repair(&world, &daemon).await;
}

/// A message is popped, or moves to the next stage, while a round runs: it is waited for.
#[tokio::test]
async fn message_between_two_stages_is_not_a_lost_promise() {
    let queue = "[{ list = '@first' }, { list = '@second' }]";
    let (world, daemon) = trusted(
        NONE,
        queue,
        &[],
        &["RPUSH @first x", "RPOPLPUSH @first @second", "DEL @second"],
    )
    .await;
    world.run(&["SADD @users 5000", "RPUSH @first 5000"]).await;
    let wait = async || {
        daemon.pass().await;
        daemon.engine.clock.forward(Duration::from_secs(20));
    };
    wait().await;
    wait().await;
    // The first stage has passed. The message was popped, and fails.
    world.run(&["DEL @first"]).await;
    wait().await;
    world.run(&["RPUSH @second 5000"]).await;
    for _ in 0..4 {
        wait().await;
    }
    let run = daemon.pass().await;
    let found: Vec<_> = run.all_findings().cloned().collect();
    assert_eq!(told(&found), [""; 0], "{found:#?}");
    assert_eq!(rows(&world).await, i64::from(BEFORE) + 1);
}

/// A Kafka client of their consumer's group.
pub(crate) fn client(kafka: &KafkaServer) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka.bootstrap())
        .set("group.id", "coupon")
        .set("reconnect.backoff.max.ms", "200");
    config
}

pub(crate) async fn commit(consumer: &BaseConsumer, topic: &str, offset: i64) {
    let mut offsets = TopicPartitionList::new();
    offsets
        .add_partition_offset(topic, 0, Offset::Offset(offset))
        .unwrap();
    eventually_some("the offset is committed", LIMIT, async || {
        consumer.commit(&offsets, CommitMode::Sync)
    })
    .await;
}

pub(crate) fn send(
    producer: &BaseProducer,
    topic: &str,
    messages: impl IntoIterator<Item = String>,
) {
    for message in messages {
        let record = BaseRecord::<(), str>::to(topic).payload(&message);
        producer.send(record).unwrap();
    }
    producer.flush(LIMIT).unwrap();
}

pub(crate) async fn create_topics(kafka: &KafkaServer, names: &[&str], partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = client(kafka).create().unwrap();
    let topics = names
        .iter()
        .map(|name| NewTopic::new(name, partitions, TopicReplication::Fixed(1)));
    let topics: Vec<_> = topics.collect();
    let created = admin.create_topics(&topics, &AdminOptions::new()).await;
    assert!(created.unwrap().iter().all(Result::is_ok));
}

#[tokio::test]
async fn messages_in_a_topic_and_its_retry_topic_are_not_lost_promises() {
    let broken = KafkaServer::breakable().await.unwrap();
    let kafka = broken.server;
    create_topics(kafka, &["coupon", "coupon-retry"], 1).await;
    let producer: BaseProducer = client(kafka).create().unwrap();
    let consumer: BaseConsumer = client(kafka).create().unwrap();
    for topic in ["coupon", "coupon-retry"] {
        send(&producer, topic, ["first".to_owned()]);
        commit(&consumer, topic, 1).await;
    }
    let queue =
        "[{ kafka = 'coupon', group = 'coupon' }, { kafka = 'coupon-retry', group = 'coupon' }]";
    let (world, daemon) = trusted(&kafka.bootstrap(), queue, &[], &[]).await;
    send(&producer, "coupon", users(all()));
    world.add_members("@users", users(all())).await;
    must_stand(
        &world,
        &daemon,
        &["queue stage 1, topic \"coupon\"", "1000"],
    )
    .await;
    commit(&consumer, "coupon", 601).await;
    must_stand(&world, &daemon, &["queue stage 1", "400"]).await;
    // The last message fails, and waits in the retry topic.
    send(&producer, "coupon-retry", ["last".to_owned()]);
    commit(&consumer, "coupon", 1_001).await;
    must_stand(&world, &daemon, &["queue stage 2"]).await;
    // As of a topic that was deleted since, and has begun anew.
    commit(&consumer, "coupon-retry", 9_000).await;
    must_stand(&world, &daemon, &["queue stage 2", "is beyond its end"]).await;
    commit(&consumer, "coupon-retry", 2).await;
    must_repair(&world, &daemon).await;

    let admin: AdminClient<DefaultClientContext> = client(kafka).create().unwrap();
    let deleted = admin.delete_topics(&["coupon-retry"], &AdminOptions::new());
    deleted.await.unwrap();
    eventually("the topic is deleted", LIMIT, async || {
        let metadata = admin.inner().fetch_metadata(None, LIMIT).unwrap();
        let mut topics = metadata.topics().iter();
        topics.all(|topic| topic.name() != "coupon-retry")
    })
    .await;
    world.run(&["SADD @users 8002"]).await;
    let found = daemon.settle().await;
    assert!(told(&found).concat().contains("stalled"), "{found:#?}");
}

/// A letter is done once its user has a row, which nobody but the reader has to remember.
#[tokio::test]
async fn dead_letter_topic_is_read_without_a_group_and_a_letter_ends_with_its_row() {
    let broken = KafkaServer::breakable().await.unwrap();
    let kafka = broken.server;
    create_topics(kafka, &["dlt"], 2).await;
    let producer: BaseProducer = client(kafka).create().unwrap();
    let queue = "[]\nfailed = { topic = 'dlt', user = '/userId', where = { '/couponId' = '7' } }";
    let (world, daemon) = trusted(&kafka.bootstrap(), queue, &[], &[]).await;
    let letters = [
        r#"{"userId": "8000", "couponId": 7}"#,
        r#"{"userId": "8001", "couponId": "7"}"#,
        r#"{"userId": "5", "couponId": 7}"#,
        r#"{"userId": "8003", "couponId": 8}"#,
        "no JSON",
    ];
    send(&producer, "dlt", letters.map(str::to_owned));
    world.run(&["SADD @users 8000"]).await;
    let found = told(&daemon.settle().await);
    // Of user 8001, a letter is all that is known.
    assert_eq!(found, ["1 failed_claim applied", "1 failed_claim skipped"]);
    let found = told(&daemon.restarted().settle().await);
    assert_eq!(found, ["1 failed_claim skipped"]);
    world
        .run(&[
            "SADD @users 8001",
            "INSERT INTO coupon (user_id) VALUES (8001)",
        ])
        .await;
    for daemon in [&daemon, &daemon.restarted()] {
        assert_eq!(told(&daemon.settle().await), [""; 0]);
    }
    let consumer: BaseConsumer = client(kafka).create().unwrap();
    let groups = consumer.fetch_group_list(None, LIMIT).unwrap();
    let groups: Vec<&str> = groups.groups().iter().map(GroupInfo::name).collect();
    assert!(
        !groups.iter().any(|name| name.contains("firstcome")),
        "{groups:?}"
    );
}

#[tokio::test]
async fn stream_or_group_that_does_not_exist_is_told() {
    for (setup, expected) in [
        ("PING", "stream\": ResponseError: no such key"),
        ("RPUSH @stream x", "stream\": \"…\": Operation"),
        ("XADD @stream * a b", "has no group \"workers\""),
    ] {
        let world = World::new(&[firstcome_shops::published::COUPON]).await;
        world.run(&[setup, "SADD @users 1"]).await;
        let daemon = world.daemon(&file("[{ stream = '@stream', group = 'workers' }]"));
        let found = daemon.settle().await;
        assert_eq!(told(&found), ["1 stalled skipped"]);
        assert!(why(&found).contains(expected), "{found:?}");
    }
}

/// Looks as `--once` does. When the first look has been made, something breaks, and time passes.
async fn once(world: &World, daemon: &Daemon, breaks: impl AsyncFnOnce()) -> Vec<Finding> {
    let reads = "SELECT COUNT_READ FROM performance_schema.table_io_waits_summary_by_table \
        WHERE object_schema = DATABASE() AND object_name = 'coupon'";
    let before = world.number(reads).await;
    let mut run = Run::begun("run", Trigger::Cli, Utc::now());
    let options = PassOptions::default();
    let stop = CancellationToken::new();
    let later = async {
        eventually("the first look", LIMIT, async || {
            world.number(reads).await > before
        })
        .await;
        breaks().await;
        eventually("it ends", LIMIT, async || {
            daemon.engine.clock.forward(Duration::from_mins(1));
            false
        })
        .await;
    };
    tokio::select! {
        ended = daemon.engine.once(&options, &mut run, &stop) => ended.unwrap(),
        () = later => {}
    }
    run.all_findings().cloned().collect()
}

/// Nothing that time alone would change.
#[tokio::test]
async fn once_ends_when_nothing_can_become_older() {
    let stalled: &[&str] = &["1 stalled skipped"];
    let broken = KafkaServer::breakable().await.unwrap();
    create_topics(broken.server, &["once"], 1).await;
    let kafka = "[{ kafka = 'once', group = 'coupon' }]";
    let stream = "[{ stream = '@stream', group = 'workers' }]";
    let list = "[{ list = '@queue' }]";
    // A stage whose consumer works, and which is never empty.
    let busy = "[{ sql = 'SELECT 9000000000000 - FLOOR(1000 * UNIX_TIMESTAMP(NOW(3)))' }]";
    let (mysql, _) = servers().await;
    let proxy = mysql.proxy().await.unwrap();
    let opens = ["SADD @users 1 2", "XADD @stream * user 2", "RPUSH @queue 2"];
    for (queue, expected) in [
        (kafka, "your Kafka"),
        (stream, "has no group"),
        (list, "has not moved for five minutes"),
        (busy, "has not passed for an hour"),
        ("[]", "your database"),
    ] {
        let world = World::new(&[firstcome_shops::published::COUPON]).await;
        world.run(&opens).await;
        world.add_rows(users(1..2)).await;
        let text = world.file(&format!(
            "kafka = '{}'\n{}",
            broken.server.bootstrap(),
            file(queue)
        ));
        let port = |port: u16| format!(":{port}/");
        let text = text.replace(&port(mysql.port()), &port(proxy.port()));
        let daemon = Daemon::start(text, &world.ours);
        let found = once(&world, &daemon, async || match queue {
            "[]" => proxy.set(ProxyFault::Cut).await.unwrap(),
            _ if queue == kafka => broken.server.stop().await.unwrap(),
            _ => {}
        })
        .await;
        assert_eq!(told(&found), stalled, "{found:#?}");
        assert!(why(&found).contains(expected), "{found:#?}");
    }
}
