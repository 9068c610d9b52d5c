//! `/v1/coupons/{id}/allow-list`: the allow list of a coupon (docs/decisions/0012-revisions.md).
//! A change is written to MySQL, and then the whole list to Redis.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::{Extension, Json};
use firstcome_shared::coupon::AllowList;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::Problem;
use firstcome_shared::http::problem::Code;
use firstcome_shared::mysql::allow_list::{ListChange, ListChanged, MAX_LISTED};
use firstcome_shared::mysql::ops_actions::Operator;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{CouponParam, CouponPath, StrictPath, body, invalid, no_such_coupon};
use super::follow_up::{follows_later, recover_lost, write_allow_list};
use crate::serve::state::{App, Services};
use crate::user_list::{self, UserList};

/// Maximum size of a request that changes a list.
const MAX_LIST_BYTES: usize = 8 * 1024 * 1024;

/// Result of a change to an allow list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AllowListChanged {
    /// Users added or removed. The other users were already on the list, or not on it.
    changed: u32,
    /// Users on the list now.
    people: u32,
    /// The coupon's revision when the list was last changed.
    revision: u64,
    /// Ids in the body, with repetitions.
    lines: usize,
    /// Ids of the body that repeat an earlier one.
    repeated: usize,
}

/// What happens to the users of a body.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AddOrRemove {
    Add,
    Remove,
}

/// Add users to a coupon's allow list, or remove them
///
/// One id a line, or a CSV with a column `user_id`: all of them or none. A list has at most 200,000
/// users. Safe to repeat. The list applies only while the coupon's `allow` is `list`. Removed users
/// keep a coupon or a position in the waiting list.
#[utoipa::path(
    post, path = "/v1/coupons/{id}/allow-list/{change}", tag = "operators", security(("ops" = [])),
    request_body(content((String = "text/plain"), (String = "text/csv"))),
    params(
        CouponParam,
        ("change" = inline(AddOrRemove), Path, description = "What happens to the users of the body")
    ),
    responses(
        (
            status = 200, body = AllowListChanged,
            description = "The list has changed, or was like this"
        ),
        (status = 422, description = "`not_possible`: the list would be too long")
    )
)]
pub(crate) async fn upload(
    State(app): State<App>,
    CouponPath(id): CouponPath,
    path: StrictPath<(String, AddOrRemove)>,
    Extension(by): Extension<Operator>,
    request: Request,
) -> Result<Json<AllowListChanged>, Problem> {
    let body = body(request, MAX_LIST_BYTES).await?;
    let UserList { users, lines } = user_list::parse(&body).map_err(invalid)?;
    if !(1..=MAX_LISTED as usize).contains(&lines) {
        let why = format!("give 1 to {MAX_LISTED} ids in one request, not {lines}");
        return Err(invalid(why));
    }
    let repeated = lines - users.len();
    let StrictPath((_, add_or_remove)) = path;
    let change = match add_or_remove {
        AddOrRemove::Add => ListChange::Add(users),
        AddOrRemove::Remove => ListChange::Remove(users),
    };
    let services = Arc::clone(&app);
    let changed = async move { apply(&services, id, change, by).await };
    let (now, changed) = app.in_flight.run_unlimited(changed).await??;
    Ok(Json(AllowListChanged {
        changed,
        people: now.people,
        revision: now.revision,
        lines,
        repeated,
    }))
}

/// Returns the list after the change, and how many users were added or removed.
async fn apply(
    services: &Services,
    id: CouponId,
    change: ListChange,
    by: Operator,
) -> Result<(AllowList, u32), Problem> {
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
    let has_list = write_allow_list(services, id).await;
    crash_point(Point::ListFollowed);
    if has_list {
        return Ok((now, changed));
    }
    Err(follows_later())
}
