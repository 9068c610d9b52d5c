//! Search from every page, for coupons by name or number (their own or that of a drop), for users
//! by ID and for codes; one user's history with a coupon, and what can be done about it. Searches
//! use POST, because IDs must not appear in logs and browser histories.

use askama::Template;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect};
use firstcome_shared::domain::UserId;
use firstcome_shared::http::views::{ClaimState, FoundCoupons, Story};
use firstcome_shared::mysql::codes::CouponCode;
use firstcome_shared::report::wording::capital;
use serde_json::{Value, json};

use super::client::{HttpRefusal, encoded, query as query_string};
use super::codes;
use super::page::{ConsolePage, FormFields, Screen, Top, answer};
use super::requests::SentBody;
use super::text::Text;

#[derive(Template)]
#[template(path = "people.html")]
struct PeopleScreen<'a> {
    top: Top<'a>,
    /// The user, the code or the coupon that was searched for.
    person: &'a str,
    /// Coupons with such a name or number, or with a drop of that number.
    named: &'a FoundCoupons,
    /// Coupons in which the user is known.
    known: &'a FoundCoupons,
    story: Option<&'a Story>,
}

const NOTHING: &str = "No coupon has this number, name or code, and no coupon has a row, a revocation, \
    a broken promise, a slot or a place of such a user. Of a place that was lost with Redis's data, \
    nothing is known.";

const WITHOUT_REDIS: &str =
    "Redis does not answer, so places on waiting lists and fresh claims are not known now.";

/// Describes the slot, or the place in a drop, that can be revoked. Empty if there is none.
fn holds(story: &Story) -> String {
    if matches!(story.holds, ClaimState::Revoked | ClaimState::None) {
        return String::new();
    }
    match (story.slot, story.drop_id) {
        (Some(slot), Some(drop)) => format!("slot {slot} of drop {drop}"),
        (None, Some(drop)) => format!("the place in drop {drop}"),
        _ => String::new(),
    }
}

/// Searches. Shows the user's history if the form has a coupon, which buttons send by its ID, or if
/// only one coupon knows the user.
pub(super) async fn search(page: ConsolePage, form: FormFields) -> Screen {
    let text = form.get("person");
    if !form.get("coupon").is_empty() {
        return show_story(&page, form.get("coupon"), &form, "").await;
    }
    if text.parse::<CouponCode>().is_ok()
        && let Some(found) = codes::find(&page, text, "").await?
    {
        return Ok(found);
    }
    let named = coupons(&page, "coupon", text).await?;
    let mut known = nothing();
    if text.parse::<UserId>().is_ok() {
        known = coupons(&page, "user_id", text).await?;
    }
    let wrong = match (named.coupons.as_slice(), known.coupons.as_slice()) {
        ([only], []) => {
            return Ok(Redirect::to(&format!("/coupons/{}", only.id)).into_response());
        }
        ([], [only]) => return show_story(&page, &only.id.to_string(), &form, "").await,
        _ if !known.redis_answered => WITHOUT_REDIS,
        ([], []) => NOTHING,
        _ => "",
    };
    let screen = PeopleScreen {
        top: Top {
            wrong,
            ..page.top("Search", "people")
        },
        person: text,
        named: &named,
        known: &known,
        story: None,
    };
    Ok(answer(StatusCode::OK, &screen))
}

/// Shows the history of a form's user with a coupon, and what was just done.
async fn show_story(page: &ConsolePage, coupon: &str, form: &FormFields, done: &str) -> Screen {
    let person = form.get("person");
    let drop = query_string(&[("drop_id", form.get("drop"))]);
    let coupon = encoded(coupon);
    let path = format!("/v1/coupons/{coupon}/people/{}{drop}", encoded(person));
    let story: Story = page.get(&path).await?;
    let screen = PeopleScreen {
        top: Top {
            done,
            ..page.top("Search", "people")
        },
        person,
        named: &nothing(),
        known: &nothing(),
        story: Some(&story),
    };
    Ok(answer(StatusCode::OK, &screen))
}

/// Returns the coupons that a search finds.
async fn coupons(page: &ConsolePage, by: &str, text: &str) -> Result<FoundCoupons, HttpRefusal> {
    let path = format!("/v1/people{}", query_string(&[(by, text)]));
    match page.get(&path).await {
        Err(refusal) if refusal.status == StatusCode::NOT_FOUND => Ok(nothing()),
        found => found,
    }
}

/// The result of a search that finds nothing while all stores answer.
fn nothing() -> FoundCoupons {
    FoundCoupons {
        coupons: Vec::new(),
        has_more: false,
        redis_answered: true,
    }
}

/// Shows the user's history after a change. If it cannot be read, says that the change was made.
async fn show_result(page: &ConsolePage, form: &FormFields, done: &str) -> Screen {
    let shown = show_story(page, form.get("coupon"), form, done).await;
    shown.map_err(|refusal| {
        let why = format!("{done} But: {}", refusal.sentence());
        HttpRefusal::new(refusal.status, why)
    })
}

/// Returns the path of a form's user in a coupon.
fn place(form: &FormFields) -> String {
    let coupon = encoded(form.get("coupon"));
    let person = encoded(form.get("person"));
    format!("/v1/coupons/{coupon}/people/{person}")
}

/// Asks the operator, then revokes what a user has of a coupon.
pub(super) async fn revoke(page: ConsolePage, form: FormFields) -> Screen {
    let person = form.get("person");
    let again = !form.get("may_claim_again").is_empty();
    if !form.is_sure() {
        let may = if again { "may" } else { "may not" };
        let coupon = form.get("coupon");
        let what = format!(
            "{person} loses what they have of coupon {coupon}, and {may} claim again. It goes to \
            the next user, unless the drop is closed. It can't be undone."
        );
        return Ok(page.confirm(&form, &what, "Revoke it from 1 user"));
    }
    let body = json!({
        "reason": form.get("reason"), "by": page.session.name, "may_claim_again": again,
        "drop_id": form.number::<i64>("drop"),
    });
    let path = format!("{}/revoke", place(&form));
    page.api::<Value>(Method::POST, &path, SentBody::Json(&body), None)
        .await?;
    show_result(&page, &form, "Revoked.").await
}

/// Asks the operator, then gives up a promise that cannot be kept, after the user was informed.
pub(super) async fn give_up(page: ConsolePage, form: FormFields) -> Screen {
    if !form.is_sure() {
        let person = form.get("person");
        let coupon = form.get("coupon");
        let what = format!(
            "{person} was promised coupon {coupon} and was told that they have none. A slot that \
            gets free before the drop is sealed can still go to them: if it must not, revoke it \
            from them instead. It can't be undone."
        );
        return Ok(page.confirm(&form, &what, "Give the promise up"));
    }
    let path = format!("{}/give-up", place(&form));
    let body = json!({"drop_id": form.number::<i64>("drop")});
    page.post::<Value>(&path, &body).await?;
    show_result(&page, &form, "Noted.").await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_user_has_can_be_revoked() {
        for (state, expected) in [
            ("issued", "slot 5 of drop 7"),
            ("accepted", "slot 5 of drop 7"),
            ("revoked", ""),
            ("none", ""),
        ] {
            let story = json!({
                "coupon_id": 1, "coupon_name": "Winter", "user_id": "kim", "holds": state,
                "drop_id": 7, "slot": 5, "conclusion": "", "no_longer_known": [], "happenings": [],
            });
            let story: Story = serde_json::from_value(story).unwrap();
            assert_eq!(holds(&story), expected, "{state}");
        }
    }
}
