//! What is answered where admission gave neither a slot nor a place: the problem, and its word in the metrics.

use axum::http::StatusCode;
use chrono::SecondsFormat;
use firstcome_shared::http::Problem;
use firstcome_shared::mysql::DbError;
use firstcome_shared::redis::admission::{Admission, AdmissionError};

use crate::serve::catalogue::Missing;
use crate::serve::catalogue::clock::instant;
use crate::serve::routes::extract::no_such_coupon;

/// A word for the metrics, and the answer.
pub(crate) type Refused = (&'static str, Problem);

/// The answer to a claim that admission refused.
pub(crate) fn refused(refusal: Admission) -> Refused {
    let conflict = |code, detail: &'static str| (code, Problem::new(StatusCode::CONFLICT, code, detail));
    let time = |ms| instant(ms).to_rfc3339_opts(SecondsFormat::Millis, true);
    let checked = |word| (word, Problem::unavailable("this coupon is being checked; try again"));
    match refusal {
        Admission::SoldOut => conflict("sold_out", "all are given out"),
        Admission::Paused => conflict("paused", "this coupon is stopped for the moment; try again later"),
        Admission::NotOpen(at) => {
            let (word, problem) = conflict("not_open", "this coupon is not open yet");
            (word, problem.with("opens_at", time(at)))
        }
        Admission::Closed(at) => {
            let problem = Problem::new(StatusCode::GONE, "closed", "this coupon is closed");
            ("closed", problem.with("closed_at", time(at)))
        }
        Admission::Unloaded => checked("unloaded"),
        // Unverified, and (never here) the answers that are a yes.
        _ => checked("unverified"),
    }
}

/// The answer to a claim of a coupon that has no drop.
pub(crate) fn no_drop() -> Refused {
    ("closed", Problem::new(StatusCode::GONE, "closed", "no drop of this coupon is open or planned"))
}

/// The answer to a claim that admission did not answer.
pub(crate) fn not_asked(error: &AdmissionError) -> Refused {
    match error {
        AdmissionError::Closed => ("no_licence", Problem::unavailable("admission is closed for a check; try again")),
        AdmissionError::Unanswered => {
            ("redis_slow", Problem::unavailable("too many claims wait for Redis; try again in a moment"))
        }
        AdmissionError::Redis(_) => {
            ("redis_error", Problem::unavailable("whether this claim went through is not known yet; try again"))
        }
        AdmissionError::Unexpected => ("unexpected", Problem::unavailable("this claim could not be worked; try again")),
    }
}

/// The answer to an admission that no second store has taken yet.
pub(crate) fn not_durable() -> Refused {
    ("not_held", Problem::unavailable("a place is kept for you, but cannot be promised right now; try again"))
}

impl From<Missing> for Problem {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Unknown => no_such_coupon(),
            Missing::Away => Self::unavailable("whether there is such a coupon is not known right now; try again"),
        }
    }
}

/// 503 for a call of MySQL that an operator waits for. `doubt` says what may have happened all the same.
pub(crate) fn mysql_away(error: &DbError, doubt: &str) -> Problem {
    tracing::warn!(%error, "an operator's request could not be worked");
    Problem::unavailable(format!("MySQL could not be asked; {doubt}"))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    #[test]
    fn every_refusal_has_its_status_and_code() {
        let cases = [
            (Admission::SoldOut, 409, "sold_out", "sold_out"),
            (Admission::Paused, 409, "paused", "paused"),
            (Admission::NotOpen(0), 409, "not_open", "not_open"),
            (Admission::Closed(0), 410, "closed", "closed"),
            (Admission::Unloaded, 503, "unavailable", "unloaded"),
            (Admission::Unverified, 503, "unavailable", "unverified"),
        ];
        for (refusal, status, code, word) in cases {
            let (said, problem) = refused(refusal);
            assert_eq!((problem.code(), said), (code, word));
            let response = problem.into_response();
            assert_eq!(response.status(), status, "{code}");
            assert_eq!(response.headers().contains_key("retry-after"), status == 503, "{code}");
        }
        let opens = serde_json::to_value(refused(Admission::NotOpen(1_764_568_800_000)).1).unwrap();
        assert_eq!(opens["opens_at"], "2025-12-01T06:00:00.000Z");
    }
}
