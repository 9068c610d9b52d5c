//! The claim route, before the router: a crowd's every request comes through here, and axum's routing costs as much as the rest of
//! a claim (docs/PERFORMANCE.md). It does what the same route behind the router does, which answers claims that have a body.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use firstcome_shared::domain::{CouponId, UserId};
use firstcome_shared::http::Problem;
use firstcome_shared::redis::admission::Admission;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::time::Instant;
use tower::ServiceExt as _;

use crate::serve::routes::claims::yes;
use crate::serve::routes::middleware::{Measures, panicked};
use crate::serve::routes::refusals::refused;
use crate::serve::state::App;

/// As `routes/claims.rs` has it.
const PATH: &str = "/v1/coupons/{id}/claims";

/// The routes, with claims before them. A service of hyper's, which is asked by reference, so that nothing is cloned for a claim.
#[derive(Clone)]
pub(crate) struct Front(Arc<Inner>);

struct Inner {
    app: App,
    routes: Router,
    measures: Arc<Measures>,
    sold_out: Bytes,
}

/// `sold_out`, made once, or any other answer.
type Answer = Response<Either<Full<Bytes>, Body>>;

impl Front {
    pub(crate) fn new(app: &App, routes: Router, measures: Arc<Measures>) -> Self {
        let sold_out = serde_json::to_vec(&refused(Admission::SoldOut).1).unwrap_or_default().into();
        Self(Arc::new(Inner { app: App::clone(app), routes, measures, sold_out }))
    }
}

/// The coupon and the person of a claim that needs no router.
fn claim_of<B>(app: &App, request: &Request<B>) -> Option<(CouponId, UserId)> {
    let headers = request.headers();
    let no_body = !headers.contains_key(header::TRANSFER_ENCODING)
        && headers.get(header::CONTENT_LENGTH).is_none_or(|length| length.as_bytes() == b"0");
    if request.method() != Method::POST || !no_body {
        return None;
    }
    let id = request.uri().path().strip_prefix("/v1/coupons/")?.strip_suffix("/claims")?;
    Some((CouponId(id.parse().ok()?), app.identity.person(headers).ok()?))
}

impl Inner {
    async fn claim(self: Arc<Self>, id: CouponId, user: UserId) -> Answer {
        let begun = Instant::now();
        let work = std::panic::AssertUnwindSafe(self.work(id, user)).catch_unwind();
        let answer = match tokio::time::timeout_at(begun + self.app.request_timeout, work).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => panicked(panic).map(Either::Right),
            Err(_) => Problem::unavailable("this took too long; try again").into_response().map(Either::Right),
        };
        self.measures.note("POST", PATH, answer.status(), begun.elapsed());
        answer
    }

    async fn work(&self, id: CouponId, user: UserId) -> Answer {
        let claimed = match self.app.catalogue.find(id).await {
            Ok(entry) => self.app.claims.claim(entry, user).await,
            Err(missing) => Err(missing.into()),
        };
        match claimed {
            Ok(said) => yes(said).map(Either::Right),
            Err(problem) if problem.code() == "sold_out" => {
                let mut answer = Response::new(Either::Left(Full::new(self.sold_out.clone())));
                *answer.status_mut() = StatusCode::CONFLICT;
                let problem = HeaderValue::from_static("application/problem+json");
                answer.headers_mut().insert(header::CONTENT_TYPE, problem);
                answer
            }
            Err(problem) => problem.into_response().map(Either::Right),
        }
    }
}

impl Service<Request<Incoming>> for Front {
    type Response = Answer;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Answer, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        match claim_of(&inner.app, &request) {
            Some((id, user)) => Box::pin(inner.claim(id, user).map(Ok)),
            None => Box::pin(async move { Ok(inner.routes.clone().oneshot(request).await?.map(Either::Right)) }),
        }
    }
}
