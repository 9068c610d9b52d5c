//! Detects partitions that are stuck because Kafka's client cannot read a batch. Other partitions
//! continue. Offsets that three fresh clients could not read become one dead letter, and reading
//! continues after them. The claims in them are in Redis, and the reconciler issues them as
//! `unissued`.
//!
//! Kafka's client names neither partition nor offset with an error, and reports no error at all
//! about a malformed record. Therefore, a partition is suspected if messages wait there and none
//! arrives for [`SILENCE`]. A fresh client then reads from the position (a "look", see [`look`]).
//! If it reads a message, the consumer is only busy; if none arrives for another [`SILENCE`], the
//! consumer seeks the position again, since an earlier seek may have failed. If it reaches the end,
//! the offsets are transaction markers and are passed. Otherwise fetching pauses, a second look
//! finds the end of the range, and a third one, [`CONFIRM_AFTER`] later, confirms both. If a range
//! of that partition was skipped recently, one look decides.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use firstcome_shared::kafka::{KafkaSettings, LookResult, UnreadableRange, look, unreadable_range};
use rdkafka::error::KafkaResult;

/// A partition is suspected if messages wait and none arrives for this long. The time is shorter if
/// the loop would otherwise count as stuck.
const SILENCE: Duration = Duration::from_secs(5);

/// After a range was skipped, its partition is suspected sooner for this long, and one look
/// decides. Unreadable messages rarely occur alone, and each range delays rows and reopening.
const REPEATED_FOR: Duration = Duration::from_secs(60);

/// Replaces [`SILENCE`] for a partition in which a range was skipped recently.
const REPEATED_SILENCE: Duration = Duration::from_millis(400);

/// Time between finding a range and confirming it, which rules out a transient fault.
const CONFIRM_AFTER: Duration = Duration::from_secs(3);

/// Interval between two checks of all partitions. A check counts as at most two intervals, so that
/// no partition is suspected because the process was suspended.
pub(super) const CHECK_EVERY: Duration = Duration::from_millis(200);

/// After a wrong checksum, librdkafka may continue at any offset. For this long after an error,
/// only a message at the expected offset is accepted.
const DOUBTED_FOR: Duration = Duration::from_secs(60);

/// Maximum number of concurrent looks. Each has a thread and a client.
const LOOKS_AT_ONCE: usize = 12;

/// A look that takes longer than this counts as hanging.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// How far an assigned partition has been read, if known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartitionPosition {
    pub(super) assignment: u64,
    /// The offset after the last message or, before the first message, the offset at which reading
    /// begins.
    pub(super) next: Option<i64>,
    /// The end of the partition at the last measurement.
    pub(super) end: Option<i64>,
}

pub(super) type Readings = BTreeMap<i32, PartitionPosition>;

/// The position at which a fresh client looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    partition: i32,
    assignment: u64,
    next: i64,
}

impl Position {
    fn of(partition: i32, reading: &PartitionPosition) -> Option<Self> {
        Some(Self {
            partition,
            assignment: reading.assignment,
            next: reading.next?,
        })
    }
}

/// The result of a look by a fresh client.
#[derive(Debug)]
enum Found {
    /// The next message is at this offset.
    Message(i64),
    /// No message up to this offset.
    End(i64),
    Unreadable(UnreadableRange),
}

/// A look in progress.
struct Looking {
    at: Position,
    begun: Instant,
    found: Receiver<KafkaResult<Found>>,
}

/// A look that is due.
#[derive(Debug)]
pub(super) struct DueLook {
    at: Position,
    /// Whether to find the range, and not only to confirm the one found before.
    finds_range: bool,
    before: Option<UnreadableRange>,
}

/// The next step for a partition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WatchStep {
    /// The partition could not be read.
    Hold { partition: i32 },
    /// A fresh client can read the partition here.
    Release {
        partition: i32,
        assignment: u64,
        next: i64,
    },
    /// There are no messages at these offsets.
    Pass {
        partition: i32,
        assignment: u64,
        offsets: Range<i64>,
    },
    /// The range becomes a dead letter, and reading continues after it.
    LeaveOut {
        assignment: u64,
        range: UnreadableRange,
    },
}

