//! The topic of one world: raw messages and offsets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use firstcome_shared::kafka::Signing;
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::OwnedHeaders;
use rdkafka::metadata::MetadataPartition;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};

use crate::http::SIGNING_KEY;

const PATIENCE: Duration = Duration::from_secs(20);

/// A topic.
#[derive(Clone)]
pub struct TestTopic {
    brokers: String,
    name: String,
    /// Reads the topic's ends. It is kept, because tests poll them and a client is expensive.
    reader: Arc<Mutex<Option<BaseConsumer>>>,
    /// Signs the messages that the tests write, except those of [`Self::open_transaction`]. `None`
    /// for a foreign producer.
    signing: Option<Signing>,
}

/// An open transaction of a foreign producer.
pub struct OpenTransaction(FutureProducer);

impl OpenTransaction {
    pub async fn abort(self) {
        tokio::task::spawn_blocking(move || self.0.abort_transaction(PATIENCE))
            .await
            .unwrap()
            .unwrap();
    }
}

impl TestTopic {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn new(brokers: &str, name: String) -> Self {
        Self {
            brokers: brokers.to_owned(),
            name,
            reader: Arc::default(),
            signing: Some(Signing::new(&SIGNING_KEY.into()).unwrap()),
        }
    }

    /// Returns the same topic for a foreign producer, which has no key to sign messages with.
    #[must_use]
    pub fn unsigned(&self) -> Self {
        Self {
            signing: None,
            ..self.clone()
        }
    }

    fn headers(&self, payload: &[u8]) -> OwnedHeaders {
        self.signing
            .as_ref()
            .map_or_else(OwnedHeaders::new, |signing| {
                signing.headers(&self.name, payload)
            })
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("enable.auto.commit", "false");
        config
    }

    /// Sends raw bytes and returns their partition and offset. Without a partition, the key
    /// determines it.
    pub async fn produce(&self, partition: Option<i32>, key: &str, payload: &[u8]) -> (i32, i64) {
        self.send(FutureRecord {
            partition,
            ..FutureRecord::to(&self.name)
                .key(key)
                .payload(payload)
                .headers(self.headers(payload))
        })
        .await
    }

    /// Sends the messages as one batch, regardless of its decompressed size. `codec` is the name of
    /// a Kafka codec. Returns the first offset.
    pub async fn produce_batch(&self, partition: i32, codec: &str, payloads: &[Vec<u8>]) -> i64 {
        const LARGEST: &str = "500000000";
        let mut config = self.config();
        config
            .set("compression.codec", codec)
            .set("linger.ms", "60000")
            .set("batch.num.messages", payloads.len().to_string())
            .set("queue.buffering.max.kbytes", "1000000");
        config
            .set("message.max.bytes", LARGEST)
            .set("batch.size", LARGEST);
        let producer: FutureProducer = config.create().unwrap();
        let send = |payload: &Vec<u8>| {
            let record = FutureRecord::<str, [u8]>::to(&self.name)
                .partition(partition)
                .payload(payload)
                .headers(self.headers(payload));
            producer
                .send_result(record)
                .map_err(|(error, _)| error)
                .unwrap()
        };
        let sent: Vec<_> = payloads.iter().map(send).collect();
        // Flush to send everything as one batch.
        let flushed = tokio::task::spawn_blocking(move || producer.flush(PATIENCE));
        let mut offsets = Vec::new();
        for delivered in sent {
            let delivered = delivered.await.unwrap().map_err(|(error, _)| error);
            offsets.push(delivered.unwrap().offset);
        }
        flushed.await.unwrap().unwrap();
        offsets[0]
    }

    /// Sends a message to each partition in a transaction that stays open, as a foreign producer
    /// may.
    pub async fn open_transaction(&self, payload: &[u8]) -> OpenTransaction {
        let mut config = self.config();
        config
            .set("transactional.id", format!("foreign-{}", self.name))
            .set("transaction.timeout.ms", "600000");
        let this = self.clone();
        let payload = payload.to_owned();
        let begun = tokio::task::spawn_blocking(move || {
            let producer: FutureProducer = config.create().unwrap();
            producer.init_transactions(PATIENCE).unwrap();
            producer.begin_transaction().unwrap();
            let reader: BaseConsumer = this.config().create().unwrap();
            for partition in this.partitions(&reader).unwrap() {
                let record = FutureRecord::<str, [u8]>::to(&this.name)
                    .partition(partition)
                    .payload(&payload);
                let sent = producer.send_result(record);
                drop(sent.map_err(|(error, _)| error).unwrap());
            }
            producer.flush(PATIENCE).unwrap();
            OpenTransaction(producer)
        });
        begun.await.unwrap()
    }

    /// Returns a client that changes topics, and its options.
    fn admin(&self) -> (AdminClient<DefaultClientContext>, AdminOptions) {
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        (self.config().create().unwrap(), options)
    }

    /// Increases the topic's partitions to this number.
    pub async fn grow(&self, partitions: usize) {
        let (admin, options) = self.admin();
        let more = NewPartitions::new(&self.name, partitions);
        let done = admin.create_partitions([&more], &options).await.unwrap();
        assert!(done[0].is_ok(), "{done:?}");
    }

