//! `GET /v1/coupons/{id}/issued`: the issued coupons. The codes are valuable, so caches and logs
//! must not store them.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, NaiveDate, Utc};
use csv::{Terminator, WriterBuilder};
use firstcome_shared::coupon::CouponSettings;
use firstcome_shared::domain::{DropId, Slot};
use firstcome_shared::http::Problem;
use firstcome_shared::mysql::issued::IssuedRow;
use firstcome_shared::mysql::row_pages::{HolderRange, IssuedRowsPage};
use firstcome_shared::mysql::used_rows::RowClaim;
use firstcome_shared::mysql::uses::CodeUse;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::schedule::{Schedule, Tz};
use firstcome_shared::spreadsheet::guarded;
use futures_util::{TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{CouponParam, CouponPath, StrictQuery, no_such_coupon, page_size};
use crate::serve::state::App;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct IssuedQuery {
    /// Only this drop; default: all drops, one after the other.
    drop_id: Option<i64>,
    /// Only rows after this slot of `after_drop_id`, of `drop_id`, or of the first drop.
    #[param(value_type = Option<i64>, minimum = 0, maximum = 4_294_967_295_i64)]
    after_slot: Option<Slot>,
    /// Only rows of this drop after `after_slot`, and of later drops.
    after_drop_id: Option<i64>,
    /// Page size of JSON. A CSV has all rows.
    #[param(default = 1000, minimum = 1, maximum = 10000)]
    limit: Option<usize>,
}

/// A page of issued coupons, in order of drop and slot.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IssuedPage {
    issued: Vec<IssuedCoupon>,
    /// Path of the next page; null on the last one.
    #[schema(example = "/v1/coupons/7/issued?limit=1000&after_drop_id=7&after_slot=1000")]
    next: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct IssuedCoupon {
    drop_id: i64,
    #[schema(value_type = u32)]
    slot: Slot,
    #[schema(example = "u-37")]
    user_id: String,
    /// Redeems the coupon.
    #[schema(example = "0GF8-K2RX-0015-J4B3-K69R")]
    code: String,
    claimed_at: DateTime<Utc>,
    /// When the row was written.
    issued_at: DateTime<Utc>,
    /// `consumer`, `api` (Kafka did not acknowledge the claim in time) or `reconciler`.
    #[schema(example = "consumer")]
    issued_by: String,
    /// When a shop used the code; null if none has, or if the use was undone.
    used_at: Option<DateTime<Utc>>,
    /// The order that used it.
    reference: Option<String>,
    /// The shop that used it.
    used_by: Option<String>,
    /// Until when the code can be used; null: without an end.
    expires_at: Option<DateTime<Utc>>,
}

/// [`Labels`] and the fields of [`IssuedCoupon`]. The byte order mark tells Excel that the text is
/// UTF-8.
const HEADING: &str = "\u{feff}coupon,day,drop_id,slot,user_id,code,claimed_local,claimed_at,issued_at,\
     issued_by,used_at,reference,used_by,expires_at\r\n";

/// A row of a CSV. Spreadsheets round a drop's id, which has 16 digits, and do not take the other
/// times for times.
#[derive(Debug, Serialize)]
struct CsvRow<'a> {
    coupon: &'a str,
    day: Option<&'a NaiveDate>,
    drop_id: String,
    slot: Slot,
    user_id: String,
    code: String,
    /// In the coupon's time zone.
    claimed_local: String,
    claimed_at: DateTime<Utc>,
    issued_at: DateTime<Utc>,
    issued_by: String,
    used_at: Option<DateTime<Utc>>,
    reference: Option<String>,
    used_by: Option<String>,
    expires_at: Option<DateTime<Utc>>,
}

impl IssuedCoupon {
    fn new(row: IssuedRow, in_use: Option<CodeUse>, settings: &CouponSettings) -> Self {
        let expires_at = settings.code_expires_at(row.claimed_at);
        let used_at = in_use.as_ref().and_then(|order| order.used_at);
        let (reference, used_by) = in_use.map(|order| (order.reference, order.used_by)).unzip();
        Self {
            drop_id: row.drop_id,
            slot: row.slot,
            user_id: row.user_id,
            code: row.code,
            claimed_at: row.claimed_at,
            issued_at: row.issued_at,
            issued_by: row.issued_by,
            used_at,
            reference,
            used_by,
            expires_at,
        }
    }
}

