//! Outcomes of claims: the response to the user, the label of the metric, and the sentence for both
//! the response and the log.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use chrono::SecondsFormat;
use firstcome_shared::domain::{DropId, Slot};
use firstcome_shared::http::Problem;
use firstcome_shared::http::problem::Code;
use firstcome_shared::redis::admission::{Admission, AdmissionError};
use serde::Serialize;
use strum::IntoStaticStr;
use utoipa::ToSchema;

use crate::serve::catalogue::LookupError;
use crate::serve::catalogue::coupon_with_drops::instant;

/// A claim that got a slot or a position in the waiting list.
#[derive(Debug, Serialize, IntoStaticStr, ToSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[schema(as = Claim)]
pub(crate) enum ClaimAnswer {
    /// A new slot.
    #[schema(title = "Accepted")]
    Accepted {
        drop_id: DropId,
        #[schema(value_type = u32)]
        slot: Slot,
        /// True: the message is on the topic, and the coupon comes a moment later. False: Kafka did
        /// not acknowledge it in time, so the API has issued the coupon itself.
        queued: bool,
    },
    /// The slot that the user already holds.
    #[schema(title = "AlreadyClaimed")]
    AlreadyClaimed {
        drop_id: DropId,
        #[schema(value_type = u32)]
        slot: Slot,
    },
    /// A position in the waiting list.
    #[schema(title = "Waiting")]
    Waiting {
        /// 1 is next.
        position: u32,
    },
}

/// Why a claim or a read of its status was refused.
#[derive(Debug)]
pub(crate) enum ClaimRefusal {
    Coupon(LookupError),
    /// Admission gave neither a slot nor a position in the waiting list.
    Refused(Admission),
    /// The gate was closed, the claim was not sent, or Redis did not answer as expected. Only in
    /// the last case may the claim have been admitted.
    NotAnswered(Arc<AdmissionError>),
    /// Redis holds the claim, but no second store does yet.
    NotDurable,
    /// The stores that answered cannot determine the status of the claim. For example, a coupon
    /// without any drop: each coupon is created with one, so MySQL has lost it.
    ClaimStateUnknown,
    /// The limit of work in progress is reached, and the work was not started.
    TooMany,
    Panicked,
}

impl IntoResponse for ClaimAnswer {
    fn into_response(self) -> Response {
        let status = match self {
            Self::AlreadyClaimed { .. } => StatusCode::OK,
            Self::Accepted { .. } | Self::Waiting { .. } => StatusCode::ACCEPTED,
        };
        (status, axum::Json(self)).into_response()
    }
}

/// The meaning of a refusal: the label `outcome` of the metric, the code of the response, and the
/// sentence for the user, and for the log if the response is 503.
type Meaning = (&'static str, Code, Cow<'static, str>);

impl ClaimRefusal {
    pub(super) fn meaning(&self) -> Meaning {
        let try_again = |label, detail| (label, Code::Unavailable, detail);
        let (label, code, detail) = match self {
            Self::Coupon(LookupError::NoSuchCoupon(id)) => {
                let detail = format!("there is no coupon {id}").into();
                return ("no_coupon", Code::NotFound, detail);
            }
            Self::Coupon(LookupError::Unavailable) => try_again(
                "no_coupon",
                "it is unknown right now whether the coupon exists; try again",
            ),
            Self::Refused(admission) => refused(*admission),
            Self::NotAnswered(error) => match **error {
                AdmissionError::Closed | AdmissionError::AnotherEra => {
                    try_again("gate_closed", "admission is closed for a check; try again")
                }
                AdmissionError::Unanswered => try_again(
                    "redis_slow",
                    "too many claims wait for Redis; try again in a moment",
                ),
                AdmissionError::Redis(_) => try_again(
                    "redis_error",
                    "whether this claim went through is not known yet; try again",
                ),
                AdmissionError::Unexpected => {
                    try_again("unexpected", "this claim could not be processed; try again")
                }
            },
            Self::NotDurable => try_again(
                "not_durable",
                "a slot is reserved for you, but cannot be confirmed right now; try again",
            ),
            Self::ClaimStateUnknown => try_again(
                "unknown",
                "the status of this claim is unknown right now; try again",
            ),
            Self::TooMany => try_again("shed", "too many claims at once; try again in a moment"),
            Self::Panicked => (
                "unexpected",
                Code::Internal,
                "something went wrong here; the log has the reason",
            ),
        };
        (label, code, detail.into())
    }
}

