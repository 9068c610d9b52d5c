//! Builds the error responses to refused requests.

use chrono::SecondsFormat;
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::Problem;
use firstcome_shared::http::problem::Code;
use firstcome_shared::mysql::DbError;
use firstcome_shared::redis::admission::{Admission, AdmissionError};

use crate::serve::catalogue::LookupError;
use crate::serve::catalogue::coupon_with_drops::instant;
use crate::serve::claim::ClaimRefusal;
use crate::serve::claim::in_flight::WorkError;

impl From<ClaimRefusal> for Problem {
    fn from(refusal: ClaimRefusal) -> Self {
        let detail = match refusal {
            ClaimRefusal::Coupon(error) => return error.into(),
            ClaimRefusal::Work(error) => return error.into(),
            ClaimRefusal::Refused(admission) => return refused(admission),
            ClaimRefusal::NotAnswered(error) => match *error {
                AdmissionError::Closed | AdmissionError::AnotherEra => {
                    "admission is closed for a check; try again"
                }
                AdmissionError::Unanswered => {
                    "too many claims wait for Redis; try again in a moment"
                }
                AdmissionError::Redis(_) => {
                    "whether this claim went through is not known yet; try again"
                }
                AdmissionError::Unexpected => "this claim could not be processed; try again",
            },
            ClaimRefusal::NotDurable => {
                "a slot is reserved for you, but cannot be confirmed right now; try again"
            }
            ClaimRefusal::SealedUnknown => {
                "this coupon is closed, and it is unknown right now whether you hold one; try again"
            }
            ClaimRefusal::NothingHeld => {
                return Self::not_found("there is no claim of this user to give back or revoke");
            }
            ClaimRefusal::HalfRevoked => {
                "the claim is revoked, but its slot may not be free yet; repeat the request to be certain"
            }
            ClaimRefusal::StandingUnknown => {
                "the status of this claim is unknown right now; try again"
            }
        };
        Self::unavailable(detail)
    }
}

pub(crate) fn refused(admission: Admission) -> Problem {
    let time = |ms| instant(ms).to_rfc3339_opts(SecondsFormat::Millis, true);
    match admission {
        Admission::SoldOut => Problem::new(Code::SoldOut, "all are given out"),
        Admission::Paused => Problem::new(Code::Paused, "this coupon is paused; try again later"),
        Admission::Revoked => Problem::new(
            Code::Revoked,
            "your coupon was given back or revoked, and you cannot get another",
        ),
        Admission::NotAllowed => {
            let detail = "this coupon is for certain people, and you are not among them";
            Problem::new(Code::NotAllowed, detail)
        }
        Admission::NotOpen(at) => {
            Problem::new(Code::NotOpen, "this coupon is not open yet").with("opens_at", time(at))
        }
        Admission::Closed(0) => Problem::new(Code::Closed, "this coupon is closed"),
        Admission::Closed(at) => {
            Problem::new(Code::Closed, "this coupon is closed").with("closed_at", time(at))
        }
        // `Unloaded`, `Unverified` and `ForGroup` (the group changed twice during the claim).
        // Admissions are not refusals and never reach this arm.
        _ => Problem::unavailable("this coupon is being checked; try again"),
    }
}

impl From<WorkError> for Problem {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::TooMany => {
                Self::unavailable("too many claims at once; try again in a moment")
            }
            WorkError::Panicked => Self::internal(),
        }
    }
}

impl From<LookupError> for Problem {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::NoSuchCoupon(id) => no_such_coupon(id),
            LookupError::Unavailable => {
                Self::unavailable("it is unknown right now whether the coupon exists; try again")
            }
        }
    }
}

pub(crate) fn no_such_coupon(id: CouponId) -> Problem {
    Problem::not_found(format!("there is no coupon {id}"))
}

/// Builds a 503 for an operator's request. `doubt` describes what may have happened, or what to do.
pub(crate) fn mysql_unavailable(error: &DbError, doubt: &str) -> Problem {
    tracing::warn!(%error, "an operator's request could not be processed");
    Problem::unavailable(format!("MySQL did not answer; {doubt}"))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
    use firstcome_shared::domain::DropId;

    use super::*;

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
            assert_eq!(
                response.headers().contains_key("retry-after"),
                status == 503,
                "{code}"
            );
        }
        let opens = serde_json::to_value(refused(Admission::NotOpen(1_764_568_800_000))).unwrap();
        assert_eq!(opens["opens_at"], "2025-12-01T06:00:00.000Z");
    }
}
