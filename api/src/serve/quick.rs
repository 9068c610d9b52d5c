//! The short way for losers: their answer is always the same, so it is made once, and while a drop is sold out it is given
//! before the router, its layers and a task of its own are paid for (docs/PERFORMANCE.md). Whatever is not certainly that goes
//! the long way.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use firstcome_shared::domain::CouponId;
use futures_util::future::{BoxFuture, Either as EitherFuture};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::Service;
use metrics::{counter, histogram};
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::admit::sold_out;
use super::sold_out::Loser;
use super::state::App;
use super::tally::Tally;

/// As `routes/claims.rs` and the figures have it.
const PATH: &str = "/v1/coupons/{id}/claims";

/// The routes, with the short way before them. A service of hyper's, not of tower's: it is asked by reference, so that the
/// short way neither clones nor boxes anything.
#[derive(Clone)]
pub(super) struct Quick(Arc<Inner>);

struct Inner {
    app: App,
    routes: Router,
    answer: Answer,
}

/// The answer made once, or that of a route.
type Told = Response<Either<Full<Bytes>, Body>>;

/// `sold_out`, ready to be sent, and the figures that it counts in.
struct Answer {
    body: Bytes,
    tally: Tally,
}

impl Quick {
    /// Before `routes`.
    pub(super) fn new(app: &App, routes: Router) -> Self {
        let body = serde_json::to_vec(&sold_out()).unwrap_or_default().into();
        let claims = counter!("firstcome_claims_total", "outcome" => "sold_out");
        let requests = counter!("firstcome_http_requests_total", "method" => "POST", "path" => PATH, "status" => "409");
        let seconds = histogram!("firstcome_http_request_seconds", "method" => "POST", "path" => PATH);
        let answer = Answer { body, tally: Tally::new(vec![claims, requests], seconds) };
        Self(Arc::new(Inner { app: App::clone(app), routes, answer }))
    }
}

impl Inner {
    /// Whether this is a claim that is lost unless Redis says that something has changed.
    fn loser<B>(&self, request: &Request<B>, begun: Instant) -> Option<Loser> {
        if request.method() != Method::POST || !has_no_body(request) {
            return None;
        }
        let id = request.uri().path().strip_prefix("/v1/coupons/")?.strip_suffix("/claims")?;
        let drop = self.app.catalogue.drop_for_claim(CouponId(id.parse().ok()?), self.app.clock.now())?;
        self.app.sold_out.of(drop, begun, || self.app.identity.person(request.headers()).ok())
    }
}

fn has_no_body<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    !headers.contains_key(header::TRANSFER_ENCODING)
        && headers.get(header::CONTENT_LENGTH).is_none_or(|length| length.as_bytes() == b"0")
}

impl Answer {
    fn give(&self, begun: Instant) -> Told {
        self.tally.note(begun.elapsed().as_secs_f64());
        let mut response = Response::new(Either::Left(Full::new(self.body.clone())));
        *response.status_mut() = StatusCode::CONFLICT;
        let problem = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, problem);
        response
    }
}

impl Inner {
    async fn by_routes(&self, request: Request<Incoming>) -> Result<Told, Infallible> {
        // Whoever reads the figures reads all of them.
        if request.uri().path() == "/metrics" {
            self.answer.tally.settle();
        }
        let answer = self.routes.clone().oneshot(request).await?;
        Ok(answer.map(Either::Right))
    }
}

impl Service<Request<Incoming>> for Quick {
    type Response = Told;
    type Error = Infallible;
    type Future = EitherFuture<Ready<Result<Told, Infallible>>, BoxFuture<'static, Result<Told, Infallible>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let begun = Instant::now();
        let asking = match self.0.loser(&request, begun) {
            Some(Loser::Told) => return EitherFuture::Left(ready(Ok(self.0.answer.give(begun)))),
            Some(Loser::Asking(asking)) => Some(asking),
            None => None,
        };
        let quick = Arc::clone(&self.0);
        EitherFuture::Right(Box::pin(async move {
            match asking {
                Some(asking) if quick.app.sold_out.holds(&asking).await => Ok(quick.answer.give(begun)),
                _ => quick.by_routes(request).await,
            }
        }))
    }
}
