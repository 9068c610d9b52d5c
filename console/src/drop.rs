//! The screen of a drop: its counts, its problems, and buttons for passes.

use askama::Template;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect};
use firstcome_shared::coupon::DropState;
use firstcome_shared::http::views::{DropDetails, StartedRun};
use serde_json::{Value, json};

use super::client::{HttpRefusal, encoded};
use super::overview::{Board, drop_board};
use super::page::{Fields, Page, Screen, Top, answer, notice};
use super::text::Text;

#[derive(Template)]
#[template(path = "drop.html")]
struct DropScreen<'a> {
    top: Top<'a>,
    found: &'a DropDetails,
    name: &'a str,
    drop: i64,
    board: &'a Board,
}

/// Reads the drop of a path.
async fn find(page: &Page, (coupon, drop): &(String, String)) -> Result<DropDetails, HttpRefusal> {
    let path = format!("/v1/coupons/{}/drops/{}", encoded(coupon), encoded(drop));
    page.get(&path).await
}

pub(super) async fn read(page: Page, Path(place): Path<(String, String)>) -> Screen {
    let found = find(&page, &place).await?;
    let drop = found
        .overview
        .drops
        .first()
        .ok_or_else(|| HttpRefusal::new(StatusCode::NOT_FOUND, "there is no such drop"))?;
    let name = found.coupon.name.text();
    let board = drop_board(&found.overview);
    let screen = DropScreen {
        top: page.top(&name, ""),
        name: &name,
        drop: drop.drop_id.0,
        board: &board,
        found: &found,
    };
    Ok(answer(StatusCode::OK, &screen))
}

/// Starts a pass over one drop.
pub(super) async fn pass(page: Page, Path(place): Path<(String, String)>, form: Fields) -> Screen {
    let found = find(&page, &place)
        .await
        .map_err(HttpRefusal::before_a_change)?;
    let drop = found.overview.drops.first();
    let mut body = json!({
        "coupon_id": found.coupon.id,
        "drop_id": drop.map(|drop| drop.drop_id),
        // Only a deep pass examines a sealed drop.
        "deep": drop.is_some_and(|drop| drop.state == DropState::Sealed),
    });
    match form.get("how") {
        "pass" => {}
        "dry_run" => body["dry_run"] = true.into(),
        _ => return Err(HttpRefusal::typed("The form is not of this page.")),
    }
    started(&page, body).await
}

/// Starts a pass over everything.
pub(super) async fn pass_over_all(page: Page, form: Fields) -> Screen {
    let dry_run = form.get("how") == "dry_run";
    started(&page, json!({"dry_run": dry_run})).await
}

async fn started(page: &Page, body: Value) -> Screen {
    begun(page, "/v1/reconcile", body).await
}

/// Requests a pass, and redirects to its screen or, while it is queued, to the list.
pub(super) async fn begun(page: &Page, path: &str, mut body: Value) -> Screen {
    body["wait"] = false.into();
    match page.post::<StartedRun>(path, &body).await {
        Ok(StartedRun { queued: true, .. }) => {
            Ok(Redirect::to("/runs?done=queued").into_response())
        }
        Ok(begun) => Ok(Redirect::to(&format!("/runs/{}", begun.run_id)).into_response()),
        Err(why) => Ok(notice("No pass was begun", why.status, &why.sentence())),
    }
}
