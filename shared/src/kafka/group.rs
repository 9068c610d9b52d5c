//! Settings of the group's consumers.

use std::time::Duration;

use rdkafka::ClientConfig;

use super::KafkaSettings;
use crate::tuning::Tuning;

impl KafkaSettings {
    /// Configures a consumer of the group. If a consumer dies, others take over its partitions
    /// within ten seconds; if its loop hangs, after `longest_pause`.
    ///
    /// Only tools read the offsets that the consumer commits. Reading begins at the positions in
    /// MySQL; a partition without one begins at its first message.
    pub fn group_consumer(&self, longest_pause: Duration) -> ClientConfig {
        let mut config = self.fetching();
        // Time without heartbeats after which the group reassigns the consumer's partitions.
        let session = Duration::from_millis(Tuning::KafkaSessionMs.or(6_000));
        let ms = |time: Duration| time.as_millis().to_string();
        config
            .set("session.timeout.ms", ms(session))
            .set("heartbeat.interval.ms", ms(session / 4))
            // librdkafka sends heartbeats even if the loop stands still. Must not be below the
            // session timeout.
            .set("max.poll.interval.ms", ms(longest_pause.max(session)))
            // The wait ends as soon as a message arrives. An idle consumer polls ten times a
            // second.
            .set("fetch.wait.max.ms", "100")
            .set("fetch.error.backoff.ms", "50")
            .set("queued.min.messages", "5000")
            .set("queued.max.messages.kbytes", "16384")
            // When a consumer joins or leaves, only the partitions that move are paused.
            .set("partition.assignment.strategy", "cooperative-sticky");
        config
    }
}
