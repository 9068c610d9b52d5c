//! Search from every page, for coupons by name or number (their own or that of a drop), for users
//! by ID and for codes; one user's history with a coupon, and what can be done about it. Searches
//! use POST, because IDs must not appear in logs and browser histories.

use askama::Template;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use firstcome_shared::domain::UserId;
use firstcome_shared::http::views::{ClaimState, FoundCoupons, GivenUp, NamedCoupon, Story};
use firstcome_shared::mysql::codes::Code;
use serde_json::{Value, json};

use super::client::{HttpRefusal, encoded, query as query_string};
use super::codes;
use super::page::{Fields, JustDone, OrDefault, Page, Screen, Top, answer};
use super::text::Text;

#[derive(Template)]
#[template(path = "people.html")]
struct PeopleScreen<'a> {
    top: Top<'a>,
    /// The coupon of the history, by its ID.
    coupon: &'a str,
    /// What was searched for: the user, if there is a history.
    person: &'a str,
    /// Why nothing was found.
    wrong: &'a str,
    /// Coupons with such a name or number, or with a drop of that number.
    named: &'a [NamedCoupon],
    /// Whether there are older ones with such a name.
    has_more: bool,
    /// Coupons in which the user is known.
    coupons: &'a [NamedCoupon],
    /// What could not be searched.
    left_out: &'a str,
    story: Option<&'a Story>,
    /// Whether the API's address is known.
    has_api: bool,
}

impl<'a> PeopleScreen<'a> {
    fn new(page: &'a Page, person: &'a str) -> Self {
        Self {
            top: page.top("Search", "people"),
            coupon: "",
            person,
            wrong: "",
            named: &[],
            has_more: false,
            coupons: &[],
            left_out: "",
            story: None,
            has_api: page.has_api(),
        }
    }
}

const NOTHING: &str = "No coupon has this number, name or code, and no coupon has a row, a revocation, \
    a broken promise, a slot or a place of such a user. Of a place that was lost with Redis's data, \
    nothing is known.";

const WITHOUT_REDIS: &str =
    "Redis does not answer, so places on waiting lists and fresh claims are not known now.";

const WITHOUT_API: &str =
    "Codes cannot be searched: this reconciler does not know the API's address (API_URL).";

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

/// Shows the form and, after a change whose result could not be read, that the change was made.
pub(super) async fn form(page: Page, OrDefault(query): OrDefault<JustDone>) -> Screen {
    let mut screen = PeopleScreen::new(&page, "");
    screen.top.done = match query.done.as_str() {
        "revoked" => "Revoked. Search for them again to see it.",
        "given-up" => "Noted. Search for them again to see it.",
        "undone" => "Undone. Search for the code again to see it.",
        _ => "",
    };
    Ok(answer(StatusCode::OK, &screen))
}

/// Searches. Shows the user's history if the form has a coupon, which buttons send by its ID, or if
/// only one coupon knows the user.
pub(super) async fn search(page: Page, form: Fields) -> Screen {
    let coupon = form.get("coupon");
    let text = form.get("person");
    let is_code = text.parse::<Code>().is_ok();
    if page.has_api()
        && is_code
        && let Some(found) = codes::find(&page, text, "").await?
    {
        return Ok(found);
    }
    let mut screen = PeopleScreen::new(&page, text);
    let mut named = nothing();
    let mut known = nothing();
    let is_user = text.parse::<UserId>().is_ok();
    if coupon.is_empty() {
        named = coupons(&page, "coupon", text).await?;
        if is_user {
            known = coupons(&page, "user_id", text).await?;
        }
    }
    if is_code && !page.has_api() {
        screen.left_out = WITHOUT_API;
    } else if !known.redis_answered {
        screen.left_out = WITHOUT_REDIS;
    }
    let coupon = match (named.coupons.as_slice(), known.coupons.as_slice()) {
        ([only], []) => {
            return Ok(Redirect::to(&format!("/coupons/{}", only.id)).into_response());
        }
        ([], [only]) => only.id.to_string(),
        ([], []) if coupon.is_empty() => {
            screen.wrong = NOTHING;
            return Ok(answer(StatusCode::NOT_FOUND, &screen));
        }
        _ => coupon.to_owned(),
    };
    if coupon.is_empty() {
        screen.named = &named.coupons;
        screen.has_more = named.has_more;
        screen.coupons = &known.coupons;
        return Ok(answer(StatusCode::OK, &screen));
    }
    show_story(&page, &coupon, &form, "").await
}

/// Shows the history of a form's user with a coupon, and what was just done.
async fn show_story(page: &Page, coupon: &str, form: &Fields, done: &str) -> Screen {
    let person = form.get("person");
    let drop = query_string(&[("drop_id", form.get("drop"))]);
    let path = format!(
        "/v1/coupons/{}/people/{}{drop}",
        encoded(coupon),
        encoded(person)
    );
    let story: Story = page.get(&path).await?;
    let mut screen = PeopleScreen::new(page, person);
    (screen.coupon, screen.story, screen.top.done) = (coupon, Some(&story), done);
    Ok(answer(StatusCode::OK, &screen))
}

/// Shows the user's history after a change. If it cannot be read, says only that the change was
/// made.
async fn show_result(page: &Page, form: &Fields, done: &str, word: &str) -> Response {
    match show_story(page, form.get("coupon"), form, done).await {
        Ok(shown) => shown,
        Err(_) => Redirect::to(&format!("/people?done={word}")).into_response(),
    }
}

/// Returns the coupons that a search finds.
async fn coupons(page: &Page, by: &str, text: &str) -> Result<FoundCoupons, HttpRefusal> {
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

/// Returns the path of a user in a coupon, and the drop, as a form names them.
fn place(form: &Fields) -> Result<(String, Option<i64>), HttpRefusal> {
    let wrong = || HttpRefusal::typed("The form is not of this page.");
    let coupon: i64 = form.number("coupon").ok_or_else(wrong)?;
    let person: UserId = form.number("person").ok_or_else(wrong)?;
    let path = format!("/v1/coupons/{coupon}/people/{}", encoded(person.as_str()));
    Ok((path, form.number("drop")))
}

/// Asks the operator, then revokes what a user has of a coupon.
pub(super) async fn revoke(page: Page, form: Fields) -> Screen {
    let (path, drop) = place(&form)?;
    let person = form.get("person");
    let reason = form.get("reason");
    if reason.is_empty() {
        return Err(HttpRefusal::typed("Say why it is revoked."));
    }
    let again = !form.get("may_claim_again").is_empty();
    if !form.is_sure() {
        let may = if again { "may" } else { "may not" };
        let coupon = form.get("coupon");
        let what = format!(
            "{person} loses what they have of coupon {coupon}, and {may} claim again; it goes to \
            the next. It can't be undone."
        );
        return Ok(page.confirm(&form, &what, "Revoke it from 1 user"));
    }
    let mut body = json!({"reason": reason, "by": page.session.name(), "may_claim_again": again});
    if let Some(drop) = drop {
        body["drop_id"] = drop.into();
    }
    let path = format!("{path}/revoke");
    page.api::<Value>(Method::POST, &path, &body, None).await?;
    Ok(show_result(&page, &form, "Revoked.", "revoked").await)
}

/// Asks the operator, then gives up a promise that cannot be kept, after the user was informed.
pub(super) async fn give_up(page: Page, form: Fields) -> Screen {
    let (path, drop) = place(&form)?;
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
    let path = format!("{path}/give-up");
    page.post::<GivenUp>(&path, &json!({"drop_id": drop}))
        .await?;
    Ok(show_result(&page, &form, "Noted.", "given-up").await)
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