    /// Deletes the topic and creates it again with the same number of partitions and the same
    /// clean-up policy, compression, message size and timestamps. It has one replica.
    pub async fn recreate(&self) {
        let partitions = i32::try_from(self.ends().await.len()).unwrap();
        let mut settings = Vec::new();
        for name in [
            "cleanup.policy",
            "compression.type",
            "max.message.bytes",
            "message.timestamp.type",
        ] {
            settings.push((name, self.topic_setting(name).await));
        }
        self.delete().await;
        let topic = NewTopic::new(&self.name, partitions, TopicReplication::Fixed(1));
        let topic = settings
            .iter()
            .fold(topic, |topic, (name, value)| topic.set(name, value));
        let (admin, options) = self.admin();
        let made = admin.create_topics([&topic], &options).await.unwrap();
        assert!(made[0].is_ok(), "{made:?}");
    }

    /// Deletes the topic, and waits until it no longer exists.
    async fn delete(&self) {
        let (admin, options) = self.admin();
        let done = admin.delete_topics(&[&self.name], &options).await.unwrap();
        assert!(done[0].is_ok(), "{done:?}");
        let this = self.clone();
        let config = self.config();
        let is_gone = move || {
            let reader: BaseConsumer = config.create().unwrap();
            let metadata = reader.fetch_metadata(None, PATIENCE).unwrap();
            metadata.topics().iter().all(|it| it.name() != this.name)
        };
        let until = Instant::now() + PATIENCE;
        while !tokio::task::spawn_blocking(is_gone.clone()).await.unwrap() {
            assert!(Instant::now() < until, "the topic is still there");
        }
    }

    /// Returns the effective value of a setting of the topic.
    pub async fn topic_setting(&self, name: &str) -> String {
        let (admin, options) = self.admin();
        let topic = [ResourceSpecifier::Topic(&self.name)];
        let mut told = admin.describe_configs(&topic, &options).await.unwrap();
        let told = told.remove(0).unwrap();
        told.get(name)
            .and_then(|entry| entry.value.clone())
            .unwrap()
    }

    async fn send(&self, record: FutureRecord<'_, str, [u8]>) -> (i32, i64) {
        // Uses the same partitioner as the product, so that these messages stay in order with the
        // coupon's claims.
        let producer: FutureProducer = self.config().set("linger.ms", "0").create().unwrap();
        let sent = producer.send(record, PATIENCE).await.unwrap();
        (sent.partition, sent.offset)
    }

    /// Changes the settings of this topic. All others return to the broker's defaults.
    pub async fn alter(&self, settings: &[(&str, &str)]) {
        let (admin, options) = self.admin();
        let change = AlterConfig::new(ResourceSpecifier::Topic(&self.name));
        let change = settings
            .iter()
            .fold(change, |change, (name, value)| change.set(name, value));
        let done = admin.alter_configs([&change], &options).await.unwrap();
        assert!(done[0].is_ok(), "{done:?}");
    }

    /// Returns the ID of a partition's leader, or `None` while the partition has no leader.
    pub async fn leader(&self, partition: i32) -> Option<i32> {
        let this = self.clone();
        let config = self.config();
        let asked = tokio::task::spawn_blocking(move || {
            let reader: BaseConsumer = config.create().unwrap();
            let metadata = reader.fetch_metadata(Some(&this.name), PATIENCE).ok()?;
            let mut topics = metadata.topics().iter();
            let topic = topics.find(|topic| topic.name() == this.name)?;
            let mut partitions = topic.partitions().iter();
            let found = partitions.find(|found| found.id() == partition)?;
            Some(found.leader()).filter(|leader| *leader > 0)
        });
        asked.await.unwrap()
    }

    /// Returns the end offset of each partition, including messages of open transactions.
    pub async fn ends(&self) -> BTreeMap<i32, i64> {
        let this = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut kept = this.reader.lock();
            if let Some(reader) = kept.take() {
                match this.ends_with(&reader) {
                    Ok(ends) => {
                        *kept = Some(reader);
                        return ends;
                    }
                    // Its brokers may have been replaced since.
                    Err(error) => eprintln!("{error}: a new client reads the ends of the topic"),
                }
            }
            let mut config = this.config();
            config.set("isolation.level", "read_uncommitted");
            let reader: BaseConsumer = config.create().unwrap();
            let ends = this.ends_with(&reader).unwrap();
            *kept = Some(reader);
            ends
        });
        read.await.unwrap()
    }

    fn ends_with(&self, reader: &BaseConsumer) -> KafkaResult<BTreeMap<i32, i64>> {
        let mut ends = BTreeMap::new();
        for partition in self.partitions(reader)? {
            let (_, end) = reader.fetch_watermarks(&self.name, partition, PATIENCE)?;
            ends.insert(partition, end);
        }
        assert!(!ends.is_empty(), "{} has no partitions", self.name);
        Ok(ends)
    }

    fn partitions(&self, reader: &BaseConsumer) -> KafkaResult<Vec<i32>> {
        let metadata = reader.fetch_metadata(Some(&self.name), PATIENCE)?;
        let topic = &metadata.topics()[0];
        if let Some(error) = topic.error() {
            return Err(KafkaError::MetadataFetch(error.into()));
        }
        let partitions = topic.partitions().iter();
        Ok(partitions.map(MetadataPartition::id).collect())
    }
}
