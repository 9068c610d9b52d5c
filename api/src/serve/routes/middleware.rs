//! Middleware of every request: a deadline, a response after a panic, metrics by route, and a
//! trace.

use std::panic::AssertUnwindSafe;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use firstcome_shared::http::Problem;
use firstcome_shared::trace::{RequestTrace, Route};
use futures_util::FutureExt as _;
use tokio::time::{Instant, timeout_at};

use crate::serve::metrics::record_response;
use crate::serve::state::App;

/// Handles one request of the router.
pub(crate) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    };
    // The pattern, because otherwise each id in a path would create a metric series.
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let path = matched.as_ref().map_or("other", MatchedPath::as_str);
    let route = Route { method, path };
    let trace = RequestTrace::from_headers(request.headers());
    guarded(&app, route, trace, next.run(request)).await
}

/// Handles a request of the router or of [`fast_path`](super::fast_path): 503 after the deadline,
/// 500 after a panic, metrics, a trace, and a header against caching. It is not `async`, because
/// its future would contain `work` twice.
pub(super) fn guarded<'a, Work: Future<Output = Response>>(
    app: &'a App,
    route: Route<'a>,
    trace: RequestTrace,
    work: Work,
) -> impl Future<Output = Response> + use<'a, Work> {
    let begun = Instant::now();
    let work = AssertUnwindSafe(work).catch_unwind();
    timeout_at(begun + app.request_timeout, work).map(move |answered| {
        let Route { method, path } = route;
        let mut response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => {
                // The panic's message is already on standard error.
                tracing::error!("a request panicked");
                Problem::internal().into_response()
            }
            Err(_) => {
                if let Some(left_out) = app.refused.allow(method, std::time::Instant::now()) {
                    tracing::warn!(
                        path, limit = ?app.request_timeout, left_out,
                        "a request was answered 503: no answer in time"
                    );
                }
                Problem::unavailable("this took too long, and may be done all the same; look first, or try again with \
                    the same Idempotency-Key").into_response()
            }
        };
        let status = response.status();
        record_response(route, status, begun.elapsed());
        let headers = response.headers_mut();
        if path.starts_with("/v1/") && !headers.contains_key(CACHE_CONTROL) {
            // Responses are about one user or change at any time, and caches cannot tell users
            // apart by a gateway's header.
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        trace.end(route, status, headers);
        response
    })
}
