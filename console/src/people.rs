//! The screen of one user's history with a coupon, found by user ID or slot, and what can be done
//! about it. The coupon is selected by ID or name. Without a coupon, the search finds all coupons in
//! which the user is known.

use askama::Template;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect};
use firstcome_notifier::wording::{capital, count};
use firstcome_shared::domain::{BadUserId, UserId};
use firstcome_shared::http::views::{
    ErasedPerson, FoundPeople, GivenUp, Holds, NamedCoupon, Story,
};
use serde_json::{Value, json};

use super::client::{HttpRefusal, encoded, query as query_string};
use super::page::{Fields, JustDone, OrDefault, Page, Screen, Top, answer, notice};
use super::text::Text;

#[derive(Template)]
#[template(path = "people.html")]
struct PeopleScreen<'a> {
    top: Top<'a>,
    /// The search that was submitted.
    asked: &'a Search,
    /// Why nothing was found.
    wrong: &'a str,
    /// The users on a slot, if there are several.
    several: &'a [String],
    /// Coupons to choose from.
    coupons: &'a [NamedCoupon],
    story: Option<&'a Story>,
    /// Whether the API's address is known.
    has_api: bool,
}

#[allow(clippy::unused_self, reason = "a template calls methods")]
impl PeopleScreen<'_> {
    /// The slot or waiting position to revoke. Empty if there is none.
    fn holds(&self, story: &Story) -> String {
        match (story.slot, story.drop_id) {
            (Some(slot), Some(drop)) => format!("slot {slot} of drop {drop}"),
            (None, Some(drop)) => format!("the place in drop {drop}"),
            _ => String::new(),
        }
    }

    fn is_broken(&self, story: &Story) -> bool {
        story.holds == Holds::Broken && story.drop_id.is_some()
    }

    fn conclusion(&self, story: &Story) -> String {
        capital(&story.conclusion)
    }

    fn drop(&self, story: &Story) -> String {
        story
            .drop_id
            .map(|drop| drop.to_string())
            .unwrap_or_default()
    }
}

/// A search. Buttons that lead to a user's history also submit a search.
#[derive(Default)]
pub(super) struct Search {
    /// The ID or the name of a coupon. If empty, every coupon.
    pub(super) coupon: String,
    /// The ID of a drop. If empty, any drop or, for a slot, the last drop that has opened.
    pub(super) drop: String,
    /// A user ID, or a slot such as `slot 7`.
    pub(super) person: String,
}

/// The result of a search.
enum Found {
    Story(Box<Story>),
    /// More than one user is on the slot.
    Several(Vec<String>),
    /// More than one coupon matches.
    Coupons(Vec<NamedCoupon>),
}

fn screen<'a>(page: &'a Page, asked: &'a Search) -> PeopleScreen<'a> {
    PeopleScreen {
        top: page.top("One person", "people"),
        asked,
        wrong: "",
        several: &[],
        coupons: &[],
        story: None,
        has_api: page.has_api(),
    }
}

/// Shows the form. Searches use POST, because IDs must not appear in logs and browser histories.
pub(super) async fn form(page: Page, OrDefault(query): OrDefault<JustDone>) -> Screen {
    let asked = Search::default();
    let mut screen = screen(&page, &asked);
    screen.top.done = match query.done.as_str() {
        "revoked" => "Revoked. Search for them again to see it.",
        "given-up" => "Noted. Search for them again to see it.",
        _ => "",
    };
    Ok(answer(StatusCode::OK, &screen))
}

pub(super) async fn search(page: Page, form: Fields) -> Screen {
    let mut asked = Search {
        coupon: form.get("coupon").to_owned(),
        drop: form.get("drop").to_owned(),
        person: form.get("person").to_owned(),
    };
    let found = look(&page, &mut asked).await;
    let mut screen = screen(&page, &asked);
    let (mut status, why) = (
        StatusCode::OK,
        found.as_ref().err().map(HttpRefusal::sentence),
    );
    match &found {
        Ok(Found::Story(story)) => screen.story = Some(story),
        Ok(Found::Several(people)) => screen.several = people,
        Ok(Found::Coupons(coupons)) => screen.coupons = coupons,
        Err(refusal) => {
            status = refusal.status;
            screen.wrong = why.as_deref().unwrap_or_default();
        }
    }
    Ok(answer(status, &screen))
}

