//! One person's whole story, by search: by their id, or by a slot. A coupon is named by its number
//! or its name; without one, every coupon that names the person is found.

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

use super::html::{JustDone, RefusedForm, Top, answer};
use super::session::Session;
use super::state::ScreenState;
use super::times::instant;
use crate::explain::{self, Holds, OnSlot, Story, explain};
use crate::notify::wording::{LONGEST, capital, line};

#[derive(Template)]
#[template(path = "people.html")]
struct PeopleScreen<'a> {
    top: Top<'a>,
    /// What was searched for.
    asked: &'a Search,
    /// Why nothing was found.
    wrong: &'a str,
    /// Those on a slot on which several are known.
    several: &'a [UserId],
    /// Coupons among which one is to be chosen.
    coupons: &'a [(CouponId, String)],
    story: Option<&'a StoryView>,
    /// Whether the API's address is known.
    has_api: bool,
    refused: &'a RefusedForm,
}

/// What is searched for. A button that leads to a person's story searches for it too.
#[derive(Deserialize, Default)]
pub(super) struct Search {
    /// A number or a name; empty: every coupon.
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
    /// More than one coupon is meant, or none that has the person.
    Coupons(Vec<(CouponId, String)>),
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
    let (asked, none) = (Search::default(), RefusedForm::default());
    let screen = screen(&page, &session, &asked, &none);
    answer(
        StatusCode::OK,
        &PeopleScreen {
            top: Top {
                done,
                ..Top::new(TITLE, "people", Some(&session))
            },
            ..screen
        },
    )
}

pub(super) async fn search(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    form: Result<Form<Search>, FormRejection>,
) -> Response {
    let asked = form.map(|Form(search)| search).unwrap_or_default();
    refused(&page, &session, asked, RefusedForm::default()).await
}

/// What a search finds, with a form that was refused.
pub(super) async fn refused(
    page: &ScreenState,
    session: &Session,
    mut asked: Search,
    form: RefusedForm,
) -> Response {
    for field in [&mut asked.coupon, &mut asked.drop, &mut asked.person] {
        *field = field.trim().to_owned();
    }
    let made = async {
        let found = look(page, session, &mut asked).await;
        let none = screen(page, session, &asked, &form);
        match found {
            Ok(Found::Story(story)) => {
                let view = view(story);
                let may_revoke = none.has_api && !view.holds.is_empty();
                let forms = [
                    ("revoke", may_revoke),
                    ("give-up", view.broken),
                    ("erase", true),
                ];
                answer(
                    form.status(),
                    &PeopleScreen {
                        wrong: form.unless_shown(&forms),
                        story: Some(&view),
                        ..none
                    },
                )
            }
            _ if form.status() != StatusCode::OK => answer(
                form.status(),
                &PeopleScreen {
                    wrong: form.unless_shown(&[]),
                    ..none
                },
            ),
            Ok(Found::Several(people)) => answer(
                StatusCode::OK,
                &PeopleScreen {
                    several: &people,
                    ..none
                },
            ),
            Ok(Found::Coupons(coupons)) => answer(
                StatusCode::OK,
                &PeopleScreen {
                    coupons: &coupons,
                    ..none
                },
            ),
            Err((status, wrong)) => answer(
                status,
                &PeopleScreen {
                    wrong: &wrong,
                    ..none
                },
            ),
        }
    };
    page.slowly(session, made).await
}

const TITLE: &str = "One person";

/// With nobody's story.
fn screen<'a>(
    page: &ScreenState,
    session: &'a Session,
    asked: &'a Search,
    refused: &'a RefusedForm,
) -> PeopleScreen<'a> {
    let (top, has_api) = (Top::new(TITLE, "people", Some(session)), page.api.is_some());
    PeopleScreen {
        top,
        asked,
        wrong: "",
        several: &[],
        coupons: &[],
        story: None,
        has_api,
        refused,
    }
}

/// Puts the coupon, the person and the drop that are found into what was asked for.
async fn look(
    page: &ScreenState,
    session: &Session,
    asked: &mut Search,
) -> Result<Found, SearchFailure> {
    let whom = whom(&asked.person)?;
    let meant = meant(page, asked, &whom).await?;
    let [(id, _)] = meant.as_slice() else {
        return Ok(Found::Coupons(meant));
    };
    let id = *id;
    asked.coupon = id.to_string();
    let coupon = page.app.stores.db.coupon(id).await.map_err(unanswered)?;
    let (coupon, drops) = coupon.ok_or_else(|| no_such(asked))?;
    let mut drop = drop_of(&drops, &asked.drop)?;
    let person = match whom {
        Whom::Person(person) => person,
        Whom::Slot(slot) => {
            let (of_slot, mut people) =
                on_slot(page, session, (&coupon, &drops), drop, slot).await?;
            drop = Some(of_slot);
            asked.drop = of_slot.to_string();
            match people.pop() {
                Some(person) if people.is_empty() => person,
                last => return Ok(Found::Several(people.into_iter().chain(last).collect())),
            }
        }
    };
    let story = explain(&page.app.stores, id, drop, &person)
        .await
        .map_err(unanswered)?;
    asked.person = person.to_string();
    story.map(Found::Story).ok_or_else(|| no_such(asked))
}

