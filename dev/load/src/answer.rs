//! Parses the answer to a claim.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// Every kind, in the order of the table.
    pub const ALL: [Self; 11] = [
        Self::Accepted,
        Self::AlreadyClaimed,
        Self::Waiting,
        Self::SoldOut,
        Self::NotOpen,
        Self::Paused,
        Self::Closed,
        Self::Unavailable,
        Self::Refused,
        Self::Failed,
        Self::NoAnswer,
    ];

    /// Whether a retry shortly afterwards may succeed.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::NotOpen | Self::Unavailable | Self::NoAnswer)
    }
}

impl fmt::Display for AnswerKind {
    /// Writes the kind as in JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
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
    /// Whether Kafka had acknowledged the claim before the response. `true` if the response does
    /// not state it.
    pub queued: bool,
}

#[derive(Deserialize)]
struct Success {
    status: String,
    drop_id: Option<i64>,
    slot: Option<u32>,
    queued: Option<bool>,
}

#[derive(Deserialize)]
struct ProblemCode {
    code: String,
}

impl CrowdAnswer {
    /// Creates an answer without a promise.
    pub fn no(kind: AnswerKind) -> Self {
        Self {
            kind,
            promise: None,
            queued: true,
        }
    }

    /// Parses a status and a body. A promise without drop or slot is [`AnswerKind::Failed`],
    /// because it cannot be checked.
    pub fn read(status: u16, body: &[u8]) -> Self {
        if (200..300).contains(&status) {
            return Self::success(body).unwrap_or(Self::no(AnswerKind::Failed));
        }
        if status == 409 && is_sold_out(body) {
            return Self::no(AnswerKind::SoldOut);
        }
        let code = serde_json::from_slice::<ProblemCode>(body)
            .map(|problem| problem.code)
            .unwrap_or_default();
        Self::no(match code.as_str() {
            "sold_out" => AnswerKind::SoldOut,
            "not_open" => AnswerKind::NotOpen,
            "paused" => AnswerKind::Paused,
            "closed" => AnswerKind::Closed,
            "unavailable" => AnswerKind::Unavailable,
            _ if status >= 500 => AnswerKind::Failed,
            _ => AnswerKind::Refused,
        })
    }

    fn success(body: &[u8]) -> Option<Self> {
        let body: Success = serde_json::from_slice(body).ok()?;
        let kind = match body.status.as_str() {
            "accepted" => AnswerKind::Accepted,
            "already_claimed" => AnswerKind::AlreadyClaimed,
            "waiting" => return Some(Self::no(AnswerKind::Waiting)),
            _ => return None,
        };
        let promise = PromisedSlot {
            drop_id: body.drop_id?,
            slot: body.slot?,
        };
        Some(Self {
            kind,
            promise: Some(promise),
            queued: body.queued.unwrap_or(true),
        })
    }
}

/// Recognises most answers without parsing them as JSON, which would double the generator's work.
fn is_sold_out(body: &[u8]) -> bool {
    const CODE: &[u8] = b"\"code\":\"sold_out\"";
    body.windows(CODE.len()).any(|part| part == CODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinguishes_every_answer_of_the_contract() {
        let cases = [
            (
                202,
                r#"{"status":"accepted","drop_id":1,"slot":7,"queued":false}"#,
                AnswerKind::Accepted,
            ),
            (
                200,
                r#"{"status":"already_claimed","drop_id":1,"slot":7}"#,
                AnswerKind::AlreadyClaimed,
            ),
            (
                202,
                r#"{"status":"waiting","position":3}"#,
                AnswerKind::Waiting,
            ),
            (
                409,
                r#"{"status":409,"code":"sold_out"}"#,
                AnswerKind::SoldOut,
            ),
            (
                409,
                r#"{"status": 409, "code": "sold_out"}"#,
                AnswerKind::SoldOut,
            ),
            (
                409,
                r#"{"status":409,"code":"not_open","opens_at":"2026-12-01T06:00:00Z"}"#,
                AnswerKind::NotOpen,
            ),
            (409, r#"{"status":409,"code":"paused"}"#, AnswerKind::Paused),
            (410, r#"{"status":410,"code":"closed"}"#, AnswerKind::Closed),
            (
                503,
                r#"{"status":503,"code":"unavailable"}"#,
                AnswerKind::Unavailable,
            ),
            (
                404,
                r#"{"status":404,"code":"not_found"}"#,
                AnswerKind::Refused,
            ),
            (500, "", AnswerKind::Failed),
            (202, r#"{"status":"accepted"}"#, AnswerKind::Failed),
            (200, "<html>", AnswerKind::Failed),
        ];
        for (status, body, kind) in cases {
            let answer = CrowdAnswer::read(status, body.as_bytes());
            assert_eq!(answer.kind, kind, "{status} {body}");
        }
    }

    #[test]
    fn answer_records_the_promise_and_whether_it_is_queued() {
        let body = br#"{"status":"accepted","drop_id":2,"slot":37,"queued":false}"#;
        let answer = CrowdAnswer::read(202, body);
        assert_eq!(
            answer.promise,
            Some(PromisedSlot {
                drop_id: 2,
                slot: 37
            })
        );
        assert!(!answer.queued);
    }
}
