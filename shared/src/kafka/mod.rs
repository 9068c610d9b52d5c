//! Kafka: client settings, and the topic. Every default that loses or delays claims is overridden
//! here.

mod error;
mod position;
mod safety;
mod security;
mod signing;
mod topic;
mod trace;
mod unreadable;
mod why_not;

use std::time::Duration;

use rdkafka::ClientConfig;

pub use error::TopicError;
pub use position::{Beginning, MessagePrint, PositionFault, StoredPosition, StoredPositions};
pub(crate) use security::{ClientSetting, SecuritySettings};
pub use security::{Mechanism, Security, SecurityProtocol};
pub use signing::{FORGED, SIGNATURE, Signing, Unsigned};
pub use topic::{check_topic, ensure_topic};
pub use trace::trace_of;
pub use unreadable::{
    LookResult, UnreadableAt, UnreadableCause, UnreadableRange, look, unreadable_range,
};

/// Milliseconds between two checks whether more must be fetched in advance. The default is a
/// second: a busy consumer used up the fetched messages in a quarter of it, and waited for the
/// rest.
const FETCH_AGAIN_MS: &str = "10";

/// Maximum bytes of a batch of messages, as stored: the topic's `max.message.bytes`, and the limit
/// of one fetch. It bounds memory: 64 KiB decompress to 66 MiB at most (gzip), and a larger batch,
/// from before the topic had this limit, is fetched alone.
pub const LARGEST_BATCH: usize = 65_536;

/// Maximum bytes of a batch that a producer writes. The rest of [`LARGEST_BATCH`] is for Kafka's
/// overhead.
const WRITTEN_AT_ONCE: usize = 61_440;

/// Maximum bytes of one response, and of a batch after decompression with zstd.
const LARGEST_ANSWER: &str = "33554432";

#[derive(Debug, Clone)]
pub struct KafkaSettings {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    pub topic: String,
    /// The consumer group that writes rows.
    pub group: String,
    /// The security of connections, and further settings of an operator.
    pub security: Security,
    /// Signs and verifies messages.
    pub signing: Signing,
}

impl KafkaSettings {
    /// Each address of `KAFKA_BROKERS`.
    fn addresses(&self) -> impl Iterator<Item = &str> {
        self.brokers.split(',').map(str::trim)
    }

    fn base(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("socket.keepalive.enable", "true")
            // A broker that does not answer is given up after this time. The default is a minute.
            .set("socket.timeout.ms", "3000")
            .set("socket.connection.setup.timeout.ms", "3000")
            // The default goes up to 10 s: too long for a claim that waits for its acknowledgement.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            // New partitions are noticed within seconds. The default is five minutes.
            .set("topic.metadata.refresh.interval.ms", "2000");
        self.security.apply(&mut config);
        config
    }

    /// A producer that neither loses nor duplicates messages: idempotent, acknowledged by all
    /// replicas. A message that is not acknowledged within `deadline` is given up (librdkafka's
    /// default is five minutes), and the reconciler issues its claim.
    pub fn producer(&self, deadline: Duration) -> ClientConfig {
        let mut config = self.base();
        config
            .set("enable.idempotence", "true")
            // Without reports of successful writes no claim would ever be acknowledged.
            .set("delivery.report.only.error", "false")
            .set("acks", "all")
            .set("delivery.timeout.ms", deadline.as_millis().to_string())
            .set(
                "request.timeout.ms",
                deadline.as_millis().max(1_000).to_string(),
            )
            .set(
                "socket.timeout.ms",
                deadline.as_millis().max(1_000).to_string(),
            )
            .set("linger.ms", "1")
            .set("batch.size", WRITTEN_AT_ONCE.to_string())
            .set("message.max.bytes", WRITTEN_AT_ONCE.to_string())
            // Bounded, so that memory does not grow while Kafka is unavailable; claims then get
            // `queued: false`.
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536");
        config
    }

    /// A consumer of the group. A new group starts at the first message (by default it would skip
    /// existing ones), and a dead consumer's partitions are taken over within ten seconds.
    pub fn group_consumer(&self) -> ClientConfig {
        let mut config = self.fetching();
        config
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "1500")
            .set("max.poll.interval.ms", "60000")
            // A message ends the wait; an idle consumer polls ten times a second.
            .set("fetch.wait.max.ms", "100")
            .set("fetch.error.backoff.ms", "50")
            .set("queued.min.messages", "5000")
            .set("queued.max.messages.kbytes", "16384")
            // A consumer that joins or leaves pauses only the partitions that change hands.
            .set("partition.assignment.strategy", "cooperative-sticky");
        config
    }

    /// A reader outside the group: it sees the group's offsets and any message, and never causes a
    /// rebalance as long as it assigns partitions itself and does not subscribe.
    pub fn reader(&self) -> ClientConfig {
        let mut config = self.fetching();
        config
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "5")
            // A fetched message takes several times its bytes: some 10 MB in all.
            .set("queued.max.messages.kbytes", "2048");
        config
    }

    /// Settings of all consumers: nothing is committed or stored unless the code says so, and
    /// fetched data fits into memory.
    fn fetching(&self) -> ClientConfig {
        let largest = LARGEST_BATCH.to_string();
        let mut config = self.base();
        config
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            // Otherwise a foreign transaction that stays open would hide the messages after it, and
            // the end of the topic: after a loss of Redis their slots would be given away.
            .set("isolation.level", "read_uncommitted")
            // Without it, a batch that the broker's disk has corrupted is read as other claims.
            .set("check.crcs", "true")
            // librdkafka raises `fetch.max.bytes` to `message.max.bytes`.
            .set("message.max.bytes", &largest)
            .set("fetch.max.bytes", &largest)
            .set("fetch.message.max.bytes", &largest)
            .set("receive.message.max.bytes", LARGEST_ANSWER)
            .set("fetch.queue.backoff.ms", FETCH_AGAIN_MS);
        config
    }

    pub fn admin(&self) -> ClientConfig {
        self.base()
    }

    /// Whether one of the clients sets this property itself.
    fn sets_itself(property: &str) -> bool {
        let brokers = String::new();
        let topic = String::new();
        let group = String::new();
        let own = Self {
            brokers,
            topic,
            group,
            security: Security::default(),
            signing: Signing::default(),
        };
        [
            own.producer(Duration::ZERO),
            own.group_consumer(),
            own.reader(),
        ]
        .iter()
        .any(|config| config.get(property).is_some())
    }
}