/// A partition that is not fetched.
#[derive(Debug)]
struct Held {
    assignment: u64,
    range: Option<UnreadableRange>,
    look_at: Instant,
}

/// A partition that is fetched, at the last check.
struct Silent {
    at: Position,
    since: Duration,
}

pub(super) struct UnreadableWatch {
    silence: Duration,
    erred_at: Option<Instant>,
    silent: BTreeMap<i32, Silent>,
    held: BTreeMap<i32, Held>,
    /// When a range of each partition was last skipped.
    left_out: BTreeMap<i32, Instant>,
    /// Partitions whose next message a fresh client has read while the consumer received none, and
    /// since when.
    readable: BTreeMap<i32, (Position, Instant)>,
    looking: Vec<Looking>,
}

fn is_recent(left_out: &BTreeMap<i32, Instant>, partition: i32, now: Instant) -> bool {
    left_out
        .get(&partition)
        .is_some_and(|at| now < *at + REPEATED_FOR)
}

impl UnreadableWatch {
    pub(super) fn new(stuck: Duration) -> Self {
        Self {
            silence: SILENCE.min(stuck),
            erred_at: None,
            silent: BTreeMap::new(),
            held: BTreeMap::new(),
            left_out: BTreeMap::new(),
            readable: BTreeMap::new(),
            looking: Vec::new(),
        }
    }

    /// Records that the client reported an error while reading.
    pub(super) fn error(&mut self, now: Instant) {
        self.erred_at = Some(now);
    }

