//! What a process remembers between its passes. Losing it with the process costs time, never a
//! promise.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::verified::Verified;
use crate::collect::Unread;
use crate::record::How;
use crate::report::Run;

/// Most runs kept for recording: an hour without MySQL at two passes a minute.
const UNRECORDED_AT_MOST: usize = 120;

/// What one pass leaves for the next.
#[derive(Default)]
pub struct Memory {
    /// Shared by the passes and the reopening of a daemon.
    pub losses: LossClock,
    /// Shared with the terminal.
    pub progress: Arc<Progress>,
    /// The consumer's committed offset by partition with unread messages, and since when it has
    /// been there.
    consumer: HashMap<i32, (i64, Instant)>,
    /// Runs that could not be recorded yet, since MySQL was away; and how each was asked for.
    pub(super) unrecorded: Vec<(Run, How)>,
    /// What need not be read whole again.
    pub(super) verified: Verified,
}

/// How far a pass is, for the terminal and the endpoint.
#[derive(Debug, Default)]
pub struct Progress {
    /// Drops of this round.
    pub drops: AtomicU64,
    pub drops_done: AtomicU64,
    /// People and rows compared.
    pub compared: AtomicU64,
    /// The last run that has the lock and is recorded as begun.
    begun: watch::Sender<Option<String>>,
}

impl Progress {
    pub(super) fn begins(&self, run_id: &str) {
        for number in [&self.drops, &self.drops_done, &self.compared] {
            number.store(0, Relaxed);
        }
        self.begun.send_replace(Some(run_id.to_owned()));
    }

    /// Waits until this run has the lock and can be read.
    pub async fn until_begun(&self, run_id: &str) {
        if self.begun.subscribe().wait_for(|begun| begun.as_deref() == Some(run_id)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// A round over so many drops.
    pub(super) fn begin(&self, drops: usize) {
        self.drops.store(drops as u64, Relaxed);
        self.drops_done.store(0, Relaxed);
    }
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

    pub(super) fn keep_unrecorded(&mut self, run: Run, how: How) {
        if self.unrecorded.len() < UNRECORDED_AT_MOST {
            self.unrecorded.push((run, how));
        }
    }
}

/// Inaccuracy of timers, and what a message or a row may take on its way, beyond the deadlines.
const MARGIN: Duration = Duration::from_millis(250);

/// Since when losses of Redis are known to this process. A loss belongs to a life of Redis, or to a
/// drop that was lost within one. Admissions from before it may still be in flight: to the topic
/// until the publishing deadline has passed, then to the dead-letter table until its deadline has.
#[derive(Clone, Default)]
pub struct LossClock(Arc<Mutex<HashMap<String, Instant>>>);

/// Most losses remembered. Forgetting one only makes its wait begin anew.
const LOSSES_AT_MOST: usize = 10_000;

impl LossClock {
    /// Notes a loss when it is first seen.
    pub(super) fn note(&self, loss: String) {
        self.0.lock().entry(loss).or_insert_with(Instant::now);
    }

    /// How long to wait until nothing from before these losses can be in flight.
    pub(super) fn wait_needed(&self, losses: Vec<String>, longest_in_flight: Duration) -> Duration {
        let (mut known, now) = (self.0.lock(), Instant::now());
        if known.len() > LOSSES_AT_MOST {
            known.clear();
        }
        let latest = losses.into_iter().map(|loss| *known.entry(loss).or_insert(now)).max();
        latest.map_or(Duration::ZERO, |seen| (seen + longest_in_flight + MARGIN).saturating_duration_since(now))
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
