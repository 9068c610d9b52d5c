//! `GET /v1/coupons` and `GET /v1/coupons/{id}`

use std::ops::Bound;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, LINK};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use firstcome_shared::coupon::DropState;
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::Problem;
use serde::Deserialize;
use utoipa::IntoParams;

use super::etag;
use super::extract::{CouponPath, StrictQuery, invalid};
use super::view::{CouponView, show, show_one};
use crate::serve::catalogue::listed::{ListedPage, PageKey};
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
        (status = 404, description = "`not_found`"),
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

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// Maximum number of coupons examined for one page filtered by state.
const MAX_LOOKED_AT: usize = 1_000;

/// List coupons, ordered by ID
///
/// The `Link` header names the next page, if there may be one. With `state`, a page before the last
/// may have fewer coupons than `limit`, or none. `remaining` is up to half a second old.
#[utoipa::path(
    get, path = "/v1/coupons", tag = "coupons", params(Listing),
    responses(
        (status = 200, description = "The coupons", body = Vec<CouponView>),
        (status = 400, description = "`invalid`: the message says what is wrong"),
        (status = 503, description = "`unavailable`: too many lists are being read, or a store does not answer"),
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    StrictQuery(asked): StrictQuery<Listing>,
) -> Result<Response, Problem> {
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(invalid(format!("limit must be between 1 and {MAX_LIMIT}")));
    }
    let key = PageKey {
        state: asked.state,
        limit,
        after: asked.after.unwrap_or(0).max(0),
    };
    let make = make_page(&app, key);
    let page = app
        .listed
        .get_or_make(key, app.catalogue.version(), make)
        .await?;
    let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let link = page.next.map(|link| (LINK, link));
    let headers: HeaderMap = link.into_iter().chain([json]).collect();
    Ok((headers, page.body).into_response())
}

async fn make_page(app: &App, key: PageKey) -> Result<ListedPage, Problem> {
    let after = CouponId(key.after);
    let (found, most) = match key.state {
        None => (
            app.catalogue.page(after, key.limit + 1).await?,
            key.limit + 1,
        ),
        Some(DropState::Sealed) => (
            app.catalogue.page(after, MAX_LOOKED_AT).await?,
            MAX_LOOKED_AT,
        ),
        // All other states are of live coupons, which are in memory.
        Some(_) => {
            let live = app.catalogue.live();
            let behind = live.range((Bound::Excluded(after), Bound::Unbounded));
            let some = behind
                .take(MAX_LOOKED_AT)
                .map(|(_, coupon)| Arc::clone(coupon));
            (some.collect(), MAX_LOOKED_AT)
        }
    };
    let mut page = show(app, &found.iter().map(Arc::as_ref).collect::<Vec<_>>()).await;
    page.retain(|view| key.state.is_none() || view.state() == key.state);
    let last = if page.len() > key.limit {
        page.truncate(key.limit);
        page.last().map(CouponView::id)
    } else {
        found
            .last()
            .filter(|_| found.len() == most)
            .map(|last| last.coupon.id)
    };
    let body = serde_json::to_vec(&page).map_err(|error| {
        tracing::error!(%error, "a list of coupons could not be serialized");
        Problem::internal()
    })?;
    Ok(ListedPage {
        body: body.into(),
        next: last.and_then(|last| next_page(key, last)),
    })
}

fn next_page(key: PageKey, after: CouponId) -> Option<HeaderValue> {
    let name = |state| {
        serde_json::to_value(state)
            .ok()?
            .as_str()
            .map(str::to_owned)
    };
    let state = key
        .state
        .and_then(name)
        .map(|state| format!("&state={state}"));
    let limit = key.limit;
    let state = state.unwrap_or_default();
    let link = format!("</v1/coupons?limit={limit}&after={after}{state}>; rel=\"next\"");
    HeaderValue::from_str(&link).ok()
}
