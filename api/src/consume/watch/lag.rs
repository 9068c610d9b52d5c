//! The consumer's lag. A separate thread measures it, because requests to the brokers block, and
//! because the loop does not learn the ends of partitions while a batch waits for MySQL.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;

use super::report::{self, Health};
use crate::consume::read::group::GroupContext;

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
                    let done = consumer.context().done_of_all();
                    let measured = measure(&consumer, &topic);
                    if let Ok(ends) = &measured {
                        consumer.context().begin_shorter_again(&done, ends);
                    }
                    // Until the process has joined the group, the loop reports problems.
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
    measured: KafkaResult<BTreeMap<i32, i64>>,
    health: &Health,
) {
    match measured {
        Ok(ends) => {
            health.kafka(None);
            if let Some(lag) = consumer.context().measured(ends) {
                #[expect(clippy::cast_precision_loss, reason = "fewer messages than 2^52")]
                metrics::gauge!(report::LAG).set(lag as f64);
                health.set_backlog(lag > 0 && !consumer.context().is_writing());
            }
        }
        Err(error) => health.kafka(Some(format!("Kafka does not answer: {error}"))),
    }
}

/// Returns the ends of the assigned partitions.
///
/// Also queries the group's coordinator: librdkafka waits a minute for the response to a join
/// request, but gives up on an unreachable host as soon as another request times out.
fn measure(consumer: &BaseConsumer<GroupContext>, topic: &str) -> KafkaResult<BTreeMap<i32, i64>> {
    let partitions = consumer.context().partitions();
    let mut asked = TopicPartitionList::with_capacity(1);
    asked.add_partition(topic, partitions.first().copied().unwrap_or_default());
    consumer.committed_offsets(asked, KAFKA_TIMEOUT)?;
    let mut ends = BTreeMap::new();
    for partition in partitions {
        let (_, end) = consumer.fetch_watermarks(topic, partition, KAFKA_TIMEOUT)?;
        ends.insert(partition, end);
    }
    Ok(ends)
}
