//! Rate limits of one person and of one address: the generic cell rate algorithm (GCRA), with a
//! bounded memory.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use firstcome_shared::domain::UserId;
use firstcome_shared::http::Problem;
use firstcome_shared::http::network::network;
use firstcome_shared::http::problem::Code;
use metrics::{Counter, counter, describe_counter};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::bounded_cache::BoundedCache;

const SHARDS: usize = 16;

/// Whom each shard remembers, at least. A person who is forgotten has a full second's worth again.
const KEPT: usize = 8_192;

const NAME: &str = "firstcome_rate_limited_total";

/// The limits of this process; what is not set has none.
pub(crate) struct RateLimits {
    people: Option<Limiter>,
    addresses: Option<Limiter>,
}

impl RateLimits {
    /// Requests a second; 0 is no limit.
    pub(crate) fn new(by_person: u32, by_address: u32) -> Self {
        describe_counter!(
            NAME,
            "Requests answered 429, by whose limit it was: person, address"
        );
        Self {
            people: Limiter::new("person", by_person),
            addresses: Limiter::new("address", by_address),
        }
    }

    pub(crate) fn person(&self, user: &UserId) -> Result<(), Problem> {
        let Some(limiter) = &self.people else {
            return Ok(());
        };
        limiter
            .take(user)
            .map_err(|wait| refused("you ask too often", wait))
    }

    pub(crate) fn has_addresses(&self) -> bool {
        self.addresses.is_some()
    }

    pub(crate) fn address(&self, address: IpAddr) -> Result<(), Problem> {
        let Some(limiter) = &self.addresses else {
            return Ok(());
        };
        limiter
            .take(&network(address))
            .map_err(|wait| refused("too many requests come from your address", wait))
    }
}

fn refused(what: &str, wait: Duration) -> Problem {
    let detail = format!("{what}; try again after the time in Retry-After");
    Problem::new(Code::TooManyRequests, detail).retry_after(wait)
}

/// So many a second, and a second's worth at once.
struct Limiter {
    /// Between two requests at the full rate.
    gap: Duration,
    /// By a keyed hash, the instant at which somebody will have used nothing.
    free_at: [Mutex<BoundedCache<u64, Instant>>; SHARDS],
    hasher: RandomState,
    refused: Counter,
}

impl Limiter {
    fn new(whose: &'static str, per_second: u32) -> Option<Self> {
        let gap = Duration::from_secs(1).checked_div(per_second)?;
        let refused = counter!(NAME, "limit" => whose);
        refused.absolute(0);
        let free_at = std::array::from_fn(|_| Mutex::new(BoundedCache::new(KEPT)));
        Some(Self {
            gap,
            free_at,
            hasher: RandomState::new(),
            refused,
        })
    }

    /// Takes one, or says how long to wait for the next.
    fn take<K: Hash>(&self, key: &K) -> Result<(), Duration> {
        self.take_at(key, Instant::now())
    }

    fn take_at<K: Hash>(&self, key: &K, now: Instant) -> Result<(), Duration> {
        let key = self.hasher.hash_one(key);
        let shard = usize::try_from(key % SHARDS as u64).unwrap_or_default();
        let mut free_at = self.free_at[shard].lock();
        let free = free_at.get(&key).map_or(now, |at| (*at).max(now)) + self.gap;
        let over = free
            .duration_since(now)
            .saturating_sub(Duration::from_secs(1));
        // A gap that was rounded down adds up to a little less than a second.
        if over.is_zero() {
            free_at.insert(key, free);
            return Ok(());
        }
        self.refused.increment(1);
        Err(over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_comes_at_once_and_then_the_rate() {
        let limiter = Limiter::new("person", 5).unwrap();
        let begun = Instant::now();
        let accepted = |millis: u64, tries: usize| {
            let now = begun + Duration::from_millis(millis);
            (0..tries)
                .filter(|_| limiter.take_at(&"u-1", now).is_ok())
                .count()
        };
        assert_eq!(accepted(0, 100), 5, "at once");
        assert_eq!(accepted(199, 100), 0);
        assert_eq!(accepted(200, 100), 1);
        assert_eq!(accepted(1_000, 100), 4);
        assert_eq!(
            accepted(60_000, 100),
            5,
            "nothing is saved up beyond a second's worth"
        );
        let all: usize = (0..1_000).map(|n| accepted(100_000 + 10 * n, 1)).sum();
        assert_eq!(all, 5 + 49, "ten seconds of a hundred a second");
        assert_eq!(
            limiter.take_at(&"u-1", begun + Duration::from_secs(110)),
            Ok(())
        );
        let other = limiter.take_at(&"u-2", begun + Duration::from_secs(110));
        assert_eq!(other, Ok(()), "another person");
        let now = begun + Duration::from_secs(200);
        let waits: Vec<_> = (0..6).map(|_| limiter.take_at(&"u-1", now)).collect();
        assert_eq!(waits[5], Err(Duration::from_millis(200)));
    }

    #[test]
    fn memory_is_bounded_however_many_come() {
        let limiter = Limiter::new("address", 1).unwrap();
        let now = Instant::now();
        for n in 0..1_000_000_u32 {
            assert_eq!(limiter.take_at(&n, now), Ok(()));
        }
        let kept: usize = limiter.free_at.iter().map(|shard| shard.lock().len()).sum();
        assert!(kept <= 2 * SHARDS * KEPT, "{kept}");
        assert!(Limiter::new("address", 0).is_none(), "no limit");
    }
}
