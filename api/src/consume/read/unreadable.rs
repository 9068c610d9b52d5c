//! Partitions that stand still because Kafka's client cannot read a batch there. Only they wait,
//! and not for ever: a range that fresh clients could not read [`LOOKS`] times, [`LOOK_EVERY`]
//! apart, becomes a dead letter, and reading goes on behind it. The promises in it are in Redis;
//! the reconciler issues them as `unissued`.
//!
//! Kafka's client names neither partition nor offset with such an error. So a thread looks for them
//! with a fresh client ([`Prober`]) while the loop goes on with the other partitions. Until it has
//! answered, a partition that jumps is held too: behind a wrong checksum the client goes on
//! anywhere.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use firstcome_shared::kafka::{KafkaSettings, Prober, UnreadableRange};
use rdkafka::error::KafkaResult;

/// Fresh clients that must fail at a position before it is left out.
const LOOKS: u32 = 3;
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Between two searches that found nothing.
const SEARCH_EVERY: Duration = Duration::from_secs(1);

/// Where reading of a partition goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) partition: i32,
    pub(super) assignment: u64,
    /// `None`: nothing was read yet, so at the committed offset.
    pub(super) next: Option<i64>,
}

/// Where reading begins, and what can't be read there.
type ProbeResult = KafkaResult<(i64, Option<UnreadableRange>)>;

/// What a fresh client found at a position.
struct FreshLook {
    at: Position,
    found: ProbeResult,
}

/// What to do with a partition now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WatchStep {
    /// It could not be read, or not again.
    Hold { partition: i32 },
    /// It can be read after all.
    Release { partition: i32, next: i64 },
    /// The range becomes a dead letter, and reading goes on behind it.
    LeaveOut { assignment: u64, range: UnreadableRange },
}

/// A partition that is not fetched.
#[derive(Debug)]
struct Held {
    at: Position,
    /// Fresh clients that failed, and when the last one did.
    looks: u32,
    failed_at: Option<Instant>,
}

impl Held {
    fn new(at: Position) -> Self {
        Self { at, looks: 0, failed_at: None }
    }
}

#[derive(Default)]
pub(super) struct UnreadableWatch {
    /// An error came after the last look began.
    is_suspicious: bool,
    looking: Option<Receiver<FreshLook>>,
    looked_at: Option<Instant>,
    held: BTreeMap<i32, Held>,
}

