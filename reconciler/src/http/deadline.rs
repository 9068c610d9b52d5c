//! Middleware for all operator requests: applies a deadline, and responds with an error after a
//! panic.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use firstcome_shared::http::Problem;
use futures_util::FutureExt as _;

/// Maximum time until a response begins. It does not apply when the client waits for a pass.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// Applies the deadline, and responds with an error after a panic.
pub(super) async fn guarded(
    State(deadline): State<Duration>,
    request: Request,
    next: Next,
) -> Response {
    let waits_for_a_pass =
        request.method() == Method::POST && request.uri().path() == "/v1/reconcile";
    let work = AssertUnwindSafe(next.run(request)).catch_unwind();
    let ended = if waits_for_a_pass {
        Ok(work.await)
    } else {
        tokio::time::timeout(deadline, work).await
    };
    match ended {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            // The panic hook has already written the panic to standard error.
            tracing::error!("a request panicked");
            Problem::internal().into_response()
        }
        Err(_) => Problem::unavailable("this took too long; try again").into_response(),
    }
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
    async fn slow_or_panicking_routes_answer_5xx_and_passes_have_no_deadline() {
        let deadline = Duration::from_millis(20);
        let late = async move || tokio::time::sleep(5 * deadline).await;
        let broken = async || -> String { panic!("as it should") };
        let routes = Router::new()
            .route("/late", get(std::future::pending::<()>))
            .route("/broken", get(broken))
            .route("/v1/reconcile", post(late))
            .layer(from_fn_with_state(deadline, guarded));
        for (method, path, status) in [
            (Method::GET, "/late", 503),
            (Method::GET, "/broken", 500),
            (Method::POST, "/v1/reconcile", 200),
        ] {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .body(Body::empty())
                .unwrap();
            let response = routes.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
        }
    }
}
