//! Kafka: client settings, and the topic. This module overrides every default that loses or delays
//! claims.

mod diagnosis;
mod error;
mod group;
mod headers;
mod safety;
mod security;
mod signing;
mod topic;
mod unreadable;

use std::time::Duration;

use rdkafka::ClientConfig;

pub use error::TopicError;
pub use security::Security;
pub use signing::{SIGNATURE, Signing};
pub use topic::{FoundTopic, Logs, check_topic, ensure_topic, logs, partitions};
pub use unreadable::{Probed, probe, why_unreadable};

/// Interval in milliseconds between checks whether to prefetch more messages. With the default of
/// one second, a busy consumer processed its messages in a quarter of that time and then had to
/// wait.
const FETCH_AGAIN_MS: &str = "10";

/// A client that gets no answer from any broker for this long must be replaced: librdkafka 2.12
/// permanently forgets all brokers, including its bootstrap servers, if a broker that has just
/// started names none.
/// While Kafka is down, a new client does no harm.
pub const FORGOTTEN: Duration = Duration::from_secs(15);

/// Maximum size of a stored batch of messages, in bytes: the topic's `max.message.bytes`, and the
/// limit of one fetch. This bounds memory: 64 KiB decompress to at most 66 MiB (gzip). A larger
/// batch from before the topic had this limit is fetched alone.
pub const LARGEST_BATCH: usize = 65_536;

/// Maximum size of a batch that a producer writes, in bytes. It is less than [`LARGEST_BATCH`] to
/// allow for Kafka's overhead.
const WRITTEN_AT_ONCE: usize = 61_440;

/// Maximum size in bytes of one response, and of a batch after decompression with zstd.
const LARGEST_ANSWER: &str = "33554432";

#[derive(Debug, Clone)]
pub struct KafkaSettings {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    pub topic: String,
    /// The consumer group that writes rows.
    pub group: String,
    /// Security of connections, and additional client settings.
    pub security: Security,
    /// Signs and verifies messages.
    pub signing: Signing,
}

impl KafkaSettings {
    fn base(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            // These two are librdkafka's defaults. KAFKA_PROPERTIES cannot override them.
            .set("enable.ssl.certificate.verification", "true")
            .set("ssl.endpoint.identification.algorithm", "https")
            .set("socket.keepalive.enable", "true")
            // The first winners of a drop should not wait for connections.
            .set("enable.sparse.connections", "false")
            // Ask the bootstrap servers again after this time without metadata. The default is five
            // minutes. It does not help a client that has no broker left (`FORGOTTEN`).
            .set("metadata.recovery.rebootstrap.trigger.ms", "3000")
            // Give up on an unresponsive broker after this time. The default is a minute.
            .set("socket.timeout.ms", "3000")
            .set("socket.connection.setup.timeout.ms", "3000")
            // The default grows to 10 s, which is too long for a claim that waits for its
            // acknowledgement.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            // Detect new partitions within seconds; the default is five minutes.
            .set("topic.metadata.refresh.interval.ms", "2000");
        self.security.apply(&mut config);
        config
    }

    /// Configures a producer that reports a message as sent only once all replicas in sync have
    /// acknowledged it. The producer gives up on a message that is not acknowledged within
    /// `deadline` (librdkafka's default is five minutes), and the API writes its claims to MySQL.
    pub fn producer(&self, deadline: Duration) -> ClientConfig {
        let mut config = self.base();
        config
            // A repeated message is harmless, and an idempotent producer would refuse all messages
            // after a fatal error.
            .set("enable.idempotence", "false")
            // Without reports of successful writes, no claim would be acknowledged.
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
            // Claims are already grouped into messages (`batcher.rs` in the API).
            .set("linger.ms", "0")
            .set("batch.size", WRITTEN_AT_ONCE.to_string())
            .set("message.max.bytes", WRITTEN_AT_ONCE.to_string())
            // This bounds memory while Kafka is unavailable. When the queue is full, claims get
            // `queued: false`.
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536");
        config
    }

    /// Configures a reader outside the group: it can read the group's offsets and all messages. It
    /// never causes a rebalance if it assigns partitions itself and does not subscribe.
    pub fn reader(&self) -> ClientConfig {
        let mut config = self.fetching();
        config
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "5")
            // A fetched message takes several times its size in memory: about 10 MB in total.
            .set("queued.max.messages.kbytes", "2048");
        config
    }

    /// Settings of all consumers. Offsets are stored only explicitly: by default, messages count as
    /// read before their rows are written. Fetched data is limited to what fits into memory.
    fn fetching(&self) -> ClientConfig {
        let largest = LARGEST_BATCH.to_string();
        let mut config = self.base();
        config
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Positions are stored in MySQL. At an offset outside the log, a partition stalls until
            // the consumer starts reading it again at a stored position.
            .set("auto.offset.reset", "error")
            // Otherwise, an unfinished transaction of another program would hide later messages and
            // the end of the topic. After a loss of Redis data, their slots would be given to other
            // users.
            .set("isolation.level", "read_uncommitted")
            // Otherwise, librdkafka would parse a batch that was corrupted on a broker's disk. Its
            // messages could look forged, or have wrong offsets, so that others are skipped.
            .set("check.crcs", "true")
            // librdkafka raises `fetch.max.bytes` to `message.max.bytes`, so limit both.
            .set("message.max.bytes", &largest)
            .set("fetch.max.bytes", &largest)
            .set("fetch.message.max.bytes", &largest)
            .set("receive.message.max.bytes", LARGEST_ANSWER)
            .set("fetch.queue.backoff.ms", FETCH_AGAIN_MS);
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::TlsFiles;

    #[test]
    fn operator_can_set_no_property_that_is_ours() {
        let settings = KafkaSettings {
            brokers: "localhost:9092".to_owned(),
            topic: "coupon-claims".to_owned(),
            group: "coupon-consumers".to_owned(),
            security: Security::default(),
            signing: Signing::new(&"0123456789abcdef0123456789abcdef".into()).unwrap(),
        };
        for ours in [settings.producer(Duration::from_secs(2)), settings.reader()] {
            for (name, value) in ours.config_map() {
                let given = format!("{name}={value}").into();
                let refused = Security::new(&given, None, &TlsFiles::default()).unwrap_err();
                let is_named = refused.contains(&format!("can't set `{name}`"));
                assert!(is_named, "{refused}");
            }
        }
    }
}
