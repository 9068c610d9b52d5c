//! `/v1/coupons/{id}/allow-list`: the allow list of a coupon (docs/decisions/0019-allow-list.md).
//!
//! A change is written to MySQL first, then to Redis. If Redis lacks the previous change or has
//! lost the list, the whole list is written instead.

mod people;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use firstcome_shared::allow_list::{Followed, follow};
use firstcome_shared::coupon::Allow;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{CouponId, UserId};
use firstcome_shared::http::Problem;
use firstcome_shared::mysql::allow_list::{ListChange, ListChanged};
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::redis::allow_list::ListFollowed;
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::people::{MAX_PEOPLE, PeopleBody};
use super::change::recover_lost;
use super::extract::{
    CouponPath, PersonPath, StrictQuery, invalid, mysql_unavailable, no_such_coupon,
};
use super::view::{NotKept, not_kept};
use crate::percent::encoded;
use crate::serve::state::{App, Services};

const DEFAULT_LIMIT: usize = 1_000;

/// Maximum number of attempts at a change while Redis lacks the previous one.
const ATTEMPTS: u32 = 4;
/// Pause before the second attempt.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(read, empty))
        .routes(routes!(find))
        .routes(routes!(add))
        .routes(routes!(remove))
}

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

/// The OpenAPI schema of a list of user ids.
pub(crate) struct ListedPeople;

impl PartialSchema for ListedPeople {
    fn schema() -> RefOr<Schema> {
        let id = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(r"^(?!\.{1,2}$)[A-Za-z0-9._@+|:=/-]{1,128}$"));
        ArrayBuilder::new()
            .items(id)
            .min_items(Some(1))
            .max_items(Some(MAX_PEOPLE))
            .into()
    }
}

impl ToSchema for ListedPeople {}

impl AllowListChanged {
    fn with(self, lines: usize, repeated: usize) -> Self {
        Self {
            lines: Some(lines),
            repeated: Some(repeated),
            ..self
        }
    }
}

impl From<ListChanged> for AllowListChanged {
    fn from(ListChanged { now, changed, .. }: ListChanged) -> Self {
        Self {
            changed,
            people: now.people,
            revision: now.revision,
            lines: None,
            repeated: None,
        }
    }
}

/// Add users to a coupon's allow list
///
/// One id a line, or a CSV with a column `user_id` (`text/plain`), or a JSON array; at most 10,000,
/// all of them or none. Safe to repeat. The list counts while the coupon's `allow` is `list`.
#[utoipa::path(
    post, path = "/v1/coupons/{id}/allow-list/add", tag = "operators",
    request_body(content((String = "text/plain"), (ListedPeople = "application/json"))),
    params(("id" = i64, Path, description = "Coupon ID", example = 7)),
    responses(
        (status = 200, description = "The users are on the list", body = AllowListChanged),
        (status = 404, description = "`not_found`"),
    ),
    security(("ops" = []))
)]
pub(crate) async fn add(
    State(app): State<App>,
    CouponPath(id): CouponPath,
    Extension(by): Extension<Operator>,
    PeopleBody(list): PeopleBody,
) -> Result<Json<AllowListChanged>, Problem> {
    let repeated = list.lines - list.users.len();
    let changed = change(app, id, ListChange::Add(list.users), by).await?;
    Ok(Json(changed.with(list.lines, repeated)))
}

/// Remove users from a coupon's allow list
///
/// Body as for adding. Users who hold a coupon or wait keep it.
#[utoipa::path(
    post, path = "/v1/coupons/{id}/allow-list/remove", tag = "operators",
    request_body(content((String = "text/plain"), (ListedPeople = "application/json"))),
    params(("id" = i64, Path, description = "Coupon ID", example = 7)),
    responses(
        (status = 200, description = "The users are no longer on the list", body = AllowListChanged),
        (status = 404, description = "`not_found`"),
    ),
    security(("ops" = []))
)]
pub(crate) async fn remove(
    State(app): State<App>,
    CouponPath(id): CouponPath,
    Extension(by): Extension<Operator>,
    PeopleBody(list): PeopleBody,
) -> Result<Json<AllowListChanged>, Problem> {
    let repeated = list.lines - list.users.len();
    let changed = change(app, id, ListChange::Remove(list.users), by).await?;
    Ok(Json(changed.with(list.lines, repeated)))
}

/// Remove all users from a coupon's allow list
///
/// Removes all or none; a million users take a few seconds. Safe to repeat. Users who hold a coupon
/// or wait keep it. While `allow` is `list`, nobody else may claim.
#[utoipa::path(
    delete, path = "/v1/coupons/{id}/allow-list", tag = "operators",
    params(("id" = i64, Path, description = "Coupon ID", example = 7)),
    responses(
        (status = 200, description = "The list is empty", body = AllowListChanged),
        (status = 404, description = "`not_found`"),
    ),
    security(("ops" = []))
)]
pub(crate) async fn empty(
    State(app): State<App>,
    CouponPath(id): CouponPath,
    Extension(by): Extension<Operator>,
) -> Result<Json<AllowListChanged>, Problem> {
    change(app, id, ListChange::Empty, by).await.map(Json)
}

async fn change(
    app: App,
    id: CouponId,
    change: ListChange,
    by: Operator,
) -> Result<AllowListChanged, Problem> {
    let services = Arc::clone(&app);
    let changed = app
        .in_flight
        .run_unlimited(async move { apply(&services, id, change, by).await });
    Ok(changed.await??.into())
}