impl UnreadableWatch {
    /// Nothing is unreadable, as far as is known.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_suspicious && self.looking.is_none() && self.held.is_empty()
    }

    /// The client could not read something.
    pub(super) fn error(&mut self) {
        self.is_suspicious = true;
    }

    pub(super) fn is_held(&self, partition: i32) -> bool {
        self.held.contains_key(&partition)
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether the message at this offset may be handed on. Otherwise its partition is to be held.
    pub(super) fn takes(&mut self, at: Position, offset: i64) -> bool {
        if self.is_idle() {
            return true;
        }
        let may_be_behind_an_error = at.next != Some(offset) && (self.is_suspicious || self.looking.is_some());
        if may_be_behind_an_error {
            self.held.entry(at.partition).or_insert_with(|| Held::new(at));
        }
        !self.is_held(at.partition)
    }

    /// Forgets partitions that are no longer ours, or ours anew.
    pub(super) fn keep(&mut self, is_ours: impl Fn(&Position) -> bool) {
        self.held.retain(|_, held| is_ours(&held.at));
    }

    /// What follows from what the thread has found since; `position` is where a partition of ours
    /// is read by now.
    pub(super) fn steps(&mut self, now: Instant, position: impl Fn(i32) -> Option<Position>) -> Vec<WatchStep> {
        let mut steps = Vec::new();
        while let Some(looking) = &self.looking {
            match looking.try_recv() {
                Ok(FreshLook { at, found }) => {
                    let is_there = self.held.get(&at.partition).map(|held| held.at).or_else(|| position(at.partition));
                    if is_there == Some(at) {
                        steps.extend(self.step(at, found, now));
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.looking = None,
            }
        }
        steps
    }

    fn step(&mut self, at: Position, found: ProbeResult, now: Instant) -> Option<WatchStep> {
        let partition = at.partition;
        let range = match found {
            Ok((next, None)) => return self.held.remove(&partition).map(|_| WatchStep::Release { partition, next }),
            Ok((_, Some(range))) => range,
            Err(error) => {
                tracing::debug!(%error, partition, "a partition could not be looked at");
                return None;
            }
        };
        let held = self.held.entry(partition).or_insert_with(|| Held::new(at));
        if held.failed_at.is_some_and(|failed_at| now < failed_at + LOOK_EVERY) {
            return None;
        }
        (held.looks, held.failed_at) = (held.looks + 1, Some(now));
        if held.looks == 1 {
            let after = LOOK_EVERY * (LOOKS - 1);
            tracing::error!(
                partition,
                offset = range.from,
                "{range}; the partition waits, and leaves them out if that stays for {after:?}"
            );
        }
        if held.looks >= LOOKS {
            self.held.remove(&partition);
            return Some(WatchStep::LeaveOut { assignment: at.assignment, range });
        }
        Some(WatchStep::Hold { partition })
    }

    /// Which positions a fresh client is to look at now; `positions` are those of all partitions
    /// that are ours.
    pub(super) fn due(&mut self, now: Instant, positions: impl FnOnce() -> Vec<Position>) -> Option<Vec<Position>> {
        let is_over = |pause| self.looked_at.is_none_or(|at| now >= at + pause);
        let is_due = self.is_suspicious && is_over(SEARCH_EVERY) || !self.held.is_empty() && is_over(LOOK_EVERY);
        if self.looking.is_some() || !is_due {
            return None;
        }
        self.looked_at = Some(now);
        if !self.is_suspicious {
            return Some(self.held.values().map(|held| held.at).collect());
        }
        self.is_suspicious = false;
        let at = |position: Position| self.held.get(&position.partition).map_or(position, |held| held.at);
        Some(positions().into_iter().map(at).collect())
    }

    /// Looks at positions on a thread.
    pub(super) fn look(&mut self, settings: &KafkaSettings, positions: Vec<Position>) -> std::io::Result<()> {
        let (found, looking) = channel();
        let settings = settings.clone();
        std::thread::Builder::new().name("consume-probe".into()).spawn(move || {
            // The receiver is gone when the consumer ends.
            let tell = |at, of: ProbeResult| found.send(FreshLook { at, found: of }).is_ok();
            let mut unreadable = Vec::new();
            for at in positions {
                let goes_on = match Prober::new(&settings).and_then(|prober| Ok((readable_from(&prober, at)?, prober)))
                {
                    Ok(((from, true), _)) => tell(at, Ok((from, None))),
                    // To find where that ends takes longer; others wait to be released.
                    Ok(((from, false), prober)) => {
                        unreadable.push((at, from, prober));
                        true
                    }
                    Err(error) => tell(at, Err(error)),
                };
                if !goes_on {
                    return;
                }
            }
            for (at, from, prober) in unreadable {
                let range = prober.range(at.partition, from);
                if !tell(at, range.map(|range| (from, range))) {
                    return;
                }
            }
        })?;
        self.looking = Some(looking);
        Ok(())
    }
}

/// Where reading begins at a position, and whether it can.
fn readable_from(prober: &Prober, at: Position) -> KafkaResult<(i64, bool)> {
    let from = match at.next {
        Some(next) => next,
        None => prober.committed(at.partition)?.unwrap_or(0),
    };
    let cause = prober.cause(at.partition, from)?;
    Ok(cause.map_or((from, true), |(from, _)| (from, false)))
}

#[cfg(test)]
mod tests {
    use firstcome_shared::kafka::UnreadableCause;

    use super::*;

    fn at(partition: i32, next: i64) -> Position {
        Position { partition, assignment: 1, next: Some(next) }
    }

    fn range(partition: i32, from: i64) -> UnreadableRange {
        UnreadableRange { partition, from, next: from + 3, cause: UnreadableCause::Garbled }
    }

    /// What a thread finds at the positions that are due; the ones in `unreadable` can't be read.
    fn steps(watch: &mut UnreadableWatch, now: Instant, positions: &[Position], unreadable: &[i32]) -> Vec<WatchStep> {
        let Some(due) = watch.due(now, || positions.to_vec()) else { return Vec::new() };
        let (found, looking) = channel();
        for at in due {
            let from = at.next.unwrap_or(0);
            let found_there = unreadable.contains(&at.partition).then(|| range(at.partition, from));
            found.send(FreshLook { at, found: Ok((from, found_there)) }).unwrap();
        }
        drop(found);
        watch.looking = Some(looking);
        watch.steps(now, |partition| positions.iter().find(|at| at.partition == partition).copied())
    }

    #[test]
    fn range_is_left_out_after_three_fresh_clients_failed_at_it_over_six_seconds() {
        let (mut watch, begun) = (UnreadableWatch::default(), Instant::now());
        let positions = [at(0, 7), at(1, 2)];
        assert_eq!(steps(&mut watch, begun, &positions, &[]), []);
        watch.error();
        let mut seen = Vec::new();
        for ms in (0..10_000).step_by(100) {
            // Errors of others make it look more often, which does not count.
            watch.error();
            let steps = steps(&mut watch, begun + Duration::from_millis(ms), &positions, &[1]);
            seen.extend(steps.into_iter().map(|step| (ms, step)));
            if watch.held() == 0 {
                break;
            }
        }
        let left_out = WatchStep::LeaveOut { assignment: 1, range: range(1, 2) };
        let hold = || WatchStep::Hold { partition: 1 };
        assert_eq!(seen, [(0, hold()), (3_000, hold()), (6_000, left_out)]);
    }

    #[test]
    fn partition_that_jumps_after_an_error_is_held_until_a_fresh_client_has_looked() {
        let (mut watch, now) = (UnreadableWatch::default(), Instant::now());
        assert!(watch.takes(at(0, 7), 9), "as behind a transaction");
        watch.error();
        assert!(watch.takes(at(1, 4), 4) && !watch.takes(at(0, 7), 9) && watch.is_held(0));
        assert!(!watch.takes(at(0, 7), 10), "what was fetched before it was held");
        assert_eq!(steps(&mut watch, now, &[at(1, 5)], &[]), []);
        watch.error();
        let later = now + SEARCH_EVERY;
        assert_eq!(steps(&mut watch, later, &[at(0, 7)], &[]), [WatchStep::Release { partition: 0, next: 7 }]);
    }

    #[test]
    fn partition_that_moved_on_or_went_away_meanwhile_is_not_held() {
        let (mut watch, now) = (UnreadableWatch::default(), Instant::now());
        watch.error();
        let due = watch.due(now, || vec![at(0, 7)]).unwrap();
        let (found, looking) = channel();
        found.send(FreshLook { at: due[0], found: Ok((7, Some(range(0, 7)))) }).unwrap();
        watch.looking = Some(looking);
        assert_eq!(watch.steps(now, |_| Some(at(0, 8))), []);
        watch.error();
        assert!(!watch.takes(at(0, 8), 12));
        watch.keep(|at| at.assignment == 2);
        assert_eq!(watch.held(), 0);
    }
}
