//! A message that waits in a queue is not a lost promise: a list, a stream, a topic and its retry
//! topic, on real servers.

use std::time::Duration;

use chrono::Utc;
use firstcome_attach::Attached;
use firstcome_attach::config::AttachFile;
use firstcome_attach::keys::Keys;
use firstcome_attach::queue::{Brokers, PATIENCE, Passed, Queue, Queues};
use firstcome_shared::config::{KafkaArgs, TlsArgs};
use firstcome_stack::{KafkaServer, StackOptions, eventually, eventually_some};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::time::Instant;

use crate::world::{World, campaign, pass, refusal, told, users};

/// How long a condition may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Messages that wait.
const WAITING: u32 = 1_000;
/// Users who had a row before.
const BEFORE: u32 = 20;
/// Messages that are lost.
const LOST: u32 = 10;

const TABLE: &str =
    "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40) UNIQUE)";

fn file(queue: &str) -> String {
    let settings = format!(
        "quantity = 2000
        users = {{ key = '@users', type = 'set' }}
        rows = {{ table = 'coupon', user = 'user_id' }}
        queue = {queue}"
    );
    format!("kafka = 'KAFKA'\n{}", campaign("Winter", &settings))
}

fn impatient() -> Queues {
    Queues {
        patience: Duration::from_millis(300),
        ..Queues::default()
    }
}

/// Creates a campaign that was clean once.
async fn clean(queue: &str, queues: Queues) -> (World, Attached) {
    let world = World::empty().await;
    world.sql(TABLE).await;
    let attached = world.attached_with(&file(queue), queues);
    world.add_members("@users", users(0..BEFORE)).await;
    world.add_rows(users(0..BEFORE)).await;
    assert_eq!(pass(&attached).await, []);
    (world, attached)
}

/// A stage does not advance: the pass reports that, calls nothing lost, and repairs nothing.
async fn must_stand(world: &World, attached: &Attached, stage: &str, by: &str) {
    let findings = pass(attached).await;
    assert_eq!(told(&findings), ["1 stalled skipped"], "{findings:?}");
    let said = &findings[0].detail;
    assert!(said.contains("campaign \"Winter\""), "{said}");
    assert!(said.contains(stage) && said.contains(by), "{said}");
    assert_eq!(world.row_count().await, i64::from(BEFORE));
}

/// The consumer has processed all but the lost messages: those are repaired.
async fn must_repair(world: &World, attached: &Attached) {
    let findings = pass(attached).await;
    let expected = [format!("{LOST} unissued applied")];
    assert_eq!(told(&findings), expected, "{findings:?}");
    assert_eq!(world.row_count().await, i64::from(BEFORE + WAITING));
}

fn all() -> std::ops::Range<u32> {
    BEFORE..BEFORE + WAITING
}

fn processed() -> std::ops::Range<u32> {
    BEFORE..BEFORE + WAITING - LOST
}

#[tokio::test]
async fn messages_in_a_list_are_not_lost_promises() {
    let (world, attached) = clean("{ list = '@queue' }", impatient()).await;
    world.add_members("@users", users(all())).await;
    let messages: Vec<String> = users(all()).collect();
    let push = format!("RPUSH @queue {}", messages.join(" "));
    let () = world.redis(&push).await;
    must_stand(&world, &attached, "queue stage 1 (list ", "1000 messages").await;
    let () = world.redis("DEL @queue").await;
    world.add_rows(users(processed())).await;
    must_repair(&world, &attached).await;
}

