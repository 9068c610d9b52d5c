//! What a process remembers between its passes. Losing it with the process costs time, never a
//! promise.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::collect::Unread;
use crate::report::Run;

/// Most runs kept for recording: an hour without MySQL at two passes a minute.
const UNRECORDED_AT_MOST: usize = 120;

/// What one pass leaves for the next.
#[derive(Default)]
pub struct Memory {
    /// Shared with the watch over Redis, which often sees a loss first.
    pub losses: LossClock,
    /// Shared with the terminal.
    pub progress: Arc<Progress>,
    /// Runs that could not be recorded yet, since MySQL was away; and whether each was confirmed.
    pub(super) unrecorded: Vec<(Run, bool)>,
    /// The consumer's committed offset by partition with unread messages, and since when it has
    /// been there.
    consumer: HashMap<i32, (i64, Instant)>,
}

/// How far a pass is, for the terminal.
#[derive(Debug, Default)]
pub struct Progress {
    /// Drops of this round.
    pub drops: AtomicU64,
    pub drops_done: AtomicU64,
    /// People and rows compared.
    pub compared: AtomicU64,
}

impl Memory {
    /// The partitions on which the consumer has not moved for longer than `limit` although messages
    /// wait, with the longest time.
    pub(super) fn stuck_partitions(
        &mut self,
        partitions: &[Unread],
        limit: Duration,
        now: Instant,
    ) -> (Vec<Unread>, Duration) {
        let before = std::mem::take(&mut self.consumer);
        let (mut stuck, mut longest) = (Vec::new(), Duration::ZERO);
        for at in partitions.iter().filter(|at| at.from < at.end) {
            let known = before.get(&at.partition).filter(|(from, _)| *from == at.from);
            let since = known.map_or(now, |(_, since)| *since);
            self.consumer.insert(at.partition, (at.from, since));
            if now - since > limit {
                stuck.push(*at);
                longest = longest.max(now - since);
            }
        }
        (stuck, longest)
    }

    pub(super) fn keep_unrecorded(&mut self, run: Run, confirmed: bool) {
        if self.unrecorded.len() < UNRECORDED_AT_MOST {
            self.unrecorded.push((run, confirmed));
        }
    }
}

/// Inaccuracy of timers, and what a message or a row may take on its way, beyond the deadlines.
const MARGIN: Duration = Duration::from_millis(250);

/// Since when Redis is known to have lost something. Admissions from before the loss may still be
/// in flight: to the topic until the publishing deadline has passed, then to the dead-letter table
/// until its deadline has.
#[derive(Clone, Default)]
pub struct LossClock(Arc<Mutex<Option<Instant>>>);

impl LossClock {
    /// Notes a loss; the first one since the last [`LossClock::clear`] counts.
    pub fn seen(&self) -> Instant {
        *self.0.lock().get_or_insert_with(Instant::now)
    }

    /// Everything lost was rebuilt.
    pub fn clear(&self) {
        *self.0.lock() = None;
    }

    /// How long to wait until nothing from before the loss can be in flight.
    pub(super) fn wait_needed(&self, longest_in_flight: Duration) -> Duration {
        (self.seen() + longest_in_flight + MARGIN).saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_partition_that_stands_still_among_others_that_move_is_found() {
        let mut memory = Memory::default();
        let (limit, began) = (Duration::from_secs(60), Instant::now());
        let at = |partition, from| Unread { partition, from, end: 1_000 };
        for minute in 0..3 {
            let now = began + limit * minute;
            let moving = (0..11).map(|partition| at(partition, 10 * i64::from(minute)));
            let all: Vec<Unread> = moving.chain([at(11, 7), Unread { end: 5, ..at(12, 5) }]).collect();
            let (stuck, longest) = memory.stuck_partitions(&all, limit, now);
            let expected = if minute < 2 { vec![] } else { vec![at(11, 7)] };
            assert_eq!(stuck, expected, "minute {minute}, for {longest:?}");
        }
    }
}
