//! What a process remembers between its passes. Losing it with the process costs time, never a
//! promise.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::verified::Verified;
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
    /// Runs that could not be recorded yet, since MySQL was away; and how each was asked for.
    pub(super) unrecorded: Vec<(Run, How)>,
    /// What need not be read whole again.
    pub(super) verified: Verified,
    consumer: Option<ConsumerPosition>,
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

impl Progress {
    /// A round over so many drops.
    pub(super) fn begin(&self, drops: usize) {
        self.drops.store(drops as u64, Relaxed);
        self.drops_done.store(0, Relaxed);
    }
}

/// The consumer's committed offset by partition, and since when it has been there.
struct ConsumerPosition {
    committed: Vec<(i32, i64)>,
    since: Instant,
}

impl Memory {
    /// For how long the consumer has not moved although messages wait.
    pub(super) fn consumer_stuck_for(&mut self, committed: &[(i32, i64)], unread: u64) -> Duration {
        match &self.consumer {
            Some(last) if unread > 0 && last.committed == committed => last.since.elapsed(),
            _ => {
                self.consumer = Some(ConsumerPosition { committed: committed.to_vec(), since: Instant::now() });
                Duration::ZERO
            }
        }
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
