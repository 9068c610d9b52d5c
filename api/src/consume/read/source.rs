//! The Kafka consumer and its decoder. One thread polls it. It pauses while a batch cannot be
//! written, and closing it never hangs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::Datelike as _;
use firstcome_shared::event::{ClaimEvent, Fragments, Undecodable};
use firstcome_shared::kafka::{
    Beginning, KafkaSettings, MessagePrint, StoredPositions, UnreadableCause, trace_of,
};
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::dead_letters::MessageOrigin;
use firstcome_shared::mysql::positions::ReadRange;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::group::GroupContext;
use super::record::{KEPT_BYTES, LONGEST_ERROR, LONGEST_MESSAGE, Record, YEARS, fragments};
use super::unreadable::{CHECK_EVERY, UnreadableWatch, WatchStep};
use crate::consume::watch::lag::LagWatch;
use crate::consume::watch::watchdog::LivenessLimits;

/// Minimum interval between two log lines about the same error.
const LOG_AGAIN: Duration = Duration::from_secs(30);

/// Time to serve events of the group.
const SERVE: Duration = Duration::from_millis(5);

/// Maximum wait until librdkafka's own thread has applied a new position.
const SEEK: Duration = Duration::from_secs(5);

/// Maximum wait for the offsets of a partition in Kafka.
const ANSWER: Duration = Duration::from_secs(2);

pub(crate) struct Source {
    settings: KafkaSettings,
    consumer: Arc<BaseConsumer<GroupContext>>,
    /// Records that were read but not requested yet: further claims of a message with several
    /// claims, and messages that arrived although fetching was paused.
    carried: VecDeque<Record>,
    /// How far partitions have been read. A partition without an entry has not begun.
    read: BTreeMap<i32, Reading>,
    /// Partitions in which the message before the position is not the recorded one.
    other_logs: BTreeSet<i32>,
    /// Partitions whose first message was not the one at the offset before the position.
    misplaced: BTreeSet<i32>,
    unreadable: UnreadableWatch,
    checked_at: Instant,
    /// When each error was last logged.
    logged: BTreeMap<String, Instant>,
}

/// How far a partition has been read in an assignment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    assignment: u64,
    /// The offset after the last record.
    next: i64,
    /// The message before the position, which is expected first.
    before: Option<MessagePrint>,
}

impl Source {
    pub(crate) fn subscribe(
        settings: &KafkaSettings,
        liveness: LivenessLimits,
        group: GroupContext,
    ) -> anyhow::Result<Self> {
        let mut config = settings.group_consumer();
        liveness.apply(&mut config);
        let security = &settings.security;
        if let Some(id) = security.of_member("group.instance.id") {
            config.set("group.instance.id", id);
        }

        let consumer: BaseConsumer<GroupContext> = config
            .create_with_context(group)
            .context("the Kafka consumer could not be made")?;
        consumer
            .subscribe(&[&settings.topic])
            .context("the topic could not be subscribed to")?;
        Ok(Self {
            settings: settings.clone(),
            consumer: Arc::new(consumer),
            carried: VecDeque::new(),
            read: BTreeMap::new(),
            other_logs: BTreeSet::new(),
            misplaced: BTreeSet::new(),
            unreadable: UnreadableWatch::new(liveness.stuck),
            checked_at: Instant::now(),
            logged: BTreeMap::new(),
        })
    }

    pub(crate) fn consumer(&self) -> &Arc<BaseConsumer<GroupContext>> {
        &self.consumer
    }

    pub(crate) fn group(&self) -> &Arc<GroupContext> {
        self.consumer.context()
    }

    /// Returns the next record, or `None` if none arrived within `longest` or an event of the group
    /// was served. Errors are fatal.
    pub(crate) fn next(&mut self, longest: Duration) -> anyhow::Result<Option<Record>> {
        self.attend_to_unreadable()?;
        if self.carried.is_empty() || self.group().is_paused() {
            self.poll(longest)?;
        }
        if self.group().is_paused() {
            Ok(None)
        } else {
            Ok(self.carried.pop_front())
        }
    }

