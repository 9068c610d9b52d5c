//! Why a delivery failed.

use chrono::TimeDelta;

#[derive(Debug, thiserror::Error)]
#[error("{reason} -> {advice}")]
pub(crate) struct Failure {
    pub(crate) reason: String,
    /// The usual cause, and what to do.
    pub(crate) advice: &'static str,
    /// Whether the target rejected the message permanently.
    pub(crate) is_final: bool,
    /// How long the target wants the next attempt to wait.
    pub(crate) after: Option<TimeDelta>,
}

impl Failure {
    /// A failure after which another attempt may succeed.
    pub(crate) fn new(reason: String, advice: &'static str) -> Self {
        Self {
            reason,
            advice,
            is_final: false,
            after: None,
        }
    }
}