fn refused(admission: Admission) -> (&'static str, Code, &'static str) {
    let (code, detail) = match admission {
        Admission::SoldOut => (Code::SoldOut, "all are given out"),
        Admission::Paused => (Code::Paused, "this coupon is paused; try again later"),
        Admission::Revoked => (
            Code::Revoked,
            "your coupon was given back or revoked, and you cannot get another",
        ),
        Admission::NotAllowed => (
            Code::NotAllowed,
            "this coupon is for certain people, and you are not among them",
        ),
        Admission::NotOpen(_) => (Code::NotOpen, "this coupon is not open yet"),
        Admission::Closed(_) => (Code::Closed, "this coupon is closed"),
        // The user's groups are unknown, or the drop is not in Redis or does not add up. The last
        // three are not refusals.
        Admission::ForGroup
        | Admission::Unloaded(_)
        | Admission::Unverified
        | Admission::Accepted(_)
        | Admission::Already(_)
        | Admission::Waiting(_) => (Code::Unavailable, "this coupon is being checked; try again"),
    };
    (admission.into(), code, detail)
}

/// The response to almost all claims on a popular drop, so it is not built each time.
const SOLD_OUT: &str = concat!(
    r#"{"type":"about:blank","title":"Conflict","status":409,"#,
    r#""code":"sold_out","detail":"all are given out"}"#
);

impl IntoResponse for ClaimRefusal {
    fn into_response(self) -> Response {
        if let Self::Refused(Admission::SoldOut) = self {
            let kind = [(CONTENT_TYPE, "application/problem+json")];
            return (StatusCode::CONFLICT, kind, SOLD_OUT).into_response();
        }
        Problem::from(self).into_response()
    }
}

impl From<LookupError> for ClaimRefusal {
    fn from(error: LookupError) -> Self {
        Self::Coupon(error)
    }
}

impl From<ClaimRefusal> for Problem {
    fn from(refusal: ClaimRefusal) -> Self {
        let time = |ms| instant(ms).to_rfc3339_opts(SecondsFormat::Millis, true);
        let (_, code, detail) = refusal.meaning();
        let problem = match code {
            Code::Unavailable => Self::unavailable(detail),
            code => Self::new(code, detail),
        };
        match refusal {
            ClaimRefusal::Refused(Admission::NotOpen(at)) => problem.with("opens_at", time(at)),
            ClaimRefusal::Refused(Admission::Closed(at)) if at > 0 => {
                problem.with("closed_at", time(at))
            }
            _ => problem,
        }
    }
}

impl From<LookupError> for Problem {
    fn from(error: LookupError) -> Self {
        ClaimRefusal::Coupon(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_response_for_sold_out_equals_the_one_built_from_its_problem() {
        let refusal = || ClaimRefusal::Refused(Admission::SoldOut);
        let problem = Problem::from(refusal());
        assert_eq!(serde_json::to_string(&problem).unwrap(), SOLD_OUT);
        let whole = problem.into_response();
        let fixed = refusal().into_response();
        assert_eq!(fixed.status(), whole.status());
        assert_eq!(fixed.headers(), whole.headers());
    }

    #[test]
    fn refusals_of_admission_map_to_status_and_code() {
        for (admission, status, code) in [
            (Admission::SoldOut, 409, "sold_out"),
            (Admission::Paused, 409, "paused"),
            (Admission::Revoked, 409, "revoked"),
            (Admission::NotAllowed, 403, "not_allowed"),
            (Admission::ForGroup, 503, "unavailable"),
            (Admission::NotOpen(0), 409, "not_open"),
            (Admission::Closed(0), 410, "closed"),
            (Admission::Unloaded(DropId(1)), 503, "unavailable"),
            (Admission::Unverified, 503, "unavailable"),
        ] {
            let problem = Problem::from(ClaimRefusal::Refused(admission));
            assert_eq!(problem.code(), code);
            let response = problem.into_response();
            assert_eq!(response.status(), status, "{code}");
            let may_retry = response.headers().contains_key("retry-after");
            assert_eq!(may_retry, status == 503, "{code}");
        }
        let later = ClaimRefusal::Refused(Admission::NotOpen(1_764_568_800_000));
        let later = serde_json::to_value(Problem::from(later)).unwrap();
        assert_eq!(later["opens_at"], "2025-12-01T06:00:00.000Z");
    }
}
