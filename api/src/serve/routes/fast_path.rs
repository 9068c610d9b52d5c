//! The fast path of claims. It skips the router, which costs more than the answer to a loser. The
//! deadline, panics, metrics, traces and headers are those of [`guarded`], which the router's
//! middleware also uses.

use axum::http::{Method, Request};
use axum::response::{IntoResponse as _, Response};
use firstcome_shared::http::Routes;
use firstcome_shared::http::ops::Peer;
use firstcome_shared::trace::{RequestTrace, Route};
use futures_util::future::Either;
use hyper::body::Incoming;

use super::extract::coupon_of_path;
use super::middleware::guarded;
use crate::serve::claim::admit::admit;
use crate::serve::state::App;

const CLAIMS: Route<'_> = Route {
    method: "POST",
    path: "/v1/coupons/{id}/claims",
};

/// Answers a claim directly, and passes any other request to the router.
pub(crate) fn answer(
    app: &App,
    routes: &Routes,
    peer: Peer,
    request: Request<Incoming>,
) -> impl Future<Output = Response> + use<> {
    if app.has_fast_path && is_claim(&request) {
        Either::Left(claim(App::clone(app), request))
    } else {
        Either::Right(routes.answer(peer, request))
    }
}

/// Whether the router would choose [`CLAIMS`].
fn is_claim<B>(request: &Request<B>) -> bool {
    let after_coupons = request.uri().path().strip_prefix("/v1/coupons/");
    let id = after_coupons.and_then(|rest| rest.strip_suffix("/claims"));
    request.method() == Method::POST && id.is_some_and(|id| !id.is_empty() && !id.contains('/'))
}

async fn claim<B>(app: App, request: Request<B>) -> Response {
    let (parts, _) = request.into_parts();
    let trace = RequestTrace::from_headers(&parts.headers);
    let work = async {
        let requester = match app.identity.authenticate(&parts.headers).await {
            Ok(requester) => requester,
            Err(refused) => return refused.into_response(),
        };
        match coupon_of_path(parts.uri.path()) {
            Ok(id) => admit(&app, id, requester).await.into_response(),
            Err(refused) => refused.into_response(),
        }
    };
    guarded(&app, CLAIMS, trace, work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_output<Of, Made>(_: impl FnOnce(Of) -> Made) -> usize {
        size_of::<Made>()
    }

    #[test]
    fn future_of_a_claim_is_small_because_each_request_moves_it() {
        let size = size_of_output(|app: App| claim(app, Request::new(())));
        assert!(size < 2_000, "{size} bytes");
    }

    #[test]
    fn only_a_post_to_the_claims_of_one_coupon_is_a_claim() {
        for (method, uri, is_one) in [
            (Method::POST, "/v1/coupons/1/claims", true),
            (Method::POST, "http://shop/v1/coupons/1/claims?a=b", true),
            (Method::POST, "/v1/coupons/%31/claims", true),
            (Method::POST, "/v1/coupons/claims/claims", true),
            (Method::GET, "/v1/coupons/1/claims", false),
            (Method::POST, "/v1/coupons/1/claims/", false),
            (Method::POST, "/v1/coupons//claims", false),
            (Method::POST, "/v1/coupons/claims", false),
            (Method::POST, "/v1/coupons/1/2/claims", false),
            (Method::POST, "//v1/coupons/1/claims", false),
        ] {
            let shown = format!("{method} {uri}");
            let request = Request::builder().method(method).uri(uri);
            assert_eq!(is_claim(&request.body(()).unwrap()), is_one, "{shown}");
        }
    }
}
