//! One person's whole story, by search.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use firstcome_shared::domain::{CouponId, UserId};
use serde::Deserialize;

use super::Page;
use super::board::instant;
use super::html::{People, Top, answer};
use super::session::Session;
use crate::explain::{Story, explain};
use crate::notify::wording::{LONGEST, line};

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
    /// When, where it is written, what.
    pub(super) happenings: Vec<(String, &'static str, String)>,
    pub(super) no_longer_known: Vec<String>,
}

/// The form alone, or with what was found.
pub(super) async fn search(
    State(page): State<Page>,
    Extension(session): Extension<Arc<Session>>,
    query: Result<Query<Search>, QueryRejection>,
) -> Response {
    let Search { coupon, person } = query.map(|Query(search)| search).unwrap_or_default();
    let (coupon, person) = (coupon.trim(), person.trim());
    let (status, story, wrong) = if coupon.is_empty() && person.is_empty() {
        (StatusCode::OK, None, String::new())
    } else {
        match story(&page, coupon, person).await {
            Ok(story) => (StatusCode::OK, Some(view(story)), String::new()),
            Err((status, wrong)) => (status, None, wrong),
        }
    };
    let top = Top::new("One person", "people", Some(&session));
    answer(status, &People { top, coupon, person, wrong: &wrong, story: story.as_ref(), has_api: page.api.is_some() })
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

fn view(story: Story) -> StoryView {
    let at = |at: Option<_>| at.map_or_else(|| "not known".to_owned(), instant);
    let name = line(&story.coupon_name, LONGEST);
    StoryView {
        coupon: format!("{name} (coupon {})", story.coupon_id),
        name,
        conclusion: story.conclusion,
        happenings: story
            .happenings
            .into_iter()
            .map(|one| (at(one.at), one.source, line(&one.what, LONGEST)))
            .collect(),
        no_longer_known: story.no_longer_known,
    }
}
