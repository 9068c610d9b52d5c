//! The users of a load test, how often they claim, and in what order.

use std::iter;

use anyhow::{Context as _, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// A crowd in which each user may claim several times, as impatient users do.
#[derive(Debug, Clone)]
pub struct Crowd {
    prefix: String,
    /// The user who sends each request.
    order: Vec<u32>,
    pub people: u32,
}

impl Crowd {
    /// Creates a crowd of `people` users who each send `requests_per_person` requests.
    ///
    /// A user's second request directly follows the first: a double click that usually reaches
    /// another connection and another API while the first request is in progress. Each further
    /// round of requests has another random order. The seed is fixed, so crowds of the same size
    /// have the same orders.
    pub fn gather(people: u32, prefix: &str, requests_per_person: u32) -> Result<Self> {
        let requests = people.checked_mul(requests_per_person);
        let requests = requests.filter(|requests| *requests > 0);
        let requests = requests.context("a crowd needs users and requests, but fewer than 2^32")?;
        let mut random = StdRng::seed_from_u64(1);
        let mut everyone: Vec<u32> = (0..people).collect();
        let mut order = Vec::with_capacity(requests as usize);
        everyone.shuffle(&mut random);
        let at_first = requests_per_person.min(2) as usize;
        for person in &everyone {
            order.extend(iter::repeat_n(*person, at_first));
        }
        for _ in 2..requests_per_person {
            everyone.shuffle(&mut random);
            order.extend(&everyone);
        }
        Ok(Self {
            prefix: prefix.to_owned(),
            order,
            people,
        })
    }

    /// Returns the number of requests, not counting retries.
    pub fn requests(&self) -> usize {
        self.order.len()
    }

    /// Returns the user who sends the request with this index, or `None` after the last request.
    pub fn person(&self, request: usize) -> Option<u32> {
        self.order.get(request).copied()
    }

    pub fn user_id(&self, person: u32) -> String {
        format!("{}{person:06}", self.prefix)
    }
}
