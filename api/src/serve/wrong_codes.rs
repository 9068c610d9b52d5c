//! Limits wrong codes: a token bucket for each API token. A guess is right with a probability of
//! 2^-40, so nobody may try quickly. A shop that reaches the limit delays no other shop that has its
//! own token.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::Mutex;

/// Wrong codes that a token may send in a second.
const PER_SECOND: f64 = 10.0;

/// Wrong codes that a token may send at once, after a minute without any.
const AT_ONCE: f64 = 600.0;

/// The wrong codes that each token has sent, by its fingerprint.
#[derive(Debug, Default)]
pub(crate) struct WrongCodes(Mutex<HashMap<String, Sent>>);

#[derive(Debug, Clone, Copy)]
struct Sent {
    codes: f64,
    at: Instant,
}

impl Sent {
    fn now(self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.codes - passed * PER_SECOND).max(0.0)
    }
}

impl WrongCodes {
    /// Whether a code of this token may be looked up.
    pub(crate) fn allow(&self, token: &str, now: Instant) -> bool {
        let sent = self.0.lock().get(token).copied();
        sent.is_none_or(|sent| sent.now(now) + 1.0 <= AT_ONCE)
    }

    pub(crate) fn note(&self, token: &str, now: Instant) {
        let mut all = self.0.lock();
        let codes = all.get(token).map_or(0.0, |sent| sent.now(now)) + 1.0;
        all.insert(token.to_owned(), Sent { codes, at: now });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn token_that_sends_many_wrong_codes_waits_and_others_do_not() {
        let codes = WrongCodes::default();
        let start = Instant::now();
        for _ in 0..600 {
            assert!(codes.allow("a", start));
            codes.note("a", start);
        }
        assert!(!codes.allow("a", start) && codes.allow("b", start));
        let later = start + Duration::from_millis(150);
        assert!(codes.allow("a", later));
        codes.note("a", later);
        assert!(!codes.allow("a", later));
        assert!(codes.allow("a", start + Duration::from_mins(2)));
    }
}
