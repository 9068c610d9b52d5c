//! Extractors of the API: the coupon and the user of a request. An error response names the invalid
//! part. `shared` contains the extractors that both services use.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use firstcome_shared::domain::{CouponId, UserId, canonical_number};
use firstcome_shared::http::Problem;
pub(crate) use firstcome_shared::http::extract::{
    JsonBody, StrictPath, StrictQuery, body, invalid,
};
use utoipa::IntoParams;

use crate::serve::auth::Requester;
use crate::serve::state::App;

/// The coupon in a path. A percent-encoded number matches no coupon, because the path rules of a
/// proxy would not recognize it.
pub(crate) struct CouponPath(pub(crate) CouponId);

impl FromRequestParts<App> for CouponPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        coupon_of_path(parts.uri.path()).map(Self)
    }
}

/// The coupon of a path. [`CouponPath`] reads it; this only describes it.
#[allow(dead_code)]
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct CouponParam {
    /// Coupon ID
    #[param(example = 7)]
    id: CouponId,
}

pub(super) fn coupon_of_path(path: &str) -> Result<CouponId, Problem> {
    // Read the segment from the URI as it was sent; axum's `Path` decodes it.
    let mut segments = path.split('/');
    segments.find(|segment| matches!(*segment, "coupons" | "c"));
    let text = segments.next().unwrap_or_default();
    let id = canonical_number(text).map(CouponId);
    id.ok_or_else(|| Problem::not_found(format!("there is no coupon {text:?}")))
}

/// The coupon and the user in a path.
pub(crate) struct UserPath(pub(crate) CouponId, pub(crate) UserId);

impl FromRequestParts<App> for UserPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let CouponPath(id) = CouponPath::from_request_parts(parts, app).await?;
        let path = Path::<(String, String)>::from_request_parts(parts, app).await;
        let Path((_, user)) = path.map_err(|_| invalid("user_id is not percent-encoded UTF-8"))?;
        let user = user
            .parse()
            .map_err(|error| invalid(format!("user_id: {error}")))?;
        Ok(Self(id, user))
    }
}

/// The user of a request.
pub(crate) struct AuthenticatedUser(pub(crate) Requester);

impl FromRequestParts<App> for AuthenticatedUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        app.identity.authenticate(&parts.headers).await.map(Self)
    }
}

/// Returns the requested page size, or the default. Refuses a size that is out of range.
pub(crate) fn page_size(
    asked: Option<usize>,
    default: usize,
    most: usize,
) -> Result<usize, Problem> {
    let size = asked.unwrap_or(default);
    if (1..=most).contains(&size) {
        return Ok(size);
    }
    Err(invalid(format!("limit must be between 1 and {most}")))
}

pub(crate) fn no_such_coupon(id: CouponId) -> Problem {
    Problem::not_found(format!("there is no coupon {id}"))
}
