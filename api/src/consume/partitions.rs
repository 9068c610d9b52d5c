//! Takes care of the assigned partitions concurrently with the loop: measures them, reads from
//! MySQL where the loop must begin each, and looks for messages that cannot be read.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::once;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use firstcome_shared::kafka::{FORGOTTEN, KafkaSettings, Probed, probe};
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::dead_letters::MessageOrigin;
use firstcome_shared::mysql::positions::Positions;
use metrics::{counter, gauge};
use parking_lot::Mutex;
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode::UnknownMemberId};
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::group::{ConsumerGroup, Reading};
use super::health::{ConsumerHealth, GROUP, KAFKA, MYSQL};
use super::pace::Pace;
use super::record::Record;

/// Interval between checks for partitions that have to begin.
const TICK: Duration = Duration::from_millis(50);
/// Interval between checks of all partitions, in ticks: a second.
const LOOK: u64 = 20;
/// Interval at which an owner that keeps a pace reports that it attends to its partitions, in ticks:
/// 10 seconds. A pass counts a partition as forgotten after a minute.
const TOUCH: u64 = 10 * LOOK;
/// Interval between counts of the topic's partitions, in ticks: a minute.
const COUNT: u64 = 60 * LOOK;
/// Maximum wait for one answer of Kafka.
const ANSWER: Duration = Duration::from_secs(2);

/// Pause before a log that does not contain an offset is read a second time.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// The first and the end offset of each partition.
type Watermarks = BTreeMap<i32, KafkaResult<(i64, i64)>>;

/// Reads the first and end offsets of partitions. If one of the given offsets is outside its log,
/// reads that log once more after a pause: just after a partition got a new leader, a broker may
/// report too low an end. Without the second read, the whole partition would be read again.
async fn read_logs(
    offsets: &BTreeMap<i32, Vec<i64>>,
    pause: Duration,
    read: impl Fn(i32) -> KafkaResult<(i64, i64)>,
) -> Watermarks {
    let mut logs: Watermarks = offsets.keys().map(|id| (*id, read(*id))).collect();
    let is_outside = |(id, log): &(&i32, &mut KafkaResult<(i64, i64)>)| {
        let Ok((first, end)) = log else { return false };
        offsets[*id].iter().any(|at| !(*first..=*end).contains(at))
    };
    let mut outside = logs.iter_mut().filter(is_outside).peekable();
    if outside.peek().is_some() {
        tokio::time::sleep(pause).await;
    }
    for (id, log) in outside {
        *log = read(*id);
    }
    logs
}

/// Returns where a partition begins: at its position or, if it has none in the log, at the first
/// message.
fn first_unwritten(position: Option<i64>, log: &RangeInclusive<i64>) -> i64 {
    let inside = position.filter(|position| log.contains(position));
    inside.unwrap_or(*log.start())
}

/// Returns how many messages of a partition have no rows: those from its position on. While MySQL
/// does not answer (`None`), counts from what this process has written, if it has begun.
fn unwritten(
    partition: i32,
    reading: Reading,
    positions: Option<&Positions>,
    log: &RangeInclusive<i64>,
) -> Option<i64> {
    let from = match positions {
        Some(positions) => first_unwritten(positions.get(&partition).copied(), log),
        None => reading.done?,
    };
    Some((log.end() - from).max(0))
}

/// Sums the messages without rows of all partitions. If some numbers are unknown, the sum is too
/// small: it may still show a backlog, but not that there is none.
fn known_lag(numbers: &[Option<i64>]) -> Option<i64> {
    let sum: i64 = numbers.iter().flatten().sum();
    (sum > 0 || numbers.iter().all(Option::is_some)).then_some(sum)
}

fn is_outside(offset: Option<i64>, log: &RangeInclusive<i64>) -> bool {
    offset.is_some_and(|offset| !log.contains(&offset))
}

/// The next step of a partition.
#[derive(Debug, PartialEq, Eq)]
enum PartitionStep {
    /// Begin at its position in MySQL or, if it has none inside the log, at the first message.
    Begin,
    /// Stop, then begin at its position: it was read to another offset, or to one outside the log.
    BeginAgain,
    /// Wait for messages. `silent` is the offset up to which the partition was read and written, if
    /// unread messages follow it.
    Listen { silent: Option<i64> },
}

fn step_of(reading: Reading, position: Option<i64>, log: &RangeInclusive<i64>) -> PartitionStep {
    if reading.begins() || is_outside(position, log) {
        return PartitionStep::Begin;
    }
    match reading.stands() {
        Some(read) if position != Some(read) || is_outside(Some(read), log) => {
            PartitionStep::BeginAgain
        }
        stands => PartitionStep::Listen {
            silent: stands.filter(|offset| offset < log.end()),
        },
    }
}

