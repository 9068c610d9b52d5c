//! The consumer's lag. A separate thread measures it, because requests to the brokers block, and
//! because the loop does not learn the ends of partitions while a batch waits for MySQL.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};

use super::report::{self, Health};
use crate::consume::read::group::{GroupContext, Measured};

const EVERY: Duration = Duration::from_secs(1);
const KAFKA_TIMEOUT: Duration = Duration::from_secs(2);

/// The measuring thread. It ends when this is dropped.
pub(crate) struct LagWatch {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl LagWatch {
    pub(crate) fn start(
        consumer: Arc<BaseConsumer<GroupContext>>,
        topic: String,
        health: Arc<Health>,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name("consume-lag".into())
            .spawn(move || {
                while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                    let measured = measure(&consumer, &topic);
                    // Until then, the loop reports problems with joining.
                    if consumer.context().has_joined() {
                        report(&consumer, measured, &health);
                    }
                }
            })?;
        Ok(Self { stop, thread })
    }

    /// Stops the thread, and waits until it has dropped the consumer.
    pub(crate) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the thread that watches the lag had failed");
        }
    }
}

fn report(
    consumer: &BaseConsumer<GroupContext>,
    measured: KafkaResult<BTreeMap<i32, Measured>>,
    health: &Health,
) {
    match measured {
        Ok(measured) => {
            let lag: i64 = measured.values().map(|at| (at.end - at.next).max(0)).sum();
            #[expect(clippy::cast_precision_loss, reason = "fewer messages than 2^52")]
            metrics::gauge!(report::LAG).set(lag as f64);
            health.kafka(None);
            health.set_backlog(lag > 0 && !consumer.context().is_writing());
            consumer.context().measured(measured);
        }
        Err(error) => health.kafka(Some(format!("Kafka does not answer: {error}"))),
    }
}

/// How far the group has read the assigned partitions.
///
/// Without any, the group's coordinator is asked nevertheless. librdkafka waits a minute for the
/// response to a request to join, but gives up an unreachable host at the first request that times
/// out.
fn measure(
    consumer: &BaseConsumer<GroupContext>,
    topic: &str,
) -> KafkaResult<BTreeMap<i32, Measured>> {
    let partitions = consumer.context().partitions();
    let mut asked = TopicPartitionList::with_capacity(partitions.len().max(1));
    if partitions.is_empty() {
        asked.add_partition(topic, 0);
        return consumer
            .committed_offsets(asked, KAFKA_TIMEOUT)
            .map(|_| BTreeMap::new());
    }
    for partition in partitions {
        asked.add_partition(topic, partition);
    }
    let mut measured = BTreeMap::new();
    for committed in consumer.committed_offsets(asked, KAFKA_TIMEOUT)?.elements() {
        let (low, end) = consumer.fetch_watermarks(topic, committed.partition(), KAFKA_TIMEOUT)?;
        let next = match committed.offset() {
            Offset::Offset(next) => next.max(low),
            _ => low,
        };
        measured.insert(committed.partition(), Measured { next, end });
    }
    Ok(measured)
}
