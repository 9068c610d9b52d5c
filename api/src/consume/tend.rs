//! Tends the assigned partitions, on a thread because calls of Kafka's client block: measures them,
//! begins to read them at their positions in MySQL, and passes messages that cannot be read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use diesel_async::AsyncConnection as _;
use firstcome_shared::event::Fragments;
use firstcome_shared::kafka::{KafkaSettings, Probed, probe};
use firstcome_shared::mysql::dead_letters::{self, FailedClaim, MessageOrigin, UNREADABLE};
use firstcome_shared::mysql::positions::{Positions, ReadRange, advance};
use firstcome_shared::mysql::{Db, DbError};
use metrics::{counter, gauge};
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::group::Group;
use super::report::{Health, LAG, REFUSED};

/// Interval of looking for partitions to begin. The client also refuses to seek while it still
/// starts to fetch.
const TICK: Duration = Duration::from_millis(50);
/// Interval of measuring partitions, and pause after an error.
const MEASURE: Duration = Duration::from_secs(1);
/// Interval of comparing MySQL's positions with what was read.
const COMPARE: Duration = Duration::from_secs(5);
/// Maximum wait for one answer of Kafka.
const ANSWER: Duration = Duration::from_secs(2);

/// How far partitions with unread messages were read, and since when they stand there.
type Stands = BTreeMap<i32, (i64, Instant)>;

pub(super) struct Tender {
    pub(super) consumer: StreamConsumer<Group>,
    pub(super) kafka: KafkaSettings,
    pub(super) db: Db,
    pub(super) health: Arc<Health>,
    /// A partition whose messages do not arrive for this long is probed.
    pub(super) stuck: Duration,
}

impl Tender {
    /// Starts the thread. It ends when `done` is cancelled.
    pub(super) fn start(
        self: Arc<Self>,
        done: CancellationToken,
    ) -> std::io::Result<JoinHandle<()>> {
        let runtime = Handle::current();
        let tend = move || {
            let mut stands = Stands::new();
            let mut measured_at = None;
            let mut compared_at = Instant::now();
            while !done.is_cancelled() {
                std::thread::sleep(TICK);
                if measured_at.is_none_or(|at: Instant| at.elapsed() > MEASURE) {
                    for (partition, offset) in self.measure(&mut stands) {
                        let tender = Arc::clone(&self);
                        let runtime = runtime.clone();
                        std::thread::spawn(move || tender.investigate(&runtime, partition, offset));
                    }
                    measured_at = Some(Instant::now());
                }
                let mut placed = self.place(&runtime);
                if placed.is_ok() && compared_at.elapsed() > COMPARE {
                    placed = self.compare(&runtime);
                    compared_at = Instant::now();
                }
                if let Err(error) = placed {
                    if let Some(error) = error.downcast_ref::<DbError>() {
                        self.health.mysql(Some(error.to_string()));
                    }
                    tracing::debug!(%error, "positions could not be looked up");
                    std::thread::sleep(MEASURE);
                }
            }
        };
        std::thread::Builder::new()
            .name("consume-tend".into())
            .spawn(tend)
    }

    fn group(&self) -> &Group {
        self.consumer.context()
    }

