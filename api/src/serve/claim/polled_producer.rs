//! A Kafka producer and the thread that polls its delivery reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaResult;
use rdkafka::producer::{BaseProducer, DeliveryResult, ProducerContext};
use tokio::sync::oneshot;

/// Duration of one poll, and the maximum wait of a drop for the thread. `BaseProducer::poll`
/// truncates the remaining time to milliseconds, and spins during the rest. With exactly 100 ms, as
/// in `FutureProducer`, it waits for 99 and spins for one, which costs an idle process 0.9 % of a
/// core instead of 0.04 %. The extra 0.1 ms lets the wait take the full 100 ms.
const POLL: Duration = Duration::from_micros(100_100);

/// Sends the report of each message to the task that waits for it.
pub(super) struct Reports;

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<oneshot::Sender<KafkaResult<()>>>;

    fn delivery(&self, delivered: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        let report = match delivered {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.clone()),
        };
        // This fails if the task no longer waits because its deadline has passed.
        let _ = waiting.send(report);
    }
}

/// Like rdkafka's `FutureProducer`, except for [`POLL`].
pub(super) struct PolledProducer {
    pub(super) client: Arc<BaseProducer<Reports>>,
    stopping: Arc<AtomicBool>,
    /// `None` only while the producer is dropped.
    thread: Option<JoinHandle<()>>,
}

impl PolledProducer {
    pub(super) fn new(config: &ClientConfig) -> anyhow::Result<Self> {
        let created = config.create_with_context(Reports);
        let client: Arc<BaseProducer<Reports>> =
            Arc::new(created.context("the Kafka producer could not be created")?);
        let stopping = Arc::new(AtomicBool::new(false));
        let polled = Arc::clone(&client);
        let is_stopping = Arc::clone(&stopping);
        let poll = move || {
            while !is_stopping.load(Ordering::Relaxed) {
                polled.poll(POLL);
            }
        };
        let thread = thread::Builder::new()
            .name("kafka-reports".to_owned())
            .spawn(poll)
            .context("the thread of the Kafka producer could not be started")?;
        Ok(Self {
            client,
            stopping,
            thread: Some(thread),
        })
    }
}

/// Ends the thread. Dropping the client then reports messages that are not acknowledged as failed.
impl Drop for PolledProducer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) {
            tracing::error!("the thread of the Kafka producer panicked");
        }
    }
}
