//! Middleware for every request: applies a deadline, responds with an error after a panic, and
//! forbids caching of the API's responses.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use firstcome_shared::http::Problem;
use futures_util::FutureExt as _;

/// Maximum time until a response begins. It does not apply to routes that may wait for a pass.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// Applies the deadline, responds with an error after a panic, and forbids caching of the API's
/// responses.
pub(super) async fn guarded(
    State(deadline): State<Duration>,
    request: Request,
    next: Next,
) -> Response {
    let waits_for_a_pass = may_wait_for_a_pass(&request);
    let is_of_the_api = request.uri().path().starts_with("/v1/");
    let work = AssertUnwindSafe(next.run(request)).catch_unwind();
    let ended = if waits_for_a_pass {
        Ok(work.await)
    } else {
        tokio::time::timeout(deadline, work).await
    };
    let mut response = match ended {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            // The panic hook has already written the panic to standard error.
            tracing::error!("a request panicked");
            Problem::internal().into_response()
        }
        Err(_) => Problem::unavailable("this took too long; try again").into_response(),
    };
    let headers = response.headers_mut();
    if is_of_the_api && !headers.contains_key(CACHE_CONTROL) {
        // Responses name users, and change at any time.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// Whether the request runs a pass, or confirms the repairs of one, which an attached daemon makes
/// in another pass.
fn may_wait_for_a_pass(request: &Request) -> bool {
    let path = request.uri().path();
    let is_confirm = path.starts_with("/v1/runs/") && path.ends_with("/confirm");
    request.method() == Method::POST && (is_confirm || path == "/v1/reconcile")
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::{get, post};
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn slow_or_broken_routes_answer_5xx_except_passes_and_the_api_is_not_cached() {
        let deadline = Duration::from_millis(20);
        let late = async move || tokio::time::sleep(5 * deadline).await;
        let broken = async || -> String { panic!("as it should") };
        let routes = Router::new()
            .route("/late", get(std::future::pending::<()>))
            .route("/broken", get(broken))
            .route("/v1/reconcile", post(late))
            .route("/v1/runs/{id}/confirm", post(late))
            .route("/v1/runs/{id}", get(std::future::pending::<()>))
            .route("/page", get(async || ()))
            .layer(from_fn_with_state(deadline, guarded));
        for (method, path, status) in [
            (Method::GET, "/page", 200),
            (Method::GET, "/late", 503),
            (Method::GET, "/broken", 500),
            (Method::POST, "/v1/reconcile", 200),
            (Method::POST, "/v1/runs/0193a1f2/confirm", 200),
            (Method::GET, "/v1/runs/0193a1f2", 503),
        ] {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .body(Body::empty())
                .unwrap();
            let response = routes.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
            let caching = response.headers().get(CACHE_CONTROL);
            let is_forbidden = caching.is_some_and(|it| it == "no-store");
            assert_eq!(is_forbidden, path.starts_with("/v1/"), "{path}");
        }
    }
}
