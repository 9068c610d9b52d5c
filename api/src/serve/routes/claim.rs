//! The routes of a claim: `POST /v1/coupons/{id}/claims` and `GET /v1/coupons/{id}/claims/me`.
//!
//! Claims take a fast path before the router, because axum's routing costs as much as the rest of a
//! claim (docs/PERFORMANCE.md). Claims with a body go through the router. Both paths give the same
//! responses.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use axum::{Json, Router};
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::Problem;
use firstcome_shared::http::ops::Peer;
use firstcome_shared::redis::admission::Admission;
use firstcome_shared::trace::{RequestTrace, Route};
use futures_util::future::BoxFuture;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::Service;
use tower::ServiceExt as _;

use super::extract::{CouponPath, Person, coupon_id};
use super::middleware::RequestGuard;
use super::refusals::refused;
use super::view::{NotKept, not_kept};
use crate::serve::auth::Requester;
use crate::serve::claim::my_claim::MyClaim;
use crate::serve::claim::{ClaimAnswer, ClaimRefusal};
use crate::serve::state::App;

/// Claim a coupon
///
/// A retry is always safe: it gets `already_claimed`. No body is needed.
#[utoipa::path(
    post, path = "/v1/coupons/{id}/claims", tag = "claims",
    params(("id" = i64, Path, description = "Coupon ID", example = 7)),
    responses(
        (status = 202, description = "`accepted`: you have a slot; or `waiting`: you are on the waiting list", body = ClaimAnswer),
        (status = 200, description = "`already_claimed`: you hold one", body = ClaimAnswer),
        (status = 403, description = "`not_allowed`: you are not on the allow list, or not in the group. Users who \
            already hold a coupon or wait for one get that answer instead"),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`sold_out`, `paused`, `not_open` with `opens_at`, or `revoked`: you had one and may not have another"),
        (status = 410, description = "`closed`"),
        (status = 503, description = "`unavailable`: nothing is certain, try again"),
    ),
    security(("person" = []))
)]
pub(crate) async fn claim(
    State(app): State<App>,
    Person(requester): Person,
    CouponPath(id): CouponPath,
) -> Result<axum::response::Response, Problem> {
    Ok(success(app.claims.admit(id, requester).await?))
}

fn success(answer: ClaimAnswer) -> axum::response::Response {
    let status = match answer {
        ClaimAnswer::AlreadyClaimed { .. } => StatusCode::OK,
        ClaimAnswer::Accepted { .. } | ClaimAnswer::Waiting { .. } => StatusCode::ACCEPTED,
    };
    (status, Json(answer)).into_response()
}

/// Read your claim
#[utoipa::path(
    get, path = "/v1/coupons/{id}/claims/me", tag = "claims",
    params(("id" = i64, Path, description = "Coupon ID", example = 7)),
    responses(
        (status = 200, description = "Your claim", body = MyClaim),
        (status = 404, description = "`not_found`"),
        (status = 503, description = "`unavailable`: too little is known right now"),
    ),
    security(("person" = []))
)]
pub(crate) async fn mine(
    State(app): State<App>,
    Person(requester): Person,
    CouponPath(id): CouponPath,
) -> Result<NotKept<MyClaim>, Problem> {
    Ok(not_kept(app.claims.my_claim(id, requester).await?))
}

/// The router with the fast path before it. Implements hyper's `Service`, which takes `&self`, so
/// that a claim does not clone the router.
#[derive(Clone)]
pub(crate) struct FastPath {
    inner: Arc<Inner>,
    peer: Option<Peer>,
}

struct Inner {
    app: App,
    routes: Router,
    guard: Arc<RequestGuard>,
    /// The body of the most frequent error response, rendered once.
    sold_out: Bytes,
}

/// The body is `Left` for `sold_out` and `Right` for other responses.
type ClaimResponse = Response<Either<Full<Bytes>, Body>>;

impl FastPath {
    pub(crate) fn new(app: &App, routes: Router, guard: Arc<RequestGuard>) -> Self {
        let sold_out = serde_json::to_vec(&refused(Admission::SoldOut))
            .unwrap_or_default()
            .into();
        Self {
            inner: Arc::new(Inner {
                app: App::clone(app),
                routes,
                guard,
                sold_out,
            }),
            peer: None,
        }
    }

    /// Returns the service of one connection.
    pub(crate) fn of(&self, peer: SocketAddr) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            peer: Some(Peer(peer)),
        }
    }
}

impl Service<Request<Incoming>> for FastPath {
    type Response = ClaimResponse;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<ClaimResponse, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        if let Some((id, requester)) = inner.as_claim(&request) {
            let trace = RequestTrace::of(request.headers());
            return Box::pin(async move {
                let work = inner.claim(id, requester);
                Ok(inner
                    .guard
                    .answer(
                        Route {
                            method: "POST",
                            path: "/v1/coupons/{id}/claims",
                        },
                        trace,
                        Either::Right,
                        work,
                    )
                    .await)
            });
        }
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        Box::pin(async move {
            Ok(inner
                .routes
                .clone()
                .oneshot(request)
                .await?
                .map(Either::Right))
        })
    }
}

impl Inner {
    /// Returns the coupon and the user, if the request can take the fast path.
    fn as_claim<B>(&self, request: &Request<B>) -> Option<(CouponId, Requester)> {
        let headers = request.headers();
        let no_body = !headers.contains_key(header::TRANSFER_ENCODING)
            && headers
                .get(header::CONTENT_LENGTH)
                .is_none_or(|length| length.as_bytes() == b"0");
        if request.method() != Method::POST || !no_body {
            return None;
        }
        let id = request
            .uri()
            .path()
            .strip_prefix("/v1/coupons/")?
            .strip_suffix("/claims")?;
        Some((coupon_id(id)?, self.app.identity.person(headers).ok()?))
    }

    async fn claim(&self, id: CouponId, requester: Requester) -> ClaimResponse {
        match self.app.claims.admit(id, requester).await {
            Ok(answer) => success(answer).map(Either::Right),
            Err(ClaimRefusal::Refused(Admission::SoldOut)) => {
                let mut answer = Response::new(Either::Left(Full::new(self.sold_out.clone())));
                *answer.status_mut() = StatusCode::CONFLICT;
                let problem = HeaderValue::from_static("application/problem+json");
                answer.headers_mut().insert(header::CONTENT_TYPE, problem);
                answer
            }
            Err(refusal) => Problem::from(refusal).into_response().map(Either::Right),
        }
    }
}
