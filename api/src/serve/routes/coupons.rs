//! `GET /v1/coupons` and `GET /v1/coupons/{id}`

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, LINK};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{AppendHeaders, IntoResponse as _, Response};
use firstcome_shared::coupon::DropState;
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::Problem;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use utoipa::IntoParams;

use super::etag;
use super::extract::{CouponPath, StrictQuery, page_size};
use super::view::{CouponView, show, show_one};
use crate::serve::catalogue::LiveCoupons;
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

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, IntoParams)]
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

/// How long the last page is served again.
const FRESH_FOR: Duration = Duration::from_millis(300);

/// Maximum wait for the pages of other requests.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The last page of the list of coupons, the most expensive response that needs no authentication.
/// One page is made at a time, and requests wait for it for a limited time.
#[derive(Default)]
pub(crate) struct ListedPages(Mutex<Option<ListedPage>>);

struct ListedPage {
    asked: Listing,
    /// The coupons that it was made from.
    live: Arc<LiveCoupons>,
    made_at: Instant,
    body: Bytes,
    /// Path of the next page.
    next: Option<String>,
}

impl ListedPage {
    fn respond(&self) -> Response {
        let link = self
            .next
            .iter()
            .map(|next| (LINK, format!("<{next}>; rel=\"next\"")));
        let link = AppendHeaders(link.collect::<Vec<_>>());
        let json = [(CONTENT_TYPE, "application/json")];
        (json, link, self.body.clone()).into_response()
    }
}

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
    let limit = page_size(asked.limit, 100, 1_000)?;
    let Ok(mut last) = timeout(LONGEST_WAIT, app.listed.0.lock()).await else {
        return Err(Problem::unavailable(
            "too many lists of coupons are requested right now; try again",
        ));
    };
    let live = app.catalogue.live();
    let is_fresh = |page: &&ListedPage| {
        page.asked == asked && Arc::ptr_eq(&page.live, &live) && page.made_at.elapsed() < FRESH_FOR
    };
    if let Some(page) = last.as_ref().filter(is_fresh) {
        return Ok(page.respond());
    }
    let page = make_page(&app, asked, limit, live).await?;
    Ok(last.insert(page).respond())
}

async fn make_page(
    app: &App,
    asked: Listing,
    limit: usize,
    live: Arc<LiveCoupons>,
) -> Result<ListedPage, Problem> {
    let after = CouponId(asked.after.unwrap_or(0).max(0));
    let most = asked.state.map_or(limit + 1, |_| MAX_LOOKED_AT);
    let found: Vec<Arc<CouponWithDrops>> = match asked.state {
        None | Some(DropState::Sealed) => app.catalogue.page(after, most).await?,
        // All other states are of live coupons, which are in memory.
        Some(_) => {
            let behind = live.range((Bound::Excluded(after), Bound::Unbounded));
            let some = behind.take(most).map(|(_, coupon)| Arc::clone(coupon));
            some.collect()
        }
    };
    let mut page = show(app, &found.iter().map(Arc::as_ref).collect::<Vec<_>>()).await;
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
    let next = last.map(|last| format!("/v1/coupons?limit={limit}&after={last}{state}"));
    let body = serde_json::to_vec(&page).map_err(|error| {
        tracing::error!(%error, "a list of coupons could not be serialized");
        Problem::internal()
    })?;
    Ok(ListedPage {
        asked,
        live,
        made_at: Instant::now(),
        body: body.into(),
        next,
    })
}
