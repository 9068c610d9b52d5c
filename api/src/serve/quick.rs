//! The short way for losers: their answer is always the same, so it is made once, and while a drop is sold out it is given
//! before the router, its layers and a task of its own are paid for (docs/PERFORMANCE.md). Whatever is not certainly that goes
//! the long way.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{self, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::{BoxError, Router};
use firstcome_shared::domain::CouponId;
use metrics::{Counter, Histogram, counter, histogram};
use tokio::time::Instant;
use tower::Service;

use super::admit::sold_out;
use super::sold_out::Asking;
use super::state::App;

/// As `routes/claims.rs` and the figures have it.
const PATH: &str = "/v1/coupons/{id}/claims";

/// The routes, with the short way before them.
#[derive(Clone)]
pub(super) struct Quick {
    app: App,
    routes: Router,
    answer: Arc<Answer>,
}

/// `sold_out`, ready to be sent, and the figures that it counts in.
struct Answer {
    body: Bytes,
    claims: Counter,
    requests: Counter,
    seconds: Histogram,
}

impl Quick {
    /// Before `routes`.
    pub(super) fn new(app: &App, routes: Router) -> Self {
        let body = serde_json::to_vec(&sold_out()).unwrap_or_default().into();
        let answer = Answer {
            body,
            claims: counter!("firstcome_claims_total", "outcome" => "sold_out"),
            requests: counter!("firstcome_http_requests_total", "method" => "POST", "path" => PATH, "status" => "409"),
            seconds: histogram!("firstcome_http_request_seconds", "method" => "POST", "path" => PATH),
        };
        Self { app: App::clone(app), routes, answer: Arc::new(answer) }
    }

    /// Whether this is a claim that is lost unless Redis says that something has changed.
    fn loser(&self, request: &Request) -> Option<Asking> {
        if request.method() != Method::POST || !has_no_body(request) {
            return None;
        }
        let id = request.uri().path().strip_prefix("/v1/coupons/")?.strip_suffix("/claims")?;
        let entry = self.app.catalogue.known(CouponId(id.parse().ok()?))?;
        let drop = entry.for_claim(self.app.clock.now())?.drop.id;
        let copy = self.app.sold_out.copy(drop)?;
        let user = self.app.identity.person(request.headers()).ok()?;
        self.app.sold_out.asking(copy, &user)
    }
}

fn has_no_body(request: &Request) -> bool {
    let headers = request.headers();
    !headers.contains_key(header::TRANSFER_ENCODING)
        && headers.get(header::CONTENT_LENGTH).is_none_or(|length| length.as_bytes() == b"0")
}

impl Answer {
    fn give(&self, begun: Instant) -> Response {
        self.claims.increment(1);
        self.requests.increment(1);
        self.seconds.record(begun.elapsed().as_secs_f64());
        let mut response = Response::new(Body::from(self.body.clone()));
        *response.status_mut() = StatusCode::CONFLICT;
        let problem = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, problem);
        response
    }
}

impl<B> Service<http::Request<B>> for Quick
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let begun = Instant::now();
        let request = request.map(Body::new);
        let Some(asking) = self.loser(&request) else { return Box::pin(self.routes.call(request)) };
        if asking.just_said() {
            return Box::pin(std::future::ready(Ok(self.answer.give(begun))));
        }
        let quick = self.clone();
        Box::pin(async move {
            if quick.app.sold_out.holds(&asking).await {
                return Ok(quick.answer.give(begun));
            }
            let mut routes = quick.routes;
            routes.call(request).await
        })
    }
}