    pub(super) fn is_held(&self, partition: i32) -> bool {
        self.held.contains_key(&partition)
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether partitions wait for a known reason and not for a look that hangs.
    pub(super) fn makes_progress(&self, now: Instant) -> bool {
        !self.held.is_empty()
            && self
                .looking
                .iter()
                .all(|looking| now < looking.begun + LONGEST_LOOK)
    }

    /// Whether the message at this offset is accepted. If not, its partition is held.
    pub(super) fn takes(
        &mut self,
        partition: i32,
        assignment: u64,
        next: Option<i64>,
        offset: i64,
    ) -> bool {
        if self.erred_at.is_none() && self.held.is_empty() {
            return true;
        }
        let now = Instant::now();
        if self.is_doubted(now) && next != Some(offset) && !self.is_held(partition) {
            self.held.insert(
                partition,
                Held {
                    assignment,
                    range: None,
                    look_at: now,
                },
            );
        }
        !self.is_held(partition)
    }

    fn is_doubted(&self, now: Instant) -> bool {
        self.erred_at.is_some_and(|at| now < at + DOUBTED_FOR)
    }

    /// Returns the steps that follow from finished looks.
    pub(super) fn steps(&mut self, now: Instant, readings: &Readings) -> Vec<WatchStep> {
        // Drop partitions that are no longer assigned, or that were assigned again.
        self.held.retain(|partition, held| {
            readings
                .get(partition)
                .is_some_and(|of| of.assignment == held.assignment)
        });
        let mut ended = Vec::new();
        self.looking
            .retain(|looking| match looking.found.try_recv() {
                Ok(found) => {
                    ended.push((looking.at, found));
                    false
                }
                Err(TryRecvError::Empty) => true,
                Err(TryRecvError::Disconnected) => false,
            });
        let is_there = |at: &Position| {
            readings
                .get(&at.partition)
                .is_some_and(|of| Position::of(at.partition, of) == Some(*at))
        };
        ended.retain(|(at, _)| is_there(at));
        ended
            .into_iter()
            .filter_map(|(at, found)| self.step(at, found, now))
            .collect()
    }

    fn step(&mut self, at: Position, found: KafkaResult<Found>, now: Instant) -> Option<WatchStep> {
        let Position {
            partition,
            assignment,
            ..
        } = at;
        let range = match found {
            Ok(Found::Unreadable(range)) => range,
            Ok(Found::Message(next)) => {
                // The consumer is only busy, unless its client continued elsewhere after an
                // error or ignored a seek.
                let goes_on = self.held.remove(&partition).is_some()
                    || self.is_doubted(now)
                    || self.stays_silent(at, now);
                return goes_on.then_some(WatchStep::Release {
                    partition,
                    assignment,
                    next,
                });
            }
            Ok(Found::End(next)) => {
                return Some(match self.held.remove(&partition) {
                    Some(_) => WatchStep::Release {
                        partition,
                        assignment,
                        next: at.next,
                    },
                    None => WatchStep::Pass {
                        partition,
                        assignment,
                        offsets: at.next..next,
                    },
                });
            }
            Err(error) => {
                tracing::debug!(%error, partition, "a fresh client could not look at a partition");
                return None;
            }
        };
        let is_confirmed = self
            .held
            .get(&partition)
            .is_some_and(|held| held.range.is_some());
        if is_confirmed || is_recent(&self.left_out, partition, now) {
            self.held.remove(&partition);
            self.left_out.insert(partition, now);
            return Some(WatchStep::LeaveOut { assignment, range });
        }
        let Some(held) = self.held.get_mut(&partition) else {
            tracing::error!(
                "{}; the partition waits until other clients have failed there too",
                range.first
            );
            self.held.insert(
                partition,
                Held {
                    assignment,
                    range: None,
                    look_at: now,
                },
            );
            return Some(WatchStep::Hold { partition });
        };
        held.range = Some(range);
        held.look_at = now + CONFIRM_AFTER;
        None
    }

    /// Whether a fresh client read this message a while ago but the consumer still has not.
    fn stays_silent(&mut self, at: Position, now: Instant) -> bool {
        match self.readable.get(&at.partition) {
            Some((before, since)) if *before == at => {
                let stays = now >= *since + self.silence;
                if stays {
                    self.readable.remove(&at.partition);
                }
                stays
            }
            _ => {
                self.readable.insert(at.partition, (at, now));
                false
            }
        }
    }

    /// Returns the looks that are due. `passed` is the time spent polling since the last check.
    pub(super) fn due(
        &mut self,
        now: Instant,
        passed: Duration,
        readings: &Readings,
    ) -> Vec<DueLook> {
        let passed = passed.min(CHECK_EVERY * 2);
        self.silent
            .retain(|partition, _| readings.contains_key(partition));
        self.left_out
            .retain(|partition, _| readings.contains_key(partition));
        self.readable
            .retain(|partition, _| readings.contains_key(partition));
        let mut due = Vec::new();
        for (partition, reading) in readings {
            let Some(at) = Position::of(*partition, reading) else {
                continue;
            };
            let waits = reading.end.is_some_and(|end| end > at.next) && !self.is_held(*partition);
            let is_repeated = is_recent(&self.left_out, *partition, now);
            let silent = self.silent.entry(*partition).or_insert(Silent {
                at,
                since: Duration::ZERO,
            });
            let since = if waits && silent.at == at {
                silent.since + passed
            } else {
                Duration::ZERO
            };
            *silent = Silent { at, since };
            if due.len() + self.looking.len() >= LOOKS_AT_ONCE
                || self.looking.iter().any(|looking| looking.at == at)
            {
                continue;
            }
            if let Some(held) = self.held.get_mut(partition) {
                if now >= held.look_at {
                    held.look_at = now + CONFIRM_AFTER;
                    due.push(DueLook {
                        at,
                        finds_range: true,
                        before: held.range.clone(),
                    });
                }
            } else if since
                >= if is_repeated {
                    REPEATED_SILENCE
                } else {
                    self.silence
                }
            {
                silent.since = Duration::ZERO;
                due.push(DueLook {
                    at,
                    finds_range: is_repeated,
                    before: None,
                });
            }
        }
        due
    }

    /// Starts a look on a separate thread.
    pub(super) fn look(&mut self, settings: &KafkaSettings, due: DueLook) -> std::io::Result<()> {
        let (tell, found) = channel();
        self.looking.push(Looking {
            at: due.at,
            begun: Instant::now(),
            found,
        });
        let settings = settings.clone();
        std::thread::Builder::new()
            .name("consume-look".into())
            .spawn(move || {
                // Sending fails only if the consumer has ended.
                let _ = tell.send(found_at(&settings, &due));
            })?;
        Ok(())
    }
}

fn found_at(settings: &KafkaSettings, due: &DueLook) -> KafkaResult<Found> {
    Ok(match look(settings, due.at.partition, due.at.next)? {
        LookResult::Message(next) => Found::Message(next),
        LookResult::End(next) => Found::End(next),
        LookResult::Unreadable { at, end } if due.finds_range => {
            Found::Unreadable(unreadable_range(settings, at, end, due.before.as_ref())?)
        }
        LookResult::Unreadable { at, .. } => Found::Unreadable(UnreadableRange {
            first: at,
            next: at.offset + 1,
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use firstcome_shared::kafka::{UnreadableAt, UnreadableCause};

    use super::*;

    const STUCK: Duration = Duration::from_secs(30);

    fn readings(of: &[(i32, i64, i64)]) -> Readings {
        let reading = |(partition, next, end)| {
            (
                partition,
                PartitionPosition {
                    assignment: 1,
                    next: Some(next),
                    end: Some(end),
                },
            )
        };
        of.iter().copied().map(reading).collect()
    }

    fn range(partition: i32, offsets: RangeInclusive<i64>) -> UnreadableRange {
        let (offset, next) = offsets.into_inner();
        UnreadableRange {
            first: UnreadableAt {
                partition,
                offset,
                cause: UnreadableCause::Silent,
            },
            next,
        }
    }

    /// Checks the partitions for some seconds. Returns the steps with their milliseconds. Each look
    /// ends immediately with the result of `find`, which gets the partition and the number of
    /// previous looks.
    fn steps(
        watch: &mut UnreadableWatch,
        seconds: u64,
        readings: &Readings,
        mut find: impl FnMut(i32, u32) -> Found,
    ) -> Vec<(u64, WatchStep)> {
        let begun = Instant::now();
        let mut seen = Vec::new();
        let mut looks = BTreeMap::<i32, u32>::new();
        for ms in (200..=seconds * 1_000).step_by(200) {
            let now = begun + Duration::from_millis(ms);
            for due in watch.due(now, CHECK_EVERY, readings) {
                let (tell, found) = channel();
                let looked = looks.entry(due.at.partition).or_default();
                *looked += 1;
                tell.send(Ok(find(due.at.partition, *looked))).unwrap();
                watch.looking.push(Looking {
                    at: due.at,
                    begun: now,
                    found,
                });
            }
            seen.extend(
                watch
                    .steps(now, readings)
                    .into_iter()
                    .map(|step| (ms, step)),
            );
        }
        seen
    }

    #[test]
    fn range_is_skipped_after_three_fresh_clients_fail_to_read_it() {
        let mut watch = UnreadableWatch::new(STUCK);
        let found = |_, look| Found::Unreadable(range(1, 2..=if look == 1 { 3 } else { 9 }));
        // No messages wait on partition 0.
        let seen = steps(&mut watch, 9, &readings(&[(0, 7, 7), (1, 2, 20)]), found);
        let left_out = WatchStep::LeaveOut {
            assignment: 1,
            range: range(1, 2..=9),
        };
        assert_eq!(
            seen[..2],
            [(5_000, WatchStep::Hold { partition: 1 }), (8_200, left_out)]
        );
    }

    #[test]
    fn next_range_of_a_partition_is_skipped_after_one_failed_read() {
        let mut watch = UnreadableWatch::new(STUCK);
        watch.left_out.insert(1, Instant::now());
        let found = |partition, _| Found::Unreadable(range(partition, 2..=9));
        let seen = steps(&mut watch, 2, &readings(&[(0, 2, 20), (1, 2, 20)]), found);
        let left_out = (
            400,
            WatchStep::LeaveOut {
                assignment: 1,
                range: range(1, 2..=9),
            },
        );
        assert_eq!(seen.first(), Some(&left_out), "{seen:?}");
        assert!(
            seen.iter()
                .all(|(_, step)| !matches!(step, WatchStep::Hold { .. })),
            "{seen:?}"
        );
    }

    #[test]
    fn consumer_seeks_again_if_only_fresh_clients_can_read() {
        let mut watch = UnreadableWatch::new(STUCK);
        let seen = steps(&mut watch, 12, &readings(&[(3, 7, 9)]), |_, _| {
            Found::Message(7)
        });
        let release = WatchStep::Release {
            partition: 3,
            assignment: 1,
            next: 7,
        };
        assert_eq!(seen, [(10_000, release)]);
    }

    #[test]
    fn partition_resumes_if_a_fresh_client_can_read_it_and_skips_markers() {
        let mut watch = UnreadableWatch::new(STUCK);
        let silent = readings(&[(0, 7, 9), (1, 7, 9)]);
        let seen = steps(&mut watch, 6, &silent, |partition, _| match partition {
            0 => Found::Message(7),
            _ => Found::End(9),
        });
        assert_eq!(
            seen,
            [(
                5_000,
                WatchStep::Pass {
                    partition: 1,
                    assignment: 1,
                    offsets: 7..9
                }
            )]
        );
    }

    #[test]
    fn client_silent_after_an_error_resumes_where_a_fresh_client_can_read() {
        let mut watch = UnreadableWatch::new(STUCK);
        watch.error(Instant::now());
        let seen = steps(&mut watch, 6, &readings(&[(0, 7, 9)]), |_, _| {
            Found::Message(7)
        });
        assert_eq!(
            seen,
            [(
                5_000,
                WatchStep::Release {
                    partition: 0,
                    assignment: 1,
                    next: 7
                }
            )]
        );
    }

    #[test]
    fn message_after_an_error_holds_its_partition_until_a_fresh_client_reads_it() {
        let mut watch = UnreadableWatch::new(STUCK);
        assert!(watch.takes(0, 1, Some(7), 9), "as behind a transaction");
        watch.error(Instant::now());
        assert!(
            watch.takes(1, 1, Some(4), 4) && !watch.takes(0, 1, Some(7), 3) && watch.is_held(0)
        );
        assert!(
            !watch.takes(0, 1, Some(7), 7),
            "what was fetched before it was held"
        );
        let seen = steps(&mut watch, 1, &readings(&[(0, 7, 9)]), |_, _| {
            Found::Message(8)
        });
        assert_eq!(
            seen,
            [(
                200,
                WatchStep::Release {
                    partition: 0,
                    assignment: 1,
                    next: 8
                }
            )]
        );
        assert!(watch.takes(0, 1, Some(8), 8));
    }

    #[test]
    fn partition_that_advances_or_is_revoked_is_not_suspected() {
        let mut watch = UnreadableWatch::new(STUCK);
        let now = Instant::now();
        for next in 0..100 {
            let due = watch.due(now, CHECK_EVERY, &readings(&[(0, next, 200)]));
            assert!(due.is_empty(), "{due:?}");
        }
        watch.error(now);
        assert!(!watch.takes(0, 1, Some(100), 12));
        assert_eq!(watch.steps(now, &Readings::new()), []);
        assert_eq!(watch.held(), 0);
    }

    #[test]
    fn time_without_polls_counts_as_at_most_two_checks() {
        let mut watch = UnreadableWatch::new(STUCK);
        let silent = readings(&[(0, 7, 9)]);
        for passed in [CHECK_EVERY, STUCK, Duration::ZERO, Duration::ZERO] {
            assert!(watch.due(Instant::now(), passed, &silent).is_empty());
        }
    }
}
