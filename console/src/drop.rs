//! The screen of a drop: its counts, its problems, and buttons for passes.

use askama::Template;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect};
use firstcome_shared::coupon::DropState;
use firstcome_shared::domain::DropId;
use firstcome_shared::http::views::{DropDetails, StartedRun};
use serde_json::{Value, json};

use super::client::{HttpRefusal, encoded};
use super::overview::{Board, drop_board};
use super::page::{ConsolePage, FormFields, Screen, Top, answer};
use super::text::Text;

#[derive(Template)]
#[template(path = "drop.html")]
struct DropScreen<'a> {
    top: Top<'a>,
    found: &'a DropDetails,
    drop: DropId,
    /// Whether passes over it have to be deep.
    deep: bool,
    board: &'a Board,
}

pub(super) async fn read(
    page: ConsolePage,
    Path((coupon, drop)): Path<(String, String)>,
) -> Screen {
    let coupon = encoded(&coupon);
    let path = format!("/v1/coupons/{coupon}/drops/{}", encoded(&drop));
    let found: DropDetails = page.get(&path).await?;
    let none = || HttpRefusal::new(StatusCode::NOT_FOUND, "there is no such drop");
    let drop = found.overview.drops.first().ok_or_else(none)?;
    let name = found.coupon.name.text();
    let screen = DropScreen {
        top: page.top(&name, ""),
        drop: drop.drop_id,
        // Only a deep pass examines a sealed drop.
        deep: drop.state == DropState::Sealed,
        board: &drop_board(&found.overview),
        found: &found,
    };
    Ok(answer(StatusCode::OK, &screen))
}

/// Starts a pass over one drop or, without one in the form, over everything.
pub(super) async fn pass(page: ConsolePage, form: FormFields) -> Screen {
    let mut body = json!({"dry_run": form.get("how") == "dry_run"});
    if let (Some(coupon), Some(drop)) = (form.number::<i64>("coupon"), form.number::<i64>("drop")) {
        body["coupon_id"] = coupon.into();
        body["drop_id"] = drop.into();
        body["deep"] = (form.get("deep") == "true").into();
    }
    begun(&page, "/v1/reconcile", body).await
}

/// Requests a pass, and redirects to its screen or, while it is queued, to the list.
pub(super) async fn begun(page: &ConsolePage, path: &str, mut body: Value) -> Screen {
    body["wait"] = false.into();
    let begun: StartedRun = page.post(path, &body).await?;
    let to = if begun.queued {
        "/runs?done=queued".to_owned()
    } else {
        format!("/runs/{}", begun.run_id)
    };
    Ok(Redirect::to(&to).into_response())
}
