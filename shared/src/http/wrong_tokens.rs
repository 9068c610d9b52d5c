//! A throttle for wrong operators' tokens, by network.
//!
//! The right token must always get in: behind a gateway that is not set as trusted all requests
//! come from one address, and a lock-out would let anybody there lock the operators out. But a
//! throttle that compares at full speed and only then refuses slows no guessing. So each guess
//! waits before its token is compared, the right one too: a network that guesses makes one guess a
//! second for each connection that it may have, and operators behind the same address wait one
//! second longer. The sessions of the operations page need no token and do not wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use metrics::{counter, describe_counter};
use parking_lot::Mutex;

use super::network::network;
use crate::line_limit::LineLimit;

const NAME: &str = "firstcome_wrong_tokens_total";

/// Wrong tokens that one network may send within [`WINDOW`] before it is throttled.
const AT_MOST: u32 = 10;

const WINDOW: Duration = Duration::from_secs(60);

/// How long a throttled token waits before it is compared.
const DELAY: Duration = Duration::from_secs(1);

/// Networks remembered. If there are more, the oldest is forgotten.
const NETWORKS: usize = 1_024;

#[derive(Default)]
pub(super) struct WrongTokens {
    /// When the first of a window came, and how many.
    by_network: Mutex<HashMap<IpAddr, (Instant, u32)>>,
    lines: LineLimit,
}

/// The counter, for `/metrics`.
pub(crate) fn describe() {
    describe_counter!(NAME, "Requests and log-ins with a wrong operators' token");
    counter!(NAME).absolute(0);
}

impl WrongTokens {
    /// How long this address stays throttled, after the delay if it is.
    pub(super) async fn delay(&self, from: Option<IpAddr>) -> Option<Duration> {
        let wait = self.wait(from?, Instant::now())?;
        tokio::time::sleep(DELAY).await;
        Some(wait)
    }

    fn wait(&self, from: IpAddr, now: Instant) -> Option<Duration> {
        let (first, wrong) = self.by_network.lock().get(&network(from)).copied()?;
        (wrong >= AT_MOST).then(|| (first + WINDOW).saturating_duration_since(now)).filter(|wait| !wait.is_zero())
    }

    /// Counts a wrong token, and logs it without the token.
    pub(super) fn note(&self, from: Option<IpAddr>) {
        counter!(NAME).increment(1);
        let now = Instant::now();
        if let Some(left_out) = self.lines.allow("wrong_token", now) {
            tracing::warn!(?from, left_out, "a wrong operators' token");
        }
        if let Some(from) = from {
            self.count(from, now);
        }
    }

    fn count(&self, from: IpAddr, now: Instant) {
        let mut by_network = self.by_network.lock();
        by_network.retain(|_, (first, _)| *first + WINDOW > now);
        let from = network(from);
        if by_network.len() >= NETWORKS && !by_network.contains_key(&from) {
            let oldest = by_network.iter().min_by_key(|(_, (first, _))| *first).map(|(address, _)| *address);
            oldest.and_then(|address| by_network.remove(&address));
        }
        by_network.entry(from).or_insert((now, 0)).1 += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_tokens_are_bounded_by_network_and_the_networks_too() {
        let (tokens, now) = (WrongTokens::default(), Instant::now());
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        for _ in 0..AT_MOST {
            assert_eq!(tokens.wait(address(7), now), None);
            tokens.count(address(7), now);
        }
        assert_eq!(tokens.wait(address(7), now), Some(WINDOW));
        assert_eq!((tokens.wait(address(8), now), tokens.wait(address(7), now + WINDOW)), (None, None));
        for n in 0..2_000 {
            tokens.count(address(1_000 + n), now + Duration::from_millis(1));
        }
        assert_eq!(tokens.by_network.lock().len(), NETWORKS);
    }
}