    /// Serves one event. The records of a message are kept until they are requested.
    fn poll(&mut self, longest: Duration) -> anyhow::Result<()> {
        // librdkafka waits for whole milliseconds, and its client spins for the rest.
        let whole = Duration::from_millis(
            u64::try_from(longest.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX),
        );
        let consumer = Arc::clone(&self.consumer);
        match consumer.poll(whole) {
            None => {}
            Some(Ok(message)) => self.take(&message)?,
            Some(Err(error)) if UnreadableCause::of(&error).is_some() => {
                self.unreadable.error(Instant::now());
            }
            Some(Err(error)) => self.tolerate(error)?,
        }
        Ok(())
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) -> anyhow::Result<()> {
        let partition = message.partition();
        let offset = message.offset();
        let Some(assignment) = self.group().assignment_of(partition) else {
            return Ok(());
        };
        let Some(reading) = self.reading(partition, assignment) else {
            return Ok(());
        };
        let next = Some(reading.next);
        if !self.unreadable.takes(partition, assignment, next, offset) {
            self.consumer.pause(&self.only(partition))?;
            return Ok(());
        }
        if let Some(before) = reading.before {
            let is_there = offset == reading.next;
            if !is_there || MessagePrint::of(message) != before {
                // The client may begin at the committed offset although a position was just set.
                // Only if this happens again is the message really missing.
                if is_there || !self.misplaced.insert(partition) {
                    self.other_logs.insert(partition);
                }
                return self.begin_again(partition);
            }
            self.misplaced.remove(&partition);
        } else {
            self.carried.extend(self.records(message, assignment));
        }
        self.read_to(partition, assignment, offset + 1);
        Ok(())
    }

    fn reading(&self, partition: i32, assignment: u64) -> Option<Reading> {
        let reading = self.read.get(&partition).copied();
        reading.filter(|reading| reading.assignment == assignment)
    }

    fn read_to(&mut self, partition: i32, assignment: u64, next: i64) {
        let reading = Reading {
            assignment,
            next,
            before: None,
        };
        self.read.insert(partition, reading);
    }

