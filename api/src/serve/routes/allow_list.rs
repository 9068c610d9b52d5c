//! `/v1/coupons/{id}/allow-list`: the allow list of a coupon (docs/decisions/0012-revisions.md).
//! A change is written to MySQL, and then the whole list to Redis.

use std::sync::Arc;

use axum::extract::{FromRequest, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::{Extension, Json};
use firstcome_shared::allow_list::{Followed, follow};
use firstcome_shared::coupon::{Allow, AllowList};
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{CouponId, UserId};
use firstcome_shared::http::Problem;
use firstcome_shared::http::json::without_mark;
use firstcome_shared::http::problem::Code;
use firstcome_shared::mysql::allow_list::{ListChange, ListChanged, MAX_LISTED};
use firstcome_shared::mysql::ops_actions::Operator;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::change::recover_lost;
use super::extract::{
    CouponPath, PersonPath, StrictQuery, body, invalid, no_such_coupon, page_size,
};
use crate::serve::state::{App, Services};
use crate::user_list::{self, UserList};

/// Maximum size of a request that changes a list.
const MAX_LIST_BYTES: usize = 8 * 1024 * 1024;

/// Result of a change to an allow list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AllowListChanged {
    /// Users added or removed; the others already were.
    changed: u32,
    /// Users on the list now.
    people: u32,
    /// The coupon's revision when the list was last changed.
    revision: u64,
    /// Ids in the body, with repetitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<usize>,
    /// Ids of the body that repeat an earlier one.
    #[serde(skip_serializing_if = "Option::is_none")]
    repeated: Option<usize>,
}

/// Add users to a coupon's allow list
///
/// One id a line, or a CSV with a column `user_id` (`text/plain`), or a JSON array: all of them or
/// none. A list has at most 200,000 users. Safe to repeat. The list counts while the coupon's
/// `allow` is `list`.
#[utoipa::path(
    post, path = "/v1/coupons/{id}/allow-list/add", tag = "operators",
    request_body(content((String = "text/plain"), (Vec<UserId> = "application/json"))),
    params(("id" = i64, Path, description = "Coupon ID", example = 7)),
    responses(
        (status = 200, description = "The users are on the list", body = AllowListChanged),
        (status = 422, description = "`not_possible`: the list would be too long"),
    )
)]
pub(crate) async fn add(
    State(app): State<App>,
    CouponPath(id): CouponPath,
    Extension(by): Extension<Operator>,
    UsersBody(list): UsersBody,
) -> Result<Json<AllowListChanged>, Problem> {
    change(app, id, by, ListChange::Add(list.users), Some(list.lines)).await
}

/// Remove users from a coupon's allow list
///
/// Body as for adding. Users who hold a coupon or wait keep it.
#[utoipa::path(
    post, path = "/v1/coupons/{id}/allow-list/remove", tag = "operators",
    request_body(content((String = "text/plain"), (Vec<UserId> = "application/json"))),
    params(("id" = i64, Path, description = "Coupon ID", example = 7)),
    responses((status = 200, description = "The users are no longer on the list", body = AllowListChanged))
)]
pub(crate) async fn remove(
    State(app): State<App>,
    CouponPath(id): CouponPath,
    Extension(by): Extension<Operator>,
    UsersBody(list): UsersBody,
) -> Result<Json<AllowListChanged>, Problem> {
    change(
        app,
        id,
        by,
        ListChange::Remove(list.users),
        Some(list.lines),
    )
    .await
}

/// Remove all users from a coupon's allow list
///
/// Removes all or none. Safe to repeat. Users who hold a coupon or wait keep it. While `allow` is
/// `list`, nobody else may claim.
#[utoipa::path(
    delete, path = "/v1/coupons/{id}/allow-list", tag = "operators",
    params(("id" = i64, Path, description = "Coupon ID", example = 7)),
    responses((status = 200, description = "The list is empty", body = AllowListChanged))
)]
pub(crate) async fn empty(
    State(app): State<App>,
    CouponPath(id): CouponPath,
    Extension(by): Extension<Operator>,
) -> Result<Json<AllowListChanged>, Problem> {
    change(app, id, by, ListChange::Empty, None).await
}

/// The users of a body: a text, or a JSON array (no ID begins with `[`). A body declared as JSON
/// must be an array. Otherwise, `null` would be read as an ID of four letters.
pub(crate) struct UsersBody(UserList);

impl FromRequest<App> for UsersBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &App) -> Result<Self, Problem> {
        let kind = request.headers().get(CONTENT_TYPE);
        let kind = kind
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let kind = kind.trim_start().to_ascii_lowercase();
        let bytes = body(request, MAX_LIST_BYTES).await?;
        let bytes = without_mark(&bytes);
        let is_array = bytes.trim_ascii_start().starts_with(b"[");
        let list = if is_array || kind.starts_with("application/json") {
            user_list::parse_json(bytes)
        } else {
            user_list::parse(bytes)
        };
        let list = list.map_err(invalid)?;
        if (1..=MAX_LISTED as usize).contains(&list.lines) {
            return Ok(Self(list));
        }
        Err(invalid(format!(
            "give 1 to {MAX_LISTED} ids in one request, not {}",
            list.lines
        )))
    }
}

/// Changes a list. `lines` is the number of ids in the body, including repetitions.
async fn change(
    app: App,
    id: CouponId,
    by: Operator,
    change: ListChange,
    lines: Option<usize>,
) -> Result<Json<AllowListChanged>, Problem> {
    let users = match &change {
        ListChange::Add(users) | ListChange::Remove(users) => users.len(),
        ListChange::Empty => 0,
    };
    let services = Arc::clone(&app);
    let changed = async move { apply(&services, id, change, by).await };
    let (now, changed) = app.in_flight.run_unlimited(changed).await??;
    Ok(Json(AllowListChanged {
        changed,
        people: now.people,
        revision: now.revision,
        lines,
        repeated: lines.map(|lines| lines - users),
    }))
}

