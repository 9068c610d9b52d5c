//! The Kafka consumer. One thread polls it; it is paused while a batch
//! can't be written, and closes without hanging.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use firstcome_shared::kafka::KafkaSettings;
use firstcome_shared::mysql::dead_letters::Source as Origin;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;

use super::group::Group;
use super::membership::Membership;
use super::record::Record;
use crate::consume::watch::lag::LagWatch;
use crate::consume::watch::watchdog::LivenessLimits;

/// Least time between two log lines about the same error.
const LOG_AGAIN: Duration = Duration::from_secs(30);

/// Time to serve events of the group.
const SERVE: Duration = Duration::from_millis(5);

pub(crate) struct Source {
    consumer: Arc<BaseConsumer<Group>>,
    membership: Membership,
    /// Records that arrived although fetching was paused. They come first when it is resumed.
    carried: Vec<Record>,
    /// When each error was logged last.
    logged: BTreeMap<String, Instant>,
}

impl Source {
    pub(crate) fn subscribe(
        settings: &KafkaSettings,
        liveness: LivenessLimits,
        membership: Membership,
        group: Group,
    ) -> anyhow::Result<Self> {
        let mut config = settings.group_consumer();
        liveness.apply(&mut config);
        membership.apply(&mut config);

        let consumer: BaseConsumer<Group> =
            config.create_with_context(group).context("the Kafka consumer could not be made")?;
        consumer.subscribe(&[&settings.topic]).context("the topic could not be subscribed to")?;
        Ok(Self { consumer: Arc::new(consumer), membership, carried: Vec::new(), logged: BTreeMap::new() })
    }

    pub(crate) fn consumer(&self) -> &Arc<BaseConsumer<Group>> {
        &self.consumer
    }

    pub(crate) fn group(&self) -> &Arc<Group> {
        self.consumer.context()
    }

    /// The next record. `None`: none arrived within `longest`, or an event of the group was served.
    /// An error means that this consumer does not recover.
    pub(crate) fn next(&mut self, longest: Duration) -> anyhow::Result<Option<Record>> {
        if !self.group().is_paused() && !self.carried.is_empty() {
            return Ok(Some(self.carried.remove(0)));
        }
        let error = match self.consumer.poll(longest) {
            None => return Ok(None),
            Some(Ok(message)) => return Ok(self.record(&message)),
            Some(Err(error)) => error,
        };
        self.tolerate(error)?;
        Ok(None)
    }

    fn record(&self, message: &BorrowedMessage<'_>) -> Option<Record> {
        let origin = Origin {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
        };
        let assignment = self.group().assignment_of(message.partition())?;
        Some(Record::new(origin, assignment, message.key(), message.payload()))
    }

    /// librdkafka recovers by itself from almost every error: brokers away, offsets that are gone,
    /// a group that went on without this process.
    fn tolerate(&mut self, error: KafkaError) -> anyhow::Result<()> {
        if let KafkaError::MessageConsumptionFatal(_) = error {
            // The error itself says no more than that it is fatal.
            let (code, reason) = self.consumer.client().fatal_error().unzip();
            let why = code.and_then(|code| self.membership.why_not(code)).or(reason).unwrap_or_default();
            return Err(anyhow::Error::new(error).context(format!("Kafka refuses this consumer for good: {why}")));
        }
        let why = error.rdkafka_error_code().and_then(|code| self.membership.why_not(code));
        if let Some(why) = &why {
            self.group().kept_out(why);
        }
        let text = why.unwrap_or_else(|| error.to_string());
        if self.logged.get(&text).is_none_or(|at| at.elapsed() > LOG_AGAIN) {
            tracing::warn!(error = text, "Kafka reports a problem; polling on");
            self.logged.insert(text, Instant::now());
        }
        Ok(())
    }

    /// Pauses fetching and serves events of the group, so that this process stays a member and
    /// hears of rebalances.
    pub(crate) fn stay_in_group(&mut self) -> anyhow::Result<()> {
        if !self.group().is_paused() {
            self.group().set_paused(true);
            let assigned = self.consumer.assignment()?;
            self.consumer.pause(&assigned)?;
        }
        // A poll without a wait serves one event only.
        if let Some(record) = self.next(SERVE)? {
            self.carried.push(record);
        }
        Ok(())
    }

    /// Resumes fetching after [`Source::stay_in_group`].
    pub(crate) fn resume(&mut self) -> anyhow::Result<()> {
        if self.group().is_paused() {
            self.group().set_paused(false);
            let assigned = self.consumer.assignment()?;
            self.consumer.resume(&assigned)?;
        }
        Ok(())
    }

    /// Commits what is left and leaves the group, for at most `longest`. Both ask the group's
    /// coordinator and may hang when Kafka does, so they run on a thread that is abandoned then.
    pub(crate) fn close(self, lag: LagWatch, longest: Duration) {
        let (done, closed) = std::sync::mpsc::channel::<()>();
        let consumer = self.consumer;
        std::thread::spawn(move || {
            consumer.context().commit(consumer.as_ref());
            lag.stop();
            drop(consumer);
            drop(done);
        });
        if closed.recv_timeout(longest) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!(after = ?longest, "Kafka did not let this consumer leave in time; its partitions move on by themselves");
        }
    }
}