/// Adds to the rows of a page the current uses of their codes.
async fn with_uses(
    db: &Db,
    rows: Vec<IssuedRow>,
    settings: &CouponSettings,
) -> Result<Vec<IssuedCoupon>, DbError> {
    let uses = db.uses_of_rows(&rows).await?;
    let mut in_use: HashMap<RowClaim, CodeUse> = uses
        .into_iter()
        .filter(|found| found.order.is_in_use())
        .map(|found| (found.claim(), found.order))
        .collect();
    let issued = rows.into_iter().map(|row| {
        let used = in_use.remove(&row.claim());
        IssuedCoupon::new(row, used, settings)
    });
    Ok(issued.collect())
}

/// List issued coupons
///
/// `Accept` chooses JSON pages or one CSV (`text/csv`) of all rows, with the coupon's name, the day
/// and the time of the claim in the coupon's time zone. In a CSV, a `'` precedes fields that spreadsheets would change: formulas (they begin with
/// `=`, `+`, `-` or `@`), numbers of more than 11 digits, leading zeros, `1E5`, dates. No user id
/// begins with `'`, and an allow list takes the whole CSV. If a CSV cannot be completed, the
/// connection breaks. While a drop runs, rows of lower slots may come later.
#[utoipa::path(
    get, path = "/v1/coupons/{id}/issued", tag = "operators", security(("ops" = [])),
    params(CouponParam, IssuedQuery),
    responses(
        (
            status = 200, description = "The rows",
            content((IssuedPage = "application/json"), (String = "text/csv"))
        ),
        (status = 404, description = "`not_found`: no such coupon or drop"),
        (status = 503, description = "`unavailable`: MySQL does not answer")
    )
)]
pub(crate) async fn issued(
    State(app): State<App>,
    CouponPath(id): CouponPath,
    StrictQuery(asked): StrictQuery<IssuedQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let limit = page_size(asked.limit, 1_000, 10_000)?;
    let found = app.mysql.operators.coupon(id).await?;
    let (coupon, drops) = found.ok_or_else(|| no_such_coupon(id))?;
    let after = asked.after_drop_id.or(asked.drop_id).unwrap_or_default();
    let which = HolderRange {
        coupon: id,
        drop: asked.drop_id.map(DropId),
        after: (DropId(after), asked.after_slot.unwrap_or_default()),
    };
    let answer = if wants_csv(&headers) {
        let zone = zone(&coupon.settings);
        let days = drops
            .iter()
            .map(|drop| (drop.id.0, zone.local(drop.opens_at).date_naive()));
        csv(app, which, Labels(coupon.settings, days.collect())).await?
    } else {
        let page = page(&app, which, limit).await?;
        let only = asked
            .drop_id
            .map(|id| format!("&drop_id={id}"))
            .unwrap_or_default();
        let list = format!("/v1/coupons/{id}/issued?limit={limit}{only}");
        let last = page
            .rows
            .last()
            .filter(|_| page.has_more)
            .map(|last| (last.drop_id, last.slot));
        let next =
            last.map(|(drop, slot)| format!("{list}&after_drop_id={drop}&after_slot={slot}"));
        let issued = with_uses(&app.mysql.operators, page.rows, &coupon.settings).await?;
        Json(IssuedPage { issued, next }).into_response()
    };
    Ok(([(CACHE_CONTROL, "no-store"), (VARY, "Accept")], answer).into_response())
}

/// Whether the client names CSV, and does not refuse it. All others get JSON.
fn wants_csv(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter();
    let ranges = values.filter_map(|value| value.to_str().ok());
    ranges.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_csv = parts
            .next()
            .is_some_and(|it| it.eq_ignore_ascii_case("text/csv"));
        let mut qualities = parts
            .filter_map(|part| part.split_once('='))
            .filter(|(name, _)| name.eq_ignore_ascii_case("q"));
        let quality = qualities
            .next()
            .and_then(|(_, value)| value.parse::<f32>().ok());
        is_csv && quality.is_none_or(|quality| quality > 0.0)
    })
}