/// Returns the list after the change, and how many users were added or removed.
async fn apply(
    services: &Services,
    id: CouponId,
    change: ListChange,
    by: Operator,
) -> Result<(AllowList, u32), Problem> {
    let _one_at_a_time = services.change_locks.lock(id).await;
    let seen = recover_lost(services, id).await?;
    let db = &services.mysql.operators;
    let (now, changed) = match db.change_allow_list(id, seen, change, by).await? {
        ListChanged::Yes { now, changed } => (now, changed),
        ListChanged::NoCoupon => return Err(no_such_coupon(id)),
        ListChanged::TooLong => {
            let why = format!("an allow list has at most {MAX_LISTED} users; nothing was changed");
            return Err(Problem::new(Code::NotPossible, why));
        }
    };
    tracing::info!(coupon_id = id.0, changed, ?now, "an allow list was changed");
    crash_point(Point::ListWritten);
    let has_list = write(services, id).await;
    crash_point(Point::ListFollowed);
    if has_list {
        return Ok((now, changed));
    }
    let detail = "MySQL has the change; admission follows with the next pass, or when you repeat the request";
    Err(Problem::unavailable(detail))
}

/// Writes the list to Redis if Redis has another revision. Returns `false` if the reconciler has to
/// write it.
pub(super) async fn write(services: &Services, id: CouponId) -> bool {
    let why = match follow(&services.mysql.operators, &services.redis, id).await {
        Ok(Followed::Same | Followed::Written(_)) => return true,
        Ok(Followed::Torn(torn)) => torn.to_string(),
        Ok(lost @ (Followed::Interrupted | Followed::NoCoupon)) => format!("{lost:?}"),
        Err(error) => error.to_string(),
    };
    tracing::warn!(
        why,
        coupon_id = id.0,
        "could not write an allow list to Redis; the reconciler will"
    );
    false
}

/// Selects a page of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AllowListQuery {
    /// Only ids after this one, in byte order.
    #[param(value_type = Option<String>, pattern = r"^(?!\.{1,2}$)[A-Za-z0-9._@+|:=/-]{1,128}$", example = "u-37")]
    after: Option<UserId>,
    /// Page size.
    #[param(default = 1000, minimum = 1, maximum = 10000)]
    limit: Option<usize>,
}

/// A page of a coupon's allow list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AllowListPage {
    /// The list counts only if this is `list`.
    #[schema(value_type = Option<String>, example = "list")]
    allow: Option<Allow>,
    /// Users on the list.
    people: u32,
    /// The coupon's revision when the list was last changed; 0: never.
    revision: u64,
    /// In order.
    #[schema(value_type = Vec<String>)]
    ids: Vec<UserId>,
    /// Path of the next page.
    #[schema(example = "/v1/coupons/7/allow-list?after=u-37&limit=1000")]
    next: Option<String>,
}

/// Read a coupon's allow list
#[utoipa::path(
    get, path = "/v1/coupons/{id}/allow-list", tag = "operators",
    params(("id" = i64, Path, description = "Coupon ID", example = 7), AllowListQuery),
    responses((status = 200, description = "The list, from MySQL", body = AllowListPage))
)]
pub(crate) async fn read(
    State(app): State<App>,
    CouponPath(id): CouponPath,
    StrictQuery(asked): StrictQuery<AllowListQuery>,
) -> Result<Json<AllowListPage>, Problem> {
    let limit = page_size(asked.limit, 1_000, 10_000)?;
    let db = &app.mysql.operators;
    let (coupon, _) = db.coupon(id).await?.ok_or_else(|| no_such_coupon(id))?;
    let after = asked.after.map(String::from).unwrap_or_default();
    let wanted = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut ids = db.allowed_after(id, after, wanted).await?;
    let has_more = ids.len() > limit;
    ids.truncate(limit);
    let last = ids.last().filter(|_| has_more);
    let last = last.map(|last| utf8_percent_encode(last.as_str(), NON_ALPHANUMERIC));
    Ok(Json(AllowListPage {
        allow: coupon.settings.allow,
        people: coupon.allow_list.people,
        revision: coupon.allow_list.revision,
        next: last.map(|last| format!("/v1/coupons/{id}/allow-list?after={last}&limit={limit}")),
        ids,
    }))
}

/// Whether a user is on an allow list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OnAllowList {
    user_id: UserId,
    on_list: bool,
}

/// Find a user on a coupon's allow list
#[utoipa::path(
    get, path = "/v1/coupons/{id}/allow-list/people/{user_id}", tag = "operators",
    params(
        ("id" = i64, Path, description = "Coupon ID", example = 7),
        ("user_id" = String, Path, description = "The user, percent-encoded", pattern = r"^(?!\.{1,2}$)[A-Za-z0-9._@+|:=/-]{1,128}$", example = "u-37"),
    ),
    responses((status = 200, description = "The answer, from MySQL", body = OnAllowList))
)]
pub(crate) async fn find(
    State(app): State<App>,
    PersonPath(id, user_id): PersonPath,
) -> Result<Json<OnAllowList>, Problem> {
    app.catalogue.find(id).await?;
    let on_list = app.mysql.operators.is_allowed(id, &user_id).await?;
    Ok(Json(OnAllowList { user_id, on_list }))
}
