//! `GET /v1/coupons/{id}/issued`: the issued coupons. The codes are valuable, so caches and logs
//! must not store them.

mod csv;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CACHE_CONTROL, LINK, VARY};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId, Slot};
use firstcome_shared::http::Problem;
use firstcome_shared::http::problem::Code;
use firstcome_shared::mysql::holders::{HolderRange, HoldersPage};
use firstcome_shared::mysql::issued::IssuedRow;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{CouponPath, StrictQuery, invalid, mysql_unavailable};
use crate::serve::state::{App, Services};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct IssuedQuery {
    /// Only this drop; default: all drops, one after the other.
    drop_id: Option<i64>,
    /// Only rows after this slot of `drop_id`, of `after_drop_id`, or of the first drop.
    #[param(value_type = Option<i64>, minimum = 0, maximum = 4_294_967_295_i64)]
    after_slot: Option<Slot>,
    /// Only rows of this drop after `after_slot`, and of later drops.
    after_drop_id: Option<i64>,
    /// Page size. A CSV has all rows, unless this is given.
    #[param(default = 1000, minimum = 1, maximum = 10000)]
    limit: Option<usize>,
}

const DEFAULT_LIMIT: usize = 1_000;
const MAX_LIMIT: usize = 10_000;

/// A page of issued coupons, in order of drop and slot.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IssuedPage {
    issued: Vec<IssuedCoupon>,
    /// Path of the next page, also as `Link`.
    #[schema(example = "/v1/coupons/7/issued?drop_id=7&after_slot=1000&limit=1000")]
    next: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct IssuedCoupon {
    drop_id: i64,
    slot: Slot,
    #[schema(example = "u-37")]
    user_id: String,
    /// Redeems the coupon.
    #[schema(example = "12-215-J4B3-K69R-NG6Z-CMPF")]
    code: String,
    claimed_at: DateTime<Utc>,
    /// When the row was written.
    issued_at: DateTime<Utc>,
    /// `consumer`, `api` (Kafka did not take the claim) or `reconciler`.
    #[schema(example = "consumer")]
    issued_by: String,
}

impl From<IssuedRow> for IssuedCoupon {
    fn from(row: IssuedRow) -> Self {
        Self {
            drop_id: row.drop_id,
            slot: row.slot,
            user_id: row.user_id,
            code: row.code,
            claimed_at: row.claimed_at.and_utc(),
            issued_at: row.issued_at.and_utc(),
            issued_by: row.issued_by,
        }
    }
}

/// List issued coupons
///
/// `Accept` chooses JSON pages or one CSV (`text/csv`) of all rows. In a CSV, a `'` precedes fields
/// that spreadsheets would change: formulas (they begin with `=`, `+`, `-` or `@`), numbers of more
/// than 11 digits, leading zeros, `1E5`, dates. No user id begins with `'`, and an allow list takes
/// the whole CSV. If a CSV cannot be completed, the connection breaks. While a drop runs, rows of
/// lower slots may come later.
#[utoipa::path(
    get, path = "/v1/coupons/{id}/issued", tag = "operators",
    params(("id" = i64, Path, description = "Coupon ID", example = 7), IssuedQuery),
    responses(
        (status = 200, description = "The rows", content(
            (IssuedPage = "application/json"),
            (String = "text/csv"),
        )),
        (status = 404, description = "`not_found`: no such coupon or drop"),
        (status = 406, description = "`not_acceptable`: neither JSON nor CSV"),
        (status = 503, description = "`unavailable`: MySQL does not answer, or too many CSVs are being sent"),
    ),
    security(("ops" = []))
)]
pub(crate) async fn issued(
    State(app): State<App>,
    CouponPath(id): CouponPath,
    StrictQuery(asked): StrictQuery<IssuedQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(invalid(format!("limit must be between 1 and {MAX_LIMIT}")));
    }
    if asked.drop_id.is_some() && asked.after_drop_id.is_some() {
        return Err(invalid(
            "after_drop_id is for all drops; with drop_id give after_slot alone",
        ));
    }
    let wants_csv = wants_csv(&headers)?;
    app.catalogue.find(id).await?;
    let drop = asked.drop_id.or(asked.after_drop_id).unwrap_or_default();
    let after = (DropId(drop), asked.after_slot.unwrap_or_default());
    let which = HolderRange {
        coupon: id,
        drop: asked.drop_id.map(DropId),
        after,
    };
    let answer = if wants_csv {
        csv::answer(Arc::clone(&app), which, asked.limit).await?
    } else {
        let page = page(&app, which, limit).await?;
        let next = next(&asked, id, limit, &page);
        let link = next
            .iter()
            .map(|next| (LINK, format!("<{next}>; rel=\"next\"")))
            .collect::<Vec<_>>();
        let issued = page.rows.into_iter().map(IssuedCoupon::from).collect();
        (
            axum::response::AppendHeaders(link),
            Json(IssuedPage { issued, next }),
        )
            .into_response()
    };
    Ok(([(CACHE_CONTROL, "no-store"), (VARY, "Accept")], answer).into_response())
}

/// Whether the client accepts CSV by name. Without a preference, it gets JSON.
fn wants_csv(headers: &HeaderMap) -> Result<bool, Problem> {
    let values = headers.get_all(ACCEPT).iter();
    let ranges: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    let ranges = ranges.join(",").to_ascii_lowercase();
    let has = |kinds: &[&str]| kinds.iter().any(|kind| ranges.contains(kind));
    if has(&["text/csv", "text/*"]) {
        return Ok(true);
    }
    if ranges.trim().is_empty() || has(&["application/json", "application/*", "*/*"]) {
        return Ok(false);
    }
    let detail = "the response is application/json or text/csv; accept one of them";
    Err(Problem::new(Code::NotAcceptable, detail))
}

async fn page(
    services: &Services,
    which: HolderRange,
    limit: usize,
) -> Result<HoldersPage, Problem> {
    let found = services.mysql.operators.holders(which, limit).await;
    let found = found.map_err(|error| mysql_unavailable(&error, "try again"))?;
    found.ok_or_else(|| Problem::not_found("this coupon has no such drop"))
}

fn next(asked: &IssuedQuery, coupon: CouponId, limit: usize, page: &HoldersPage) -> Option<String> {
    let last = page.rows.last().filter(|_| page.has_more)?;
    let drop = if asked.drop_id.is_some() {
        "drop_id"
    } else {
        "after_drop_id"
    };
    Some(format!(
        "/v1/coupons/{coupon}/issued?{drop}={}&after_slot={}&limit={limit}",
        last.drop_id, last.slot
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_that_names_csv_gets_csv() {
        for (accept, expected) in [
            (None, Some(false)),
            (Some(""), Some(false)),
            (Some("*/*"), Some(false)),
            (Some("application/json"), Some(false)),
            (Some("text/csv"), Some(true)),
            (Some("TEXT/CSV; charset=utf-8"), Some(true)),
            (Some("text/*"), Some(true)),
            (Some("text/csv, */*;q=0.1"), Some(true)),
            (Some("image/png"), None),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(accept.map(|accept| (ACCEPT, accept.parse().unwrap())));
            assert_eq!(wants_csv(&headers).ok(), expected, "{accept:?}");
        }
    }
}