/// For each partition, the offset after which messages are unread (`None`: none are, or some
/// messages wait to be written), and since when that offset is the same, or when it was last
/// probed.
type Silences = BTreeMap<i32, (Option<i64>, Instant)>;

pub(super) struct Tender {
    pub(super) consumer: StreamConsumer<ConsumerGroup>,
    pub(super) kafka: KafkaSettings,
    pub(super) db: Db,
    pub(super) health: Arc<ConsumerHealth>,
    pub(super) pace: Arc<Pace>,
    /// A partition whose messages do not arrive for this long is probed.
    pub(super) stuck: Duration,
    /// The beginning of the next batch, which the loop writes: ranges without readable messages,
    /// with the records that stand for them, and messages that arrived while the loop waited for
    /// the pace.
    pub(super) passed: Mutex<Batch>,
    /// When MySQL last refused a batch. `None` once one is written, or none is left to write.
    pub(super) refused_at: Mutex<Option<Instant>>,
    /// Cancelled if Kafka's client must be replaced, or the process stops.
    pub(super) client: CancellationToken,
}

impl Tender {
    /// Runs until it is aborted. Returns earlier if the client has no broker or no group for too
    /// long, after asking for another client.
    pub(super) async fn run(self: Arc<Self>) {
        let mut silences = Silences::new();
        let mut answered = Instant::now();
        for tick in 0_u64.. {
            tokio::time::sleep(TICK).await;
            let is_due = tick % LOOK == 0;
            if self.pace.is_limited() {
                if tick % COUNT == 0 {
                    self.count_partitions();
                }
                if tick % TOUCH == 0 {
                    self.touch().await;
                }
                if is_due {
                    self.read_suspension().await;
                }
            }
            let mut readings = self.group().partitions().into_values();
            if is_due || readings.any(Reading::begins) {
                let looked = self.check_partitions(is_due, &mut silences).await;
                let is_out = matches!(looked, Err(KafkaError::ConsumerCommit(UnknownMemberId)));
                let topic = Some(&*self.kafka.topic);
                if looked.is_ok()
                    || !is_out
                        && block_in_place(|| self.consumer.fetch_metadata(topic, ANSWER)).is_ok()
                {
                    answered = Instant::now();
                } else if answered.elapsed() > FORGOTTEN {
                    tracing::warn!("Kafka's client has no broker or no group; it is replaced");
                    return self.client.cancel();
                }
                let why = looked.err().map(|error| match self.group().denied() {
                    Some(denied) => denied.to_owned(),
                    None => error.to_string(),
                });
                if why.is_none() {
                    self.group().note_permitted();
                }
                self.health.set(KAFKA, why);
            }
        }
    }

    pub(super) fn group(&self) -> &ConsumerGroup {
        self.consumer.context()
    }

    fn list(&self, offsets: impl Iterator<Item = (i32, i64)>) -> KafkaResult<TopicPartitionList> {
        let topic = &self.kafka.topic;
        TopicPartitionList::from_topic_map(
            &offsets
                .map(|(partition, offset)| ((topic.clone(), partition), Offset::Offset(offset)))
                .collect(),
        )
    }

    /// Returns how long the loop must not write yet.
    pub(super) fn wait_for_pace(&self) -> Duration {
        let own = self.group().partitions().len();
        self.pace.wait(own, Instant::now())
    }

    /// Returns the number of claims at which a batch is full because of the pace.
    pub(super) fn full_at_pace(&self) -> usize {
        let own = self.group().partitions().len();
        self.pace.full(own, Instant::now())
    }

    /// Pauses partitions where they are.
    pub(super) fn hold(&self, partitions: &[i32]) -> KafkaResult<()> {
        let list = self.list(partitions.iter().map(|partition| (*partition, 0)))?;
        if list.count() > 0 {
            self.consumer.pause(&list)?;
        }
        Ok(())
    }

    /// Resumes these partitions, if they still belong to this process. One that has to begin stays
    /// paused.
    pub(super) fn release(&self, held: &BTreeSet<i32>) -> KafkaResult<()> {
        let begun = self.group().begun().into_iter();
        let held = begun.filter(|partition| held.contains(partition));
        let list = self.list(held.map(|partition| (partition, 0)))?;
        if list.count() > 0 {
            self.consumer.resume(&list)?;
        }
        Ok(())
    }

