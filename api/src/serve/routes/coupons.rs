//! `GET /v1/coupons` and `GET /v1/coupons/{id}`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LINK;
use axum::response::{AppendHeaders, IntoResponse as _, Response};
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::Problem;
use firstcome_shared::http::views::CouponView;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{CouponParam, CouponPath, StrictQuery, page_size};
use super::view::{show, show_one};
use crate::serve::catalogue::coupon_with_drops::CouponWithDrops;
use crate::serve::state::App;

/// Read one coupon
#[utoipa::path(
    get, path = "/v1/coupons/{id}", tag = "coupons",
    params(CouponParam),
    responses((
        status = 200, body = CouponView,
        description = "The coupon. `remaining` is up to 0.2 s old, changes by another process up to 1 s",
        headers(("ETag" = String, description = "Its revision, in quotes"))
    ))
)]
pub(crate) async fn one(
    State(app): State<App>,
    CouponPath(id): CouponPath,
) -> Result<Response, Problem> {
    let coupon = app.catalogue.find(id).await?;
    Ok(show_one(&app, &coupon, StatusCode::OK).await)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listing {
    /// Page size.
    #[param(default = 100, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Only coupons with a higher ID.
    after: Option<i64>,
}

/// List coupons, ordered by ID
///
/// The `Link` header names the next page, if there is one. `remaining` is up to 0.2 s old.
#[utoipa::path(
    get, path = "/v1/coupons", tag = "coupons",
    params(Listing),
    responses(
        (status = 200, description = "The coupons", body = Vec<CouponView>),
        (status = 400, description = "`invalid`: the message says what is wrong"),
        (status = 503, description = "`unavailable`: MySQL does not answer in time")
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    StrictQuery(asked): StrictQuery<Listing>,
) -> Result<Response, Problem> {
    let limit = page_size(asked.limit, 100, 1_000)?;
    let after = CouponId(asked.after.unwrap_or(0).max(0));
    let mut found = app.catalogue.page(after, limit + 1).await?;
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| has_more).map(|last| {
        let path = format!("/v1/coupons?limit={limit}&after={}", last.coupon.id);
        (LINK, format!("<{path}>; rel=\"next\""))
    });
    let coupons: Vec<&CouponWithDrops> = found.iter().map(Arc::as_ref).collect();
    let page = Json(show(&app, &coupons).await);
    Ok((AppendHeaders(next), page).into_response())
}
