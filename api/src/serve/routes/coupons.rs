//! `GET /v1/coupons` and `GET /v1/coupons/{id}`

use axum::Json;
use axum::extract::State;
use axum::http::header::LINK;
use axum::http::{HeaderMap, HeaderValue};
use firstcome_shared::coupon::DropState;
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::Problem;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{CouponPath, StrictQuery, invalid};
use super::view::{CouponView, show, show_one};
use crate::serve::catalogue::coupon_with_drops::CouponWithDrops;
use crate::serve::state::App;

/// See one coupon
#[utoipa::path(
    get, path = "/v1/coupons/{id}", tag = "coupons",
    params(("id" = i64, Path, description = "Number of the coupon")),
    responses(
        (status = 200, description = "The coupon. How much is left is up to a fifth of a second old; what another process \
            changed is shown after CATALOGUE_REFRESH_MS at the latest", body = CouponView),
        (status = 404, description = "`not_found`"),
        (status = 503, description = "`unavailable`"),
    )
)]
pub(crate) async fn one(State(app): State<App>, CouponPath(id): CouponPath) -> Result<Json<CouponView>, Problem> {
    show_one(&app, &*app.catalogue.find(id).await?).await
}

/// Which coupons to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listing {
    /// Only coupons whose current drop is in this state (`scheduled`: none has opened yet).
    state: Option<DropState>,
    /// Most coupons in one answer, 1 to 1000.
    #[param(default = 100, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Only coupons with a larger number: the last one of the page before.
    after: Option<i64>,
}

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// Coupons of one round trip to Redis while a page is filled.
const PART: usize = 250;

/// List coupons, in order of their numbers
///
/// Where there are more, the `Link` header names the next page.
#[utoipa::path(
    get, path = "/v1/coupons", tag = "coupons", params(Listing),
    responses(
        (status = 200, description = "The coupons", body = Vec<CouponView>),
        (status = 400, description = "`invalid`: the sentence names the parameter"),
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    StrictQuery(asked): StrictQuery<Listing>,
) -> Result<(HeaderMap, Json<Vec<CouponView>>), Problem> {
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(invalid(format!("limit must be between 1 and {MAX_LIMIT}")));
    }
    let coupons = app.catalogue.coupons();
    let after = CouponId(asked.after.unwrap_or(0));
    let candidates: Vec<&CouponWithDrops> =
        coupons.range(CouponId(after.0.saturating_add(1))..).map(|(_, coupon)| coupon.as_ref()).collect();
    let mut page = Vec::new();
    for part in candidates.chunks(PART) {
        let views = show(&app, part).await;
        page.extend(views.into_iter().filter(|view| asked.state.is_none() || view.state() == asked.state));
        if page.len() > limit {
            break;
        }
    }
    let mut headers = HeaderMap::new();
    if page.len() > limit {
        page.truncate(limit);
        headers.extend(page.last().and_then(|last| next_page(&asked, limit, last.id())).map(|link| (LINK, link)));
    }
    Ok((headers, Json(page)))
}

fn next_page(asked: &Listing, limit: usize, after: CouponId) -> Option<HeaderValue> {
    let state = asked.state.and_then(|state| serde_json::to_value(state).ok()?.as_str().map(|s| format!("&state={s}")));
    let state = state.unwrap_or_default();
    HeaderValue::from_str(&format!("</v1/coupons?limit={limit}&after={after}{state}>; rel=\"next\"")).ok()
}
