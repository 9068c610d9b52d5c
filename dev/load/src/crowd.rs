//! The people of a load: who asks, how often, and in what order.

use anyhow::{Result, bail};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// A crowd. Each person asks several times, as people do who are afraid to miss out.
#[derive(Debug, Clone)]
pub struct Crowd {
    prefix: String,
    /// The sender of each request.
    order: Vec<u32>,
    people: u32,
}

impl Crowd {
    /// `people` people who each ask `requests_per_person` times.
    ///
    /// A person's second request follows the first at once: a double click that usually reaches
    /// another connection and another API while the first is in progress. Further ones come later,
    /// in a separate order. The same seed gives the same order.
    pub fn gather(people: u32, prefix: &str, requests_per_person: u32, seed: u64) -> Result<Self> {
        Self::gather_mixed(people, prefix, requests_per_person, 1.0, seed)
    }

    /// [`Self::gather`] if only a share of the people (0 to 1) asks more than once.
    pub fn gather_mixed(
        people: u32,
        prefix: &str,
        each: u32,
        share: f64,
        seed: u64,
    ) -> Result<Self> {
        let Some(requests) = people.checked_mul(each).filter(|requests| *requests > 0) else {
            bail!("{people} people with {each} requests each is not a crowd");
        };
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a u32, clamped"
        )]
        let repeaters = (f64::from(people) * share.clamp(0.0, 1.0)).round() as usize;
        let mut random = StdRng::seed_from_u64(seed);
        let mut everyone: Vec<u32> = (0..people).collect();
        let mut order = Vec::with_capacity(requests as usize);
        everyone.shuffle(&mut random);
        // Independent of the arrival order: the repeaters are spread over the shuffled order.
        let repeats = |person: u32| (person as usize) < repeaters;
        for person in &everyone {
            let times = if repeats(*person) { each.min(2) } else { 1 };
            order.extend(std::iter::repeat_n(*person, times as usize));
        }
        for _ in 2..each {
            everyone.shuffle(&mut random);
            order.extend(everyone.iter().copied().filter(|person| repeats(*person)));
        }
        Ok(Self {
            prefix: prefix.to_owned(),
            order,
            people,
        })
    }

    pub fn people(&self) -> u32 {
        self.people
    }

    /// Number of requests, not counting retries.
    pub fn requests(&self) -> usize {
        self.order.len()
    }

    /// The sender of the request with this number, or `None` past the last one.
    pub fn person(&self, request: usize) -> Option<u32> {
        self.order.get(request).copied()
    }

    pub fn user_id(&self, person: u32) -> String {
        format!("{}{person:06}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_asks_the_given_number_of_times_with_a_double_click() {
        let crowd = Crowd::gather(50, "p-", 3, 1).unwrap();
        assert_eq!(crowd.requests(), 150);
        let mut times = [0; 50];
        for request in 0..150 {
            times[crowd.person(request).unwrap() as usize] += 1;
        }
        assert_eq!(times, [3; 50]);
        assert_eq!(crowd.person(0), crowd.person(1));
        assert_eq!(crowd.person(150), None);
        assert_eq!(crowd.user_id(7), "p-000007");
    }

    #[test]
    fn only_a_share_of_the_people_repeats() {
        for (share, requests) in [(0.0, 100), (0.25, 150), (1.0, 300)] {
            let crowd = Crowd::gather_mixed(100, "p-", 3, share, 1).unwrap();
            assert_eq!(crowd.requests(), requests, "{share}");
            let people: std::collections::HashSet<_> =
                (0..requests).map(|n| crowd.person(n).unwrap()).collect();
            assert_eq!(people.len(), 100);
        }
    }

    #[test]
    fn an_empty_crowd_is_refused() {
        assert!(Crowd::gather(0, "p-", 3, 1).is_err() && Crowd::gather(3, "p-", 0, 1).is_err());
        assert!(Crowd::gather(u32::MAX, "p-", 2, 1).is_err());
    }
}
