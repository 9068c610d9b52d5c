//! The routes with which shops use codes: `/v1/codes/{code}` and `…/use`.

use std::time::Instant;

use axum::extract::State;
use axum::{Extension, Json};
use chrono::{DateTime, SecondsFormat, Utc};
use firstcome_shared::coupon::line;
use firstcome_shared::http::Problem;
use firstcome_shared::http::problem::Code;
use firstcome_shared::http::signatures::Allowed;
use firstcome_shared::mysql::codes::CouponCode;
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::uses::{
    CodeRefusal, CodeView, MAX_REFERENCES, UndoReason, UseOrder, Used,
};
use metrics::counter;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{JsonBody, StrictPath, StrictQuery, invalid};
use crate::serve::state::App;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UseBody {
    /// The order, unique over all shops: the same in each repetition, another for each new attempt.
    #[schema(
        example = "eu-order-991",
        min_length = 1,
        max_length = 100,
        pattern = "^[!-~]+$"
    )]
    reference: String,
}

/// The code of a path. [`StrictPath`] reads it; this only describes it.
#[allow(dead_code)]
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct CodeParam {
    /// The code as the user has it: only its letters and digits count
    #[param(example = "0GF8-K2RX-0015-KQ9X-HGAS")]
    code: String,
}

const MYSQL_AWAY: &str = "`unavailable`: MySQL did not answer; repeat the request";

/// Use a code
///
/// Send the request before the order is committed, and repeat it until it is answered: while a
/// reference uses the code, its repetitions get the same 200, even after the code's end.
#[utoipa::path(
    put, path = "/v1/codes/{code}/use", tag = "codes", security(("redeem" = [])),
    request_body = UseBody,
    params(CodeParam),
    responses(
        (status = 200, description = "The order uses the code", body = Used),
        (status = 404, description = "`not_found`: no coupon has this code"),
        (
            status = 409,
            description = "`used` (by another reference), `undone` (this reference was undone; a \
                new attempt needs a new one), `revoked`, or `too_many_references` (100)"
        ),
        (status = 410, description = "`expired`"),
        (status = 503, description = MYSQL_AWAY)
    )
)]
pub(crate) async fn use_code(
    State(app): State<App>,
    StrictPath(code): StrictPath<String>,
    Extension(shop): Extension<Operator>,
    JsonBody(body): JsonBody<UseBody>,
) -> Result<Json<Used>, Problem> {
    let token = shop.token.clone();
    let order = order(&app, &code, body.reference, shop)?;
    let drop_id = order.code.drop.0;
    let slot = order.code.slot;
    let answer = app.mysql.uses.use_code(order).await?;
    let used = answer.map_err(|refusal| problem(&app, &token, refusal))?;
    if used.is_of_other_shop {
        counter!("firstcome_uses_of_other_shops_total").increment(1);
        tracing::warn!(
            drop_id,
            slot,
            "two shops use a code for orders of the same number"
        );
    }
    Ok(Json(used))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct UndoQuery {
    /// The order, unique over all shops.
    #[param(
        example = "eu-order-991",
        min_length = 1,
        max_length = 100,
        pattern = "^[!-~]+$"
    )]
    reference: String,
    /// Required with the OPS_TOKEN, which records it; refused with the REDEEM_TOKEN.
    #[param(example = "order cancelled by phone", max_length = 200)]
    reason: Option<String>,
}

/// An undone use.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UseUndone {
    /// Time of the first undo, by MySQL's clock.
    undone_at: DateTime<Utc>,
}

/// Undo the use of a code
///
/// The reference can never use the code from then on, even if it has not used it yet and its
/// request arrives later. Repeat the request until it is answered.
#[utoipa::path(
    delete, path = "/v1/codes/{code}/use", tag = "codes",
    security(("redeem" = []), ("ops" = [])),
    params(CodeParam, UndoQuery),
    responses(
        (status = 200, description = "The reference does not use the code", body = UseUndone),
        (status = 404, description = "`not_found`: no coupon has this code"),
        (
            status = 409,
            description = "`used`: another reference uses the code; this one is undone all the \
                same. `revoked`, or `too_many_references` (100)"
        ),
        (status = 503, description = MYSQL_AWAY)
    )
)]
pub(crate) async fn undo(
    State(app): State<App>,
    StrictPath(code): StrictPath<String>,
    Extension(by): Extension<Operator>,
    Extension(allowed): Extension<Allowed>,
    StrictQuery(asked): StrictQuery<UndoQuery>,
) -> Result<Json<UseUndone>, Problem> {
    let reason = match (allowed, asked.reason) {
        (Allowed::Redeem, None) => None,
        (Allowed::Redeem, Some(_)) => {
            return Err(invalid("reason is for operators: leave it out"));
        }
        (Allowed::All | Allowed::View, reason) => {
            let reason = reason.unwrap_or_default();
            let reason = line("reason", 200, &reason).map_err(invalid)?;
            let operator = by.clone();
            Some(UndoReason { reason, operator })
        }
    };
    let token = by.token.clone();
    let order = order(&app, &code, asked.reference, by)?;
    let undone = app.mysql.uses.undo_use(order, reason).await?;
    let undone_at = undone.map_err(|refusal| problem(&app, &token, refusal))?;
    Ok(Json(UseUndone { undone_at }))
}