/// The coupons that a search means: one by its number, those whose name has the text, or all that
/// name the person.
async fn meant(
    page: &ScreenState,
    asked: &Search,
    whom: &Whom,
) -> Result<Vec<(CouponId, String)>, SearchFailure> {
    let db = &page.app.stores.db;
    let named = |(coupon, _): (Coupon, Vec<Drop>)| (coupon.id, line(&coupon.name, LONGEST));
    if let Ok(id) = asked.coupon.parse() {
        let found = db
            .coupons_by_id(vec![CouponId(id)])
            .await
            .map_err(unanswered)?;
        if !found.is_empty() {
            return Ok(found.into_iter().map(named).collect());
        }
    }
    let found = if !asked.coupon.is_empty() {
        db.coupons_named(&asked.coupon).await.map_err(unanswered)?
    } else if let Whom::Person(person) = whom {
        db.coupons_of_person(person).await.map_err(unanswered)?
    } else {
        return Err((
            StatusCode::BAD_REQUEST,
            "Name the coupon that the slot is of.".to_owned(),
        ));
    };
    if found.is_empty() && asked.coupon.is_empty() {
        let why = "No coupon has a row, a revocation or a broken promise of theirs. A claim that waits, or is on its \
                   way, is found with its coupon only.";
        return Err((StatusCode::NOT_FOUND, why.to_owned()));
    }
    let found = db.coupons_by_id(found).await.map_err(unanswered)?;
    if found.is_empty() {
        Err(no_such(asked))
    } else {
        Ok(found.into_iter().map(named).collect())
    }
}

/// No id has a space.
fn whom(text: &str) -> Result<Whom, SearchFailure> {
    let slot = text
        .split_once(' ')
        .filter(|(word, _)| word.eq_ignore_ascii_case("slot"));
    match slot.and_then(|(_, slot)| slot.trim().parse().ok()) {
        Some(slot) => Ok(Whom::Slot(slot)),
        None => text
            .parse::<UserId>()
            .map(Whom::Person)
            .map_err(|why| (StatusCode::BAD_REQUEST, format!("{why}."))),
    }
}

fn drop_of(drops: &[Drop], text: &str) -> Result<Option<DropId>, SearchFailure> {
    if text.is_empty() {
        return Ok(None);
    }
    let own = text.parse().ok().and_then(|id| {
        drops
            .iter()
            .map(|drop| drop.id)
            .find(|own| *own == DropId(id))
    });
    let no_such = || {
        (
            StatusCode::NOT_FOUND,
            format!("The coupon has no drop {text:?}: give its number, or none."),
        )
    };
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
    let known = explain::on_slot(&page.app.stores, (coupon, drops), drop, slot)
        .await
        .map_err(unanswered)?;
    let Some(OnSlot {
        drop,
        people,
        not_asked,
    }) = known
    else {
        return Err((
            StatusCode::NOT_FOUND,
            "No drop of the coupon has opened.".to_owned(),
        ));
    };
    if people.is_empty() {
        let but = not_asked.map_or("", |_| " But Redis cannot be asked right now.");
        return Err((
            StatusCode::NOT_FOUND,
            format!("Nobody is known on slot {slot} of drop {drop}.{but}"),
        ));
    }
    let act = OperatorAct {
        action: "reveal",
        coupon: Some(coupon.id),
        drop: Some(drop),
        detail: json!({"slot": slot}),
    };
    // Before anything is shown.
    page.app
        .stores
        .db
        .record_act(session.operator.clone(), act)
        .await
        .map_err(unanswered)?;
    Ok((drop, people.into_iter().collect()))
}

fn no_such(asked: &Search) -> SearchFailure {
    (
        StatusCode::NOT_FOUND,
        format!(
            "There is no coupon {:?}, by number or by name.",
            asked.coupon
        ),
    )
}

fn unanswered(error: impl Into<anyhow::Error>) -> SearchFailure {
    let error: anyhow::Error = error.into();
    tracing::warn!(error = format!("{error:#}"), "a story could not be told");
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "Not all stores can be asked right now.".to_owned(),
    )
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