async fn apply(
    services: &Services,
    id: CouponId,
    change: ListChange,
    by: Operator,
) -> Result<ListChanged, Problem> {
    let _one_at_a_time = services.change_locks.lock(id).await;
    recover_lost(services, id).await?;
    let seen = services.redis.highest_revision(id).await;
    let seen = seen.unwrap_or_else(|error| {
        tracing::warn!(%error, coupon_id = id.0, "Redis is unavailable while an allow list is changed");
        0
    });
    let db = &services.mysql.operators;
    let again = "repeat the request: only then is it certain whether the change took effect";
    let changed = db.change_allow_list(id, seen, change.clone(), by).await;
    let changed = changed
        .map_err(|error| mysql_unavailable(&error, again))?
        .ok_or_else(|| no_such_coupon(id))?;
    tracing::info!(coupon_id = id.0, ?changed, "an allow list was changed");
    crash_point(Point::ListWritten);
    // If MySQL already had the change, Redis may lack it, so compare the whole list.
    let is_chained = changed.changed > 0 && change != ListChange::Empty;
    let mut reached = false;
    for attempt in 0..if is_chained { ATTEMPTS } else { 0 } {
        // Another process may be about to write the previous change.
        tokio::time::sleep(PAUSE * attempt).await;
        let redis = &services.redis;
        let made = redis.change_allow_list(id, changed.before, changed.now, &change);
        reached = matches!(made.await, Ok(ListFollowed::Yes));
        if reached {
            break;
        }
    }
    let reached = reached || write(services, id).await;
    crash_point(Point::ListFollowed);
    if reached {
        return Ok(changed);
    }
    Err(Problem::unavailable(
        "MySQL has the change; admission follows with the next pass, or when you repeat the request",
    ))
}

/// Writes the whole list to Redis if Redis has another revision. Returns `false` if the reconciler
/// has to write it.
pub(super) async fn write(services: &Services, id: CouponId) -> bool {
    let why = match follow(&services.mysql.operators, &services.redis, id).await {
        Ok(Followed::Same | Followed::Written(_)) => return true,
        Ok(Followed::Changing | Followed::NoCoupon) => return false,
        Ok(Followed::Torn(torn)) => torn.to_string(),
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
    #[param(
        pattern = r"^(?!\.{1,2}$)[A-Za-z0-9._@+|:=/-]{1,128}$",
        example = "u-37"
    )]
    after: Option<String>,
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
    responses(
        (status = 200, description = "The list, from MySQL", body = AllowListPage),
        (status = 404, description = "`not_found`"),
    ),
    security(("ops" = []))
)]
pub(crate) async fn read(
    State(app): State<App>,
    CouponPath(id): CouponPath,
    StrictQuery(asked): StrictQuery<AllowListQuery>,
) -> Result<NotKept<AllowListPage>, Problem> {
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_PEOPLE).contains(&limit) {
        return Err(invalid(format!("limit must be between 1 and {MAX_PEOPLE}")));
    }
    let after = asked.after.as_deref().map(str::parse::<UserId>).transpose();
    let after = after.map_err(|error| invalid(format!("after: {error}")))?;
    let db = &app.mysql.operators;
    let away = |error| mysql_unavailable(&error, "try again");
    let (coupon, _) = db
        .coupon(id)
        .await
        .map_err(away)?
        .ok_or_else(|| no_such_coupon(id))?;
    let after = after.map(String::from).unwrap_or_default();
    let wanted = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut ids = db.allowed_after(id, after, wanted).await.map_err(away)?;
    let has_more = ids.len() > limit;
    ids.truncate(limit);
    let next = ids
        .last()
        .filter(|_| has_more)
        .map(|last| next_page(id, last, limit));
    Ok(not_kept(AllowListPage {
        allow: coupon.settings.allow,
        people: coupon.allow_list.people,
        revision: coupon.allow_list.revision,
        ids,
        next,
    }))
}

fn next_page(id: CouponId, last: &UserId, limit: usize) -> String {
    format!(
        "/v1/coupons/{id}/allow-list?after={}&limit={limit}",
        encoded(last.as_str())
    )
}

/// Whether a user is on an allow list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OnAllowList {
    #[schema(value_type = String, example = "u-37")]
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
    responses(
        (status = 200, description = "The answer, from MySQL", body = OnAllowList),
        (status = 404, description = "`not_found`"),
    ),
    security(("ops" = []))
)]
pub(crate) async fn find(
    State(app): State<App>,
    PersonPath(id, user): PersonPath,
) -> Result<NotKept<OnAllowList>, Problem> {
    let db = &app.mysql.operators;
    app.catalogue.find(id).await?;
    let on_list = db
        .is_allowed(id, &user)
        .await
        .map_err(|error| mysql_unavailable(&error, "try again"))?;
    Ok(not_kept(OnAllowList {
        user_id: user,
        on_list,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_page_escapes_the_user_id() {
        let next = next_page(CouponId(7), &"a+b=c|d:e@f".parse().unwrap(), 5);
        assert_eq!(
            next,
            "/v1/coupons/7/allow-list?after=a%2Bb%3Dc%7Cd%3Ae%40f&limit=5"
        );
    }
}
