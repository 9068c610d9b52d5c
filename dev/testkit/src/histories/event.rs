//! The lines of a history.
//!
//! Their order is what counts, and each is written on the safe side of what it speaks of: `invoked`
//! before the request is sent, its outcome after the answer came, a read after it was read, a
//! quantity before it is raised (or after it was lowered).

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// Milliseconds since the recorder was made. For people to read; nothing is judged by it.
    pub at_ms: u64,
    #[serde(flatten)]
    pub event: RecordedEvent,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RecordedEvent {
    /// A drop and how much of it there is from here on.
    Drop {
        drop: u64,
        coupon: u64,
        quantity: u64,
        /// In which scope a person may have one.
        once_per: RecordedScope,
    },
    /// A person asks for one.
    Invoked {
        /// Number of this operation; each has one of its own, also a retry.
        op: u64,
        /// The coupon asked for.
        coupon: u64,
        /// The drop that was open when it was asked, where the recorder knows it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drop: Option<u64>,
        person: String,
    },
    /// A person's claim is given back or revoked.
    Revoking {
        /// As in `invoked`.
        op: u64,
        coupon: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drop: Option<u64>,
        person: String,
        /// Whether the person may claim again afterwards.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// From here on a coupon is for people on its allow list; these are on it. Without this line a
    /// coupon is for everybody. It comes before anybody asks for the coupon.
    AllowList {
        coupon: u64,
        people: Vec<String>,
    },
    /// An operator puts a person on a coupon's allow list, or takes them off. A request for several
    /// people is as many operations.
    Listing {
        /// As in `invoked`.
        op: u64,
        coupon: u64,
        person: String,
        /// Put on it, not taken off.
        on: bool,
    },
    Ok {
        op: u64,
        answer: RecordedAnswer,
    },
    /// It surely had no effect: refused before anything was given.
    Failed {
        op: u64,
        reason: String,
    },
    /// Whether it had an effect is not known: a timeout, a cut connection, a 5xx.
    Unknown {
        op: u64,
        reason: String,
    },
    /// All rows of a drop at one instant.
    Read {
        drop: u64,
        rows: Vec<RecordedRow>,
    },
    /// The number of rows of a drop at one instant.
    Counted {
        drop: u64,
        rows: u64,
    },
    /// The system lists a promise as broken.
    Broken {
        drop: u64,
        person: String,
        /// Which slot was promised; without it, any of theirs in this drop.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<i64>,
    },
    /// All rows of a drop once everything has healed.
    Final {
        drop: u64,
        rows: Vec<RecordedRow>,
    },
}

/// In which scope a person may have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedScope {
    /// One in each drop.
    Drop,
    /// One in the whole coupon.
    Coupon,
}

