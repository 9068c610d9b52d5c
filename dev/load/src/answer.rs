//! Reads the answer to a claim.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 202: a promise, for the first time.
    Accepted,
    /// 200: the same promise again.
    AlreadyClaimed,
    Waiting,
    SoldOut,
    NotOpen,
    Paused,
    Closed,
    Unavailable,
    /// Any other answer below 500.
    Refused,
    /// Any other answer from 500 on, and what could not be read.
    Failed,
    /// The connection broke, or nothing came in time.
    NoAnswer,
}

impl Kind {
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

    /// Whether another attempt may succeed a moment later.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::NotOpen | Self::Unavailable | Self::NoAnswer)
    }
}

impl fmt::Display for Kind {
    /// The word in JSON and in tables.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Promise {
    pub drop_id: i64,
    pub slot: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub kind: Kind,
    /// For `accepted` and `already_claimed`.
    pub promise: Option<Promise>,
    /// Whether Kafka had the claim when the answer was given; `true` where the answer does not say.
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
struct Problem {
    code: String,
}

impl Answer {
    /// An answer of a kind that promises nothing.
    pub fn no(kind: Kind) -> Self {
        Self { kind, promise: None, queued: true }
    }

    /// Reads a status and a body. A promise without drop or slot is [`Kind::Failed`]: nobody could
    /// check it.
    pub fn read(status: u16, body: &[u8]) -> Self {
        if (200..300).contains(&status) {
            return Self::success(body).unwrap_or(Self::no(Kind::Failed));
        }
        if status == 409 && is_sold_out(body) {
            return Self::no(Kind::SoldOut);
        }
        let code = serde_json::from_slice::<Problem>(body).map(|problem| problem.code).unwrap_or_default();
        Self::no(match code.as_str() {
            "sold_out" => Kind::SoldOut,
            "not_open" => Kind::NotOpen,
            "paused" => Kind::Paused,
            "closed" => Kind::Closed,
            "unavailable" => Kind::Unavailable,
            _ if status >= 500 => Kind::Failed,
            _ => Kind::Refused,
        })
    }

    fn success(body: &[u8]) -> Option<Self> {
        let body: Success = serde_json::from_slice(body).ok()?;
        let kind = match body.status.as_str() {
            "accepted" => Kind::Accepted,
            "already_claimed" => Kind::AlreadyClaimed,
            "waiting" => return Some(Self::no(Kind::Waiting)),
            _ => return None,
        };
        let promise = Promise { drop_id: body.drop_id?, slot: body.slot? };
        Some(Self { kind, promise: Some(promise), queued: body.queued.unwrap_or(true) })
    }
}

/// Most answers by far are these; parsing each as JSON would double the work of the generator.
fn is_sold_out(body: &[u8]) -> bool {
    const CODE: &[u8] = b"\"code\":\"sold_out\"";
    body.windows(CODE.len()).any(|part| part == CODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_the_contract_is_distinguished() {
        let cases = [
            (202, r#"{"status":"accepted","drop_id":1,"slot":7,"queued":false}"#, Kind::Accepted),
            (200, r#"{"status":"already_claimed","drop_id":1,"slot":7}"#, Kind::AlreadyClaimed),
            (202, r#"{"status":"waiting","position":3}"#, Kind::Waiting),
            (409, r#"{"status":409,"code":"sold_out"}"#, Kind::SoldOut),
            (409, r#"{"status": 409, "code": "sold_out"}"#, Kind::SoldOut),
            (409, r#"{"status":409,"code":"not_open","opens_at":"2026-12-01T06:00:00Z"}"#, Kind::NotOpen),
            (409, r#"{"status":409,"code":"paused"}"#, Kind::Paused),
            (410, r#"{"status":410,"code":"closed"}"#, Kind::Closed),
            (503, r#"{"status":503,"code":"unavailable"}"#, Kind::Unavailable),
            (404, r#"{"status":404,"code":"not_found"}"#, Kind::Refused),
            (500, "", Kind::Failed),
            (202, r#"{"status":"accepted"}"#, Kind::Failed),
            (200, "<html>", Kind::Failed),
        ];
        for (status, body, kind) in cases {
            let answer = Answer::read(status, body.as_bytes());
            assert_eq!(answer.kind, kind, "{status} {body}");
        }
    }

    #[test]
    fn a_promise_is_kept_with_its_answer() {
        let body = br#"{"status":"accepted","drop_id":2,"slot":37,"queued":false}"#;
        let answer = Answer::read(202, body);
        assert_eq!(answer.promise, Some(Promise { drop_id: 2, slot: 37 }));
        assert!(!answer.queued);
    }
}
