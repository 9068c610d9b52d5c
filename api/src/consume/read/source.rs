//! The Kafka consumer: polled by one thread, paused while a batch can't be written, closed without hanging.

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

use crate::consume::read::decode::Record;
use crate::consume::read::group::Group;
use crate::consume::watch::lag::Lag;
use crate::consume::watch::watchdog::Patience;

/// Least time between two lines about the same trouble.
const LOG_AGAIN: Duration = Duration::from_secs(30);

/// Time to serve what the group has to say.
const SERVE: Duration = Duration::from_millis(5);

/// Where records come from.
pub(crate) struct Source {
    consumer: Arc<BaseConsumer<Group>>,
    /// Records that came although fetching was paused; they come first when it goes on.
    carried: Vec<Record>,
    /// When each kind of trouble was last told of.
    logged: BTreeMap<String, Instant>,
}

impl Source {
    pub(crate) fn subscribe(settings: &KafkaSettings, patience: Patience, group: Group) -> anyhow::Result<Self> {
        let mut config = settings.group_consumer();
        // A commit blocks the loop until it is answered or this has passed; the default is a minute.
        config.set("socket.timeout.ms", "6000");
        patience.set(&mut config);

        let consumer: BaseConsumer<Group> =
            config.create_with_context(group).context("the Kafka consumer could not be made")?;
        consumer.subscribe(&[&settings.topic]).context("the topic could not be subscribed to")?;
        Ok(Self { consumer: Arc::new(consumer), carried: Vec::new(), logged: BTreeMap::new() })
    }

    /// The consumer, for commits and for the lag.
    pub(crate) fn consumer(&self) -> &Arc<BaseConsumer<Group>> {
        &self.consumer
    }

    /// What the callbacks know.
    pub(crate) fn group(&self) -> &Arc<Group> {
        self.consumer.context()
    }

    /// The next record, or `None` when none came within `longest` or something else was served.
    ///
    /// # Errors
    /// Those that this consumer does not recover from.
    pub(crate) fn next(&mut self, longest: Duration) -> anyhow::Result<Option<Record>> {
        if !self.group().is_paused() && !self.carried.is_empty() {
            return Ok(Some(self.carried.remove(0)));
        }
        let error = match self.consumer.poll(longest) {
            None => return Ok(None),
            Some(Ok(message)) => return Ok(self.record(&message)),
            Some(Err(error)) => error,
        };
        self.judge(error)?;
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

    /// librdkafka recovers from almost everything by itself (brokers away, offsets that are gone, a group that went on
    /// without us), so it is logged and polled on.
    fn judge(&mut self, error: KafkaError) -> anyhow::Result<()> {
        if let KafkaError::MessageConsumptionFatal(_) = error {
            return Err(anyhow::Error::new(error).context("Kafka refuses this consumer for good"));
        }
        let trouble = error.to_string();
        if self.logged.get(&trouble).is_none_or(|at| at.elapsed() > LOG_AGAIN) {
            tracing::warn!(%error, "Kafka reports a problem; polling on");
            self.logged.insert(trouble, Instant::now());
        }
        Ok(())
    }

    /// Stops fetching and serves the group's business, so that this process stays in it and learns what is taken away.
    pub(crate) fn stay_in_group(&mut self) -> anyhow::Result<()> {
        if !self.group().is_paused() {
            self.group().set_paused(true);
            let assigned = self.consumer.assignment()?;
            self.consumer.pause(&assigned)?;
        }
        // A poll that does not wait at all serves one event only.
        if let Some(record) = self.next(SERVE)? {
            self.carried.push(record);
        }
        Ok(())
    }

    /// Fetches again after [`Source::stay_in_group`].
    pub(crate) fn go_on(&mut self) -> anyhow::Result<()> {
        if self.group().is_paused() {
            self.group().set_paused(false);
            let assigned = self.consumer.assignment()?;
            self.consumer.resume(&assigned)?;
        }
        Ok(())
    }

    /// Commits what is left to commit and leaves the group, for at most `longest`. Both talk to the group's coordinator and
    /// may hang when Kafka does, so they run on a thread that is left behind.
    pub(crate) fn close(self, lag: Lag, longest: Duration) {
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
