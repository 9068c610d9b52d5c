//! Middleware of every request: a deadline, a response after a panic, metrics by route, and a
//! trace.

use std::collections::HashMap;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use firstcome_shared::http::Problem;
use firstcome_shared::line_limit::LineLimit;
use firstcome_shared::trace::{RequestTrace, Route};
use futures_util::FutureExt as _;
use metrics::{Counter, Histogram, counter, histogram};
use parking_lot::RwLock;
use tokio::time::Instant;
use tower::Service;

pub(crate) struct RequestGuard {
    /// Maximum time until a response begins.
    timeout: Duration,
    late: LineLimit,
    /// Cached handles of the metric series, because a lookup in the registry is slow.
    metrics: RwLock<HashMap<(&'static str, StatusCode), ByPath>>,
}

type ByPath = HashMap<String, (Counter, Histogram)>;

impl RequestGuard {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            late: LineLimit::default(),
            metrics: RwLock::default(),
        }
    }

    /// Handles one request with `work`; responds 503 after the deadline, 500 after a panic. The
    /// path in `route` is a pattern, because otherwise each id in a path would create a metric
    /// series.
    async fn answer(
        &self,
        route: Route<'_>,
        trace: RequestTrace,
        work: impl Future<Output = Response>,
    ) -> Response {
        let begun = Instant::now();
        let work = AssertUnwindSafe(trace.within(work)).catch_unwind();
        let mut response = match tokio::time::timeout_at(begun + self.timeout, work).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => {
                // The panic's message is already on standard error.
                tracing::error!("a request panicked");
                Problem::internal().into_response()
            }
            Err(_) => {
                if let Some(left_out) = self.late.allow(route.method, std::time::Instant::now()) {
                    tracing::warn!(path = route.path, limit = ?self.timeout, left_out, "a request was answered 503: no answer in time");
                }
                Problem::unavailable("this took too long; try again").into_response()
            }
        };
        let status = response.status();
        let took = begun.elapsed();
        self.record(route, status, took);
        trace.end(route, status, response.headers_mut());
        response
    }

    fn record(&self, route: Route<'_>, status: StatusCode, took: Duration) {
        let Route { method, path } = route;
        let metrics = self.metrics.read();
        if let Some((requests, seconds)) = metrics
            .get(&(method, status))
            .and_then(|paths| paths.get(path))
        {
            requests.increment(1);
            seconds.record(took.as_secs_f64());
            return;
        }
        drop(metrics);
        let path = path.to_owned();
        let code = status.as_u16().to_string();
        let seconds = histogram!("firstcome_http_request_seconds", "method" => method, "path" => path.clone());
        let labels = [
            ("method", method.to_owned()),
            ("path", path.clone()),
            ("status", code),
        ];
        let requests = counter!("firstcome_http_requests_total", &labels);
        requests.increment(1);
        seconds.record(took.as_secs_f64());
        self.metrics
            .write()
            .entry((method, status))
            .or_default()
            .insert(path, (requests, seconds));
    }
}

/// A [`RequestGuard`] around the router: one service written by hand, because `from_fn` costs each
/// claim two more allocations.
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    guard: Arc<RequestGuard>,
    inner: S,
}

impl<S> Guarded<S> {
    pub(crate) fn new(guard: Arc<RequestGuard>, inner: S) -> Self {
        Self { guard, inner }
    }
}

impl<S> Service<Request> for Guarded<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let method = match *request.method() {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "other",
        };
        let trace = RequestTrace::of(request.headers());
        let path = request.extensions().get::<MatchedPath>().cloned();
        let work = self.inner.call(request);
        let guard = Arc::clone(&self.guard);
        Box::pin(async move {
            let path = path.as_ref().map_or("other", MatchedPath::as_str);
            let work = async {
                let Ok(response) = work.await;
                response
            };
            Ok(guard.answer(Route { method, path }, trace, work).await)
        })
    }
}
