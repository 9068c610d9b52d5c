//! Gathers messages into a batch, which ends at a maximum size, at a deadline, or at a gap between
//! messages.

use std::time::{Duration, Instant};

/// A batch is ready when it reaches any of these limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    /// Maximum number of messages.
    pub(crate) max: usize,
    /// Maximum time that the first message waits.
    pub(crate) wait: Duration,
    /// Maximum time without a message after the last one, because no more messages arrive at the
    /// end of a rush.
    pub(crate) gap: Duration,
}

impl BatchLimits {
    /// The gap is a quarter of `wait`, but at least half of the setting, so that messages of a slow
    /// stream are not written one by one, and at most [`MAX_GAP`].
    pub(crate) fn new(max: usize, wait: Duration, set: Duration) -> Self {
        Self {
            max,
            wait,
            gap: (wait / 4).max(set / 2).min(MAX_GAP),
        }
    }
}

/// Maximum gap. Without this limit, the last rows of a rush would wait for a quarter of its long
/// wait.
const MAX_GAP: Duration = Duration::from_millis(15);

/// Messages that wait to be written, in order.
#[derive(Debug)]
pub(crate) struct NextBatch<T> {
    messages: Vec<T>,
    /// Arrival times of the first and the last message.
    arrived: Option<(Instant, Instant)>,
}

impl<T> Default for NextBatch<T> {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            arrived: None,
        }
    }
}

impl<T> NextBatch<T> {
    pub(crate) fn push(&mut self, message: T, now: Instant) {
        let first = self.arrived.map_or(now, |(first, _)| first);
        self.arrived = Some((first, now));
        self.messages.push(message);
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Returns the time at which the batch is ready even if it is not full, or `None` if it is
    /// empty.
    fn deadline(&self, limits: BatchLimits) -> Option<Instant> {
        self.arrived
            .map(|(first, last)| (first + limits.wait).min(last + limits.gap))
    }

    /// Adds messages from `next` until the batch is ready. `next` waits for at most the given time.
    /// A full batch does not wait, and messages that have already arrived are added even after the
    /// deadline. Returns an empty batch if none arrived within `idle`.
    pub(crate) fn gather(
        mut self,
        limits: BatchLimits,
        idle: Duration,
        now: impl Fn() -> Instant,
        mut next: impl FnMut(Duration) -> Option<T>,
    ) -> Vec<T> {
        if self.messages.is_empty() {
            let Some(first) = next(idle) else {
                return self.messages;
            };
            self.push(first, now());
        }
        while self.len() < limits.max {
            let left = self
                .deadline(limits)
                .map_or(Duration::ZERO, |at| at.saturating_duration_since(now()));
            match next(left) {
                Some(message) => self.push(message, now()),
                // `next` may return early, because it also serves rebalances.
                None if left.is_zero() => break,
                None => {}
            }
        }
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const IDLE: Duration = Duration::from_millis(100);

    /// Gathers messages that arrive at the given milliseconds, with a clock that advances only
    /// during waits. Returns the batch and the millisecond at which it was ready.
    fn gathered(arrivals: &[u64], max: usize, wait_ms: u64) -> (Vec<u64>, u64) {
        let start = Instant::now();
        let clock = Cell::new(start);
        let mut waiting = arrivals.iter().copied().peekable();
        let batch = NextBatch::default().gather(
            BatchLimits {
                max,
                wait: Duration::from_millis(wait_ms),
                gap: Duration::from_millis(wait_ms / 4),
            },
            IDLE,
            || clock.get(),
            |longest| {
                let until = clock.get() + longest;
                let arrives = waiting
                    .peek()
                    .map(|ms| start + Duration::from_millis(*ms))
                    .filter(|at| *at <= until);
                clock.set(arrives.map_or(until, |at| at.max(clock.get())));
                arrives.and_then(|_| waiting.next())
            },
        );
        (
            batch,
            u64::try_from(clock.get().duration_since(start).as_millis()).unwrap(),
        )
    }

    #[test]
    fn batch_ends_at_its_size_its_deadline_or_a_gap_between_messages() {
        for (arrivals, max, wait, expected, ready_at) in [
            (&[][..], 3, 12, &[][..], 100),
            (&[0, 0, 0, 0], 3, 12, &[0, 0, 0], 0), // full: no wait
            (&[40], 3, 12, &[40], 43),             // alone, from its own arrival
            (&[40, 43, 47], 9, 12, &[40, 43], 46), // gap after the second
            (&[40, 43, 46, 49, 52, 53], 9, 12, &[40, 43, 46, 49, 52], 52), // deadline of the first
            (&[0, 0, 0], 9, 0, &[0, 0, 0], 0),     // no wait: takes messages that have arrived
            (&[0], 1, 12, &[0], 0),
        ] {
            assert_eq!(
                gathered(arrivals, max, wait),
                (expected.to_vec(), ready_at),
                "{arrivals:?} {max} {wait}"
            );
        }
    }

    #[test]
    fn gap_is_a_quarter_of_the_wait_within_limits() {
        let ms = Duration::from_millis;
        let gaps = [(10, 10), (20, 10), (40, 10), (250, 10), (0, 0)]
            .map(|(wait, set)| BatchLimits::new(1, ms(wait), ms(set)).gap);
        assert_eq!(gaps, [ms(5), ms(5), ms(10), ms(15), ms(0)]);
    }

    #[test]
    fn time_spent_writing_counts_towards_the_wait_of_the_batch() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let limits = BatchLimits {
            max: 30,
            wait: Duration::from_millis(12),
            gap: Duration::from_millis(3),
        };
        let mut ahead = NextBatch::default();
        ahead.push(1, start);
        ahead.push(2, after(3));
        let mut waits = Vec::new();
        let clock = Cell::new(after(4));
        let batch = ahead.gather(
            limits,
            IDLE,
            || clock.get(),
            |longest| {
                waits.push(longest.as_millis());
                clock.set(clock.get() + longest);
                None
            },
        );
        // Two milliseconds were left.
        assert_eq!((batch, waits), (vec![1, 2], vec![2, 0]));
    }

    proptest::proptest! {
        #[test]
        fn no_message_is_lost_or_reordered(mut gaps in proptest::collection::vec(0_u64..30, 0..60), max in 1_usize..9) {
            let mut at = 0;
            for gap in &mut gaps {
                at += *gap;
                *gap = at;
            }
            let (batch, ready_at) = gathered(&gaps, max, 12);
            proptest::prop_assert!(batch.len() <= max);
            proptest::prop_assert_eq!(&batch[..], &gaps[..batch.len()]);
            if let Some(first) = batch.first() {
                proptest::prop_assert!(ready_at <= first + 12);
            }
            if let Some(last) = batch.last() {
                proptest::prop_assert!(ready_at <= last + 3);
            }
        }
    }
}
