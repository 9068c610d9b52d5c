//! The screen of a drop: its counts, its alerts, and buttons for passes. Operators confirm
//! dangerous actions by typing the coupon's name.

use askama::Template;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use firstcome_notifier::wording::{LONGEST, count, grouped, line};
use firstcome_shared::coupon::{Allow, DropState};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::http::views::{CouponSettings, DropDetails};
use serde::Deserialize;
use serde_json::{Value, json};

use super::board::{Board, drop_board};
use super::client::{HttpRefusal, encoded};
use super::html::{JustDone, RefusedForm, Top, answer, not_understood, notice, unless_named};
use super::pace::{Pace, pace};
use super::state::{OrDefault, OwnForm, Page};

#[derive(Template)]
#[template(path = "drop.html")]
struct DropScreen<'a> {
    top: Top<'a>,
    name: &'a str,
    coupon: CouponId,
    drop: DropId,
    paused: bool,
    only_for: String,
    /// Describes the drops whose quantity the button raises.
    to_raise: String,
    /// Whether the API's address is known.
    has_api: bool,
    board: &'a Board,
    /// Number of repairs that wait for a confirmation, while an alert reports them.
    held_back: Option<String>,
    /// `None` while there are no rows.
    pace: Option<Pace>,
    refused: &'a RefusedForm,
    /// Why a form was rejected, if the screen no longer shows that form.
    wrong: &'a str,
}

/// A coupon and a drop in a path.
#[derive(Debug, Deserialize)]
pub(super) struct DropPath {
    pub(super) coupon: String,
    pub(super) drop: String,
}

/// Reads the drop of a path.
pub(super) async fn find(
    page: &Page,
    DropPath { coupon, drop }: &DropPath,
) -> Result<DropDetails, HttpRefusal> {
    let path = format!("/v1/coupons/{}/drops/{}", encoded(coupon), encoded(drop));
    page.get(&path).await
}

pub(super) async fn read(
    page: Page,
    Path(place): Path<DropPath>,
    OrDefault(just): OrDefault<JustDone>,
) -> Result<Response, HttpRefusal> {
    shown(&page, &place, &just.done, &RefusedForm::default()).await
}

/// Returns the current screen of a drop, with a rejected form.
pub(super) async fn refused(
    page: &Page,
    place: &DropPath,
    form: RefusedForm,
) -> Result<Response, HttpRefusal> {
    shown(page, place, "", &form).await
}

async fn shown(
    page: &Page,
    place: &DropPath,
    done: &str,
    refused: &RefusedForm,
) -> Result<Response, HttpRefusal> {
    let found = find(page, place).await?;
    let Some(drop) = found.overview.drops.first() else {
        let why = "there is no such drop";
        return Err(HttpRefusal::new(StatusCode::NOT_FOUND, why));
    };
    let name = line(&found.coupon.name, LONGEST);
    let board = drop_board(&found.overview);
    let paused = found.coupon.paused;
    let has_api = page.has_api();
    let screen = DropScreen {
        top: Top {
            done: &done_text(&found, done),
            ..Top::new(&name, Some(&page.session), "")
        },
        name: &name,
        coupon: found.coupon.id,
        drop: drop.drop_id,
        paused,
        only_for: only_for(&found.coupon),
        to_raise: to_raise(&found),
        has_api,
        board: &board,
        wrong: refused.unless_shown(&[
            ("confirm", found.held_back.is_some()),
            ("pause", has_api && !paused),
            ("resume", has_api && paused),
            ("raise", has_api),
        ]),
        held_back: held_back(&found),
        pace: pace(&found.slots, drop, found.sampled),
        refused,
    };
    Ok(answer(refused.status(), &screen))
}

/// Returns the number of repairs that the limit holds back, as the button shows it.
fn held_back(found: &DropDetails) -> Option<String> {
    found.held_back.map(|repairs| grouped(repairs.into()))
}

