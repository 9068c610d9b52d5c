//! `GET /v1/coupons` and `GET /v1/coupons/{id}`

use std::ops::Bound;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::LINK;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{AppendHeaders, IntoResponse as _, Response};
use firstcome_shared::coupon::DropState;
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::Problem;
use serde::Deserialize;
use utoipa::IntoParams;

use super::etag;
use super::extract::{CouponPath, StrictQuery, page_size};
use super::view::{CouponView, show, show_one};
use crate::serve::catalogue::coupon_with_drops::CouponWithDrops;
use crate::serve::state::App;

/// Read one coupon
#[utoipa::path(
    get, path = "/v1/coupons/{id}", tag = "coupons",
    params(
        ("id" = i64, Path, description = "Coupon ID", example = 7),
        ("If-None-Match" = Option<String>, Header, description = "Your `ETag`: 304 if the settings have not changed"),
    ),
    responses(
        (status = 200, description = "The coupon. `remaining` is up to 0.2 s old, changes by another process up to 1 s", body = CouponView,
            headers(("ETag" = String, description = "Its revision, in quotes"))),
        (status = 304, description = "The settings have not changed"),
    )
)]
pub(crate) async fn one(
    State(app): State<App>,
    CouponPath(id): CouponPath,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let coupon = app.catalogue.find(id).await?;
    let revision = coupon.coupon.revision;
    if etag::is_known(&headers, revision) {
        return Ok((StatusCode::NOT_MODIFIED, etag::of(revision)).into_response());
    }
    Ok(show_one(&app, &coupon, StatusCode::OK).await)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listing {
    /// Only coupons whose current drop is in this state; `scheduled`: none has opened yet.
    state: Option<DropState>,
    /// Page size.
    #[param(default = 100, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Only coupons with a higher ID.
    after: Option<i64>,
}

/// Maximum number of coupons examined for one page filtered by state.
const MAX_LOOKED_AT: usize = 1_000;

/// List coupons, ordered by ID
///
/// The `Link` header names the next page, if there may be one. With `state`, a page before the last
/// may have fewer coupons than `limit`, or none. `remaining` is up to 0.2 s old.
#[utoipa::path(
    get, path = "/v1/coupons", tag = "coupons", params(Listing),
    responses(
        (status = 200, description = "The coupons", body = Vec<CouponView>),
        (status = 400, description = "`invalid`: the message says what is wrong"),
        (status = 503, description = "`unavailable`: MySQL does not answer in time"),
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    StrictQuery(asked): StrictQuery<Listing>,
) -> Result<Response, Problem> {
    let limit = page_size(asked.limit, 100, 1_000)?;
    let after = CouponId(asked.after.unwrap_or(0).max(0));
    let most = asked.state.map_or(limit + 1, |_| MAX_LOOKED_AT);
    let found: Vec<Arc<CouponWithDrops>> = match asked.state {
        None | Some(DropState::Sealed) => app.catalogue.page(after, most).await?,
        // All other states are of live coupons, which are in memory.
        Some(_) => {
            let live = app.catalogue.live();
            let behind = live.range((Bound::Excluded(after), Bound::Unbounded));
            behind.take(most).map(|(_, one)| Arc::clone(one)).collect()
        }
    };
    let coupons: Vec<&CouponWithDrops> = found.iter().map(Arc::as_ref).collect();
    let mut page = show(&app, &coupons).await;
    page.retain(|view| asked.state.is_none() || view.state() == asked.state);
    let last = if page.len() > limit {
        page.truncate(limit);
        page.last().map(CouponView::id)
    } else {
        let last = found.last().filter(|_| found.len() == most);
        last.map(|last| last.coupon.id)
    };
    let state = asked
        .state
        .map(|state| format!("&state={}", state.as_str()));
    let state = state.unwrap_or_default();
    let next = last.iter().map(|last| {
        let path = format!("/v1/coupons?limit={limit}&after={last}{state}");
        (LINK, format!("<{path}>; rel=\"next\""))
    });
    let next = AppendHeaders(next.collect::<Vec<_>>());
    Ok((next, Json(page)).into_response())
}
