//! The lines of a history.
//!
//! Only the order of the lines matters. Each line is written at the moment that can only make the
//! checks more lenient, never stricter: `invoked` before the request is sent, its outcome after the
//! answer arrives, a read after reading, and a quantity before it is raised or after it is lowered.

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// Milliseconds since the recorder was created. No check uses it, but the excuses in dev/chaos
    /// do.
    pub at_ms: u64,
    #[serde(flatten)]
    pub event: RecordedEvent,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RecordedEvent {
    /// A drop and its quantity from this line on.
    Drop {
        drop: u64,
        coupon: u64,
        quantity: u64,
        /// The scope of the limit of one slot per user.
        once_per: RecordedScope,
    },
    /// A user sends a claim.
    Invoked {
        /// Unique ID of this operation. A retry has a new ID.
        op: u64,
        /// The requested coupon.
        coupon: u64,
        /// The drop that was open at the time, if known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drop: Option<u64>,
        person: String,
    },
    /// From this line on, no claim is admitted to this drop: its window has ended.
    Closed {
        drop: u64,
    },
    /// A user looks up their claim.
    LookingUp {
        /// See `invoked`.
        op: u64,
        coupon: u64,
        person: String,
    },
    /// A user's claim is returned or revoked.
    Revoking {
        /// See `invoked`.
        op: u64,
        coupon: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drop: Option<u64>,
        person: String,
        /// Whether the user may claim again afterwards.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// From this line on, only the users on the allow list may claim a coupon. The list initially
    /// contains these users. A coupon without this line has no allow list. The line precedes all
    /// claims of the coupon.
    AllowList {
        coupon: u64,
        people: Vec<String>,
    },
    /// An operator adds a user to a coupon's allow list or removes the user. A request for several
    /// users counts as several operations.
    Listing {
        /// See `invoked`.
        op: u64,
        coupon: u64,
        person: String,
        /// True if added, false if removed.
        on: bool,
    },
    /// An operator changes the quantity of a coupon. Until `changed` (forever if that line is
    /// missing), Redis and MySQL may each have the old or the new one.
    Changing {
        /// See `invoked`.
        op: u64,
        coupon: u64,
        quantity: u64,
    },
    Changed {
        op: u64,
        /// Whether the change was made. Otherwise it was refused.
        made: bool,
    },
    /// A shop uses a code for an order, or undoes the use.
    CodeAsked {
        /// See `invoked`.
        op: u64,
        code: String,
        /// The order.
        reference: String,
        undo: bool,
    },
    /// The answer to a shop. Without it, the request may have its effect at any time.
    CodeAnswered {
        op: u64,
        outcome: CodeAnswer,
    },
    /// The uses of a code that has a row, after the system has recovered.
    CodeFinal {
        code: String,
        /// The order that uses it.
        in_use: Option<String>,
        /// The orders that may never use it, because their use was undone.
        undone: Vec<String>,
    },
    Ok {
        op: u64,
        answer: RecordedAnswer,
    },
    /// The operation was refused, so it certainly had no effect.
    Failed {
        op: u64,
        reason: String,
    },
    /// The operation may or may not have had an effect: a timeout, a cut connection, a 5xx.
    Unknown {
        op: u64,
        reason: String,
    },
    /// All rows of a drop at one time.
    Read {
        drop: u64,
        rows: Vec<RecordedRow>,
    },
    /// The system lists a promise as broken.
    Broken {
        drop: u64,
        person: String,
        /// The promised slot. `None` means any slot of the user in this drop.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<i64>,
    },
    /// All rows of a drop after the system has recovered.
    Final {
        drop: u64,
        rows: Vec<RecordedRow>,
    },
}

/// The scope of the limit of one slot per user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedScope {
    /// One slot in each drop.
    Drop,
    /// One slot in the whole coupon.
    Coupon,
}

/// The checked columns of a row of `issued_coupons`. The slot may be invalid, because the checker
/// does not rely on the schema.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecordedRow {
    pub slot: i64,
    pub person: String,
}

/// The answer to a claim, to its return or revocation, or to a change of an allow list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum RecordedAnswer {
    /// This request gave out a slot, which is a promise.
    Accepted {
        #[serde(alias = "drop_id")]
        drop: u64,
        slot: i64,
    },
    /// The user already holds a slot, which is also a promise.
    AlreadyClaimed {
        #[serde(alias = "drop_id")]
        drop: u64,
        slot: i64,
    },
    /// A position in the waiting list.
    Waiting {
        /// The position; 1 is next.
        position: u64,
    },
    /// No slots and no places on the waiting list are left.
    SoldOut,
    /// The user's claim is returned or revoked, by this request or by an earlier one.
    Revoked {
        #[serde(alias = "drop_id")]
        drop: u64,
    },
    /// The user is not on the coupon's allow list.
    NotAllowed,
    /// The change of the allow list has taken effect.
    ListChanged,
    /// A look-up shows this slot, or that the user has none.
    Shown {
        slot: Option<i64>,
        /// The drop that the answer names.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drop: Option<u64>,
        /// `None` in histories that recorded only the slot.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        claim: Option<ShownClaim>,
    },
}

/// The status of a claim that a look-up shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShownClaim {
    /// The user has a slot, which is a promise.
    Accepted,
    /// The user has a row, which is also a promise.
    Issued,
    Waiting,
    Broken,
    Revoked,
    None,
}

impl ShownClaim {
    pub fn is_promise(self) -> bool {
        match self {
            Self::Accepted | Self::Issued => true,
            Self::Waiting | Self::Broken | Self::Revoked | Self::None => false,
        }
    }
}

/// The answer to a shop that uses a code or undoes a use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeAnswer {
    Done,
    /// Another order uses the code.
    Used,
    /// This order was undone.
    Undone,
    Revoked,
    NoSuchCode,
}

/// How an operation ended. `Unknown`: it may have had an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedOutcome {
    Ok(RecordedAnswer),
    Failed(String),
    Unknown(String),
}

impl RecordedOutcome {
    /// Maps the HTTP answer to a claim or a revocation to its outcome. A 408 or 5xx is unknown,
    /// because a script that timed out may have run. A 2xx that cannot be parsed is also unknown.
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

    /// Maps the answer to a change of an allow list, which has no `status`, to its outcome.
    pub fn of_list_change(status: u16, body: &Value) -> Self {
        if status == 200 {
            Self::Ok(RecordedAnswer::ListChanged)
        } else {
            Self::of_http(status, body)
        }
    }
}
