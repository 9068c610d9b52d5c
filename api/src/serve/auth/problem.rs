//! Why tokens are refused: the answer to the user, a metric by reason, and a line in the log.

use std::time::Instant;

use firstcome_shared::http::Problem;
use firstcome_shared::http::problem::Code;
use firstcome_shared::line_limit::LineLimit;
use metrics::counter;
use strum::IntoStaticStr;

/// The reason. Its text is the answer to the user, except for [`Self::BadUserId`]; its name is the
/// label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, IntoStaticStr)]
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
    /// The token's key is not known, and may be new.
    #[error("the keys that tokens are signed with can't be read right now; try again")]
    KeysAway,
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
    pub(super) problem: TokenProblem,
    why: String,
}

/// Maximum length of the values in the log, in characters. They may be the client's text.
const SHOWN: usize = 300;

impl TokenProblem {
    pub(super) fn because(self, why: impl Into<String>) -> TokenRefused {
        TokenRefused {
            problem: self,
            why: why.into(),
        }
    }
}

impl TokenRefused {
    /// Counts this token by its reason, and logs it within the limit.
    pub(super) fn record(&self, lines: &LineLimit) {
        let reason: &'static str = self.problem.into();
        counter!("firstcome_tokens_refused_total", "reason" => reason).increment(1);
        if let Some(left_out) = lines.allow(reason, Instant::now()) {
            let tokens = left_out + 1;
            let why: String = self.why.chars().take(SHOWN).collect();
            tracing::warn!(reason, tokens, ?why, "tokens are refused");
        }
    }
}

impl From<TokenRefused> for Problem {
    fn from(refused: TokenRefused) -> Self {
        match refused.problem {
            TokenProblem::BadUserId => Self::new(Code::BadUserId, refused.why),
            TokenProblem::KeysAway => Self::unavailable(refused.problem.to_string()),
            other => Self::new(Code::Unauthorized, other.to_string()),
        }
    }
}
