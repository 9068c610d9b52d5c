//! Schedules on clusters: faults of servers that can fail over, and of the product's processes.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::fault::{Fault, ProcessRole};
use crate::schedule::{EACH, FaultSchedule, Timed};

impl FaultSchedule {
    /// Draws the schedule of a seed on a Redis Cluster, three brokers and a pair of MySQL servers.
    /// It has more coupons, so that each primary has some, a longer crowd, and one to six faults.
    pub fn draw_on_clusters(seed: u64) -> Self {
        let single = Self::draw(seed);
        let mut rng = StdRng::seed_from_u64(seed ^ 0x00c1_0571_e200_0000);
        let coupons = rng.random_range(3..=6);
        let quantity = rng.random_range(60..=240) / coupons;
        let people = quantity * rng.random_range(13..=25) / 10;
        let crowd_ms = rng.random_range(8_000..=14_000);
        let number = if rng.random_bool(0.25) {
            1
        } else {
            rng.random_range(2..=6)
        };
        // Later faults would have little effect, because everything is sold.
        let latest = crowd_ms * u64::from(quantity) / u64::from(people) * 2 / 3;
        let mut faults: Vec<Timed> = (0..number)
            .map(|_| Timed {
                at_ms: rng.random_range(200..latest),
                coupon: rng.random_range(0..6),
                fault: fault(&mut rng),
            })
            .collect();
        faults.sort_by_key(|timed| timed.at_ms);
        Self {
            coupons,
            quantity,
            waiting_list: if single.waiting_list > 0 {
                quantity / 4
            } else {
                0
            },
            people,
            crowd_ms,
            listed: people * single.listed / single.people,
            clusters: true,
            faults,
            expect: Vec::new(),
            ..single
        }
    }
}

fn fault(rng: &mut StdRng) -> Fault {
    let role = *ProcessRole::ALL.choose(rng).unwrap_or(&ProcessRole::Api);
    let number = rng.random_range(0..EACH);
    let short = rng.random_range(200..=2_000);
    let long = rng.random_range(3_500..=9_000);
    let ms = if rng.random_bool(0.25) { short } else { long };
    match rng.random_range(0..20) {
        // The replica takes over after three seconds.
        0..=3 => Fault::RedisPrimary {
            number: rng.random_range(0..6),
            frozen: false,
            ms,
        },
        4..=5 => Fault::RedisPrimary {
            number: rng.random_range(0..6),
            frozen: true,
            ms,
        },
        6..=7 => Fault::Broker {
            id: rng.random_range(1..=3),
            frozen: false,
            ms,
        },
        // The other brokers consider it dead after nine seconds.
        8..=9 => Fault::Broker {
            id: rng.random_range(1..=3),
            frozen: true,
            ms: ms + 4_000,
        },
        10..=12 => Fault::MysqlFailOver {
            frozen: false,
            ms: short,
        },
        13..=14 => Fault::MysqlFailOver {
            frozen: true,
            ms: ms / 2,
        },
        15..=17 => Fault::Kill {
            role,
            number,
            ms: short,
        },
        _ => Fault::Freeze { role, number, ms },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn seeds_are_deterministic_and_fifty_of_them_draw_every_fault() {
        let mut drawn = BTreeSet::new();
        for seed in 1..=50 {
            let schedule = FaultSchedule::draw_on_clusters(seed);
            assert_eq!(schedule, FaultSchedule::draw_on_clusters(seed));
            let text = serde_json::to_string(&schedule).unwrap();
            assert_eq!(schedule, serde_json::from_str(&text).unwrap());
            assert!(
                schedule.clusters && schedule.people > schedule.quantity,
                "{schedule}"
            );
            assert!(!schedule.faults.is_empty(), "{schedule}");
            drawn.extend(schedule.faults.iter().map(|timed| timed.fault.name()));
        }
        // Killed and frozen, for three stores and three kinds of process.
        assert_eq!(drawn.len(), 2 * 6, "{drawn:#?}");
    }
}
