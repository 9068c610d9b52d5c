//! Strict request extractors for both services. An invalid part becomes a problem that names it.

use std::borrow::Cow;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::Code;
use super::{Problem, json};

/// Maximum size of a body, in bytes. Only operators' requests have bodies.
pub const MAX_BODY_BYTES: usize = 16 * 1024;

/// Reads a body of at most so many bytes.
///
/// # Errors
/// 413 if it is larger, 400 if it breaks off.
pub async fn body(mut request: Request, most: usize) -> Result<Bytes, Problem> {
    // A limit in a layer would cost each claim, which has no body.
    DefaultBodyLimit::max(most).apply(&mut request);
    let bytes = Bytes::from_request(request, &()).await;
    bytes.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(most),
        _ => invalid("the body could not be read"),
    })
}

/// The bytes of a body.
pub struct RawBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        body(request, MAX_BODY_BYTES).await.map(Self)
    }
}

/// A JSON body.
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = body(request, MAX_BODY_BYTES).await?;
        json::read(&bytes).map(Self).map_err(invalid)
    }
}

/// A query string.
pub struct StrictQuery<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for StrictQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::from_request_parts(parts, state).await;
        query
            .map(|Query(query)| Self(query))
            .map_err(|rejection| invalid(rejection.body_text()))
    }
}

/// The parameters of a path. A path that is not valid percent-encoded UTF-8 gets a 404.
pub struct StrictPath<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for StrictPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(texts)| Self(texts))
            .map_err(|_| Problem::not_found("the path is no percent-encoded UTF-8"))
    }
}

/// Creates a 400 problem. The detail names the field.
pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(Code::Invalid, detail)
}

/// Creates a 413 problem.
pub fn too_large(most: usize) -> Problem {
    let detail = format!("a body may have at most {most} bytes");
    Problem::new(Code::TooLarge, detail)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::{get, post};
    use http_body_util::BodyExt as _;
    use serde::Deserialize;
    use tower::ServiceExt as _;

    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)] // only parsing is tested
    struct Page {
        limit: Option<u32>,
        after: Option<i64>,
        state: Option<PageState>,
        deep: Option<bool>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum PageState {
        Open,
        Closed,
    }

    async fn refusal(path: &str, body: &str) -> (u16, String, String) {
        let routes = Router::new()
            .route("/page", get(async |StrictQuery(_): StrictQuery<Page>| ()))
            .route(
                "/text/{text}",
                get(async |StrictPath(_): StrictPath<String>| ()),
            )
            .route("/body", post(async |JsonBody(_): JsonBody<Page>| ()));
        let method = if body.is_empty() { "GET" } else { "POST" };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::from(body.to_owned()))
            .unwrap();
        let response = routes.oneshot(request).await.unwrap();
        let kind = response
            .headers()
            .get("content-type")
            .map(|kind| kind.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
        assert!(
            status == 200 || kind.as_deref() == Some("application/problem+json"),
            "{path}: {kind:?}"
        );
        (status, text("code"), text("detail"))
    }

    #[tokio::test]
    async fn query_error_names_the_field_and_accepted_values() {
        assert_eq!(
            refusal("/page?limit=3&state=open&deep=true", "").await.0,
            200
        );
        for (query, says) in [
            ("limit=many", "limit: invalid digit"),
            (
                "deep=yes",
                "deep: provided string was not `true` or `false`",
            ),
            ("state=shut", "state: unknown variant `shut`"),
            ("max=3", "unknown field `max`"),
            ("limit=1&limit=2", "duplicate field `limit`"),
        ] {
            let (status, code, detail) = refusal(&format!("/page?{query}"), "").await;
            assert_eq!((status, code.as_str()), (400, "invalid"), "{query}");
            assert!(detail.contains(says), "{query}: {detail}");
        }
    }

    #[tokio::test]
    async fn invalid_bodies_and_paths_become_problems() {
        assert_eq!(
            refusal("/body", "[null,null]").await.2,
            "the body must be a JSON object"
        );
        let (status, code, _) = refusal("/body", &"x".repeat(MAX_BODY_BYTES + 1)).await;
        assert_eq!((status, code.as_str()), (413, "too_large"));
        let (status, code, _) = refusal("/text/%ff", "").await;
        assert_eq!((status, code.as_str()), (404, "not_found"));
        assert_eq!(refusal("/text/%F0%9F%98%80", "").await.0, 200);
    }
}