    /// Returns where to begin partitions that have not begun, by their positions and the offsets in
    /// Kafka.
    pub(crate) fn beginnings(
        &self,
        partitions: impl Iterator<Item = i32>,
        stored: &StoredPositions,
    ) -> KafkaResult<Vec<(i32, Beginning)>> {
        let topic = &self.settings.topic;
        let mut own = TopicPartitionList::new();
        for partition in partitions {
            own.add_partition(topic, partition);
        }
        let committed = self.consumer.committed_offsets(own, ANSWER)?;
        let beginning = |element: TopicPartitionListElem<'_>| {
            let partition = element.partition();
            let (low, end) = self.consumer.fetch_watermarks(topic, partition, ANSWER)?;
            let log = low..end;
            let committed = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            let beginning = Beginning::of(stored.get(&partition), committed, &log);
            let is_other = beginning.before.is_some() && self.other_logs.contains(&partition);
            Ok(if is_other {
                (partition, beginning.in_another_log(&log))
            } else {
                (partition, beginning)
            })
        };
        committed.elements().into_iter().map(beginning).collect()
    }

    /// Begins to read a partition. If the client refuses to seek, the partition stays one that has
    /// not begun.
    pub(crate) fn begin(
        &mut self,
        partition: i32,
        assignment: u64,
        beginning: &Beginning,
    ) -> anyhow::Result<()> {
        if self.group().assignment_of(partition) != Some(assignment) {
            return Ok(());
        }
        let next = beginning.fetched_from();
        let topic = &self.settings.topic;
        let begins = Offset::Offset(next);
        if let Err(error) = self.consumer.seek(topic, partition, begins, SEEK) {
            tracing::debug!(%error, partition, next, "the client does not seek yet");
            return Ok(());
        }
        let before = beginning.before;
        let reading = Reading {
            assignment,
            next,
            before,
        };
        self.read.insert(partition, reading);
        if self.other_logs.remove(&partition) {
            self.misplaced.remove(&partition);
        }
        self.group().begins(partition, beginning.from);
        if !self.group().is_paused() {
            self.consumer.resume(&self.only(partition))?;
        }
        Ok(())
    }

    /// Reads a partition again from its position. Skips its records that are not written yet.
    pub(crate) fn begin_again(&mut self, partition: i32) -> anyhow::Result<()> {
        if self.group().reassign(partition) {
            self.consumer.pause(&self.only(partition))?;
        }
        Ok(())
    }

    /// Returns the offset up to which each partition has been read, if all records are written;
    /// otherwise nothing. The offset can be beyond the last record, because transaction markers
    /// also occupy offsets.
    pub(crate) fn standing(&self) -> Vec<ReadRange> {
        let standing = |(partition, reading): (&i32, &Reading)| {
            let group = self.group();
            let is_own = group.assignment_of(*partition) == Some(reading.assignment);
            let done = group.done(*partition).filter(|_| is_own)?;
            Some(ReadRange {
                partition: *partition,
                offsets: done..reading.next.max(done),
                last: None,
            })
        };
        if self.carried.is_empty() {
            self.read.iter().filter_map(standing).collect()
        } else {
            Vec::new()
        }
    }

    fn only(&self, partition: i32) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&self.settings.topic, partition);
        list
    }

    /// Investigates messages that the client could not read, and skips them once that is certain.
    fn attend_to_unreadable(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.checked_at);
        if passed < CHECK_EVERY {
            return Ok(());
        }
        self.checked_at = now;
        let group = Arc::clone(self.group());
        let readings = group.readings(|partition, assignment| {
            self.reading(partition, assignment)
                .map(|reading| reading.next)
        });
        let held = self.unreadable.held();
        let steps = self.unreadable.steps(now, &readings);
        for step in steps {
            match step {
                WatchStep::Hold { partition } => self.consumer.pause(&self.only(partition))?,
                WatchStep::Release {
                    partition,
                    assignment,
                    next,
                } => self.go_on(partition, assignment, next)?,
                WatchStep::Pass {
                    partition,
                    assignment,
                    offsets,
                } => {
                    let reading = self.reading(partition, assignment);
                    if reading.is_some_and(|reading| reading.before.is_some()) {
                        self.other_logs.insert(partition);
                        self.begin_again(partition)?;
                    } else {
                        self.read_to(partition, assignment, offsets.end);
                    }
                }
                WatchStep::LeaveOut { assignment, range } => {
                    self.read_to(range.first.partition, assignment, range.next);
                    self.carried.push_back(Record::unreadable(
                        &self.settings.topic,
                        assignment,
                        &range,
                    ));
                    self.go_on(range.first.partition, assignment, range.next)?;
                }
            }
        }
        if self.unreadable.makes_progress(now) || self.unreadable.held() != held {
            group.holds(self.unreadable.held());
        }
        let passed = if group.is_paused() {
            Duration::ZERO
        } else {
            passed
        };
        for due in self.unreadable.due(now, passed, &readings) {
            self.unreadable.look(&self.settings, due)?;
        }
        Ok(())
    }

    /// Resumes a held partition at `next`. Seeks to it first, because librdkafka resumes from
    /// there.
    fn go_on(&mut self, partition: i32, assignment: u64, next: i64) -> anyhow::Result<()> {
        match self.read.get_mut(&partition) {
            Some(reading) if reading.assignment == assignment => reading.next = next,
            _ => return Ok(()),
        }
        if let Err(error) =
            self.consumer
                .seek(&self.settings.topic, partition, Offset::Offset(next), SEEK)
        {
            tracing::warn!(%error, partition, next, "the partition is read again from where it was");
        }
        if !self.group().is_paused() {
            self.consumer.resume(&self.only(partition))?;
        }
        Ok(())
    }

    fn records(&self, message: &BorrowedMessage<'_>, assignment: u64) -> Vec<Record> {
        let origin = MessageOrigin {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            part: None,
        };
        let trace = message.headers().and_then(trace_of);
        let print = Some(MessagePrint::of(message));
        let decode = || self.settings.claims_of(message);
        let records = Record::of_message(
            &origin,
            assignment,
            message.key(),
            message.payload(),
            decode,
        );
        let record = |record: Record| Record {
            print: print.filter(|_| record.last_offset == message.offset()),
            ..record.of_trace(trace)
        };
        records.into_iter().map(record).collect()
    }

    /// Returns the setting that makes the group refuse this process, if there is one.
    fn why_not(&self, code: RDKafkaErrorCode) -> Option<String> {
        let instance_id = self.settings.security.of_member("group.instance.id");
        why_not(&self.settings.group, instance_id, code)
    }

    /// librdkafka recovers automatically from almost every error: unavailable brokers, missing
    /// offsets, a group that continued without this process.
    fn tolerate(&mut self, error: KafkaError) -> anyhow::Result<()> {
        if let KafkaError::MessageConsumptionFatal(_) = error {
            // The error itself contains no cause.
            let (code, reason) = self.consumer.client().fatal_error().unzip();
            let why = code
                .and_then(|code| self.why_not(code))
                .or(reason)
                .unwrap_or_default();
            return Err(anyhow::Error::new(error)
                .context(format!("Kafka refuses this consumer for good: {why}")));
        }
        let why = error
            .rdkafka_error_code()
            .and_then(|code| self.why_not(code));
        if let Some(why) = &why {
            self.group().kept_out(why);
        }
        let text = why.unwrap_or_else(|| error.to_string());
        if self
            .logged
            .get(&text)
            .is_none_or(|at| at.elapsed() > LOG_AGAIN)
        {
            tracing::warn!(error = text, "Kafka reports a problem; polling on");
            self.logged.insert(text, Instant::now());
        }
        Ok(())
    }

    /// Pauses fetching and serves events of the group, so that this process stays a member and
    /// notices rebalances.
    pub(crate) fn stay_in_group(&mut self) -> anyhow::Result<()> {
        if !self.group().is_paused() {
            self.group().set_paused(true);
            let assigned = self.consumer.assignment()?;
            self.consumer.pause(&assigned)?;
        }
        // Wait briefly: without a wait, only one event would be served.
        self.attend_to_unreadable()?;
        self.poll(SERVE)
    }

    /// Resumes fetching after [`Source::stay_in_group`].
    pub(crate) fn resume(&mut self) -> anyhow::Result<()> {
        if self.group().is_paused() {
            self.group().set_paused(false);
            let assigned = self.consumer.assignment()?;
            let mut fetched = TopicPartitionList::with_capacity(assigned.count());
            for partition in assigned
                .elements()
                .iter()
                .map(TopicPartitionListElem::partition)
            {
                let has_begun = self.group().done(partition).is_some();
                if has_begun && !self.unreadable.is_held(partition) {
                    fetched.add_partition(&self.settings.topic, partition);
                }
            }
            self.consumer.resume(&fetched)?;
        }
        Ok(())
    }

    /// Commits the remaining offsets and leaves the group, for at most `longest`. Both need the
    /// group's coordinator and hang if Kafka does, so they run on a thread that can be abandoned.
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
            tracing::warn!(after = ?longest, "this consumer could not leave the group in time; Kafka reassigns its partitions after the session timeout");
        }
    }
}

