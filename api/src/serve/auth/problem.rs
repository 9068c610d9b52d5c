//! Why tokens are refused: the answer to the user, a metric by reason, and a line in the log.

use std::collections::HashMap;
use std::time::Duration;

use firstcome_shared::http::Problem;
use firstcome_shared::http::problem::Code;
use metrics::{counter, describe_counter};
use parking_lot::Mutex;
use strum::IntoStaticStr;
use tokio::time::Instant;

use super::unauthorized;

/// Interval between two lines in the log about tokens that are refused for one reason.
const LOG_EVERY: Duration = Duration::from_secs(60);

const REFUSED: &str = "firstcome_tokens_refused_total";

/// The reason. Its text is the answer to the user; its name is the label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum TokenProblem {
    #[error("the token is missing: send `Authorization: Bearer`")]
    Missing,
    #[error("the token is not a valid JWT")]
    Malformed,
    #[error("the token is signed with another algorithm than the one that is accepted")]
    Algorithm,
    #[error("the token does not name the key that it is signed with (kid)")]
    NoKeyId,
    #[error("the token is signed with a key that is not known here")]
    UnknownKey,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token has expired; get a new one")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token requires extensions that this service does not support")]
    Extension,
    #[error("the token is from another issuer")]
    Issuer,
    #[error("the token is meant for another service")]
    Audience,
    #[error("the token does not name the user as text or as a whole number")]
    NoUser,
    #[error("the token names the user by an id that is not accepted")]
    BadUserId,
}

/// A refused token, with the values that do not fit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TokenRefused {
    pub(crate) problem: TokenProblem,
    why: String,
}

/// Maximum length of the values in the log, in characters. They may be the client's text.
const SHOWN: usize = 300;

impl TokenRefused {
    /// Returns the name of the key, if the token was refused because its key is not known.
    pub(super) fn unknown_key(&self) -> Option<&str> {
        (self.problem == TokenProblem::UnknownKey).then_some(&self.why)
    }
}

impl From<TokenRefused> for Problem {
    fn from(refused: TokenRefused) -> Self {
        match refused.problem {
            TokenProblem::BadUserId => Self::new(Code::BadUserId, refused.why),
            other => unauthorized(other.to_string()),
        }
    }
}

impl TokenProblem {
    pub(super) fn because(self, why: impl Into<String>) -> TokenRefused {
        TokenRefused {
            problem: self,
            why: why.into(),
        }
    }
}

/// Counts refused tokens by reason, and logs them at most once a minute for each.
#[derive(Default)]
pub(crate) struct RefusalLog(Mutex<HashMap<TokenProblem, Refusals>>);

#[derive(Default)]
struct Refusals {
    /// Since the last line in the log.
    tokens: u64,
    logged_at: Option<Instant>,
}

/// Describes the metric.
pub(crate) fn describe() {
    describe_counter!(
        REFUSED,
        "Requests refused because of their token, by reason"
    );
}

impl RefusalLog {
    pub(super) fn record(&self, refused: &TokenRefused) {
        let reason: &'static str = refused.problem.into();
        counter!(REFUSED, "reason" => reason).increment(1);
        let mut reasons = self.0.lock();
        let refusals = reasons.entry(refused.problem).or_default();
        refusals.tokens += 1;
        if refusals
            .logged_at
            .is_none_or(|at| at.elapsed() >= LOG_EVERY)
        {
            let why: String = refused.why.chars().take(SHOWN).collect();
            tracing::warn!(reason, tokens = refusals.tokens, ?why, "tokens are refused");
            *refusals = Refusals {
                tokens: 0,
                logged_at: Some(Instant::now()),
            };
        }
    }
}
