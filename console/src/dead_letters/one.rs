//! Handles the forms that correct or discard a dead letter.

use axum::Form;
use axum::extract::Path;
use axum::extract::rejection::FormRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use firstcome_shared::http::views::{DropDetails, FailedClaimDetails};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{found, shown};
use crate::client::{HttpRefusal, encoded};
use crate::html::{RefusedForm, notice, unless_named};
use crate::state::Page;

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct CorrectForm {
    coupon: String,
    drop: String,
    slot: String,
    person: String,
    /// The coupon's name.
    name: String,
}

/// Corrects the claim of a dead letter. The next pass over its drop inserts the row.
pub(crate) async fn correct(
    page: Page,
    Path(id): Path<String>,
    form: Result<Form<CorrectForm>, FormRejection>,
) -> Result<Response, HttpRefusal> {
    let typed = form.map(|Form(typed)| typed).unwrap_or_default();
    match corrected(&page, &id, &typed).await {
        Ok(letter) => {
            let to = format!("/dead-letters/{}?done=corrected", letter.claim.id);
            Ok(Redirect::to(&to).into_response())
        }
        Err(why) => {
            let fields = [
                ("coupon", typed.coupon.as_str()),
                ("drop", &typed.drop),
                ("slot", &typed.slot),
                ("person", &typed.person),
                ("name", &typed.name),
            ];
            // The form belongs to the revealed screen, and each display of that screen is recorded.
            refused(&page, &id, &why.form("correct", &fields), true).await
        }
    }
}

async fn corrected(
    page: &Page,
    id: &str,
    typed: &CorrectForm,
) -> Result<FailedClaimDetails, HttpRefusal> {
    let wrong = |why: &str| HttpRefusal::typed(format!("{why} Nothing was done."));
    let number = |text: &str| text.trim().parse::<i64>().ok();
    let (Some(coupon), Some(drop)) = (number(&typed.coupon), number(&typed.drop)) else {
        return Err(wrong("Give the coupon and the drop by their numbers."));
    };
    let slot = number(&typed.slot).and_then(|slot| u32::try_from(slot).ok());
    let slot = slot.ok_or_else(|| wrong("Give the slot by its number."))?;
    let path = format!("/v1/coupons/{coupon}/drops/{drop}");
    let place: DropDetails = page.get(&path).await.map_err(|refusal| {
        if refusal.status == StatusCode::NOT_FOUND {
            wrong("There is no such coupon, or it has no such drop.")
        } else {
            refusal
        }
    })?;
    let body = json!({
        "coupon_id": coupon, "drop_id": drop, "slot": slot, "user_id": typed.person.trim(),
    });
    unless_named(&typed.name, &place.coupon.name)?;
    let path = format!("/v1/failed-claims/{}/correct", encoded(id));
    page.post(&path, &body).await.map_err(unchanged)
}

/// Adds to the reason that nothing was changed.
#[allow(clippy::needless_pass_by_value)] // as map_err hands it over
fn unchanged(refusal: HttpRefusal) -> HttpRefusal {
    let why = format!("{} Nothing was done.", refusal.sentence());
    HttpRefusal { why, ..refusal }
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct DiscardForm {
    why: String,
    /// The coupon's name, if the dead letter names one.
    name: String,
}

/// Discards a dead letter, so that no pass examines it again.
pub(crate) async fn discard(
    page: Page,
    Path(id): Path<String>,
    form: Result<Form<DiscardForm>, FormRejection>,
) -> Result<Response, HttpRefusal> {
    let typed = form.map(|Form(typed)| typed).unwrap_or_default();
    match discarded(&page, &id, &typed).await {
        Ok(()) => {
            let to = format!("/dead-letters/{}?done=discarded", encoded(&id));
            Ok(Redirect::to(&to).into_response())
        }
        Err(why) => {
            let fields = [("why", typed.why.as_str()), ("name", &typed.name)];
            refused(&page, &id, &why.form("discard", &fields), false).await
        }
    }
}

async fn discarded(page: &Page, id: &str, typed: &DiscardForm) -> Result<(), HttpRefusal> {
    if typed.why.trim().is_empty() {
        return Err(HttpRefusal::typed(
            "Say why it is discarded. Nothing was done.",
        ));
    }
    let letter = found(page, id, false).await?;
    let coupon = letter.coupon_name;
    coupon.map_or(Ok(()), |coupon| unless_named(&typed.name, &coupon))?;
    let path = format!("/v1/failed-claims/{}/discard", encoded(id));
    let body = json!({"why": typed.why.trim()});
    let discarded = page.post::<Value>(&path, &body).await;
    discarded.map(|_| ()).map_err(unchanged)
}

/// Returns the screen with the rejected form. If the dead letter is already resolved, it only shows
/// the reason.
async fn refused(
    page: &Page,
    id: &str,
    form: &RefusedForm,
    reveal: bool,
) -> Result<Response, HttpRefusal> {
    if form.status() == StatusCode::CONFLICT {
        let why = form.unless_shown(&[]);
        return Ok(notice("Not done", form.status(), why));
    }
    shown(page, id, reveal, "", form).await
}
