//! Parses the answer to a claim.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumCount, VariantArray};

/// The kind of an answer to a claim. Except for the last three, kinds have the name of the `status`
/// or `code` of the API's answer, from which they are parsed.
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
    /// Whether a retry shortly afterwards may succeed.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::NotOpen | Self::Unavailable | Self::NoAnswer)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PromisedSlot {
    pub drop_id: i64,
    pub slot: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrowdAnswer {
    pub kind: AnswerKind,
    /// The promise of `accepted` and `already_claimed`.
    pub promise: Option<PromisedSlot>,
}

#[derive(Deserialize)]
struct Success {
    status: AnswerKind,
    #[serde(flatten)]
    promise: Option<PromisedSlot>,
}

#[derive(Deserialize)]
struct Problem {
    code: AnswerKind,
}

impl CrowdAnswer {
    /// Creates an answer without a promise.
    pub fn no(kind: AnswerKind) -> Self {
        let promise = None;
        Self { kind, promise }
    }

    /// Parses a status and a body. A promise without drop or slot is [`AnswerKind::Failed`],
    /// because it cannot be checked.
    pub fn read(status: u16, body: &[u8]) -> Self {
        match status {
            200..300 => Self::success(body).unwrap_or(Self::no(AnswerKind::Failed)),
            409 if is_sold_out(body) => Self::no(AnswerKind::SoldOut),
            _ => Self::no(match serde_json::from_slice::<Problem>(body) {
                Ok(problem) => problem.code,
                Err(_) if status >= 500 => AnswerKind::Failed,
                Err(_) => AnswerKind::Refused,
            }),
        }
    }

    fn success(body: &[u8]) -> Option<Self> {
        let Success { status, promise } = serde_json::from_slice(body).ok()?;
        let promise = match status {
            AnswerKind::Accepted | AnswerKind::AlreadyClaimed => Some(promise?),
            AnswerKind::Waiting => None,
            _ => return None,
        };
        Some(Self {
            kind: status,
            promise,
        })
    }
}

/// Recognises `sold_out` without parsing JSON. Most answers are that, and parsing them all would
/// double the generator's work.
fn is_sold_out(body: &[u8]) -> bool {
    const CODE: &[u8] = b"\"code\":\"sold_out\"";
    body.windows(CODE.len()).any(|part| part == CODE)
}
