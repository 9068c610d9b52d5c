//! Gathers messages into a batch, which ends at a number of claims, at a deadline, or at a gap
//! between messages; and leaves out repeats.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::event::ClaimEvent;
use tokio::time::Instant;

use super::message::Message;
use super::write::Record;
use crate::bounded_cache::BoundedCache;

/// How long the first claim of a batch waits for others.
const WAIT: Duration = Duration::from_millis(10);

/// The wait doubles after each batch of at least [`LARGE`] claims, because rows cost less in large
/// transactions, and falls back after a smaller one.
const LONGEST_WAIT: Duration = Duration::from_millis(250);
const LARGE: usize = 64;

/// Maximum time without a message after the last one, because no more messages arrive at the end
/// of a rush.
const LONGEST_GAP: Duration = Duration::from_millis(15);

/// The batch that is being gathered.
pub(super) struct NextBatch {
    full: usize,
    messages: Vec<Arc<Message>>,
    claims: usize,
    /// Arrival times of the first and the last message.
    arrived: Option<(Instant, Instant)>,
    wait: Duration,
}

impl NextBatch {
    /// Creates an empty batch that is full at this number of claims.
    pub(super) fn new(full: usize) -> Self {
        Self {
            full,
            messages: Vec::new(),
            claims: 0,
            arrived: None,
            wait: WAIT,
        }
    }

    pub(super) fn push(&mut self, message: Message, now: Instant) {
        self.arrived = Some((self.arrived.map_or(now, |(first, _)| first), now));
        self.claims += message.claims.len();
        self.messages.push(Arc::new(message));
    }

    /// Leaves out the messages of a partition that begins again.
    pub(super) fn remove(&mut self, partition: i32) {
        self.messages
            .retain(|message| message.source.partition != partition);
        self.claims = self
            .messages
            .iter()
            .map(|message| message.claims.len())
            .sum();
    }

    pub(super) fn is_full(&self) -> bool {
        self.claims >= self.full
    }

    /// Returns the time at which the batch is ready even if it is not full, or `None` if it is
    /// empty.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let gap = (self.wait / 4).clamp(WAIT / 2, LONGEST_GAP);
        self.arrived
            .map(|(first, last)| (first + self.wait).min(last + gap))
    }

    /// Returns the messages, and begins the next batch.
    pub(super) fn take(&mut self) -> Vec<Arc<Message>> {
        let is_large = self.claims >= LARGE;
        self.wait = if is_large {
            (self.wait * 2).min(LONGEST_WAIT)
        } else {
            WAIT
        };
        self.claims = 0;
        self.arrived = None;
        std::mem::take(&mut self.messages)
    }
}

/// Number of claims in each of the two generations of the memory.
const REMEMBERED: usize = 100_000;

/// Claims whose rows this process has committed, as keyed hashes of 64 bits: with 200,000 of them,
/// a new claim is taken for a repeat once in 10^14 claims. Claims are repeated when a user clicks
/// at two APIs, and one repeat makes MySQL refuse the statement of its whole batch.
pub(super) struct RecentClaims {
    claims: BoundedCache<u64, ()>,
    hashing: RandomState,
}

impl RecentClaims {
    pub(super) fn new() -> Self {
        let claims = BoundedCache::new(REMEMBERED);
        Self {
            claims,
            hashing: RandomState::new(),
        }
    }

    /// Forgets all, because a partition begins again: MySQL may have been restored, and then it has
    /// lost the rows of these claims.
    pub(super) fn clear(&mut self) {
        self.claims.clear();
    }

    /// Returns what to write: without claims that repeat others in the batch or recent ones.
    pub(super) fn without_repeats(&mut self, batch: &[Arc<Message>]) -> Vec<Record> {
        let mut in_batch = HashSet::new();
        let mut records = Vec::new();
        for message in batch {
            for (part, claim) in message.claims.iter().enumerate() {
                let is_first = claim.as_ref().map_or(true, |claim| {
                    let hash = self.hash(claim);
                    in_batch.insert(hash) && self.claims.get(&hash).is_none()
                });
                if is_first {
                    records.push(Record {
                        message: Arc::clone(message),
                        part,
                    });
                }
            }
        }
        records
    }

