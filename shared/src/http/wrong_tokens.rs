//! Counts wrong operators' tokens by network.
//!
//! Wrong tokens cause no delay and no lock-out. A token has at least 32 random characters, so it
//! cannot be guessed at any speed. A delay would hold a connection per guess, and a lock-out would
//! let any client behind the operators' gateway lock the operators out. Therefore, a valid token is
//! always accepted, and wrong ones are only counted and logged. A network that keeps sending wrong
//! tokens gets 429, which slows down a misconfigured program.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use metrics::{counter, describe_counter};
use parking_lot::Mutex;

use super::network::network;
use crate::line_limit::LineLimit;

const NAME: &str = "firstcome_wrong_tokens_total";

/// Number of wrong tokens of a network within [`WINDOW`] that get 401. Additional ones get 429.
const AT_MOST: u32 = 10;

const WINDOW: Duration = Duration::from_secs(60);

/// Maximum number of networks tracked. Beyond it, the oldest is dropped.
const NETWORKS: usize = 1_024;

#[derive(Default)]
pub(super) struct WrongTokens {
    /// Start of the window, and number of wrong tokens in it.
    by_network: Mutex<HashMap<IpAddr, (Instant, u32)>>,
    lines: LineLimit,
}

/// Describes the counter, for `/metrics`.
pub(crate) fn describe() {
    describe_counter!(NAME, "Requests and log-ins with a wrong operators' token");
    counter!(NAME).absolute(0);
}

impl WrongTokens {
    /// Counts a wrong token, and logs it without the token. If its network has exceeded the limit,
    /// returns the time until the window ends.
    pub(super) fn note(&self, from: Option<IpAddr>) -> Option<Duration> {
        counter!(NAME).increment(1);
        let now = Instant::now();
        if let Some(left_out) = self.lines.allow("wrong_token", now) {
            tracing::warn!(?from, left_out, "wrong operators' token");
        }
        from.and_then(|from| self.count(from, now))
    }

    fn count(&self, from: IpAddr, now: Instant) -> Option<Duration> {
        let mut by_network = self.by_network.lock();
        by_network.retain(|_, (first, _)| *first + WINDOW > now);
        let from = network(from);
        if by_network.len() >= NETWORKS && !by_network.contains_key(&from) {
            let oldest = by_network
                .iter()
                .min_by_key(|(_, (first, _))| *first)
                .map(|(address, _)| *address);
            oldest.and_then(|address| by_network.remove(&address));
        }
        let (first, wrong) = by_network.entry(from).or_insert((now, 0));
        *wrong = wrong.saturating_add(1);
        (*wrong > AT_MOST).then(|| (*first + WINDOW).saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_tokens_per_network_and_tracked_networks_are_limited() {
        let tokens = WrongTokens::default();
        let now = Instant::now();
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        for _ in 0..AT_MOST {
            assert_eq!(tokens.count(address(7), now), None);
        }
        assert_eq!(tokens.count(address(7), now), Some(WINDOW));
        assert_eq!(
            (
                tokens.count(address(8), now),
                tokens.count(address(7), now + WINDOW)
            ),
            (None, None)
        );
        for n in 0..2_000 {
            tokens.count(address(1_000 + n), now + WINDOW + Duration::from_millis(1));
        }
        assert_eq!(tokens.by_network.lock().len(), NETWORKS);
    }
}