/// Runs a search, and fills in the coupon, user and drop that were found.
async fn look(page: &Page, asked: &mut Search) -> Result<Found, HttpRefusal> {
    if !asked.drop.is_empty() && asked.drop.parse::<i64>().is_err() {
        let drop = &asked.drop;
        let why = format!("the coupon has no drop {drop:?}: give its number, or none");
        return Err(HttpRefusal::new(StatusCode::NOT_FOUND, why));
    }
    let slot = slot(&asked.person);
    if slot.is_none() {
        let wrong = |why: BadUserId| HttpRefusal::new(StatusCode::BAD_REQUEST, why.to_string());
        asked.person.parse::<UserId>().map_err(wrong)?;
    }
    let whom = match &slot {
        // A search by slot reveals IDs that the operator did not have before.
        Some(slot) => [("slot", slot.as_str()), ("reveal", "true")],
        None => [("user_id", asked.person.as_str()), ("reveal", "")],
    };
    let place = [("coupon", asked.coupon.as_str()), ("drop_id", &asked.drop)];
    let path = format!("/v1/people{}", query_string(&[place, whom].concat()));
    let mut found: FoundPeople = page.get(&path).await?;
    let [coupon] = found.coupons.as_slice() else {
        return Ok(Found::Coupons(found.coupons));
    };
    asked.coupon = coupon.id.to_string();
    if let Some(drop) = found.drop_id {
        asked.drop = drop.to_string();
    }
    if let [_, _, ..] = found.user_ids.as_slice() {
        return Ok(Found::Several(found.user_ids));
    }
    asked.person = found.user_ids.pop().unwrap_or_default();
    let path = format!(
        "/v1/coupons/{}/people/{}{}",
        asked.coupon,
        encoded(&asked.person),
        query_string(&[("drop_id", &asked.drop)])
    );
    page.get(&path)
        .await
        .map(|story| Found::Story(Box::new(story)))
}

/// Parses a slot in a search. User IDs never contain a space.
fn slot(text: &str) -> Option<String> {
    let (word, slot) = text.split_once(' ')?;
    let slot: i64 = slot.trim().parse().ok()?;
    word.eq_ignore_ascii_case("slot").then(|| slot.to_string())
}

/// Returns the path of a user in a coupon, and the drop, as a form names them.
fn place(form: &Fields) -> Result<(String, Option<i64>), HttpRefusal> {
    let wrong = || HttpRefusal::typed("The form is not of this page.");
    let coupon: i64 = form.number("coupon").ok_or_else(wrong)?;
    let person: UserId = form.number("person").ok_or_else(wrong)?;
    let path = format!("/v1/coupons/{coupon}/people/{}", encoded(person.as_str()));
    Ok((path, form.number("drop")))
}

/// Revokes a user's coupon.
pub(super) async fn revoke(page: Page, form: Fields) -> Screen {
    let (path, drop) = place(&form)?;
    let (person, reason) = (form.get("person"), form.get("reason"));
    if reason.is_empty() {
        return Err(HttpRefusal::typed("Say why it is revoked."));
    }
    let again = !form.get("may_claim_again").is_empty();
    if !form.is_sure() {
        let may = if again { "may" } else { "may not" };
        let coupon = form.get("coupon");
        let what = format!(
            "{person} loses what they have of coupon {coupon}, and {may} claim again; it goes to the next. It can't be undone."
        );
        return Ok(page.ask(&form, &what, "Revoke it from 1 person"));
    }
    let mut body = json!({"reason": reason, "by": page.session.name(), "may_claim_again": again});
    if let Some(drop) = drop {
        body["drop_id"] = drop.into();
    }
    let path = format!("{path}/revoke");
    page.api::<Value>(Method::POST, &path, &body, None).await?;
    Ok(Redirect::to("/people?done=revoked").into_response())
}

/// Gives up a promise that cannot be kept, after the user was informed.
pub(super) async fn give_up(page: Page, form: Fields) -> Screen {
    let (path, drop) = place(&form)?;
    if !form.is_sure() {
        let person = form.get("person");
        let what = format!("{person} was told that they get no coupon. No pass gives them one.");
        return Ok(page.ask(&form, &what, "Record it"));
    }
    let path = format!("{path}/give-up");
    page.post::<GivenUp>(&path, &json!({"drop_id": drop}))
        .await?;
    Ok(Redirect::to("/people?done=given-up").into_response())
}

/// Erases a user.
pub(super) async fn erase(page: Page, form: Fields) -> Screen {
    let person = form.get("person");
    if !form.is_sure() {
        let what =
            format!("A pseudonym takes the place of {person} in every table. It can't be undone.");
        return Ok(page.ask(&form, &what, "Erase 1 person from all coupons"));
    }
    let path = format!("/v1/people/{}/erase", encoded(person));
    let erased: ErasedPerson = page.post(&path, &Value::Null).await?;
    let rows = count(erased.rows, "row", "rows");
    let why = format!("{rows} name {} from now on.", erased.pseudonym);
    Ok(notice("Erased", StatusCode::OK, &why))
}