async fn page(app: &App, which: HolderRange, limit: usize) -> Result<IssuedRowsPage, Problem> {
    let found = app.mysql.operators.holders(which, limit).await;
    found?.ok_or_else(|| Problem::not_found("this coupon has no such drop"))
}

/// Rows per part of a CSV, about 200 kB.
const PART: usize = 2_000;

/// Responds with all rows as one CSV (RFC 4180), part by part: each is read when the client has
/// received the one before, and no MySQL connection is held in between. An error breaks the
/// connection, so that the client notices that rows are missing.
async fn csv(app: App, which: HolderRange, labels: Labels) -> Result<Response, Problem> {
    let labels = Arc::new(labels);
    // Read the first page before the status is sent, so that an error becomes a problem response.
    let first = page(&app, which, PART).await?;
    let parts = stream::try_unfold(Some((true, which, Some(first))), move |left| {
        let db = app.mysql.operators.clone();
        let labels = Arc::clone(&labels);
        async move {
            let Some((is_first, mut which, read)) = left else {
                return Ok(None);
            };
            let page = match read {
                Some(page) => page,
                None => db.holders(which, PART).await?.unwrap_or_default(),
            };
            let last = page.rows.last().filter(|_| page.has_more);
            let next = last.map(|last| {
                which.after = (DropId(last.drop_id), last.slot);
                (false, which, None)
            });
            let issued = with_uses(&db, page.rows, &labels.0).await?;
            anyhow::Ok(Some((rows(issued, is_first, &labels)?, next)))
        }
    });
    let logged = parts.inspect_err(move |error| {
        tracing::warn!(%error, coupon_id = %which.coupon, "a CSV of holders was aborted");
    });
    let coupon = which.coupon;
    let name = format!("attachment; filename=\"coupon-{coupon}-issued.csv\"");
    let headers = [
        (CONTENT_TYPE, "text/csv; charset=utf-8; header=present"),
        (CONTENT_DISPOSITION, &name),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, Body::from_stream(logged)).into_response())
}

/// Data for the rows of a CSV: the coupon's settings, and the local day of each drop.
struct Labels(CouponSettings, HashMap<i64, NaiveDate>);

/// The zone of a coupon's local times.
fn zone(settings: &CouponSettings) -> Tz {
    let schedule = settings.schedule.as_ref();
    schedule.and_then(Schedule::time_zone).unwrap_or(Tz::utc())
}

/// Writes rows, with the heading if it is the first part.
fn rows(issued: Vec<IssuedCoupon>, is_first: bool, labels: &Labels) -> anyhow::Result<Vec<u8>> {
    let name = guarded(labels.0.name.clone());
    let text = if is_first { HEADING.into() } else { Vec::new() };
    let mut csv = WriterBuilder::new()
        .has_headers(false)
        .terminator(Terminator::CRLF)
        .from_writer(text);
    let zone = zone(&labels.0);
    for row in issued {
        csv.serialize(CsvRow {
            coupon: &name,
            day: labels.1.get(&row.drop_id),
            drop_id: guarded(row.drop_id.to_string()),
            slot: row.slot,
            user_id: guarded(row.user_id),
            code: row.code,
            claimed_local: zone
                .local(row.claimed_at)
                .format("%Y-%m-%d %H:%M:%S")
                .to_string(),
            claimed_at: row.claimed_at,
            issued_at: row.issued_at,
            issued_by: row.issued_by,
            used_at: row.used_at,
            reference: row.reference.map(guarded),
            used_by: row.used_by.map(guarded),
            expires_at: row.expires_at,
        })?;
    }
    Ok(csv.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_sent_to_a_client_that_names_it_and_does_not_refuse_it() {
        for (accept, is_csv) in [
            ("TEXT/CSV; charset=utf-8", true),
            ("application/json, text/csv;q=0.5", true),
            ("text/csv;q=0.05", true),
            ("text/csv; q=0, application/json", false),
            ("text/csv;Q=0.00", false),
            ("text/csv-schema", false),
            ("*/*", false),
        ] {
            let headers = [(ACCEPT, accept.parse().unwrap())].into_iter().collect();
            assert_eq!(wants_csv(&headers), is_csv, "{accept}");
        }
    }
}