    /// Counts the topic's partitions, because it may get more.
    fn count_partitions(&self) {
        let topic = Some(&*self.kafka.topic);
        match block_in_place(|| self.consumer.fetch_metadata(topic, ANSWER)) {
            Ok(metadata) => {
                let partitions = metadata.topics().iter().map(|it| it.partitions().len());
                self.pace.set_partitions(partitions.sum());
            }
            Err(error) => tracing::debug!(%error, "the partitions are not counted"),
        }
    }

    /// Records in MySQL that this process attends to its partitions, so that passes do not take them
    /// for forgotten while it or another owner waits for the pace.
    async fn touch(&self) {
        let begun = self.group().begun();
        if begun.is_empty() {
            return;
        }
        if let Err(error) = self.db.touch_positions(&self.kafka.topic, begun).await {
            tracing::debug!(%error, "positions are not touched");
        }
    }

    async fn read_suspension(&self) {
        let now = Instant::now();
        if self.pace.must_ask(now) {
            match self.db.is_pace_suspended().await {
                Ok(true) => self.pace.suspend(now),
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "the suspension of the pace is not read"),
            }
        }
    }

    /// Commits to Kafka how far messages are written, which only tools read.
    pub(super) fn commit(&self) -> KafkaResult<()> {
        let readings = self.group().partitions().into_iter();
        let written = self.list(readings.filter_map(|(id, it)| Some((id, it.done?))))?;
        if written.count() > 0 {
            self.consumer.commit(&written, CommitMode::Sync)?;
        }
        Ok(())
    }

    /// Lets partitions begin at their positions in MySQL, and compares these with what was read. It
    /// does so even while no message arrives, because MySQL may have been restored, or a position
    /// moved by hand.
    async fn check_partitions(
        self: &Arc<Self>,
        is_due: bool,
        silences: &mut Silences,
    ) -> KafkaResult<()> {
        // Before the group accepts a client, it is unknown which partitions it will read. They are
        // assigned before this changes, so this is read first.
        let is_in_group = self.health.trouble(GROUP).is_none();
        let before = self.group().partitions();
        let refused_at = *self.refused_at.lock();
        let mut looked = Ok(());
        if is_due {
            self.ping_group(&before)?;
            // Kafka refuses a commit of a consumer that it has removed from the group.
            looked = block_in_place(|| self.commit());
        }
        self.note_joined();
        let positions = self.read_positions(&before).await;
        let mut logs = self.logs_of(&before, positions.as_ref()).await;
        let mut numbers = Vec::new();
        for (partition, reading) in before {
            let log = match logs.remove(&partition) {
                Some(Ok((first, end))) => first..=end,
                // The leaders of other partitions may answer.
                Some(Err(error)) => {
                    numbers.push(None);
                    looked = Err(error);
                    continue;
                }
                None => continue,
            };
            numbers.push(unwritten(partition, reading, positions.as_ref(), &log));
            if let Some(positions) = &positions {
                let position = positions.get(&partition).copied();
                self.go_on(partition, reading, position, log, silences)
                    .await;
            }
        }
        if is_in_group && let Some(lag) = known_lag(&numbers) {
            gauge!("firstcome_consumer_lag").set(u32::try_from(lag).unwrap_or(u32::MAX));
        }
        let is_all_written = numbers.iter().all(|number| *number == Some(0));
        if positions.is_some() && is_all_written {
            // Nothing is left to write, for example because a partition whose batch was refused
            // went to another consumer, or its position was moved by hand. A refusal that came
            // after these offsets were read stays.
            self.refused_at.lock().take_if(|at| Some(*at) == refused_at);
        }
        looked
    }

    /// Queries the group's coordinator: librdkafka waits half a minute for the response to a join
    /// request, but gives up on an unreachable host as soon as another request times out.
    fn ping_group(&self, partitions: &BTreeMap<i32, Reading>) -> KafkaResult<()> {
        let any = partitions.keys().next().map_or(0, |id| *id);
        let list = self.list(once((any, 0)))?;
        block_in_place(|| self.consumer.committed_offsets(list, ANSWER))?;
        Ok(())
    }

    fn note_joined(&self) {
        if self.group().has_joined.swap(false, Ordering::Relaxed) {
            self.health.set(GROUP, None);
            // The group has moved partitions, perhaps because some were added. With the old number,
            // two consumers would together exceed the pace until the next count.
            if self.pace.is_limited() {
                self.count_partitions();
            }
        }
    }

    /// Reads the positions in MySQL. After an error, pauses and returns `None`.
    async fn read_positions(&self, partitions: &BTreeMap<i32, Reading>) -> Option<Positions> {
        match self.db.topic_positions(&self.kafka.topic).await {
            Ok(positions) => {
                // MySQL may return positions and still refuse batches.
                let is_written = partitions.values().all(|it| it.stands().is_some());
                if is_written && self.refused_at.lock().is_none() {
                    self.health.set(MYSQL, None);
                }
                Some(positions)
            }
            Err(error) => {
                counter!("firstcome_consumer_retries_total").increment(1);
                let why = format!("positions could not be read: {error}");
                self.health.set(MYSQL, Some(why));
                tokio::time::sleep(TICK * 10).await;
                None
            }
        }
    }

    async fn logs_of(
        &self,
        partitions: &BTreeMap<i32, Reading>,
        positions: Option<&Positions>,
    ) -> Watermarks {
        let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        for (id, reading) in partitions {
            let position = positions.and_then(|positions| positions.get(id).copied());
            offsets.insert(*id, reading.stands().into_iter().chain(position).collect());
        }
        read_logs(&offsets, SECOND_LOOK, |partition| {
            let topic = &self.kafka.topic;
            block_in_place(|| self.consumer.fetch_watermarks(topic, partition, ANSWER))
        })
        .await
    }

    /// Takes the next step of a partition, unless `reading` is no longer its current state. Asks
    /// for another client if the position, or the offset to which it was read, is outside the log.
    async fn go_on(
        self: &Arc<Self>,
        partition: i32,
        reading: Reading,
        position: Option<i64>,
        log: RangeInclusive<i64>,
        silences: &mut Silences,
    ) {
        if is_outside(position, &log) || is_outside(reading.stands(), &log) {
            tracing::warn!(partition, position, ?log, "position outside the log");
            // Usually, the topic was recreated. If it did not exist during a rebalance, some
            // partitions may have no owner, and librdkafka 2.12 does not join again.
            self.client.cancel();
        }
        if self.group().partitions().get(&partition) != Some(&reading) {
            return;
        }
        match step_of(reading, position, &log) {
            PartitionStep::Begin => {
                if let Err(error) = self.begin(partition, position, log).await {
                    tracing::debug!(%error, partition, "a partition does not begin yet");
                }
            }
            PartitionStep::BeginAgain => self.group().begin_again(partition),
            PartitionStep::Listen { silent } => self.listen(partition, silent, silences),
        }
    }

    /// Lets a partition begin at its position. If it has none in the log, stores the first offset
    /// as its position and lets it begin there.
    async fn begin(
        &self,
        partition: i32,
        position: Option<i64>,
        log: RangeInclusive<i64>,
    ) -> anyhow::Result<()> {
        let offset = first_unwritten(position, &log);
        if position != Some(offset) {
            let topic = &self.kafka.topic;
            let begin = self.db.begin_at_first(topic, partition, position, offset);
            begin.await?;
        }
        self.group().to_begin.lock().insert(partition, offset);
        Ok(())
    }

    /// Begins the partitions whose positions are known, and returns them. The loop calls this
    /// between two messages.
    pub(super) fn begin_partitions(&self) -> Vec<i32> {
        let begins = std::mem::take(&mut *self.group().to_begin.lock());
        let partitions = begins.keys().copied().collect();
        for (partition, offset) in begins {
            let list = self.list(once((partition, offset)));
            let begin = |list| self.group().begin(partition, offset, &self.consumer, &list);
            if let Err(error) = list.and_then(|list| block_in_place(|| begin(list))) {
                tracing::debug!(%error, partition, "a partition does not begin yet");
            }
        }
        partitions
    }

    /// Probes a partition that has been silent for too long: unread messages follow the offset up
    /// to which it was read, and do not arrive. While this process owes rows, its partitions wait,
    /// so their silence means nothing.
    fn listen(self: &Arc<Self>, partition: i32, silent: Option<i64>, silences: &mut Silences) {
        let now = Instant::now();
        let (was, since) = silences.entry(partition).or_insert((silent, now));
        if *was != silent || !self.wait_for_pace().is_zero() {
            (*was, *since) = (silent, now);
        } else if let Some(offset) = silent
            && since.elapsed() > self.stuck
        {
            *since = now;
            let tender = Arc::clone(self);
            spawn_blocking(move || tender.investigate(partition, offset));
        }
    }

    /// Lets a fresh client probe a partition whose messages do not arrive. If they cannot be read,
    /// or there are only transaction markers, reading continues behind them. If they can be read,
    /// the consumer's own client is stuck, and the partition begins again.
    fn investigate(&self, partition: i32, offset: i64) {
        let probed = probe(&self.kafka, partition, offset);
        tracing::warn!(partition, offset, ?probed, "no message arrives");
        let reading = self.group().partitions().get(&partition).copied();
        if !reading.is_some_and(|it| it.begins() || it.stands() == Some(offset)) {
            return;
        }
        let (end, records) = match probed {
            Ok(Probed::Readable) => (offset, Vec::new()),
            Ok(Probed::Empty(end)) => (end, Vec::new()),
            Ok(Probed::Unreadable(why, end)) => {
                let topic = self.kafka.topic.clone();
                let source = MessageOrigin {
                    topic,
                    partition,
                    offset,
                    ..MessageOrigin::default()
                };
                (end, Record::unreadable(&source, end, why))
            }
            Ok(Probed::Unknown) | Err(_) => return,
        };
        let read = (partition, offset..end);
        self.passed.lock().push(read, records, Instant::now());
        self.group().begin_again(partition);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn log_is_read_a_second_time_if_it_does_not_contain_an_offset() {
        let low = (0, 10);
        let right = (0, 100);
        for (stands, answers, found, times) in [
            (vec![100, 90], [right, right], right, 1),
            // The new leader does not know the end yet.
            (vec![100, 90], [low, right], right, 2),
            (vec![100], [low, low], low, 2),
            // The position is outside, and nothing was read yet.
            (vec![5_000], [low, low], low, 2),
            (vec![], [low, right], low, 1),
        ] {
            let asked = RefCell::new(0);
            let offsets = BTreeMap::from([(7, stands.clone())]);
            let logs = read_logs(&offsets, Duration::ZERO, |_| {
                *asked.borrow_mut() += 1;
                Ok(answers[*asked.borrow() - 1])
            });
            assert_eq!(logs.await[&7], Ok(found), "{stands:?} {answers:?}");
            assert_eq!(*asked.borrow(), times, "{stands:?} {answers:?}");
        }
    }

    /// Returns the positions if partition 7 is at this one.
    fn at(position: i64) -> Positions {
        [(7, position)].into()
    }

    #[test]
    fn messages_without_rows_follow_the_position_or_what_this_process_has_written() {
        let begins = Reading::default();
        let read = Reading {
            next: Some(95),
            done: Some(90),
        };
        for (reading, positions, number) in [
            (begins, Some(at(70)), Some(30)),
            (begins, Some(at(100)), Some(0)),
            // It is new, or the topic was recreated.
            (begins, Some(Positions::new()), Some(90)),
            (begins, Some(at(500)), Some(90)),
            // MySQL was restored.
            (read, Some(at(70)), Some(30)),
            // MySQL does not answer.
            (read, None, Some(10)),
            (begins, None, None),
        ] {
            let found = unwritten(7, reading, positions.as_ref(), &(10..=100));
            assert_eq!(found, number, "{reading:?} {positions:?}");
        }
    }

    #[test]
    fn lag_is_zero_only_if_the_messages_of_all_partitions_have_rows() {
        for (numbers, lag) in [
            (vec![], Some(0)),
            (vec![Some(0), Some(0)], Some(0)),
            (vec![Some(5), Some(2)], Some(7)),
            (vec![None], None),
            (vec![Some(0), None], None),
            (vec![Some(5), None], Some(5)),
        ] {
            assert_eq!(known_lag(&numbers), lag, "{numbers:?}");
        }
    }

    #[test]
    fn partition_begins_if_it_is_new_or_its_position_or_log_has_changed() {
        use PartitionStep::{Begin, BeginAgain, Listen};
        let begins = Reading::default();
        let read = |next, done| Reading {
            next: Some(next),
            done: Some(done),
        };
        for (reading, position, step) in [
            (begins, Some(90), Begin),
            (begins, None, Begin),
            (read(90, 90), Some(90), Listen { silent: Some(90) }),
            (read(100, 100), Some(100), Listen { silent: None }),
            // Some of its messages wait to be written.
            (read(95, 90), Some(90), Listen { silent: None }),
            // MySQL was restored, or its position moved or deleted.
            (read(90, 90), Some(80), BeginAgain),
            (read(90, 90), None, BeginAgain),
            // The topic was recreated.
            (read(500, 500), Some(90), BeginAgain),
            (read(90, 90), Some(500), Begin),
            (read(95, 90), Some(5), Begin),
        ] {
            assert_eq!(
                step_of(reading, position, &(10..=100)),
                step,
                "{position:?}"
            );
        }
    }
}
