//! Parses the answer to a claim according to the contract.

use crate::reply::HttpReply;

/// The answer to `POST /v1/coupons/{id}/claims`, or the refusal of a return or a revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Accepted {
        drop: i64,
        slot: u32,
        queued: bool,
    },
    Already {
        drop: i64,
        slot: u32,
    },
    Waiting {
        position: u32,
    },
    /// Status and code.
    Problem(u16, String),
    /// No answer arrived, so the request may or may not have taken effect. For a return or a
    /// revocation, also an answer outside the contract.
    Unknown(String),
}

impl Answer {
    /// Parses an answer. The error describes how the answer violates the contract.
    pub fn of(reply: &HttpReply) -> Result<Self, String> {
        let outside = |what: &str| format!("{what}: {reply:?}");
        let number = |name: &str| reply.body[name].as_i64().ok_or_else(|| outside(name));
        let small = |name: &str| u32::try_from(number(name)?).map_err(|_| outside(name));
        match (reply.status, reply.body["status"].as_str()) {
            (202, Some("accepted")) => {
                let queued = reply.body["queued"]
                    .as_bool()
                    .ok_or_else(|| outside("queued"))?;
                Ok(Self::Accepted {
                    drop: number("drop_id")?,
                    slot: small("slot")?,
                    queued,
                })
            }
            (200, Some("already_claimed")) => Ok(Self::Already {
                drop: number("drop_id")?,
                slot: small("slot")?,
            }),
            (202, Some("waiting")) => Ok(Self::Waiting {
                position: small("position")?,
            }),
            (503, _) if reply.retry_after().is_none_or(|seconds| seconds < 1) => {
                Err(outside("Retry-After"))
            }
            (400.., _) if reply.content_type != "application/problem+json" => {
                Err(outside("content type"))
            }
            (400.., _) if reply.body["status"] != reply.status => Err(outside("status")),
            (400.., _) => {
                let code = reply.body["code"].as_str().ok_or_else(|| outside("code"))?;
                Ok(Self::Problem(reply.status, code.to_owned()))
            }
            _ => Err(outside("the contract has no such answer")),
        }
    }

    /// Returns the promised drop and slot, if the answer is a promise.
    pub fn promised(&self) -> Option<(i64, u32)> {
        match self {
            Self::Accepted { drop, slot, .. } | Self::Already { drop, slot } => {
                Some((*drop, *slot))
            }
            _ => None,
        }
    }

    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted { .. })
    }

    /// Whether the answer is a problem with this code.
    pub fn is(&self, code: &str) -> bool {
        matches!(self, Self::Problem(_, found) if found == code)
    }

    /// Returns the answer in one word, the key by which answers are counted.
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
