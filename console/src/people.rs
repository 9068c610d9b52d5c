//! The screen of one user's history with a coupon, found by user ID or slot. The coupon is selected
//! by ID or name. Without a coupon, the search finds all coupons in which the user is known.

use askama::Template;
use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::http::StatusCode;
use axum::response::Response;
use firstcome_notifier::wording::{LONGEST, capital, line};
use firstcome_shared::domain::{BadUserId, UserId};
use firstcome_shared::http::views::{FoundPeople, Holds, NamedCoupon, Story};
use serde::Deserialize;

use super::client::{HttpRefusal, encoded, query as query_string};
use super::html::{JustDone, RefusedForm, Top, answer};
use super::state::{OrDefault, Page};
use super::times::instant;

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
    story: Option<&'a StoryView>,
    /// Whether the API's address is known.
    has_api: bool,
    refused: &'a RefusedForm,
}

/// A search. Buttons that lead to a user's history also submit a search.
#[derive(Deserialize, Default)]
#[serde(default)]
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
    Story(Story),
    /// More than one user is on the slot.
    Several(Vec<String>),
    /// More than one coupon matches.
    Coupons(Vec<NamedCoupon>),
}

/// A user's history as the screen shows it.
pub(super) struct StoryView {
    pub(super) coupon: String,
    pub(super) name: String,
    pub(super) conclusion: String,
    /// The slot or waiting position to revoke, as the button shows it. Empty if there is none.
    pub(super) holds: String,
    /// Whether a promise to the user in the drop is broken.
    pub(super) broken: bool,
    pub(super) drop: String,
    /// Time, source and description of each event.
    pub(super) happenings: Vec<(String, String, String)>,
    pub(super) no_longer_known: Vec<String>,
    pub(super) traces: Vec<String>,
}

pub(super) const REVOKED: &str = "/people?done=revoked";
pub(super) const GIVEN_UP: &str = "/people?done=given-up";

/// Shows the form. Searches use POST, because IDs must not appear in logs and browser histories.
pub(super) async fn form(page: Page, OrDefault(query): OrDefault<JustDone>) -> Response {
    let done = match query.done.as_str() {
        "revoked" => "Revoked. Search for them again to see it.",
        "given-up" => "Noted. Search for them again to see it.",
        _ => "",
    };
    let asked = Search::default();
    let none = RefusedForm::default();
    let mut screen = screen(&page, &asked, &none);
    screen.top.done = done;
    answer(StatusCode::OK, &screen)
}

pub(super) async fn search(page: Page, form: Result<Form<Search>, FormRejection>) -> Response {
    let asked = form.map(|Form(search)| search).unwrap_or_default();
    refused(&page, asked, RefusedForm::default()).await
}

/// Returns the result of a search, with a rejected form.
pub(super) async fn refused(page: &Page, mut asked: Search, form: RefusedForm) -> Response {
    for field in [&mut asked.coupon, &mut asked.drop, &mut asked.person] {
        *field = field.trim().to_owned();
    }
    let made = async {
        let found = look(page, &mut asked).await;
        let (story, people, choices, why);
        let mut screen = screen(page, &asked, &form);
        let mut status = form.status();
        match found {
            Ok(Found::Story(found)) => {
                story = view(found);
                screen.story = Some(&story);
                screen.wrong = form.unless_shown(&[
                    ("revoke", screen.has_api && !story.holds.is_empty()),
                    ("give-up", story.broken),
                    ("erase", true),
                ]);
            }
            _ if status != StatusCode::OK => screen.wrong = form.unless_shown(&[]),
            Ok(Found::Several(found)) => {
                people = found;
                screen.several = &people;
            }
            Ok(Found::Coupons(found)) => {
                choices = found;
                screen.coupons = &choices;
            }
            Err(refusal) => {
                status = refusal.status;
                why = refusal.sentence();
                screen.wrong = &why;
            }
        }
        answer(status, &screen)
    };
    page.slowly(made).await
}

/// Returns a screen without a history.
fn screen<'a>(page: &'a Page, asked: &'a Search, refused: &'a RefusedForm) -> PeopleScreen<'a> {
    PeopleScreen {
        top: Top::new("One person", Some(&page.session), "people"),
        asked,
        wrong: "",
        several: &[],
        coupons: &[],
        story: None,
        has_api: page.has_api(),
        refused,
    }
}

/// Runs a search, and fills in the coupon, user and drop that were found.
async fn look(page: &Page, asked: &mut Search) -> Result<Found, HttpRefusal> {
    if !asked.drop.is_empty() && asked.drop.parse::<i64>().is_err() {
        let why = format!(
            "the coupon has no drop {:?}: give its number, or none",
            asked.drop
        );
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
    match found.user_ids.pop() {
        Some(person) if found.user_ids.is_empty() => asked.person = person,
        last => {
            found.user_ids.extend(last);
            return Ok(Found::Several(found.user_ids));
        }
    }
    let path = format!(
        "/v1/coupons/{}/people/{}{}",
        asked.coupon,
        encoded(&asked.person),
        query_string(&[("drop_id", &asked.drop)])
    );
    page.get(&path).await.map(Found::Story)
}

/// Parses a slot in a search. User IDs never contain a space.
fn slot(text: &str) -> Option<String> {
    let (word, slot) = text.split_once(' ')?;
    let slot: i64 = slot.trim().parse().ok()?;
    word.eq_ignore_ascii_case("slot").then(|| slot.to_string())
}

fn holds(story: &Story) -> String {
    match (story.slot, story.drop_id) {
        (Some(slot), Some(drop)) => format!("slot {slot} of drop {drop}"),
        (None, Some(drop)) => format!("the place in drop {drop}"),
        _ => String::new(),
    }
}

fn view(story: Story) -> StoryView {
    let at = |at: Option<_>| at.map_or_else(|| "not known".to_owned(), instant);
    let name = line(&story.coupon_name, LONGEST);
    StoryView {
        coupon: format!("{name} (coupon {})", story.coupon_id),
        name,
        conclusion: capital(&story.conclusion),
        holds: holds(&story),
        broken: story.holds == Holds::Broken && story.drop_id.is_some(),
        drop: story
            .drop_id
            .map(|drop| drop.to_string())
            .unwrap_or_default(),
        happenings: story
            .happenings
            .into_iter()
            .map(|one| (at(one.at), one.source, line(&one.what, LONGEST)))
            .collect(),
        no_longer_known: story.no_longer_known,
        traces: story.trace_ids,
    }
}