    /// Remembers the claims of a batch that all have rows.
    pub(super) fn committed(&mut self, batch: &[Arc<Message>]) {
        for claim in batch
            .iter()
            .flat_map(|message| message.claims.iter().flatten())
        {
            let hash = self.hash(claim);
            self.claims.insert(hash, ());
        }
    }

    /// A user who returns a coupon and gets the same slot again has another time of admission.
    fn hash(&self, claim: &ClaimEvent) -> u64 {
        let at = claim.claimed_at.timestamp_millis();
        let user = claim.user_id.as_str();
        self.hashing
            .hash_one((claim.coupon_id, claim.drop_id, claim.slot, user, at))
    }
}

#[cfg(test)]
mod tests {
    use firstcome_shared::domain::Slot;

    use super::*;
    use crate::consume::message::tests::message;

    fn claim(slot: Slot, user: &str, second: u8) -> Message {
        let event = format!(
            r#"{{"v":2,"coupon_id":1,"drop_id":2,"claims":[{{"slot":{slot},"user_id":"{user}","claimed_at":"2026-12-01T06:00:{second:02}.000Z"}}]}}"#
        );
        message(0, i64::from(slot), event.as_bytes())
    }

    #[test]
    fn batch_ends_at_its_size_its_deadline_or_a_gap_between_messages() {
        let start = Instant::now();
        let mut next = NextBatch::new(8);
        assert_eq!(next.deadline(), None);
        let mut deadlines = Vec::new();
        for slot in 1..=4 {
            let after = Duration::from_millis(3 * (u64::from(slot) - 1));
            next.push(claim(slot, "u", 0), start + after);
            deadlines.push(next.deadline().unwrap().duration_since(start).as_millis());
        }
        // The gap after each message, then the deadline of the first.
        assert_eq!(deadlines, [5, 8, 10, 10]);
        for slot in 5..=8 {
            assert!(!next.is_full());
            next.push(claim(slot, "u", 0), start);
        }
        assert!(next.is_full());
        assert_eq!((next.take().len(), next.deadline()), (8, None));
    }

    #[test]
    fn wait_grows_only_with_the_message_rate() {
        let mut next = NextBatch::new(1_000);
        let mut waits = Vec::new();
        for claims in [63, 64, 500, 1_000, 1_000, 1_000, 1, 0] {
            (0..claims).for_each(|slot| next.push(claim(slot, "u", 0), Instant::now()));
            next.take();
            waits.push(next.wait.as_millis());
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 250, 10, 10]);
    }

    fn written(claims: &mut RecentClaims, batch: &[Arc<Message>]) -> usize {
        let new = claims.without_repeats(batch);
        claims.committed(batch);
        new.len()
    }

    #[test]
    fn repeats_within_a_batch_and_of_recent_batches_are_left_out() {
        let mut claims = RecentClaims::new();
        let batch = |all: [(Slot, &str, u8); 3]| {
            all.map(|(slot, user, second)| Arc::new(claim(slot, user, second)))
        };
        let first = batch([(1, "u-1", 0), (1, "u-1", 0), (2, "u-2", 0)]);
        assert_eq!(claims.without_repeats(&first).len(), 2, "this write failed");
        assert_eq!(written(&mut claims, &first), 2);
        assert_eq!(written(&mut claims, &first), 0);
        let others = batch([(1, "u-1", 1), (1, "u-2", 0), (3, "u-1", 0)]);
        assert_eq!(written(&mut claims, &others), 3);
        let unreadable = Arc::new(message(0, 9, b"{}"));
        let twice = [Arc::clone(&unreadable), unreadable];
        assert_eq!(written(&mut claims, &twice), 2, "each gets a dead letter");
        claims.clear();
        assert_eq!(
            written(&mut claims, &first),
            2,
            "MySQL may have been restored"
        );
    }
}