impl Record {
    /// Returns the records of a message: one for each claim, or a single one if the message is not
    /// a claim. Only the last record completes the offset.
    fn of_message(
        source: &MessageOrigin,
        assignment: u64,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        decode: impl FnOnce() -> Vec<Result<ClaimEvent, Undecodable>>,
    ) -> Vec<Self> {
        let payload = payload.unwrap_or_default();
        let bytes = payload.len() + key.unwrap_or_default().len();
        let claims = if bytes > LONGEST_MESSAGE {
            let error =
                format!("the message has {bytes} bytes, and claims have {LONGEST_MESSAGE} at most");
            vec![Err(Undecodable {
                reason: "undecodable",
                error,
                fragments: Fragments::default(),
            })]
        } else {
            decode()
        };
        let last = claims.len().saturating_sub(1);
        let is_batch = claims.len() > 1;
        let record = |(at, claim): (usize, Result<ClaimEvent, Undecodable>)| {
            let claim = claim.and_then(checked);
            // Copy only the stored bytes: a batch of messages may decompress to more than fits
            // in memory.
            let kept = if is_batch && claim.is_ok() {
                0
            } else {
                payload.len().min(KEPT_BYTES)
            };
            let payload = payload[..kept].to_vec();
            let part = is_batch.then_some(at);
            let claim = claim.map_err(|refused| {
                Box::new(Undecodable {
                    error: shortened(&refused.error),
                    ..refused
                })
            });
            let last_offset = if at == last {
                source.offset
            } else {
                source.offset - 1
            };
            let source = MessageOrigin {
                part,
                ..source.clone()
            };
            Self {
                last_offset,
                print: None,
                source,
                assignment,
                claim,
                payload,
                trace: None,
            }
        };
        claims.into_iter().enumerate().map(record).collect()
    }
}

