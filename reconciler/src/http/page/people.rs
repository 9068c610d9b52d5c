//! One person's whole story, by search: by their id, or by a slot.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Form};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, UserId};
use firstcome_shared::mysql::ops_actions::OperatorAct;
use serde::Deserialize;
use serde_json::json;

use super::board::instant;
use super::html::{Top, answer};
use super::session::Session;
use super::state::ScreenState;
use crate::explain::{self, Holds, OnSlot, Story, explain};
use crate::notify::wording::{LONGEST, capital, line};

#[derive(Template)]
#[template(path = "people.html")]
struct PeopleScreen<'a> {
    top: Top<'a>,
    /// What was searched for.
    asked: &'a Search,
    /// What was done just now.
    done: &'static str,
    /// Why nothing was found.
    wrong: &'a str,
    /// Those on a slot on which several are known.
    several: &'a [UserId],
    story: Option<&'a StoryView>,
    /// Whether the API's address is known.
    has_api: bool,
}

/// What is searched for. A button that leads to a person's story searches for it too.
#[derive(Deserialize, Default)]
pub(super) struct Search {
    #[serde(default)]
    pub(super) coupon: String,
    /// Empty: any, and for a slot the last that has opened.
    #[serde(default)]
    pub(super) drop: String,
    /// An id, or `slot 7`.
    #[serde(default)]
    pub(super) person: String,
}

/// What a search leads to.
enum Found {
    Story(Story),
    /// More than one person is on the slot.
    Several(Vec<UserId>),
}

enum Whom {
    Person(UserId),
    Slot(i64),
}

/// Why nothing was found.
type SearchFailure = (StatusCode, String);

