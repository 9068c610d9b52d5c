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
use crate::serve::catalogue::LookupError;
use crate::serve::catalogue::coupon_with_drops::CouponWithDrops;
use crate::serve::catalogue::listed::{DEFAULT_LIMIT, ListedPage, PageKey};
use crate::serve::state::{App, Services};

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

const MAX_LIMIT: usize = 1_000;

/// Coupons per round trip to Redis while a page is filled.
const PART: usize = 250;

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
    let after = asked.after.map_or(0, |after| after.max(0));
    let key = PageKey {
        state: asked.state,
        limit,
        after,
    };
    let page = app
        .listed
        .of(key, app.catalogue.version(), || {
            make_page(&app, &asked, limit)
        })
        .await?;
    let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let headers: HeaderMap = page
        .next
        .map(|link| (LINK, link))
        .into_iter()
        .chain([json])
        .collect();
    Ok((headers, page.body).into_response())
}

async fn make_page(app: &App, asked: &Listing, limit: usize) -> Result<ListedPage, Problem> {
    let (candidates, more) = candidates(app, asked, limit).await?;
    let mut page = Vec::new();
    let mut looked_at = 0;
    for part in candidates.chunks(PART) {
        looked_at += part.len();
        let views = show(app, &part.iter().map(Arc::as_ref).collect::<Vec<_>>()).await;
        page.extend(
            views
                .into_iter()
                .filter(|view| asked.state.is_none() || view.state() == asked.state),
        );
        if page.len() > limit {
            break;
        }
    }
    let last = if page.len() > limit {
        page.truncate(limit);
        page.last().map(CouponView::id)
    } else {
        candidates
            .get(looked_at.wrapping_sub(1))
            .filter(|_| more)
            .map(|last| last.coupon.id)
    };
    let body = serde_json::to_vec(&page).map_err(|error| {
        tracing::error!(%error, "a list of coupons could not be serialized");
        Problem::internal()
    })?;
    Ok(ListedPage {
        body: body.into(),
        next: last.and_then(|last| next_page(asked, limit, last)),
    })
}

/// Returns the coupons to examine for one page, and whether more may follow. All states except
/// `sealed` select live coupons, which are in memory.
async fn candidates(
    services: &Services,
    asked: &Listing,
    limit: usize,
) -> Result<(Vec<Arc<CouponWithDrops>>, bool), LookupError> {
    let after = CouponId(asked.after.unwrap_or(0));
    let most = if asked.state.is_some() {
        MAX_LOOKED_AT
    } else {
        limit + 1
    };
    let found = match asked.state {
        None | Some(DropState::Sealed) => services.catalogue.page(after, most).await?,
        Some(_) => {
            let live = services.catalogue.live();
            let behind = live.range((Bound::Excluded(after), Bound::Unbounded));
            behind
                .take(most)
                .map(|(_, coupon)| Arc::clone(coupon))
                .collect()
        }
    };
    let more = found.len() == most;
    Ok((found, more))
}

fn next_page(asked: &Listing, limit: usize, after: CouponId) -> Option<HeaderValue> {
    let state = asked.state.and_then(|state| {
        serde_json::to_value(state)
            .ok()?
            .as_str()
            .map(|s| format!("&state={s}"))
    });
    let state = state.unwrap_or_default();
    HeaderValue::from_str(&format!(
        "</v1/coupons?limit={limit}&after={after}{state}>; rel=\"next\""
    ))
    .ok()
}