#[tokio::test]
async fn messages_in_a_stream_are_not_lost_promises() {
    let (world, attached) = {
        let world = World::empty().await;
        world.sql(TABLE).await;
        let () = world
            .redis("XGROUP CREATE @stream workers $ MKSTREAM")
            .await;
        let queue = "[{ list = '@ahead' }, { stream = '@stream', group = 'workers' }]";
        let attached = world.attached_with(&file(queue), impatient());
        world.add_members("@users", users(0..BEFORE)).await;
        world.add_rows(users(0..BEFORE)).await;
        assert_eq!(pass(&attached).await, []);
        (world, attached)
    };
    world.add_members("@users", users(all())).await;
    for user in users(all()) {
        let _id: String = world.redis(&format!("XADD @stream * user {user}")).await;
    }
    let stage = "queue stage 2 (stream ";
    must_stand(&world, &attached, stage, "1000 messages are not delivered").await;
    // The entries were delivered, and the worker died.
    let read = "XREADGROUP GROUP workers worker-1 COUNT 2000 STREAMS @stream >";
    let _entries: redis::Value = world.redis(read).await;
    must_stand(&world, &attached, stage, "to consumer \"worker-1\"").await;
    let pending: Vec<(String, String, u64, u64)> =
        world.redis("XPENDING @stream workers - + 2000").await;
    let ids: Vec<String> = pending.into_iter().map(|it| it.0).collect();
    // As if twenty deliveries of the first entry had failed.
    let failing = format!("XCLAIM @stream workers w 0 {} RETRYCOUNT 20", ids[0]);
    let _claimed: redis::Value = world.redis(&failing).await;
    must_stand(&world, &attached, stage, "acknowledge it, or move it").await;
    // Nobody can read an entry that was deleted.
    let () = world.redis(&format!("XDEL @stream {}", ids[0])).await;
    let () = world
        .redis(&format!("XACK @stream workers {}", ids[1..].join(" ")))
        .await;
    world.add_rows(users(processed())).await;
    // Entries that were deleted before a worker read them are delivered to nobody.
    let id: String = world.redis("XADD @stream * user nobody").await;
    let () = world.redis(&format!("XDEL @stream {id}")).await;
    must_repair(&world, &attached).await;
    let mut after_list = passed(&attached).await;
    assert!(after_list.has_grown().await.unwrap(), "a list has no end");
    let stream = file("{ stream = '@stream', group = 'workers' }");
    let mut passed = passed(&world.attached(&stream)).await;
    assert!(!passed.has_grown().await.unwrap());
    let _id: String = world.redis("XADD @stream * user late").await;
    assert!(passed.has_grown().await.unwrap());
}

/// Waits until the campaign's queue has passed.
async fn passed(attached: &Attached) -> Passed {
    let target = attached.file.campaigns[0].drops(Utc::now())[0];
    let keys = Keys::new(&attached.redis);
    let queue = Queue::new(&target, keys, &attached.queues);
    let now = Instant::now();
    queue.pass(now, now + PATIENCE).await.unwrap()
}

/// A Kafka client of their consumer's group.
fn client(kafka: &KafkaServer) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka.bootstrap())
        .set("group.id", "coupon");
    config
}

async fn commit(kafka: &KafkaServer, topic: &str, offset: i64) {
    let consumer: BaseConsumer = client(kafka).create().unwrap();
    let mut offsets = TopicPartitionList::new();
    offsets
        .add_partition_offset(topic, 0, Offset::Offset(offset))
        .unwrap();
    eventually_some("the offset is committed", LIMIT, async || {
        consumer.commit(&offsets, CommitMode::Sync)
    })
    .await;
}

