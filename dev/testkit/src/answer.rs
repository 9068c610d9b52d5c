//! What a claim was answered, as the contract words it.

use serde_json::Value;

use crate::http::Reply;

/// An answer to `POST /v1/coupons/{id}/claims`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Accepted {
        drop: i64,
        /// The slot in it.
        slot: u32,
        /// Whether Kafka has it.
        queued: bool,
    },
    Already {
        drop: i64,
        /// The slot in it.
        slot: u32,
    },
    Waiting {
        position: u32,
    },
    /// A problem: its status and code.
    Problem(u16, String),
    /// No answer came: the claim may or may not have taken effect.
    Unknown(String),
}

impl Answer {
    /// Reads an answer; one that is not in the contract fails the test.
    pub fn read(reply: &Reply) -> Self {
        let number = |name: &str| reply.body[name].as_i64().unwrap_or_else(|| panic!("no {name} in {reply:?}"));
        let slot = || u32::try_from(number("slot")).unwrap();
        match (reply.status, reply.body["status"].as_str()) {
            (202, Some("accepted")) => {
                let queued = reply.body["queued"].as_bool().unwrap_or_else(|| panic!("no queued in {reply:?}"));
                Self::Accepted { drop: number("drop_id"), slot: slot(), queued }
            }
            (200, Some("already_claimed")) => Self::Already { drop: number("drop_id"), slot: slot() },
            (202, Some("waiting")) => Self::Waiting { position: u32::try_from(number("position")).unwrap() },
            (400.., _) => {
                assert_eq!(reply.content_type, "application/problem+json", "{reply:?}");
                assert_eq!(reply.body["status"], Value::from(reply.status), "{reply:?}");
                let code = reply.body["code"].as_str().unwrap_or_else(|| panic!("no code in {reply:?}"));
                Self::Problem(reply.status, code.to_owned())
            }
            _ => panic!("the contract has no such answer: {reply:?}"),
        }
    }

    /// The drop and slot that were promised, if this is a promise.
    pub fn promised(&self) -> Option<(i64, u32)> {
        match self {
            Self::Accepted { drop, slot, .. } | Self::Already { drop, slot } => Some((*drop, *slot)),
            _ => None,
        }
    }

    /// Whether this is `accepted`.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted { .. })
    }

    /// Whether this is a problem with this code.
    pub fn is(&self, code: &str) -> bool {
        matches!(self, Self::Problem(_, found) if found == code)
    }

    /// A word for counting.
    pub fn word(&self) -> &str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Already { .. } => "already_claimed",
            Self::Waiting { .. } => "waiting",
            Self::Problem(_, code) => code,
            Self::Unknown(_) => "unknown",
        }
    }
}
