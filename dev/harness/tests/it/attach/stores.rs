//! Their stores become unavailable one after the other. Each raises one alert, which names that
//! store and ends once the store is back.

use firstcome_stack::KafkaServer;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::{OFTEN, Shop};
use crate::prelude::*;

/// Creates their topic, and commits offsets as if their group had read all of it.
async fn make_topic(kafka: &KafkaServer) {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", kafka.bootstrap())
        .set("group.id", "coupon");
    let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
    let topic = NewTopic::new("coupon", 1, TopicReplication::Fixed(1));
    let created = admin.create_topics([&topic], &AdminOptions::new()).await;
    created.unwrap()[0].as_ref().unwrap();
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = client.create().unwrap();
        let mut offsets = TopicPartitionList::new();
        let added = offsets.add_partition_offset("coupon", 0, Offset::Offset(0));
        added.unwrap();
        consumer.commit(&offsets, CommitMode::Sync).unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn each_unavailable_store_of_theirs_raises_one_alert_that_names_it() {
    let shop = Shop::new("attach-away").await;
    let stack = Stack::shared().await.unwrap();
    let kafka = KafkaServer::breakable().await.unwrap();
    make_topic(kafka.server).await;
    let mysql_way = FaultProxy::start(stack.mysql.port()).await.unwrap();
    let redis_way = FaultProxy::start(stack.redis.port()).await.unwrap();
    let database = format!("{}_shop", shop.world.database());
    let stores = format!(
        "database = '{}'\nredis = '{}'\nkafka = '{}'",
        stack.mysql.database_url_via(&mysql_way, &database),
        stack.redis.url_via(&redis_way),
        kafka.server.bootstrap(),
    );
    let file = shop.file(&stores, "queue = [{ kafka = 'coupon', group = 'coupon' }]");
    shop.sell(0..30).await;
    // The daemon queries their Kafka only if something differs.
    shop.add_member(30).await;
    let daemon = shop.daemon(&file, &OFTEN);
    eventually("the lost promise", LIMIT, async || {
        shop.firing().await == ["unissued"]
    })
    .await;
    for (kind, way, says) in [
        ("theirs_database", &mysql_way, "their database"),
        ("theirs_redis", &redis_way, "their Redis"),
        ("theirs_kafka", kafka.proxy, "their Kafka"),
    ] {
        way.set(ProxyFault::Cut).await.unwrap();
        if kind == "theirs_kafka" {
            // It is asked only about a difference that may be a message.
            shop.add_member(31).await;
        }
        eventually(kind, Duration::from_secs(120), async || {
            shop.firing().await.iter().any(|it| it == kind)
        })
        .await;
        // The earlier alert neither ends nor is sent again.
        let mut expected = [kind, "unissued"];
        expected.sort_unstable();
        assert_eq!(shop.firing().await, expected, "{}", daemon.log());
        way.set(ProxyFault::Pass).await.unwrap();
        eventually("it is back", Duration::from_secs(120), async || {
            shop.firing().await == ["unissued"]
        })
        .await;
        let told = format!("SELECT CONCAT(tells, summary) FROM told WHERE kind = '{kind}'");
        let told = shop.world.sql.query(&told).await.concat();
        assert_eq!(told.len(), 1, "one alert");
        // One mail when the alert began; its end is none about the problem.
        assert!(
            told[0].starts_with('1') && told[0].contains(says),
            "{told:?}"
        );
    }
    let again = "SELECT COUNT(*) FROM told WHERE kind = 'unissued'";
    assert_eq!(shop.world.sql.number(again).await, 1);
}