#[tokio::test]
async fn messages_in_a_topic_or_its_retry_topic_are_not_lost_promises() {
    let kafka = KafkaServer::start(StackOptions::without_fsync().kafka);
    let kafka = kafka.await.unwrap();
    let admin: AdminClient<DefaultClientContext> = client(&kafka).create().unwrap();
    for name in ["coupon", "coupon-retry"] {
        let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
        let created = admin.create_topics([&topic], &AdminOptions::new()).await;
        created.unwrap()[0].as_ref().unwrap();
    }
    let security = KafkaArgs::at(&kafka.bootstrap(), &"".into(), &TlsArgs::default());
    let queues = Queues {
        brokers: Some(Brokers {
            addresses: kafka.bootstrap(),
            security: security.unwrap(),
        }),
        ..impatient()
    };
    let queue =
        "[{ topic = 'coupon', group = 'coupon' }, { topic = 'coupon-retry', group = 'coupon' }]";
    let (world, attached) = clean(queue, queues).await;
    let why = refusal(&attached).await;
    assert!(why.contains("no consumer group \"coupon\" yet"), "{why}");

    let producer: BaseProducer = client(&kafka).create().unwrap();
    for user in users(all()) {
        let record = BaseRecord::<(), str>::to("coupon").payload(&user);
        producer.send(record).unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();
    world.add_members("@users", users(all())).await;
    let stage = "queue stage 1 (topic \"coupon\", group \"coupon\")";
    must_stand(&world, &attached, stage, "1000 messages").await;
    commit(&kafka, "coupon", 600).await;
    attached.check().await.unwrap();
    must_stand(&world, &attached, stage, "400 messages").await;
    // The last message fails, and waits in the retry topic.
    let retried = BaseRecord::<(), str>::to("coupon-retry").payload("user");
    producer.send(retried).unwrap();
    producer.flush(Duration::from_secs(10)).unwrap();
    commit(&kafka, "coupon", 1_000).await;
    must_stand(&world, &attached, "queue stage 2", "1 messages").await;
    commit(&kafka, "coupon-retry", 1).await;
    world.add_rows(users(processed())).await;
    must_repair(&world, &attached).await;
    let mut passed = passed(&attached).await;
    assert!(!passed.has_grown().await.unwrap());
    let late = BaseRecord::<(), str>::to("coupon").payload("user");
    producer.send(late).unwrap();
    producer.flush(Duration::from_secs(10)).unwrap();
    assert!(passed.has_grown().await.unwrap());

    admin
        .delete_topics(&["coupon-retry"], &AdminOptions::new())
        .await
        .unwrap();
    eventually("the topic is deleted", LIMIT, async || {
        let metadata = admin.inner().fetch_metadata(None, LIMIT).unwrap();
        let mut topics = metadata.topics().iter();
        topics.all(|topic| topic.name() != "coupon-retry")
    })
    .await;
    let () = world.redis("SADD @users another").await;
    let findings = pass(&attached).await;
    assert_eq!(told(&findings), ["1 stalled skipped"], "{findings:?}");
}

#[tokio::test]
async fn a_stream_or_group_that_does_not_exist_is_refused() {
    for (setup, expected) in [
        ("PING", "is no stream: it is missing"),
        ("RPUSH @stream x", "is no stream: it is a list"),
        ("XADD @stream * a b", "has no group \"workers\""),
    ] {
        let queue = "{ stream = '@stream', group = 'workers' }";
        let (world, attached) = clean(queue, impatient()).await;
        let _reply: redis::Value = world.redis(setup).await;
        let why = refusal(&attached).await;
        assert!(why.contains(expected), "{why}");
        // A pass reports the same, and compares nothing.
        world.add_members("@users", users(all())).await;
        must_stand(&world, &attached, "queue", expected).await;
    }
}

#[test]
fn wrong_settings_of_a_queue_are_refused_and_in_flight_defaults_to_20_s() {
    let parse = |queue: &str, replaced: (&str, &str)| {
        let text = format!(
            "database = 'mysql://db/shop'\nredis = 'redis://cache'\n{}",
            file(queue).replace(replaced.0, replaced.1)
        );
        AttachFile::parse(&text)
    };
    let good = "{ topic = 't', group = 'g' }";
    assert_eq!(parse(good, ("", "")).unwrap().campaigns[0].queue.len(), 1);
    for (queue, replaced, expected) in [
        (good, ("kafka = 'KAFKA'", ""), "write kafka = \"host:9092\""),
        (good, ("0.01s", "61s"), "write at most 60s"),
        ("{ topic = 't' }", ("", ""), "write queue = { topic = "),
        ("{ list = 'l', group = 'g' }", ("", ""), "write queue = "),
        ("'l'", ("", ""), "write queue = "),
    ] {
        let why = parse(queue, replaced).unwrap_err();
        assert!(format!("{why:#}").contains(expected), "{why:#}");
    }
    let without = parse(good, ("in_flight = '0.01s'", "")).unwrap();
    let in_flight = without.campaigns[0].in_flight();
    assert_eq!(in_flight, Duration::from_secs(20));
}
