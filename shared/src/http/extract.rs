//! Strict request extractors for both services. An invalid field of a query or a body becomes a
//! problem that names it.

use std::borrow::Cow;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_ENCODING;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::Code;
use super::{Problem, json};

/// Maximum size of a JSON body, in bytes. Only operators and shops send bodies. An allow list is
/// not JSON and has a higher limit.
pub const MAX_BODY_BYTES: usize = 16 * 1024;

/// Reads a body of at most `most` bytes.
///
/// # Errors
/// 415 if it is compressed, 413 if it is larger, 400 if it breaks off.
pub async fn body(mut request: Request, most: usize) -> Result<Bytes, Problem> {
    let mut encodings = request
        .headers()
        .get_all(CONTENT_ENCODING)
        .iter()
        .map(|encoding| encoding.to_str().unwrap_or("unreadable"));
    if let Some(encoding) = encodings.find(|it| !it.trim().eq_ignore_ascii_case("identity")) {
        let detail = format!("Content-Encoding is {encoding:?}: send the body without compression");
        return Err(Problem::new(Code::UnsupportedEncoding, detail));
    }
    // A limit in a layer would also cost time for each claim, which has no body.
    DefaultBodyLimit::max(most).apply(&mut request);
    let bytes = Bytes::from_request(request, &()).await;
    bytes.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("a body may have at most {most} bytes");
            Problem::new(Code::TooLarge, detail)
        }
        _ => invalid("the body could not be read"),
    })
}

/// A JSON body. An empty one counts as `{}`.
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = body(request, MAX_BODY_BYTES).await?;
        let bytes = if bytes.is_empty() { b"{}" } else { &bytes[..] };
        json::read(bytes).map(Self).map_err(invalid)
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

/// The parameters of a path. A path whose parameters cannot be read as `T`, or are not valid
/// percent-encoded UTF-8, gets a 404.
pub struct StrictPath<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for StrictPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(texts)| Self(texts))
            .map_err(|_| Problem::not_found("no such path: docs/API.md has all"))
    }
}

/// Creates a 400 problem. `detail` says which part of the request is wrong.
pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(Code::Invalid, detail)
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

    /// Returns the status, and the code and detail of a problem.
    async fn answer(path: &str, body: &str) -> (u16, String, String) {
        let text = get(async |StrictPath(_): StrictPath<String>| ());
        let routes = Router::new()
            .route("/page", get(async |StrictQuery(_): StrictQuery<Page>| ()))
            .route("/text/{text}", text)
            .route("/body", post(async |JsonBody(_): JsonBody<Page>| ()));
        let method = if body.is_empty() { "GET" } else { "POST" };
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = routes.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").cloned();
        let is_problem = kind.is_some_and(|kind| kind == "application/problem+json");
        assert_eq!(is_problem, status != 200, "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
        (status, text("code"), text("detail"))
    }

    #[tokio::test]
    async fn refusal_of_a_compressed_body_names_its_encoding() {
        let routes = Router::new().route("/body", post(async |JsonBody(_): JsonBody<Page>| ()));
        for (encoding, status) in [("gzip", 415), ("br", 415), ("identity", 200)] {
            let request = Request::post("/body").header(CONTENT_ENCODING, encoding);
            let request = request.body(Body::from("{}")).unwrap();
            let response = routes.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{encoding}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&body);
            assert_eq!(
                text.contains(&format!("\\\"{encoding}\\\"")),
                status == 415,
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn invalid_query_body_or_path_becomes_a_problem_with_its_code_and_reason() {
        let huge = "x".repeat(MAX_BODY_BYTES + 1);
        for (path, body, status, says) in [
            ("/page?limit=3&state=open&deep=true", "", 200, ""),
            ("/page?limit=many", "", 400, "limit: invalid digit"),
            (
                "/page?deep=yes",
                "",
                400,
                "deep: provided string was not `true` or `false`",
            ),
            ("/page?state=shut", "", 400, "state: unknown variant `shut`"),
            ("/page?max=3", "", 400, "unknown field `max`"),
            ("/page?limit=1&limit=2", "", 400, "duplicate field `limit`"),
            (
                "/body",
                "[null,null]",
                400,
                "the body must be a JSON object",
            ),
            ("/body", &huge, 413, ""),
            ("/text/%ff", "", 404, ""),
            ("/text/%F0%9F%98%80", "", 200, ""),
        ] {
            let (answered, code, detail) = answer(path, body).await;
            let expected = match status {
                400 => "invalid",
                404 => "not_found",
                413 => "too_large",
                _ => "",
            };
            assert_eq!((answered, &*code), (status, expected), "{path}");
            assert!(detail.contains(says), "{path}: {detail}");
        }
    }
}
