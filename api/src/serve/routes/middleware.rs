//! What goes round every request: a deadline, a bound on the body, a count and a time by route. A service of its own and not axum's
//! `from_fn`, which boxes and clones the rest of the stack for each request.

use parking_lot::RwLock;
use std::any::Any;
use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use firstcome_shared::http::Problem;
use metrics::{Counter, Histogram, counter, histogram};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Timeout};
use tower::{Layer, Service};

use crate::serve::routes::extract::too_large;

/// Largest body, in bytes. Only operators' requests have one that is read.
pub(crate) const MAX_BODY_BYTES: usize = 16 * 1024;

/// Puts [`Around`] round a service.
#[derive(Clone)]
pub(crate) struct AroundLayer {
    limit: Duration,
    measures: Arc<Measures>,
}

impl AroundLayer {
    /// `limit`: longest time until an answer begins; then 503.
    pub(crate) fn new(limit: Duration, measures: Arc<Measures>) -> Self {
        Self { limit, measures }
    }
}

impl<S> Layer<S> for AroundLayer {
    type Service = Around<S>;

    fn layer(&self, inner: S) -> Around<S> {
        Around { inner, layer: self.clone() }
    }
}

/// A service with a deadline, a bound on the body, and metrics.
#[derive(Clone)]
pub(crate) struct Around<S> {
    inner: S,
    layer: AroundLayer,
}

impl<S> Service<Request> for Around<S>
where
    S: Service<Request, Error = Infallible>,
    S::Response: IntoResponse,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let begun = Instant::now();
        let method = match *request.method() {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PATCH => "PATCH",
            _ => "other",
        };
        let path = request.extensions().get::<MatchedPath>().cloned();
        // A body that says it is too long is refused before any of it is read.
        let answer = (!says_too_long(request.headers()))
            .then(|| tokio::time::timeout_at(begun + self.layer.limit, self.inner.call(request)));
        Answering { answer, begun, method, path, measures: Arc::clone(&self.layer.measures) }
    }
}

fn says_too_long(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    length.is_some_and(|length: usize| length > MAX_BODY_BYTES)
}

pin_project! {
    /// An answer on its way; `None`: refused at once.
    pub(crate) struct Answering<F> {
        #[pin]
        answer: Option<Timeout<F>>,
        begun: Instant,
        method: &'static str,
        path: Option<MatchedPath>,
        measures: Arc<Measures>,
    }
}

impl<F, R> Future for Answering<F>
where
    F: Future<Output = Result<R, Infallible>>,
    R: IntoResponse,
{
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match this.answer.as_pin_mut() {
            None => too_large().into_response(),
            Some(answer) => match answer.poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Ok(response))) => response.into_response(),
                Poll::Ready(Err(_)) => Problem::unavailable("this took too long; try again").into_response(),
            },
        };
        // By the route's pattern, so that ids in paths don't make a series each.
        let path = this.path.as_ref().map_or("other", MatchedPath::as_str);
        this.measures.note(this.method, path, response.status(), this.begun.elapsed());
        Poll::Ready(Ok(response))
    }
}

type ByPath = HashMap<String, (Counter, Histogram)>;

/// The metrics of requests, each looked up in the registry once.
#[derive(Default)]
pub(crate) struct Measures {
    known: RwLock<HashMap<(&'static str, StatusCode), ByPath>>,
}

impl Measures {
    /// One more request, answered after so long.
    pub(crate) fn note(&self, method: &'static str, path: &str, status: StatusCode, took: Duration) {
        let known = self.known.read();
        if let Some((requests, seconds)) = known.get(&(method, status)).and_then(|paths| paths.get(path)) {
            requests.increment(1);
            seconds.record(took.as_secs_f64());
            return;
        }
        drop(known);
        let (path, status_word) = (path.to_owned(), status.as_u16().to_string());
        let seconds = histogram!("firstcome_http_request_seconds", "method" => method, "path" => path.clone());
        let requests = counter!(
            "firstcome_http_requests_total",
            "method" => method, "path" => path.clone(), "status" => status_word
        );
        requests.increment(1);
        seconds.record(took.as_secs_f64());
        let mut known = self.known.write();
        known.entry((method, status)).or_default().insert(path, (requests, seconds));
    }
}

/// The answer to a request that panicked.
#[allow(clippy::needless_pass_by_value, reason = "as CatchPanicLayer calls it")]
pub(crate) fn panicked(_: Box<dyn Any + Send>) -> Response {
    // The panic itself is on standard error already.
    tracing::error!("a request panicked");
    Problem::internal().into_response()
}