fn shortened(error: &str) -> String {
    error.chars().take(LONGEST_ERROR).collect()
}

fn checked(event: ClaimEvent) -> Result<Claim, Undecodable> {
    let claim = Claim {
        coupon_id: event.coupon_id,
        drop_id: event.drop_id,
        slot: event.slot,
        user_id: event.user_id,
        claimed_at: Some(event.claimed_at),
        trace: None,
    };
    let refuse = |error: String| {
        Err(Undecodable {
            reason: "undecodable",
            error,
            fragments: fragments(&claim),
        })
    };
    if !YEARS.contains(&event.claimed_at.year()) {
        return refuse(format!(
            "claimed_at is outside the years {} to {}",
            YEARS.start(),
            YEARS.end()
        ));
    }
    Ok(claim)
}

fn why_not(group: &str, instance_id: Option<&str>, code: RDKafkaErrorCode) -> Option<String> {
    match (code, instance_id) {
        (RDKafkaErrorCode::FencedInstanceId, Some(id)) => Some(format!(
            "another process has joined the group {group:?} as {id:?} and has this one's partitions: give each \
             consumer a different KAFKA_CONFIG_GROUP_INSTANCE_ID"
        )),
        // librdkafka cannot offer both protocols, so a group changes from one to the other only
        // while it is empty.
        (RDKafkaErrorCode::InconsistentGroupProtocol, _) => Some(format!(
            "the group {group:?} has other consumers that rebalance eagerly: this one waits until they have stopped. \
             Only Firstcome's consumers may use this group"
        )),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"{"v":2,"coupon_id":1,"drop_id":2,"claims":[{"slot":37,"user_id":"u-37","claimed_at":"2026-12-01T06:00:00.123Z"}]}"#;

    const BATCH: &str = r#"{"v":2,"coupon_id":1,"drop_id":2,"claims":[
        {"slot":37,"user_id":"u-37","claimed_at":"2026-12-01T06:00:00.123Z"},
        {"slot":0,"user_id":"u-38","claimed_at":"2026-12-01T06:00:00.123Z"},
        {"slot":39,"user_id":"u-39","claimed_at":"0001-01-01T00:00:00Z"},
        {"slot":40,"user_id":"u-40","claimed_at":"2026-12-01T06:00:00.123Z"}]}"#;

    fn records(
        partition: i32,
        offset: i64,
        assignment: u64,
        key: Option<&[u8]>,
        payload: &[u8],
    ) -> Vec<Record> {
        let source = MessageOrigin {
            topic: "t".into(),
            partition,
            offset,
            timestamp_ms: Some(0),
            part: None,
        };
        Record::of_message(&source, assignment, key, Some(payload), || {
            ClaimEvent::decode(payload)
        })
    }

    pub(crate) fn record(partition: i32, offset: i64, assignment: u64, payload: &str) -> Record {
        records(partition, offset, assignment, None, payload.as_bytes()).remove(0)
    }

    fn decode(key: Option<&[u8]>, payload: &[u8]) -> Result<Claim, Box<Undecodable>> {
        records(0, 0, 0, key, payload).remove(0).claim
    }

    #[test]
    fn each_claim_of_a_batch_is_a_record_and_the_last_completes_its_offset() {
        let read = records(0, 7, 3, Some(b"1:37"), BATCH.as_bytes());
        let offsets: Vec<i64> = read.iter().map(|record| record.last_offset).collect();
        assert_eq!(offsets, [6, 6, 6, 7]);
        let slots: Vec<_> = read
            .iter()
            .map(|record| record.claim.as_ref().map(|claim| claim.slot).ok())
            .collect();
        assert_eq!(slots, [Some(37), None, None, Some(40)]);
        let reasons: Vec<_> = read
            .iter()
            .filter_map(|one| Some(one.claim.as_ref().err()?.reason))
            .collect();
        assert_eq!(reasons, ["slot_out_of_range", "undecodable"]);
        // A claim's dead letter contains only its own part.
        let kept = String::from_utf8(read[0].failed("slot_taken", "").payload).unwrap();
        assert!(kept.contains("u-37") && !kept.contains("u-40"), "{kept}");
    }

    #[test]
    fn claim_is_read_regardless_of_its_message_key() {
        for key in [None, Some("1:37"), Some("1"), Some("2:38"), Some("")] {
            let claim = decode(key.map(str::as_bytes), GOOD.as_bytes());
            assert_eq!(claim.unwrap().slot, 37, "{key:?}");
        }
    }

    #[test]
    fn dead_letter_without_a_readable_claim_time_names_no_user() {
        let of = |payload: &str| record(0, 0, 0, payload).failed("undecodable", "");
        for instant in ["soon", "", "9999-12-31T00:00:00Z"] {
            let failed = of(&GOOD.replace("2026-12-01T06:00:00.123Z", instant));
            assert!(failed.user_id.is_none(), "{instant}");
            assert_eq!((failed.slot, failed.claimed_at), (None, None), "{instant}");
        }
        assert!(of(&GOOD.replace("37,", "0,")).user_id.is_some());
    }

    #[test]
    fn message_without_a_value_is_read_as_empty() {
        let source = MessageOrigin {
            topic: "t".into(),
            partition: 0,
            offset: 0,
            timestamp_ms: None,
            part: None,
        };
        let record =
            Record::of_message(&source, 0, Some(b"1"), None, || ClaimEvent::decode(&[])).remove(0);
        assert_eq!(record.claim.unwrap_err().error, "the message is empty");
        assert!(record.payload.is_empty());
    }

    #[test]
    fn claim_time_outside_mysqls_range_is_refused_and_not_stored() {
        for instant in [
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59.9999Z",
            "9999-12-31T23:59:59-12:00",
        ] {
            let record = record(0, 0, 0, &GOOD.replace("2026-12-01T06:00:00.123Z", instant));
            let refused = record.claim.as_ref().unwrap_err();
            assert_eq!(refused.reason, "undecodable", "{instant}");
            assert_eq!(
                record.failed(refused.reason, &refused.error).claimed_at,
                None,
                "{instant}"
            );
        }
    }

    #[test]
    fn names_the_setting_that_makes_the_group_refuse_this_process() {
        let of = |code, id| why_not("g", id, code);
        let fenced = of(RDKafkaErrorCode::FencedInstanceId, Some("consumer-1")).unwrap();
        assert!(
            fenced.contains("\"consumer-1\"") && fenced.contains("KAFKA_CONFIG_GROUP_INSTANCE_ID"),
            "{fenced}"
        );
        let mixed = of(RDKafkaErrorCode::InconsistentGroupProtocol, None).unwrap();
        assert!(mixed.contains("other consumers"), "{mixed}");
        assert_eq!(
            of(RDKafkaErrorCode::UnknownMemberId, Some("consumer-1")),
            None
        );
    }

    #[test]
    fn stored_error_that_quotes_the_message_is_truncated() {
        let record = record(
            0,
            0,
            0,
            &GOOD.replace("37,", &format!("\"{}\",", "ü".repeat(20_000))),
        );
        assert_eq!(
            record.claim.unwrap_err().error.chars().count(),
            LONGEST_ERROR
        );
        assert_eq!(record.payload.len(), KEPT_BYTES);
    }

    #[test]
    fn message_that_is_too_long_for_a_claim_is_not_parsed() {
        let long = GOOD.replace(
            "\"v\"",
            &format!("\"x\":\"{}\",\"v\"", "x".repeat(LONGEST_MESSAGE)),
        );
        let record = record(0, 0, 0, &long);
        let refused = record.claim.unwrap_err();
        assert_eq!(
            refused.error,
            format!(
                "the message has {} bytes, and claims have 65536 at most",
                long.len()
            )
        );
        assert_eq!(
            (refused.reason, record.payload.len()),
            ("undecodable", KEPT_BYTES)
        );
    }

    proptest! {
        #[test]
        fn dead_letter_keeps_message_bytes_unchanged(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let source = MessageOrigin { topic: "t".into(), partition: 0, offset: 0, timestamp_ms: None, part: None };
            let record = Record::of_message(&source, 0, None, Some(&payload), || ClaimEvent::decode(&payload)).remove(0);
            let refused = record.claim.as_ref().unwrap_err();
            prop_assert_eq!(record.failed(refused.reason, &refused.error).payload, payload);
        }
    }
}
