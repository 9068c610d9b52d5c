//! The world of a test: its database, topic and group on the servers that all tests share.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_api::consume;
use firstcome_shared::claim::Claim;
use firstcome_shared::domain::{CouponId, DropId, NamedDrop, OncePer, Slot, UserId};
use firstcome_shared::kafka::{KafkaSettings, Security, Signing};
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::{Db, DbSettings};
use firstcome_shared::schedule::Schedule;
use firstcome_stack::{FaultProxy, MysqlServer, MysqlSessions};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::ToBytes;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;
use tokio_util::sync::CancellationToken;

pub(crate) use crate::support::{LIMIT, until};
use crate::support::{RunningProgram, create_topic, new_database, parse, stack};

pub(crate) const SIGNING_KEY: &str = "signed-0123456789abcdef0123456789";

/// Partitions of each test's topic.
pub(crate) const PARTITIONS: i32 = 4;

pub(crate) struct ConsumeWorld {
    pub(crate) mysql: &'static MysqlServer,
    sessions: MysqlSessions,
    pub(crate) database: String,
    pub(crate) db: Db,
    pub(crate) kafka: KafkaSettings,
}

impl ConsumeWorld {
    pub(crate) async fn new() -> Self {
        let stack = stack().await;
        let mysql = &stack.mysql;
        let name = new_database(mysql).await;
        let url = mysql.database_url(&name);
        let brokers = stack.kafka.bootstrap();
        let db = Db::new(&DbSettings {
            url: url.into(),
            pool_size: 4,
            limit: LIMIT,
        })
        .unwrap();
        let kafka = KafkaSettings {
            brokers,
            topic: name.clone(),
            group: name.clone(),
            security: Security::default(),
            signing: Signing::new(&SIGNING_KEY.into()).unwrap(),
        };
        create_topic(&kafka, PARTITIONS).await;
        Self {
            mysql,
            sessions: MysqlSessions::new(&mysql.url()),
            database: name,
            db,
            kafka,
        }
    }

    pub(crate) async fn with_coupon(quantity: Slot, once_per: OncePer) -> (Self, NamedDrop) {
        let world = Self::new().await;
        let drop = world.coupon(quantity, once_per).await;
        (world, drop)
    }

    /// Creates a world with one coupon and a proxy in front of MySQL. Returns the setting that
    /// makes a consumer use the proxy; without it, the driver would switch from loopback to the
    /// server's socket.
    pub(crate) async fn behind_proxy(quantity: Slot) -> (Self, NamedDrop, FaultProxy, String) {
        let (world, drop) = Self::with_coupon(quantity, OncePer::Coupon).await;
        let proxy = world.mysql.proxy().await.unwrap();
        let url = world.mysql.database_url_via(&proxy, &world.database);
        (
            world,
            drop,
            proxy,
            format!("--database-url={url}?prefer_socket=false"),
        )
    }

    /// Waits until each partition has a position, which its consumer writes when it begins.
    pub(crate) async fn until_begun(&self, partitions: i32) {
        until("each partition has a position", async || {
            self.count("topic_positions").await == u64::try_from(partitions).unwrap()
        })
        .await;
    }

    /// Waits for all rows and their offsets, stops the consumers, and asserts that nothing is
    /// missing, duplicated or uncommitted.
    pub(crate) async fn ends_exact(
        &self,
        rows: u64,
        consumers: impl IntoIterator<Item = RunningProgram>,
    ) {
        self.until_rows(rows).await;
        // A consumer that stops commits only if Kafka answers in time.
        until("offsets committed", async || {
            u64::try_from(self.committed()).unwrap() == rows
        })
        .await;
        for consumer in consumers {
            consumer.stop().await;
        }
        self.assert_exact(rows).await;
        assert_eq!(u64::try_from(self.read_up_to().await).unwrap(), rows);
        assert_eq!(u64::try_from(self.committed()).unwrap(), rows);
    }

    pub(crate) async fn coupon(&self, quantity: Slot, once_per: OncePer) -> NamedDrop {
        let schedule = Schedule::Once {
            time_zone: None,
            opens_at: Utc::now() - TimeDelta::hours(1),
            closes_at: None,
        };
        let new = json!({"name": "Winter", "quantity": quantity, "once_per": once_per, "schedule": schedule});
        let new = serde_json::from_value(new).unwrap();
        let (coupon, drops) = self
            .db
            .create_coupon(new, None, Utc::now(), Operator::default())
            .await
            .unwrap()
            .unwrap();
        NamedDrop {
            coupon: coupon.id,
            drop: drops[0].id,
        }
    }

    /// Sends claims of these slots, slot N by `u-N`, each to the partition of its number, so that
    /// all partitions get some.
    pub(crate) async fn claim(
        &self,
        NamedDrop { coupon, drop }: NamedDrop,
        slots: std::ops::RangeInclusive<Slot>,
    ) {
        let messages = slots.map(|slot| {
            let event = claim_event(coupon, drop, slot, &format!("u-{slot}"));
            (
                i32::try_from(slot).unwrap() % PARTITIONS,
                Some(event.key()),
                Some(event.encode()),
            )
        });
        self.send(messages.collect()).await;
    }

