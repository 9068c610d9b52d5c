//! What a counter in their Redis says, compared with the coupons that are given out. Pure.

use crate::config::CountMeans;

/// A counter in their Redis, and the number of coupons that it should show.
#[derive(Debug, Clone, Copy)]
pub struct Counter {
    pub means: CountMeans,
    /// The counter's value; `None` if the counter is missing.
    pub value: Option<i64>,
    pub quantity: i64,
    /// The number of coupons that it should count as given out.
    pub given: i64,
    pub is_selling: bool,
    pub is_over: bool,
}

/// How a counter differs from the coupons that are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CounterState {
    Right,
    /// The counter is missing after the end, when keys expire.
    Expired,
    /// The counter is missing, although coupons are given out.
    Gone,
    /// The counter says that all coupons are given out, but some are left.
    Unfilled,
    /// This many coupons that are given out are not counted.
    Behind(i64),
    /// The counter counts coupons that are not given out.
    Ahead,
}

impl Counter {
    pub fn state(self) -> CounterState {
        let Some(counted) = self.counted() else {
            return if self.is_over {
                CounterState::Expired
            } else if self.given > 0 {
                CounterState::Gone
            } else {
                CounterState::Right
            };
        };
        if counted < self.given {
            CounterState::Behind(self.given.saturating_sub(counted))
        } else if self.is_selling {
            // During a sale, a counter may also count claims that are on their way, or about to be
            // refused.
            CounterState::Right
        } else if counted >= self.quantity && self.given < self.quantity {
            CounterState::Unfilled
        } else if self.means.is_exact() && counted > self.given {
            CounterState::Ahead
        } else {
            CounterState::Right
        }
    }

    /// Returns the number of coupons that it counts as given out.
    pub fn counted(self) -> Option<i64> {
        let value = self.value?;
        Some(self.means.given(value, self.quantity))
    }

    /// Whether it counts more coupons than there are or are given out, although users who are
    /// refused give back what they took: such a claim is in flight, or died.
    pub fn holds_refused_claim(self) -> bool {
        self.means.is_exact() && self.counted() > Some(self.quantity.max(self.given))
    }

    /// Returns a sentence with what the counter says and what is right.
    pub fn says(self) -> String {
        let given = self.given;
        match self.value {
            None => format!("there is no counter, and {given} are given out"),
            Some(value) if self.means.is_left() => {
                let left = self.quantity - given;
                format!("the counter says that {value} are left, and {left} are")
            }
            Some(value) => format!("the counter says {value}, and {given} are given out"),
        }
    }

    /// Returns the number by which the counter has to move, from 0 if it is missing.
    pub fn distance(self) -> i64 {
        self.means.given(self.given, self.quantity) - self.value.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::CounterState::{Ahead, Behind, Expired, Gone, Right, Unfilled};
    use super::{CountMeans, Counter, CounterState};

    /// Of ten coupons, eight are given out.
    fn counter(means: CountMeans, value: Option<i64>) -> Counter {
        Counter {
            means,
            value,
            quantity: 10,
            given: 8,
            is_selling: false,
            is_over: false,
        }
    }

    /// Returns the states of a counter at rest, while coupons are sold, and after the end.
    fn states(counter: Counter) -> [CounterState; 3] {
        let selling = Counter {
            is_selling: true,
            ..counter
        };
        let over = Counter {
            is_over: true,
            ..counter
        };
        [counter, selling, over].map(Counter::state)
    }

    #[test]
    fn state_of_a_counter_follows_from_its_meaning_and_whether_coupons_are_sold() {
        let (tickets, issued) = (CountMeans::Tickets, CountMeans::Issued);
        for (means, value, expected) in [
            (tickets, Some(7), [Behind(1), Behind(1), Behind(1)]),
            (tickets, Some(8), [Right, Right, Right]),
            // A user who was refused has incremented it.
            (tickets, Some(9), [Right, Right, Right]),
            (tickets, Some(10), [Unfilled, Right, Unfilled]),
            (tickets, Some(1_000), [Unfilled, Right, Unfilled]),
            (tickets, None, [Gone, Gone, Expired]),
            (issued, Some(-1), [Behind(9), Behind(9), Behind(9)]),
            (issued, Some(8), [Right, Right, Right]),
            (issued, Some(9), [Ahead, Right, Ahead]),
            (issued, Some(10), [Unfilled, Right, Unfilled]),
            (issued, None, [Gone, Gone, Expired]),
        ] {
            assert_eq!(
                states(counter(means, value)),
                expected,
                "{means:?} {value:?}"
            );
            let Some(value) = value else {
                continue;
            };
            let left = match means {
                CountMeans::Tickets | CountMeans::LeftTickets => CountMeans::LeftTickets,
                CountMeans::Issued | CountMeans::Left => CountMeans::Left,
            };
            let mirrored = counter(left, Some(10 - value));
            assert_eq!(states(mirrored), expected, "{mirrored:?}");
        }
    }

    #[test]
    fn missing_counter_is_right_before_the_first_coupon_and_one_past_all_is_ahead() {
        let none = Counter {
            given: 0,
            ..counter(CountMeans::Issued, None)
        };
        assert_eq!(states(none), [Right, Right, Expired]);
        let all = Counter {
            given: 10,
            ..counter(CountMeans::Issued, Some(11))
        };
        assert_eq!(states(all), [Ahead, Right, Ahead]);
    }

    #[test]
    fn counter_moves_to_what_is_right() {
        for (means, value, distance) in [
            (CountMeans::Tickets, Some(5), 3),
            (CountMeans::Left, Some(5), -3),
            (CountMeans::Issued, None, 8),
            (CountMeans::LeftTickets, None, 2),
        ] {
            let counter = counter(means, value);
            assert_eq!(counter.distance(), distance, "{counter:?}");
        }
    }
}