/// Returns the message about the action just completed, if it still applies.
fn done_text(found: &DropDetails, done: &str) -> String {
    match (done, found.coupon.paused) {
        ("paused", true) => "Paused. Nobody can claim until it is resumed.".to_owned(),
        ("resumed", false) => "Resumed. People can claim again.".to_owned(),
        ("raised", _) => {
            let drop = found.overview.drops.first();
            let quantity = drop.map_or(0, |drop| u64::from(drop.quantity));
            let held = drop
                .and_then(|drop| drop.redis)
                .map_or(0, |keys| keys.users);
            let kept = found.broken_promises.min(quantity.saturating_sub(held));
            let people = count(kept, "person", "people");
            let waiting = if found.broken_promises == 0 {
                String::new()
            } else {
                format!(" The next pass gives {people} their coupon.")
            };
            format!("Raised to {}.{waiting}", grouped(quantity))
        }
        _ => String::new(),
    }
}

/// Describes who may claim a coupon.
pub(super) fn only_for(coupon: &CouponSettings) -> String {
    let people = grouped(coupon.allow_list_users.into());
    match &coupon.allow {
        None if coupon.allow_list_users == 0 => "everybody".to_owned(),
        None => format!("everybody; its allow list of {people} does not count"),
        Some(Allow::List) => format!("people on its allow list, which has {people}"),
        Some(Allow::Group(group)) => format!("people of the group {}", group.as_str()),
    }
}

/// Describes the drops whose quantity the API raises: all drops of the coupon that are not closed.
fn to_raise(found: &DropDetails) -> String {
    let coupon = found.coupon.id;
    match found.open_drops {
        0 | 1 => format!("coupon {coupon}"),
        several => format!("{several} drops of coupon {coupon}"),
    }
}

#[derive(Deserialize)]
pub(super) struct PassForm {
    how: String,
    /// The coupon's name, if the form asks for it.
    #[serde(default)]
    name: String,
    /// The number of held-back repairs on the button.
    #[serde(default)]
    held: String,
}

/// Starts a pass over one drop.
pub(super) async fn pass(
    page: Page,
    Path(place): Path<DropPath>,
    OwnForm(asked): OwnForm<PassForm>,
) -> Result<Response, HttpRefusal> {
    let found = find(&page, &place).await?;
    let drop = found.overview.drops.first();
    let mut body = json!({
        "coupon_id": found.coupon.id,
        "drop_id": drop.map(|drop| drop.drop_id),
        // Only a deep pass examines a sealed drop.
        "deep": drop.is_some_and(|drop| drop.state == DropState::Sealed),
    });
    match asked.how.as_str() {
        "pass" => {}
        "dry_run" => body["dry_run"] = true.into(),
        "confirm" => {
            if let Err(why) = confirmed(&asked, &found) {
                let form = why.form("confirm", &[("name", &asked.name)]);
                return refused(&page, &place, form).await;
            }
            body["confirm"] = true.into();
        }
        _ => return Ok(not_understood()),
    }
    Ok(started(&page, body).await)
}

/// Checks that the held-back repairs are still those on the button.
fn confirmed(asked: &PassForm, found: &DropDetails) -> Result<(), HttpRefusal> {
    unless_named(&asked.name, &found.coupon.name)?;
    if held_back(found).as_ref() == Some(&asked.held) {
        return Ok(());
    }
    let why =
        "The number of held-back repairs has changed. Nothing was done: look at the drop again.";
    Err(HttpRefusal::new(StatusCode::CONFLICT, why))
}

/// Starts a pass over everything.
pub(super) async fn pass_over_all(page: Page, OwnForm(asked): OwnForm<PassForm>) -> Response {
    let dry_run = match asked.how.as_str() {
        "pass" => false,
        "dry_run" => true,
        _ => return not_understood(),
    };
    started(&page, json!({"dry_run": dry_run})).await
}

/// A pass that has begun.
#[derive(Deserialize)]
struct BegunPass {
    run_id: String,
}

async fn started(page: &Page, mut body: Value) -> Response {
    body["wait"] = false.into();
    let begun = page.post::<BegunPass>("/v1/reconcile", &body);
    match begun.await {
        Ok(BegunPass { run_id }) => Redirect::to(&format!("/runs/{run_id}")).into_response(),
        Err(refusal) => notice("No pass was begun", refusal.status, &refusal.sentence()),
    }
}