    /// Signs and sends messages of partition, key and value, and waits until Kafka has them all.
    pub(crate) async fn send<P: ToBytes>(&self, messages: Vec<(i32, Option<String>, Option<P>)>) {
        let producer: FutureProducer = self.kafka.producer(LIMIT).create().unwrap();
        let sent: Vec<_> = messages
            .iter()
            .map(|(partition, key, value)| {
                let mut record: FutureRecord<'_, String, P> =
                    FutureRecord::to(&self.kafka.topic).partition(*partition);
                record.key = key.as_ref();
                record.payload = value.as_ref();
                let payload = value.as_ref().map(ToBytes::to_bytes).unwrap_or_default();
                record.headers = Some(self.kafka.signing.headers(&self.kafka.topic, payload));
                producer
                    .send_result(record)
                    .map_err(|(error, _)| error)
                    .unwrap()
            })
            .collect();
        for delivery in sent {
            delivery.await.unwrap().map_err(|(error, _)| error).unwrap();
        }
    }

    /// Settings for a consumer, as on the command line.
    pub(crate) fn arguments(&self, more: &[&str]) -> Vec<String> {
        let mut all = vec![
            format!("--database-url={}", self.mysql.database_url(&self.database)),
            format!("--kafka-brokers={}", self.kafka.brokers),
            format!("--kafka-topic={}", self.kafka.topic),
            format!("--kafka-group={}", self.kafka.group),
            format!("--kafka-signing-key={SIGNING_KEY}"),
            "--listen-addr=127.0.0.1:0".into(),
        ];
        for argument in more {
            let name = argument.split_once('=').map_or(*argument, |(name, _)| name);
            all.retain(|other| !other.starts_with(&format!("{name}=")));
            all.push((*argument).to_owned());
        }
        all
    }

    pub(crate) fn consumer(&self, more: &[&str]) -> RunningProgram {
        let stop = CancellationToken::new();
        let args = parse(self.arguments(more)).unwrap();
        RunningProgram {
            task: tokio::spawn(consume::run(args, stop.clone())),
            stop,
        }
    }

    pub(crate) async fn consume_until(&self, what: &str, condition: impl AsyncFnMut() -> bool) {
        let consumer = self.consumer(&[]);
        until(what, condition).await;
        consumer.stop().await;
    }

    pub(crate) async fn count(&self, from: &str) -> u64 {
        self.query(&format!("SELECT COUNT(*) FROM {from}")).await[0][0]
            .parse()
            .unwrap()
    }

    /// Runs one statement. In it, `issued_coupons`, `failed_claims` and `topic_positions` refer to
    /// the tables of this test.
    pub(crate) async fn query(&self, sql: &str) -> Vec<Vec<String>> {
        let mut sql = sql.to_owned();
        for table in ["issued_coupons", "failed_claims", "topic_positions"] {
            sql = sql.replace(table, &format!("{}.{table}", self.database));
        }
        self.sessions.rows(&sql).await.unwrap()
    }

    pub(crate) async fn rows(&self) -> u64 {
        self.count("issued_coupons").await
    }

    pub(crate) async fn until_rows(&self, rows: u64) {
        until(&format!("{rows} rows"), async || self.rows().await >= rows).await;
        assert_eq!(self.rows().await, rows);
    }

    /// Returns the number of dead letters by reason.
    pub(crate) async fn refusals(&self) -> BTreeMap<String, u64> {
        let rows = self
            .query("SELECT reason, COUNT(*) FROM failed_claims GROUP BY reason")
            .await;
        rows.into_iter()
            .map(|row| (row[0].clone(), row[1].parse().unwrap()))
            .collect()
    }

    /// The sum of the positions in MySQL.
    pub(crate) async fn read_up_to(&self) -> i64 {
        let sum = "SELECT COALESCE(SUM(next_offset), 0) FROM topic_positions";
        self.query(sum).await[0][0].parse().unwrap()
    }

    /// The sum of the group's committed offsets. A partition without one counts as 0.
    pub(crate) fn committed(&self) -> i64 {
        let reader: BaseConsumer = self.kafka.reader().create().unwrap();
        let committed = reader.committed_offsets(self.partitions(), LIMIT).unwrap();
        let offset = |offset| {
            if let Offset::Offset(next) = offset {
                next
            } else {
                0
            }
        };
        committed
            .elements()
            .iter()
            .map(|partition| offset(partition.offset()))
            .sum()
    }

    /// Commits an offset to Kafka, as a tool does, the same in each partition. Requires that no
    /// consumer runs.
    pub(crate) async fn commit_to_kafka(&self, offset: i64) {
        let reader: BaseConsumer = self.kafka.reader().create().unwrap();
        let mut offsets = self.partitions();
        offsets.set_all_offsets(Offset::Offset(offset)).unwrap();
        // A killed member stays in the group until its session ends.
        until("offsets committed", async || {
            reader.commit(&offsets, CommitMode::Sync).is_ok()
        })
        .await;
    }

    /// Moves the positions to the beginning. Requires that no consumer runs.
    pub(crate) async fn read_again(&self) {
        self.query("UPDATE topic_positions SET next_offset = 0")
            .await;
    }

    fn partitions(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.kafka.topic, 0, PARTITIONS - 1);
        list
    }

    /// Checks that no slot is missing or duplicated, that each belongs to its user, and that there
    /// are no dead letters.
    pub(crate) async fn assert_exact(&self, quantity: u64) {
        let right = "issued_coupons WHERE user_id = CONCAT('u-', slot) AND issued_by = 'consumer'";
        assert_eq!(
            (self.rows().await, self.count(right).await),
            (quantity, quantity)
        );
        assert_eq!(self.refusals().await, BTreeMap::new());
    }
}

pub(crate) fn claim_event(coupon_id: CouponId, drop_id: DropId, slot: Slot, user: &str) -> Claim {
    let user_id: UserId = user.parse().unwrap();
    let claimed_at = DateTime::from_timestamp_millis(1_800_000_000_000 + i64::from(slot)).unwrap();
    Claim {
        coupon_id,
        drop_id,
        slot,
        user_id,
        claimed_at: Some(claimed_at),
    }
}
