//! Extractors: what handlers take out of a request. A wrong part becomes a problem that names it.

use std::borrow::Cow;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use firstcome_shared::domain::{CouponId, UserId};
use firstcome_shared::http::{Problem, json};
use serde::de::DeserializeOwned;

use crate::serve::auth::Requester;
use crate::serve::state::App;

/// Largest body, in bytes. Only operators' requests have one that is read.
pub(crate) const MAX_BODY_BYTES: usize = 16 * 1024;

/// The same for people of an allow list.
pub(crate) const MAX_LIST_BYTES: usize = 1024 * 1024;

/// The coupon that a part of a path names. Each has one name: `05` and `+5` are not coupon 5, so
/// that nobody walks round a limit that a gateway sets by path.
pub(crate) fn coupon_id(text: &str) -> Option<CouponId> {
    let one_way = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    if one_way { text.parse().ok().map(CouponId) } else { None }
}

/// The coupon that a path names. Other text names no coupon.
pub(crate) struct CouponPath(pub(crate) CouponId);

impl FromRequestParts<App> for CouponPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let text =
            Path::<String>::from_request_parts(parts, app).await.map_or_else(|_| String::new(), |Path(text)| text);
        coupon_id(&text).map(Self).ok_or_else(|| Problem::not_found(format!("there is no coupon {text:?}")))
    }
}

/// The coupon and the person that a path names.
pub(crate) struct PersonPath(pub(crate) CouponId, pub(crate) UserId);

impl FromRequestParts<App> for PersonPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let path = Path::<(String, String)>::from_request_parts(parts, app).await;
        let Path((id, user)) = path.map_err(|_| invalid("user_id: this is no percent-encoded UTF-8"))?;
        let id = coupon_id(&id).ok_or_else(|| Problem::not_found(format!("there is no coupon {id:?}")))?;
        let user = user.parse().map_err(|error| invalid(format!("user_id: {error}")))?;
        Ok(Self(id, user))
    }
}

/// The person that a request is from.
pub(crate) struct Person(pub(crate) Requester);

impl FromRequestParts<App> for Person {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        app.identity.person(&parts.headers).map(Self)
    }
}

/// A JSON body, read strictly.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, app).await.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => too_large(MAX_BODY_BYTES),
            _ => invalid("the body could not be read"),
        })?;
        json::read(&bytes).map(Self).map_err(invalid)
    }
}

/// A query string, read strictly.
pub(crate) struct StrictQuery<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<App> for StrictQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let query = Query::from_request_parts(parts, app).await;
        query.map(|Query(query)| Self(query)).map_err(|rejection| invalid(rejection.body_text()))
    }
}

/// 400. The sentence names the field.
pub(crate) fn invalid(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::bad_request("invalid", detail)
}

pub(crate) fn too_large(most: usize) -> Problem {
    let detail = format!("a body may have at most {most} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coupon_has_one_name_in_a_path() {
        assert_eq!(coupon_id("5"), Some(CouponId(5)));
        for other in ["", "0", "05", "+5", "-5", " 5", "5 ", "5.0", "0x5", "٥", "9223372036854775808"] {
            assert_eq!(coupon_id(other), None, "{other:?}");
        }
    }
}