/// What is known of a person.
pub(super) struct StoryView {
    pub(super) coupon: String,
    pub(super) name: String,
    pub(super) conclusion: String,
    /// What they hold, as a button names it; empty: nothing that could be revoked.
    pub(super) holds: String,
    /// A promise to them is broken in the drop.
    pub(super) broken: bool,
    pub(super) drop: String,
    /// When, where it is written, what.
    pub(super) happenings: Vec<(String, &'static str, String)>,
    pub(super) no_longer_known: Vec<String>,
    pub(super) traces: Vec<String>,
}

/// What an act about a person leads to: away from its form, which a reload would send again.
#[derive(Deserialize)]
pub(super) struct JustDone {
    #[serde(default)]
    done: String,
}

pub(super) const REVOKED: &str = "/people?done=revoked";
pub(super) const GIVEN_UP: &str = "/people?done=given-up";

/// The form. What is searched for comes by POST: ids do not belong into logs and histories.
pub(super) async fn form(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    query: Result<Query<JustDone>, QueryRejection>,
) -> Response {
    let done = match query.as_ref().map(|Query(just)| just.done.as_str()) {
        Ok("revoked") => "Revoked. Search for them again to see it.",
        Ok("given-up") => "Noted. Search for them again to see it.",
        _ => "",
    };
    answer(StatusCode::OK, &PeopleScreen { done, ..screen(&page, &session, &Search::default()) })
}

pub(super) async fn search(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    form: Result<Form<Search>, FormRejection>,
) -> Response {
    let mut asked = form.map(|Form(search)| search).unwrap_or_default();
    for field in [&mut asked.coupon, &mut asked.drop, &mut asked.person] {
        *field = field.trim().to_owned();
    }
    let made = async {
        let found = look(&page, &session, &mut asked).await;
        let none = screen(&page, &session, &asked);
        match found {
            Ok(Found::Story(story)) => answer(StatusCode::OK, &PeopleScreen { story: Some(&view(story)), ..none }),
            Ok(Found::Several(people)) => answer(StatusCode::OK, &PeopleScreen { several: &people, ..none }),
            Err((status, wrong)) => answer(status, &PeopleScreen { wrong: &wrong, ..none }),
        }
    };
    page.slowly(made).await
}

/// With nobody's story.
fn screen<'a>(page: &ScreenState, session: &'a Session, asked: &'a Search) -> PeopleScreen<'a> {
    let top = Top::new("One person", "people", Some(session));
    PeopleScreen { top, asked, done: "", wrong: "", several: &[], story: None, has_api: page.api.is_some() }
}

/// Puts the person and the drop that a slot leads to into what was asked for.
async fn look(page: &ScreenState, session: &Session, asked: &mut Search) -> Result<Found, SearchFailure> {
    let id = CouponId(asked.coupon.parse().map_err(|_| no_such(asked))?);
    let whom = whom(&asked.person)?;
    let coupon = page.app.stores.db.coupon(id).await.map_err(unanswered)?;
    let (coupon, drops) = coupon.ok_or_else(|| no_such(asked))?;
    let mut drop = drop_of(&drops, &asked.drop)?;
    let person = match whom {
        Whom::Person(person) => person,
        Whom::Slot(slot) => {
            let (of_slot, mut people) = on_slot(page, session, (&coupon, &drops), drop, slot).await?;
            drop = Some(of_slot);
            asked.drop = of_slot.to_string();
            match people.pop() {
                Some(person) if people.is_empty() => person,
                last => return Ok(Found::Several(people.into_iter().chain(last).collect())),
            }
        }
    };
    let story = explain(&page.app.stores, id, drop, &person).await.map_err(unanswered)?;
    asked.person = person.to_string();
    story.map(Found::Story).ok_or_else(|| no_such(asked))
}

/// No id has a space.
fn whom(text: &str) -> Result<Whom, SearchFailure> {
    let slot = text.split_once(' ').filter(|(word, _)| word.eq_ignore_ascii_case("slot"));
    match slot.and_then(|(_, slot)| slot.trim().parse().ok()) {
        Some(slot) => Ok(Whom::Slot(slot)),
        None => text.parse::<UserId>().map(Whom::Person).map_err(|why| (StatusCode::BAD_REQUEST, format!("{why}."))),
    }
}

fn drop_of(drops: &[Drop], text: &str) -> Result<Option<DropId>, SearchFailure> {
    if text.is_empty() {
        return Ok(None);
    }
    let own = text.parse().ok().and_then(|id| drops.iter().map(|drop| drop.id).find(|own| *own == DropId(id)));
    let no_such = || (StatusCode::NOT_FOUND, format!("The coupon has no drop {text:?}: give its number, or none."));
    own.map(Some).ok_or_else(no_such)
}

/// Everybody on a slot, and of which drop. It shows ids to somebody who did not have them.
async fn on_slot(
    page: &ScreenState,
    session: &Session,
    (coupon, drops): (&Coupon, &[Drop]),
    drop: Option<DropId>,
    slot: i64,
) -> Result<(DropId, Vec<UserId>), SearchFailure> {
    let known = explain::on_slot(&page.app.stores, (coupon, drops), drop, slot).await.map_err(unanswered)?;
    let Some(OnSlot { drop, people, not_asked }) = known else {
        return Err((StatusCode::NOT_FOUND, "No drop of the coupon has opened.".to_owned()));
    };
    if people.is_empty() {
        let but = not_asked.map_or("", |_| " But Redis cannot be asked right now.");
        return Err((StatusCode::NOT_FOUND, format!("Nobody is known on slot {slot} of drop {drop}.{but}")));
    }
    let act =
        OperatorAct { action: "reveal", coupon: Some(coupon.id), drop: Some(drop), detail: json!({"slot": slot}) };
    // Before anything is shown.
    page.app.stores.db.record_act(session.operator.clone(), act).await.map_err(unanswered)?;
    Ok((drop, people.into_iter().collect()))
}

fn no_such(asked: &Search) -> SearchFailure {
    (StatusCode::NOT_FOUND, format!("There is no coupon {:?}: give its number.", asked.coupon))
}

fn unanswered(error: impl Into<anyhow::Error>) -> SearchFailure {
    let error: anyhow::Error = error.into();
    tracing::warn!(error = format!("{error:#}"), "a story could not be told");
    (StatusCode::SERVICE_UNAVAILABLE, "Not all stores can be asked right now.".to_owned())
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
        drop: story.drop_id.map(|drop| drop.to_string()).unwrap_or_default(),
        happenings: story
            .happenings
            .into_iter()
            .map(|one| (at(one.at), one.source, line(&one.what, LONGEST)))
            .collect(),
        no_longer_known: story.no_longer_known,
        traces: story.trace_ids,
    }
}
