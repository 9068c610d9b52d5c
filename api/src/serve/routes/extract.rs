//! Extractors of the API: the coupon and the user of a request. An error response names the invalid
//! part. `shared` contains the extractors that both services use.

use axum::extract::{FromRequestParts, MatchedPath, Path};
use axum::http::request::Parts;
use firstcome_shared::domain::{CouponId, UserId, canonical_number};
use firstcome_shared::http::Problem;
pub(crate) use firstcome_shared::http::extract::{JsonBody, StrictQuery, body, invalid};
use firstcome_shared::mysql::DbError;

use crate::serve::auth::Requester;
use crate::serve::state::App;

/// Maximum size of a request that changes an allow list.
pub(crate) const MAX_LIST_BYTES: usize = 1024 * 1024;

/// Parses the coupon in a segment of a path.
pub(crate) fn coupon_id(text: &str) -> Option<CouponId> {
    canonical_number(text).map(CouponId)
}

/// The coupon in a path. A percent-encoded number matches no coupon, because the path rules of a
/// proxy would not recognize it.
pub(crate) struct CouponPath(pub(crate) CouponId);

impl CouponPath {
    fn of(parts: &Parts) -> Result<Self, Problem> {
        // Read the segment from the URI as it was sent; axum's `Path` decodes it.
        let pattern = parts
            .extensions
            .get::<MatchedPath>()
            .map_or("", MatchedPath::as_str);
        let place = pattern.split('/').position(|part| part == "{id}");
        let text = place
            .and_then(|place| parts.uri.path().split('/').nth(place))
            .unwrap_or_default();
        coupon_id(text)
            .map(Self)
            .ok_or_else(|| Problem::not_found(format!("there is no coupon {text:?}")))
    }
}

impl FromRequestParts<App> for CouponPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        Self::of(parts)
    }
}

/// The coupon and the user in a path.
pub(crate) struct PersonPath(pub(crate) CouponId, pub(crate) UserId);

impl FromRequestParts<App> for PersonPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let CouponPath(id) = CouponPath::of(parts)?;
        let path = Path::<(String, String)>::from_request_parts(parts, app).await;
        let Path((_, user)) = path.map_err(|_| invalid("user_id is not percent-encoded UTF-8"))?;
        let user = user
            .parse()
            .map_err(|error| invalid(format!("user_id: {error}")))?;
        Ok(Self(id, user))
    }
}

/// The user of a request.
pub(crate) struct Person(pub(crate) Requester);

impl FromRequestParts<App> for Person {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        app.identity.find_person(&parts.headers).await.map(Self)
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
