//! Who asks, how often, and in what order.

use anyhow::{Result, bail};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// A crowd: each person asks several times, as people do who are afraid to miss out.
#[derive(Debug, Clone)]
pub struct Crowd {
    prefix: String,
    /// For each request the person who sends it.
    order: Vec<u32>,
    people: u32,
}

impl Crowd {
    /// `people` people who each ask `requests_per_person` times.
    ///
    /// The second request of a person follows the first at once, a double click that usually reaches another connection and
    /// another API while the first is under way; further ones come later, in an order of their own. The same seed gives the
    /// same order.
    ///
    /// # Errors
    /// When there would be nobody, or more requests than fit.
    pub fn gather(prefix: &str, people: u32, requests_per_person: u32, seed: u64) -> Result<Self> {
        let Some(requests) = people.checked_mul(requests_per_person).filter(|requests| *requests > 0) else {
            bail!("{people} people with {requests_per_person} requests each is no crowd");
        };
        let mut random = StdRng::seed_from_u64(seed);
        let mut everyone: Vec<u32> = (0..people).collect();
        let mut order = Vec::with_capacity(requests as usize);
        everyone.shuffle(&mut random);
        for person in &everyone {
            order.extend(std::iter::repeat_n(*person, requests_per_person.min(2) as usize));
        }
        for _ in 2..requests_per_person {
            everyone.shuffle(&mut random);
            order.extend(&everyone);
        }
        Ok(Self { prefix: prefix.to_owned(), order, people })
    }

    /// How many people there are.
    pub fn people(&self) -> u32 {
        self.people
    }

    /// How many requests they send, repeats of the impatient aside.
    pub fn requests(&self) -> usize {
        self.order.len()
    }

    /// The person who sends the request of this number, or `None` past the last one.
    pub fn person(&self, request: usize) -> Option<u32> {
        self.order.get(request).copied()
    }

    /// The user id of a person.
    pub fn user_id(&self, person: u32) -> String {
        format!("{}{person:06}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_asks_as_often_as_told_and_double_clicks() {
        let crowd = Crowd::gather("p-", 50, 3, 1).unwrap();
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
    fn an_empty_crowd_is_refused() {
        assert!(Crowd::gather("p-", 0, 3, 1).is_err() && Crowd::gather("p-", 3, 0, 1).is_err());
        assert!(Crowd::gather("p-", u32::MAX, 2, 1).is_err());
    }
}