    fn only(&self, partition: i32) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&self.kafka.topic, partition);
        list
    }

    /// Makes a partition begin again at its position in MySQL.
    pub(super) fn begin_again(&self, partition: i32) -> KafkaResult<()> {
        if self.group().forget(partition) {
            self.consumer.pause(&self.only(partition))?;
        }
        Ok(())
    }

    /// Measures the assigned partitions. Returns those whose messages do not arrive, and how far
    /// they were read.
    fn measure(&self, stands: &mut Stands) -> Vec<(i32, i64)> {
        let ends = match self.ends() {
            Ok(ends) => ends,
            Err(error) => {
                let trouble = format!("Kafka does not answer: {error}");
                self.health.kafka(Some(trouble));
                return Vec::new();
            }
        };
        self.health.kafka(None);
        stands.retain(|partition, _| ends.contains_key(partition));
        let mut lag = Some(0);
        let mut silent = Vec::new();
        for (partition, end) in ends {
            let unread = self.group().unread(partition, end);
            lag = lag.zip(unread).map(|(lag, (unread, _))| lag + unread);
            match unread {
                // It begins again in a moment, perhaps where it was.
                None => {}
                Some((1.., Some(offset))) => {
                    let now = Instant::now();
                    let (at, since) = stands.entry(partition).or_insert((offset, now));
                    if *at != offset {
                        (*at, *since) = (offset, now);
                    } else if since.elapsed() > self.stuck {
                        *since = now;
                        silent.push((partition, offset));
                    }
                }
                Some(_) => {
                    stands.remove(&partition);
                }
            }
        }
        if let Some(lag) = lag {
            #[expect(clippy::cast_precision_loss, reason = "fewer messages than 2^52")]
            gauge!(LAG).set(lag as f64);
        }
        silent
    }

    /// Returns the ends of the assigned partitions. Also queries the group's coordinator:
    /// librdkafka waits a minute for the response to a join request, but gives up on an unreachable
    /// host as soon as another request times out.
    fn ends(&self) -> KafkaResult<Positions> {
        let topic = &self.kafka.topic;
        let partitions = self.group().assigned();
        let asked = self.only(partitions.first().copied().unwrap_or_default());
        self.consumer.committed_offsets(asked, ANSWER)?;
        let end = |id| Ok((id, self.consumer.fetch_watermarks(topic, id, ANSWER)?.1));
        partitions.into_iter().map(end).collect()
    }

    /// Begins partitions at their positions in MySQL, or at the first message if the log does not
    /// contain those.
    fn place(&self, runtime: &Handle) -> anyhow::Result<()> {
        let topic = &self.kafka.topic;
        let partitions = self.group().not_begun();
        if partitions.is_empty() {
            return Ok(());
        }
        let positions = runtime.block_on(self.db.topic_positions(topic))?;
        for partition in partitions {
            let (first, end) = self.consumer.fetch_watermarks(topic, partition, ANSWER)?;
            let position = positions.get(&partition).copied();
            let inside = position.filter(|position| (first..=end).contains(position));
            if inside.is_none() {
                tracing::warn!(
                    partition,
                    position,
                    first,
                    end,
                    "the partition is read from its first message"
                );
                let stored = self.db.begin_at_first(topic, partition, position, first);
                runtime.block_on(stored)?;
            }
            let offset = inside.unwrap_or(first);
            match self
                .consumer
                .seek(topic, partition, Offset::Offset(offset), ANSWER)
            {
                Ok(()) => {
                    self.group().begin(partition, offset);
                    self.consumer.resume(&self.only(partition))?;
                    // For tools. librdkafka itself never commits a lower offset than before.
                    let mut position = self.only(partition);
                    position.set_all_offsets(Offset::Offset(offset))?;
                    self.consumer.commit(&position, CommitMode::Async)?;
                }
                Err(error) => tracing::debug!(%error, partition, "the client does not seek yet"),
            }
        }
        Ok(())
    }

    /// Compares MySQL's positions with what was read, even while no message arrives: MySQL may have
    /// been restored, or a position moved by hand.
    fn compare(&self, runtime: &Handle) -> anyhow::Result<()> {
        let standing = self.group().standing();
        let positions = runtime.block_on(self.db.topic_positions(&self.kafka.topic))?;
        self.health.mysql(None);
        for (partition, read) in standing {
            let is_elsewhere = positions.get(&partition) != Some(&read);
            if is_elsewhere && self.group().stands(partition, read) {
                tracing::warn!(
                    partition,
                    read,
                    "a partition is read again from its position in MySQL"
                );
                self.begin_again(partition)?;
            }
        }
        Ok(())
    }

    /// Lets a fresh client probe a partition whose messages do not arrive. If they cannot be read,
    /// reading continues behind them.
    fn investigate(&self, runtime: &Handle, partition: i32, offset: i64) {
        let probed = probe(&self.kafka, partition, offset);
        if !self.group().stands(partition, offset) {
            return;
        }
        tracing::warn!(
            partition,
            offset,
            ?probed,
            "no message of a partition arrives"
        );
        let passed = match probed {
            // The consumer's client is wedged.
            Ok(Probed::Readable) => Ok(()),
            Ok(Probed::Empty(end)) => runtime.block_on(self.pass(partition, offset, end, None)),
            Ok(Probed::Unreadable(why, end)) => {
                runtime.block_on(self.pass(partition, offset, end, Some(why)))
            }
            Ok(Probed::Unknown) | Err(_) => return,
        };
        let passed = passed.map_err(anyhow::Error::from);
        if let Err(error) = passed.and_then(|()| Ok(self.begin_again(partition)?)) {
            tracing::warn!(%error, partition, "messages that cannot be read could not be passed");
        }
    }

    /// Moves the position behind messages that cannot be read. A dead letter names them, in the
    /// same transaction.
    async fn pass(
        &self,
        partition: i32,
        from: i64,
        end: i64,
        why: Option<&str>,
    ) -> Result<(), DbError> {
        let topic = self.kafka.topic.clone();
        let letter = why.map(|why| letter(&topic, partition, from, end, why));
        let is_unreadable = u64::from(letter.is_some());
        let range = ReadRange {
            partition,
            offsets: from..end,
        };
        self.db
            .run("pass unreadable messages", async move |conn| {
                conn.transaction(async |conn| {
                    let elsewhere = advance(conn, &topic, std::slice::from_ref(&range)).await?;
                    // Otherwise, another process has moved the position.
                    let letter = letter.filter(|_| elsewhere.is_empty());
                    dead_letters::keep(conn, letter.as_slice()).await
                })
                .await
            })
            .await?;
        counter!(REFUSED, "reason" => UNREADABLE).increment(is_unreadable);
        Ok(())
    }
}

/// Builds the dead letter that names a range of messages that cannot be read.
fn letter(topic: &str, partition: i32, from: i64, end: i64, why: &str) -> FailedClaim {
    let last = end - 1;
    FailedClaim {
        known: Fragments::default(),
        payload: Vec::new(),
        reason: UNREADABLE,
        error: format!(
            "offsets {from} to {last} of partition {partition} cannot be read, or come after one that cannot: {why}; \
             passes issue the promises in them from Redis"
        ),
        source: MessageOrigin {
            topic: topic.to_owned(),
            partition,
            offset: from,
            timestamp_ms: None,
            part: None,
        },
        trace: None,
    }
}
