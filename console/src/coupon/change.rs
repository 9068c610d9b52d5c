//! Changes of a coupon: each form becomes a request to the API, most of them after a question. A
//! form that is refused is shown again with what was typed.

use axum::extract::Path;
use axum::http::Method;
use axum::response::{IntoResponse as _, Redirect};
use chrono::Utc;
use firstcome_shared::http::views::{CouponDrops, DropDetails};
use firstcome_shared::report::wording::count;
use serde_json::Value;

use super::forms::{self, LISTED};
use super::screen::{CouponQuery, RefusedForm, show_coupon};
use super::state::is_open;
use crate::client::{HttpRefusal, encoded};
use crate::page::{Fields, Page, Screen};
use crate::text::Text as _;

/// Handles a form of the coupon's screen: asks first if the form has a question, then changes the
/// coupon through the API. Shows a refused form again.
pub(crate) async fn change(page: Page, Path(id): Path<String>, form: Fields) -> Screen {
    let path = format!("/v1/coupons/{}/drops", encoded(&id));
    let found: CouponDrops = page
        .get(&path)
        .await
        .map_err(HttpRefusal::before_a_change)?;
    match changed(&page, &found, &form).await {
        Ok(answer) => Ok(answer),
        Err(refusal) => show_refused(&page, &id, &form, refusal).await,
    }
}

/// Shows the coupon with a refused form, which keeps what was typed. If the coupon cannot be read,
/// returns only the refusal.
async fn show_refused(page: &Page, id: &str, form: &Fields, refusal: HttpRefusal) -> Screen {
    let refused = RefusedForm {
        typed: form,
        refusal: &refusal,
    };
    let shown = show_coupon(page, id, &CouponQuery::default(), Some(refused)).await;
    shown.map_err(|_| refusal)
}

async fn changed(page: &Page, found: &CouponDrops, fields: &Fields) -> Screen {
    let coupon = &found.coupon;
    let change = forms::read(fields, found, Utc::now()).map_err(|why| HttpRefusal::typed(&why))?;
    if !fields.is_sure()
        && let Some(question) = change.question
    {
        let who = match question.slots {
            Some(more) => who_of_waiting_gets_one(waiting(page, found).await, more.into()),
            None => String::new(),
        };
        let text = format!("{}{who}", question.text);
        return Ok(page.confirm(fields, &text, question.button));
    }
    // With a revision, the API refuses the change if somebody has changed the coupon since. The
    // buttons that pause, resume, close and cancel send none.
    let revision = fields.get("revision");
    let tag = (!revision.is_empty()).then(|| ("if-match", format!("\"{revision}\"")));
    let path = format!("/v1/coupons/{}", coupon.id);
    page.api::<Value>(Method::PATCH, &path, &change.body, tag)
        .await?;
    let to = format!("/coupons/{}?done={}", coupon.id, fields.get("how"));
    Ok(Redirect::to(&to).into_response())
}

/// Describes which of the waiting users get one of the further slots.
fn who_of_waiting_gets_one(waiting: u64, more: u64) -> String {
    let people = count(waiting, "person", "people");
    if waiting == 0 {
        String::new()
    } else if more == 0 {
        format!(" {people} wait and get none of it.")
    } else if more >= waiting {
        format!(" That is enough for all who wait ({}).", waiting.text())
    } else {
        format!(" Of {people} who wait, the first {} get one.", more.text())
    }
}

/// Returns how many people wait for the open drop.
async fn waiting(page: &Page, found: &CouponDrops) -> u64 {
    let Some(open) = found.drops.iter().find(|drop| is_open(drop.state)) else {
        return 0;
    };
    let path = format!("/v1/coupons/{}/drops/{}", found.coupon.id, open.id);
    // The question is asked without the number if Redis does not answer.
    let details = page.get::<DropDetails>(&path).await.ok();
    let drops = details.map(|it| it.overview.drops).unwrap_or_default();
    let redis = drops.first().and_then(|drop| drop.redis);
    redis.map_or(0, |keys| keys.waiting)
}

/// Adds users to the allow list or, after a question, removes them.
pub(crate) async fn change_list(page: Page, Path(id): Path<String>, form: Fields) -> Screen {
    let how = if form.get("how") == "remove" {
        "remove"
    } else {
        "add"
    };
    if how == "remove" && !form.is_sure() {
        let lines = form.get("people").lines();
        let lines = lines.filter(|line| !line.trim().is_empty()).count() as u64;
        let what = format!(
            "The users of {} leave the allow list of coupon {id}. Those who hold one or wait keep \
            it.",
            count(lines, "line", "lines")
        );
        return Ok(page.confirm(&form, &what, "Remove them"));
    }
    let path = format!("/v1/coupons/{}/allow-list/{how}", encoded(&id));
    match page.api_text::<Value>(&path, form.get("people")).await {
        Ok(_) => {
            let to = format!("/coupons/{}?done={LISTED}", encoded(&id));
            Ok(Redirect::to(&to).into_response())
        }
        Err(refusal) => show_refused(&page, &id, &form, refusal).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_says_how_many_waiting_users_get_one() {
        for (waiting, more, says) in [
            (0, 5, ""),
            (2, 0, " 2 people wait and get none of it."),
            (2, 2, " That is enough for all who wait (2)."),
            (2, 3, " That is enough for all who wait (2)."),
            (3, 2, " Of 3 people who wait, the first 2 get one."),
        ] {
            assert_eq!(who_of_waiting_gets_one(waiting, more), says);
        }
    }
}
