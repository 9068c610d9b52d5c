//! One person's whole story, by search.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::rejection::FormRejection;
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Form};
use firstcome_shared::domain::{CouponId, UserId};
use serde::Deserialize;

use super::Page;
use super::board::instant;
use super::html::{People, Top, answer};
use super::session::Session;
use crate::explain::{Story, explain};
use crate::notify::wording::{LONGEST, capital, line};

#[derive(Deserialize, Default)]
pub(super) struct Search {
    #[serde(default)]
    coupon: String,
    #[serde(default)]
    person: String,
}

/// What is known of a person.
pub(super) struct StoryView {
    pub(super) coupon: String,
    pub(super) name: String,
    pub(super) conclusion: String,
    /// What they hold, as a button names it; empty: nothing that could be revoked.
    pub(super) holds: String,
    pub(super) drop: String,
    /// When, where it is written, what.
    pub(super) happenings: Vec<(String, &'static str, String)>,
    pub(super) no_longer_known: Vec<String>,
}

/// The form. What is searched for comes by POST: ids do not belong into logs and histories.
pub(super) async fn form(State(page): State<Page>, Extension(session): Extension<Arc<Session>>) -> Response {
    shown(&page, &session, StatusCode::OK, ("", ""), "", None)
}

pub(super) async fn search(
    State(page): State<Page>,
    Extension(session): Extension<Arc<Session>>,
    form: Result<Form<Search>, FormRejection>,
) -> Response {
    let Search { coupon, person } = form.map(|Form(search)| search).unwrap_or_default();
    found(&page, &session, coupon.trim(), person.trim()).await
}

/// The story of a person, or why there is none.
pub(super) async fn found(page: &Page, session: &Session, coupon: &str, person: &str) -> Response {
    let screen = async {
        match story(page, coupon, person).await {
            Ok(story) => shown(page, session, StatusCode::OK, (coupon, person), "", Some(&view(story))),
            Err((status, wrong)) => shown(page, session, status, (coupon, person), &wrong, None),
        }
    };
    page.slowly(screen).await
}

fn shown(
    page: &Page,
    session: &Session,
    status: StatusCode,
    (coupon, person): (&str, &str),
    wrong: &str,
    story: Option<&StoryView>,
) -> Response {
    let top = Top::new("One person", "people", Some(session));
    answer(status, &People { top, coupon, person, wrong, story, has_api: page.api.is_some() })
}

async fn story(page: &Page, coupon: &str, person: &str) -> Result<Story, (StatusCode, String)> {
    let no_such = || (StatusCode::NOT_FOUND, format!("There is no coupon {coupon:?}: give its number."));
    let coupon = CouponId(coupon.parse().map_err(|_| no_such())?);
    let person: UserId = person.parse().map_err(|why| (StatusCode::BAD_REQUEST, format!("{why}.")))?;
    match explain(&page.app.stores, coupon, None, &person).await {
        Ok(Some(story)) => Ok(story),
        Ok(None) => Err(no_such()),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "a story could not be told");
            Err((StatusCode::SERVICE_UNAVAILABLE, "Not all stores can be asked right now.".to_owned()))
        }
    }
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
        drop: story.drop_id.map(|drop| drop.to_string()).unwrap_or_default(),
        happenings: story
            .happenings
            .into_iter()
            .map(|one| (at(one.at), one.source, line(&one.what, LONGEST)))
            .collect(),
        no_longer_known: story.no_longer_known,
    }
}
