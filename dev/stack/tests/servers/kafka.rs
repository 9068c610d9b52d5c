use std::time::Duration;

use firstcome_stack::{KafkaCluster, KafkaOptions, KafkaServer, ProxyFault};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::{LIMIT, eventually};

const TOPIC: &str = "t";

fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("reconnect.backoff.max.ms", "200")
        .set("log_level", "2");
    config
}

async fn make_topic(bootstrap: &str) {
    let admin: AdminClient<_> = client(bootstrap).create().unwrap();
    let topic = NewTopic::new(TOPIC, 3, TopicReplication::Fixed(1));
    let made = admin
        .create_topics(
            &[topic],
            &AdminOptions::new().operation_timeout(Some(LIMIT)),
        )
        .await
        .unwrap();
    assert!(made[0].is_ok(), "{made:?}");
}

async fn send(bootstrap: &str, text: &str) {
    let producer: FutureProducer = client(bootstrap).set("acks", "all").create().unwrap();
    producer
        .send(
            FutureRecord::to(TOPIC).key("k").payload(text).partition(0),
            LIMIT,
        )
        .await
        .unwrap();
}

async fn first_message(bootstrap: &str) -> String {
    let consumer: StreamConsumer = client(bootstrap).set("group.id", "g").create().unwrap();
    let mut partitions = TopicPartitionList::new();
    partitions
        .add_partition_offset(TOPIC, 0, Offset::Beginning)
        .unwrap();
    consumer.assign(&partitions).unwrap();
    // If a broker is down, the request fails, and another broker is tried.
    let first = async {
        loop {
            if let Ok(message) = consumer.recv().await {
                return String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
            }
        }
    };
    tokio::time::timeout(LIMIT, first).await.unwrap()
}

#[tokio::test]
async fn killed_kafka_keeps_its_data_and_groups_join_without_delay() {
    let server = KafkaServer::start(KafkaOptions::default()).await.unwrap();
    let bootstrap = server.bootstrap();
    assert_eq!(bootstrap, format!("127.0.0.1:{}", server.port()));
    make_topic(&bootstrap).await;
    send(&bootstrap, "kept").await;
    server.kill().await.unwrap();
    server.start_again().await.unwrap();
    assert_eq!(first_message(&bootstrap).await, "kept");

    // A new group, because the reader has committed its offset.
    let mut config = client(&bootstrap);
    config
        .set("group.id", "new")
        .set("auto.offset.reset", "earliest")
        .set("session.timeout.ms", "1000");
    config.set("heartbeat.interval.ms", "300");
    let consumer: StreamConsumer = config.create().unwrap();
    consumer.subscribe(&[TOPIC]).unwrap();
    let message = tokio::time::timeout(LIMIT, consumer.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(message.payload().unwrap(), b"kept");

    // Topics are not auto-created.
    let metadata = consumer.fetch_metadata(Some("unknown"), LIMIT).unwrap();
    assert!(metadata.topics()[0].error().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_cannot_bypass_the_proxy() {
    let (server, proxy) = KafkaServer::start_behind_proxy(KafkaOptions::default())
        .await
        .unwrap();
    assert_eq!(server.bootstrap(), format!("127.0.0.1:{}", proxy.port()));
    make_topic(&server.bootstrap()).await;
    send(&server.bootstrap(), "through").await;
    // The payload itself went through, not only the first metadata.
    let consumer: BaseConsumer = client(&server.bootstrap()).create().unwrap();
    let ends = |limit| consumer.fetch_watermarks(TOPIC, 0, limit).ok();
    assert_eq!(ends(LIMIT), Some((0, 1)));
    proxy.set(ProxyFault::Cut).await.unwrap();
    assert_eq!(ends(Duration::from_millis(300)), None);
    proxy.set(ProxyFault::Pass).await.unwrap();
    eventually("the client is back", async || {
        ends(Duration::from_secs(1)) == Some((0, 1))
    })
    .await;
}

#[tokio::test]
async fn extra_properties_win() {
    let properties = [(
        "auto.create.topics.enable".to_owned(),
        "no-such-value".to_owned(),
    )]
    .into();
    let options = KafkaOptions {
        extra_properties: properties,
        ..KafkaOptions::default()
    };
    let error = KafkaServer::start(options).await.unwrap_err().to_string();
    assert!(
        error.contains("ended while starting") && error.contains("no-such-value"),
        "{error}"
    );
}

#[tokio::test]
async fn three_brokers_form_a_cluster_and_a_killed_one_rejoins() {
    let cluster = KafkaCluster::start().await.unwrap();
    let admin: AdminClient<_> = client(&cluster.bootstrap()).create().unwrap();
    let topic = NewTopic::new(TOPIC, 1, TopicReplication::Fixed(3)).set("min.insync.replicas", "2");
    let made = admin
        .create_topics(
            &[topic],
            &AdminOptions::new().operation_timeout(Some(LIMIT)),
        )
        .await
        .unwrap();
    assert!(made[0].is_ok(), "{made:?}");
    send(&cluster.bootstrap(), "kept").await;
    let broker = cluster.broker(1).unwrap();
    broker.kill().await.unwrap();
    assert_eq!(first_message(&cluster.bootstrap()).await, "kept");
    broker.start_again().await.unwrap();
    assert!(cluster.broker(4).is_err() && cluster.broker(0).is_err());
}