/// A row of `issued_coupons`, as far as it is judged. The slot is whatever the table held.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecordedRow {
    pub slot: i64,
    pub person: String,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum RecordedAnswer {
    /// A slot, just now: a promise.
    Accepted {
        #[serde(alias = "drop_id")]
        drop: u64,
        slot: i64,
    },
    /// They hold one already: a promise too.
    AlreadyClaimed {
        #[serde(alias = "drop_id")]
        drop: u64,
        slot: i64,
    },
    /// A place on the waiting list.
    Waiting {
        /// The place, 1 is next.
        position: u64,
    },
    /// Nothing left and no room to wait.
    SoldOut,
    /// It was given back or revoked, and goes to the next.
    Revoked {
        #[serde(alias = "drop_id")]
        drop: u64,
    },
    /// The coupon is for others.
    NotAllowed,
    /// The allow list has the change.
    ListChanged,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedOutcome {
    Ok(RecordedAnswer),
    Failed(String),
    Unknown(String),
}

impl RecordedOutcome {
    /// What an HTTP answer to a claim means. A 503 is unknown: a script that timed out may have
    /// run. So is a 2xx that can't be read.
    pub fn of_http(status: u16, body: &Value) -> Self {
        let code = || {
            body.get("code")
                .and_then(Value::as_str)
                .map_or_else(|| status.to_string(), str::to_owned)
        };
        match status {
            200..=299 => match serde_json::from_value(body.clone()) {
                Ok(answer) => Self::Ok(answer),
                Err(error) => {
                    Self::Unknown(format!("{status} with a body that says nothing: {error}"))
                }
            },
            403 if code() == "not_allowed" => Self::Ok(RecordedAnswer::NotAllowed),
            409 if code() == "sold_out" => Self::Ok(RecordedAnswer::SoldOut),
            408 => Self::Unknown(code()),
            400..=499 => Self::Failed(code()),
            _ => Self::Unknown(code()),
        }
    }

    /// The same of an answer to a change of an allow list, which has no `status`.
    pub fn of_list_change(status: u16, body: &Value) -> Self {
        if status == 200 {
            Self::Ok(RecordedAnswer::ListChanged)
        } else {
            Self::of_http(status, body)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn http_answers_are_read_as_the_contract_gives_them() {
        let accepted = json!({"status": "accepted", "drop_id": 3, "slot": 7, "queued": false});
        assert_eq!(
            RecordedOutcome::of_http(202, &accepted),
            RecordedOutcome::Ok(RecordedAnswer::Accepted { drop: 3, slot: 7 })
        );
        let already = json!({"status": "already_claimed", "drop_id": 3, "slot": 7});
        assert_eq!(
            RecordedOutcome::of_http(200, &already),
            RecordedOutcome::Ok(RecordedAnswer::AlreadyClaimed { drop: 3, slot: 7 })
        );
        let waiting = json!({"status": "waiting", "position": 2});
        assert_eq!(
            RecordedOutcome::of_http(202, &waiting),
            RecordedOutcome::Ok(RecordedAnswer::Waiting { position: 2 })
        );
        assert_eq!(
            RecordedOutcome::of_http(409, &json!({"code": "sold_out"})),
            RecordedOutcome::Ok(RecordedAnswer::SoldOut)
        );
        assert_eq!(
            RecordedOutcome::of_http(403, &json!({"code": "not_allowed"})),
            RecordedOutcome::Ok(RecordedAnswer::NotAllowed)
        );
        assert_eq!(
            RecordedOutcome::of_http(403, &json!({"code": "forbidden"})),
            RecordedOutcome::Failed("forbidden".into())
        );
        assert_eq!(
            RecordedOutcome::of_list_change(200, &json!({"changed": 1})),
            RecordedOutcome::Ok(RecordedAnswer::ListChanged)
        );
        let away = json!({"code": "unavailable"});
        assert_eq!(
            RecordedOutcome::of_list_change(503, &away),
            RecordedOutcome::Unknown("unavailable".into())
        );
        assert_eq!(
            RecordedOutcome::of_http(410, &json!({"code": "closed"})),
            RecordedOutcome::Failed("closed".into())
        );
        assert_eq!(
            RecordedOutcome::of_http(503, &json!({"code": "unavailable"})),
            RecordedOutcome::Unknown("unavailable".into())
        );
        assert!(matches!(
            RecordedOutcome::of_http(202, &json!({"status": "accepted"})),
            RecordedOutcome::Unknown(_)
        ));
    }

    #[test]
    fn lines_read_as_they_are_documented() {
        let line = HistoryLine {
            at_ms: 5,
            event: RecordedEvent::Ok {
                op: 1,
                answer: RecordedAnswer::Accepted { drop: 1, slot: 2 },
            },
        };
        let text =
            r#"{"at_ms":5,"event":"ok","op":1,"answer":{"status":"accepted","drop":1,"slot":2}}"#;
        assert_eq!(serde_json::to_string(&line).unwrap(), text);
        assert_eq!(serde_json::from_str::<HistoryLine>(text).unwrap(), line);
    }
}