/// Read a code
#[utoipa::path(
    get, path = "/v1/codes/{code}", tag = "codes", security(("redeem" = []), ("ops" = [])),
    params(CodeParam),
    responses(
        (status = 200, description = "The code", body = CodeView),
        (status = 404, description = "`not_found`: no coupon has this code"),
        (status = 409, description = "`revoked`: the coupon was returned or revoked"),
        (status = 503, description = MYSQL_AWAY)
    )
)]
pub(crate) async fn code(
    State(app): State<App>,
    StrictPath(code): StrictPath<String>,
    Extension(by): Extension<Operator>,
    Extension(allowed): Extension<Allowed>,
) -> Result<Json<CodeView>, Problem> {
    let code = parsed(&app, &code, &by.token)?;
    let answer = app.mysql.uses.code(code).await?;
    let seen = answer.map_err(|refusal| problem(&app, &by.token, refusal))?;
    Ok(Json(match allowed {
        Allowed::Redeem => CodeView {
            user_id: None,
            uses: None,
            ..seen
        },
        Allowed::All | Allowed::View => seen,
    }))
}

/// Maximum length of a reference, in characters.
const MAX_REFERENCE: usize = 100;

fn order(app: &App, code: &str, reference: String, shop: Operator) -> Result<UseOrder, Problem> {
    let is_fit = (1..=MAX_REFERENCE).contains(&reference.len())
        && reference.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_fit {
        return Err(invalid(format!(
            "reference must be the order, 1 to {MAX_REFERENCE} printable ASCII characters \
            without spaces"
        )));
    }
    Ok(UseOrder {
        code: parsed(app, code, &shop.token)?,
        reference,
        by: shop.name.unwrap_or(shop.token),
    })
}

/// Parses a code, unless its sender has sent too many wrong ones.
fn parsed(app: &App, code: &str, token: &str) -> Result<CouponCode, Problem> {
    if !app.wrong_codes.allow(token, Instant::now()) {
        let why = "too many wrong codes were sent with this token; repeat the request later";
        return Err(Problem::unavailable(why));
    }
    let code = code.parse();
    code.map_err(|_| problem(app, token, CodeRefusal::NoSuchCode))
}

fn problem(app: &App, token: &str, refusal: CodeRefusal) -> Problem {
    match refusal {
        CodeRefusal::NoSuchCode => {
            count_wrong_code(app, token);
            Problem::not_found("no coupon has this code; its user sees it in `claims/me`")
        }
        CodeRefusal::Revoked => Problem::new(
            Code::Revoked,
            "the coupon of this code was returned or revoked",
        ),
        CodeRefusal::Used(used_at) => Problem::new(Code::Used, "another order uses this code")
            .with(
                "used_at",
                used_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            ),
        CodeRefusal::Undone => Problem::new(
            Code::Undone,
            "the use of this code by this reference was undone; a new attempt needs a new reference",
        ),
        CodeRefusal::Expired(expires_at) => {
            Problem::new(Code::Expired, "the code can no longer be used").with(
                "expires_at",
                expires_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            )
        }
        CodeRefusal::TooManyReferences => Problem::new(
            Code::TooManyReferences,
            format!("{MAX_REFERENCES} references have used this code; it takes no other"),
        ),
    }
}

/// Counts and logs a wrong code like a wrong token.
fn count_wrong_code(app: &App, token: &str) {
    app.wrong_codes.note(token, Instant::now());
    counter!("firstcome_wrong_codes_total").increment(1);
    if let Some(left_out) = app.refused.allow("wrong_code", Instant::now()) {
        tracing::warn!(left_out, "a code that no coupon has");
    }
}
