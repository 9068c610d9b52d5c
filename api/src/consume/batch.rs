//! Gathering: messages become a batch, by count and by time.

use std::time::{Duration, Instant};

/// When a batch is ready.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// It holds this many messages.
    pub(super) max: usize,
    /// Its first message has waited for this long.
    pub(super) wait: Duration,
}

/// Takes messages from `next`, which waits at most as long as it is told. A full batch never waits; what is there is taken
/// at once, also when the time is over. Empty where nothing came within `idle`.
pub(super) fn gather<T>(
    limits: Limits,
    idle: Duration,
    now: impl Fn() -> Instant,
    mut next: impl FnMut(Duration) -> Option<T>,
) -> Vec<T> {
    let mut batch = Vec::new();
    let Some(first) = next(idle) else { return batch };
    batch.push(first);
    let deadline = now() + limits.wait;
    while batch.len() < limits.max {
        let left = deadline.saturating_duration_since(now());
        match next(left) {
            Some(message) => batch.push(message),
            // `next` may come back early: it also serves rebalances.
            None if left.is_zero() => break,
            None => {}
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const IDLE: Duration = Duration::from_millis(100);

    /// Messages that arrive at given milliseconds, read on a clock that only waiting moves. Gives the batch and the
    /// millisecond at which it was ready.
    fn gathered(arrivals: &[u64], max: usize, wait_ms: u64) -> (Vec<u64>, u64) {
        let start = Instant::now();
        let clock = Cell::new(start);
        let mut waiting = arrivals.iter().copied().peekable();
        let batch = gather(
            Limits { max, wait: Duration::from_millis(wait_ms) },
            IDLE,
            || clock.get(),
            |longest| {
                let until = clock.get() + longest;
                let arrives = waiting.peek().map(|ms| start + Duration::from_millis(*ms)).filter(|at| *at <= until);
                clock.set(arrives.map_or(until, |at| at.max(clock.get())));
                arrives.and_then(|_| waiting.next())
            },
        );
        (batch, u64::try_from(clock.get().duration_since(start).as_millis()).unwrap())
    }

    #[test]
    fn a_batch_ends_by_count_or_by_time_from_its_first_message() {
        for (arrivals, max, wait, expected, ready_at) in [
            (&[][..], 3, 10, &[][..], 100),
            (&[0, 0, 0, 0], 3, 10, &[0, 0, 0], 0),         // full: no wait
            (&[40], 3, 10, &[40], 50),                     // alone: waits for others, from its own arrival
            (&[40, 45, 50, 51], 9, 10, &[40, 45, 50], 50), // the fourth is too late
            (&[0, 0, 0], 9, 0, &[0, 0, 0], 0),             // no wait at all still takes what is there
            (&[0], 1, 10, &[0], 0),
        ] {
            assert_eq!(gathered(arrivals, max, wait), (expected.to_vec(), ready_at), "{arrivals:?} {max} {wait}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_message_is_lost_or_reordered(mut gaps in proptest::collection::vec(0_u64..30, 0..60), max in 1_usize..9) {
            let mut at = 0;
            for gap in &mut gaps {
                at += *gap;
                *gap = at;
            }
            let (batch, ready_at) = gathered(&gaps, max, 10);
            proptest::prop_assert!(batch.len() <= max);
            proptest::prop_assert_eq!(&batch[..], &gaps[..batch.len()]);
            if let Some(first) = batch.first() {
                proptest::prop_assert!(ready_at <= first + 10);
            }
        }
    }
}
