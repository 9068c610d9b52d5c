//! The kinds of answers to a claim.

use firstcome_oracle::{RecordedAnswer, RecordedOutcome};
use serde::{Deserialize, Serialize};
use strum::{Display, EnumCount, VariantArray};

/// The kind of an answer to a claim. Except for the last three, kinds have the name of the `status`
/// or `code` of the API's answer.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    Display,
    EnumCount,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum AnswerKind {
    /// 202: a promise that is made for the first time.
    Accepted,
    /// 200: the same promise again.
    AlreadyClaimed,
    Waiting,
    SoldOut,
    NotOpen,
    Paused,
    Closed,
    Unavailable,
    /// Any other status below 500.
    Refused,
    /// Any other status from 500 on, and answers that could not be parsed.
    Failed,
    /// The connection broke or timed out.
    NoAnswer,
}

impl AnswerKind {
    pub(crate) fn of(outcome: &RecordedOutcome) -> Self {
        let code = match outcome {
            RecordedOutcome::Ok(RecordedAnswer::Accepted { .. }) => return Self::Accepted,
            RecordedOutcome::Ok(RecordedAnswer::AlreadyClaimed { .. }) => {
                return Self::AlreadyClaimed;
            }
            RecordedOutcome::Ok(RecordedAnswer::Waiting { .. }) => return Self::Waiting,
            RecordedOutcome::Ok(RecordedAnswer::SoldOut) => return Self::SoldOut,
            RecordedOutcome::Ok(_) => return Self::Refused,
            RecordedOutcome::Failed(code) | RecordedOutcome::Unknown(code) => code,
        };
        match code.as_str() {
            "not_open" => Self::NotOpen,
            "paused" => Self::Paused,
            "closed" => Self::Closed,
            "unavailable" => Self::Unavailable,
            _ if matches!(outcome, RecordedOutcome::Failed(_)) => Self::Refused,
            _ => Self::Failed,
        }
    }

    /// Whether a retry shortly afterwards may succeed.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::NotOpen | Self::Unavailable | Self::NoAnswer)
    }

    pub(crate) fn is_promise(self) -> bool {
        matches!(self, Self::Accepted | Self::AlreadyClaimed)
    }
}

/// Parses the answer to a claim.
pub(crate) fn outcome(status: u16, body: &[u8]) -> RecordedOutcome {
    // Most answers are this one, and parsing them all would double the generator's work.
    const SOLD_OUT: &[u8] = b"\"code\":\"sold_out\"";
    if status == 409 && body.windows(SOLD_OUT.len()).any(|part| part == SOLD_OUT) {
        return RecordedOutcome::Ok(RecordedAnswer::SoldOut);
    }
    RecordedOutcome::of_http(status, &serde_json::from_slice(body).unwrap_or_default())
}
