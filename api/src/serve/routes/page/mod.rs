//! The coupon page: `GET /c/{id}`, its assets, and the state it polls. The data of live coupons
//! comes from memory, except how many slots of a drop are left: one read of Redis serves all pages
//! for 200 ms. See docs/decisions/0016-pages.md.

mod html;

use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_TYPE, RETRY_AFTER, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::map_response;
use axum::response::{AppendHeaders, IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::Problem;
use firstcome_shared::http::page::{Asset, secure};
use serde_json::json;

use self::html::{ICON, Language, SCRIPT, STYLE};
use super::extract::CouponPath;
use super::view::show;
use crate::serve::catalogue::LookupError;
use crate::serve::state::App;

/// Caches may use a page without revalidation for ten seconds, because its name and times rarely
/// change.
const PAGE_FRESH_FOR: &str = "public, max-age=10";

/// Forbids other origins, inline scripts and styles, and framing.
const CONTENT_SECURITY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors \
    'none'";

pub(crate) fn routes(is_on: bool) -> Router<App> {
    if !is_on {
        return Router::new();
    }
    Router::new()
        .route("/c/{id}", get(document))
        .route("/c/{id}/state", get(state))
        .route("/c/assets/{file}", get(asset))
        .route_layer(map_response(with_security_headers))
}

#[allow(clippy::unused_async)] // a layer
async fn with_security_headers(mut response: Response) -> Response {
    secure(&mut response, CONTENT_SECURITY, "no-referrer");
    response
}

async fn document(
    State(app): State<App>,
    path: Result<CouponPath, Problem>,
    headers: HeaderMap,
) -> Response {
    let language = Language::from_headers(&headers);
    let found = match path {
        Ok(CouponPath(id)) => app.catalogue.find(id).await,
        Err(_) => Err(LookupError::NoSuchCoupon(CouponId(0))),
    };
    let (status, caching, page) = match found {
        Ok(coupon) => {
            let wants_token = app.identity.wants_token();
            let page = html::coupon(
                &coupon,
                app.clock.now(coupon.coupon.id),
                language,
                wants_token,
            );
            (StatusCode::OK, PAGE_FRESH_FOR, page)
        }
        Err(LookupError::NoSuchCoupon(_)) => {
            let page = html::notice("missing", language);
            (StatusCode::NOT_FOUND, "no-store", page)
        }
        Err(LookupError::Unavailable) => {
            let page = html::notice("unavailable", language);
            (StatusCode::SERVICE_UNAVAILABLE, "no-store", page)
        }
    };
    let page = match page {
        Ok(page) => page,
        Err(error) => {
            tracing::error!(%error, "the page cannot be written");
            return Problem::internal().into_response();
        }
    };
    let retry = (status == StatusCode::SERVICE_UNAVAILABLE).then_some((RETRY_AFTER, "3"));
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_LANGUAGE, language.tag()),
        (CACHE_CONTROL, caching),
        (VARY, "accept-language"),
    ];
    (status, headers, AppendHeaders(retry), page).into_response()
}

/// The state that an open page polls: the coupon by Redis's clock, and that clock.
async fn state(State(app): State<App>, CouponPath(id): CouponPath) -> Result<Response, Problem> {
    let coupon = app.catalogue.find(id).await?;
    let shown = show(&app, &[&coupon]).await.pop();
    let state = json!({
        "now_ms": app.clock.now(id).timestamp_millis(),
        "wants_token": app.identity.wants_token(),
        "coupon": shown,
    });
    Ok(([(CACHE_CONTROL, "no-store")], Json(state)).into_response())
}

#[allow(clippy::unused_async)] // a handler
async fn asset(Path(file): Path<String>) -> Result<Response, Problem> {
    Asset::serve(&[&SCRIPT, &STYLE, &ICON], &file)
}
