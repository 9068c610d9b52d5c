//! One drop: its figures, its alerts, and the passes that somebody may ask for. What can hurt is
//! confirmed by typing the coupon's name.

use std::collections::HashSet;
use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::{FormRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::{Extension, Form};
use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Allow, Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, Slot};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::alerts::{self, AlertState, ListedAlert};
use firstcome_shared::mysql::pace::{SlotPace, sampled};
use serde::Deserialize;

use super::board::Board;
use super::html::{
    FormRefusal, JustDone, RefusedForm, Top, answer, not_understood, notice, unavailable,
    unless_named,
};
use super::pace::{Pace, pace};
use super::session::Session;
use super::state::ScreenState;
use crate::http::reconcile::{AskedPass, run};
use crate::notify::alerts::About;
use crate::notify::wording::{LONGEST, count, grouped, line};
use crate::pass::Request;
use crate::report::Trigger;

#[derive(Template)]
#[template(path = "drop.html")]
struct DropScreen<'a> {
    top: Top<'a>,
    name: &'a str,
    coupon: CouponId,
    drop: DropId,
    paused: bool,
    only_for: String,
    /// Whose quantity can be raised.
    to_raise: String,
    /// Whether the API's address is known.
    has_api: bool,
    board: &'a Board,
    /// Repairs that wait for a person, while an alert says so.
    held_back: Option<String>,
    /// Once there are rows.
    pace: Option<Pace>,
    refused: &'a RefusedForm,
    /// Why a form was refused that the screen does not show any more.
    wrong: &'a str,
}

type DropPath = Result<Path<(i64, i64)>, PathRejection>;

/// The coupon and the drop that a path names, and all drops of the coupon.
pub(super) async fn find(
    page: &ScreenState,
    place: DropPath,
) -> Result<(Coupon, Drop, Vec<Drop>), Response> {
    let no_such = || {
        notice(
            StatusCode::NOT_FOUND,
            "No such drop",
            "There is no such drop of this coupon.",
        )
    };
    let Ok(Path((coupon, drop))) = place else {
        return Err(no_such());
    };
    let found = page
        .app
        .stores
        .db
        .coupon(CouponId(coupon))
        .await
        .map_err(unavailable)?;
    let drop_of = |(coupon, drops): (Coupon, Vec<Drop>)| {
        let drop = drops.iter().find(|one| one.id == DropId(drop))?.clone();
        Some((coupon, drop, drops))
    };
    found.and_then(drop_of).ok_or_else(no_such)
}

/// How many repairs the repair limit holds back, while an alert says so.
async fn held_back(page: &ScreenState, drop: DropId) -> Result<Option<String>, DbError> {
    let firing = alerts::list(
        &page.app.stores.db,
        Some(AlertState::Firing.as_str().to_owned()),
        None,
        ALERTS,
    )
    .await?;
    let is_braked = |one: &ListedAlert| {
        one.alert.drop_id == Some(drop) && one.alert.kind == About::Braked.word()
    };
    if !firing.iter().any(is_braked) {
        return Ok(None);
    }
    Ok(page
        .app
        .stores
        .db
        .held_back(drop)
        .await?
        .map(u64::from)
        .map(grouped))
}

/// Open alerts looked through.
const ALERTS: i64 = 500;

pub(super) async fn read(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    place: DropPath,
    just: Result<Query<JustDone>, QueryRejection>,
) -> Response {
    let just = just.map(|Query(just)| just).unwrap_or_default();
    match find(&page, place).await {
        Ok(found) => shown(&page, &session, found, &just.done, &RefusedForm::default()).await,
        Err(refused) => refused,
    }
}

/// The screen of a drop as it is now, with a form that was refused.
pub(super) async fn refused(
    page: &ScreenState,
    session: &Session,
    (coupon, drop): (CouponId, DropId),
    form: RefusedForm,
) -> Response {
    match find(page, Ok(Path((coupon.0, drop.0)))).await {
        Ok(found) => shown(page, session, found, "", &form).await,
        Err(no_such) => no_such,
    }
}

async fn shown(
    page: &ScreenState,
    session: &Session,
    (coupon, drop, drops): (Coupon, Drop, Vec<Drop>),
    done: &str,
    refused: &RefusedForm,
) -> Response {
    let db = &page.app.stores.db;
    let read = async {
        Ok::<_, DbError>((
            held_back(page, drop.id).await?,
            db.pace(drop.id).await?,
            done_text(page, (&coupon, &drop), done).await?,
        ))
    };
    let (held_back, rows, done) = match read.await {
        Ok(read) => read,
        Err(error) => return unavailable(error),
    };
    let pace = pace(&with_admissions(page, &drop, rows).await, &drop);
    let name = line(&coupon.name, LONGEST);
    let (coupon_id, drop_id, paused, only_for) =
        (coupon.id, drop.id, coupon.paused, only_for(&coupon));
    let (to_raise, has_api) = (to_raise(coupon_id, &drops, Utc::now()), page.api.is_some());
    let board = page.live.one(coupon, drop).await;
    let screen = DropScreen {
        top: Top {
            done: &done,
            ..Top::new(&name, "", Some(session))
        },
        name: &name,
        coupon: coupon_id,
        drop: drop_id,
        paused,
        only_for,
        to_raise,
        has_api,
        board: &board,
        wrong: refused.unless_shown(&[
            ("confirm", held_back.is_some()),
            ("pause", has_api && !paused),
            ("resume", has_api && paused),
            ("raise", has_api),
        ]),
        held_back,
        pace,
        refused,
    };
    answer(refused.status(), &screen)
}

/// What was done just now, as far as it still holds.
async fn done_text(
    page: &ScreenState,
    (coupon, drop): (&Coupon, &Drop),
    done: &str,
) -> Result<String, DbError> {
    Ok(match (done, coupon.paused) {
        ("paused", true) => "Paused. Nobody can claim until it is resumed.".to_owned(),
        ("resumed", false) => "Resumed. People can claim again.".to_owned(),
        ("raised", _) => {
            let waiting = match page
                .app
                .stores
                .db
                .open_promises(drop.id, String::new())
                .await?
                .len()
            {
                0 => String::new(),
                n => format!(
                    " The next pass gives {} their coupon.",
                    count(n.min(room(page, drop).await), "person", "people")
                ),
            };
            format!("Raised to {}.{waiting}", grouped(drop.quantity.into()))
        }
        _ => String::new(),
    })
}

/// Slots that nobody holds, as far as Redis tells.
async fn room(page: &ScreenState, drop: &Drop) -> usize {
    let redis = &page.app.stores.redis;
    let numbers = redis
        .drop_numbers(&[redis.keys(drop.coupon_id, drop.id)])
        .await
        .pop()
        .and_then(Result::ok);
    let held = numbers.map_or(0, |numbers| numbers.users);
    usize::try_from(u64::from(drop.quantity).saturating_sub(held)).unwrap_or(usize::MAX)
}

/// With the admissions that have no row yet, as far as Redis tells of them.
async fn with_admissions(
    page: &ScreenState,
    drop: &Drop,
    mut steps: Vec<SlotPace>,
) -> Vec<SlotPace> {
    if drop.sealed_at.is_some() {
        return steps;
    }
    let with_row: HashSet<Slot> = steps.iter().map(|step| step.slot).collect();
    let slots: Vec<Slot> = sampled(drop.quantity)
        .into_iter()
        .filter(|slot| !with_row.contains(slot))
        .collect();
    let redis = &page.app.stores.redis;
    match redis
        .admitted_at_each(&redis.keys(drop.coupon_id, drop.id), &slots)
        .await
    {
        Ok(admitted) => {
            let admitted = slots.into_iter().zip(admitted);
            let admitted = admitted
                .filter_map(|(slot, at)| Some((slot, DateTime::from_timestamp_millis(at?)?)));
            steps.extend(admitted.map(|(slot, at)| SlotPace {
                slot,
                claimed_at: at.naive_utc(),
                issued_at: None,
            }));
            steps.sort_unstable_by_key(|step| step.slot);
        }
        Err(error) => tracing::debug!(%error, "a chart is drawn of rows alone"),
    }
    steps
}

/// Whom a coupon is for.
pub(super) fn only_for(coupon: &Coupon) -> String {
    match (&coupon.allow, grouped(coupon.allow_list.people.into())) {
        (None, _) if coupon.allow_list.people == 0 => "everybody".to_owned(),
        (None, people) => format!("everybody; its allow list of {people} does not count"),
        (Some(Allow::List), people) => format!("people on its allow list, which has {people}"),
        (Some(Allow::Group(group)), _) => format!("people of the group {}", group.as_str()),
    }
}

/// Whose quantity the API raises: all drops of the coupon that are not closed.
fn to_raise(coupon: CouponId, drops: &[Drop], now: DateTime<Utc>) -> String {
    let is_raised =
        |drop: &&Drop| drop.sealed_at.is_none() && drop.closes_at.is_none_or(|closes| now < closes);
    match drops.iter().filter(is_raised).count() {
        0 | 1 => format!("coupon {coupon}"),
        several => format!("{} of coupon {coupon}", count(several, "drop", "drops")),
    }
}

#[derive(Deserialize)]
pub(super) struct PassForm {
    how: String,
    /// The coupon's name, where it is asked for.
    #[serde(default)]
    name: String,
    /// The number on the button.
    #[serde(default)]
    held: String,
}

/// A pass over one drop.
pub(super) async fn pass(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    place: DropPath,
    form: Result<Form<PassForm>, FormRejection>,
) -> Response {
    let Ok(Form(asked)) = form else {
        return not_understood();
    };
    let (coupon, drop, _) = match find(&page, place).await {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    // Only a deep pass looks at a sealed drop.
    let deep = drop.sealed_at.is_some();
    let request = Request {
        coupon: Some(coupon.id),
        drop: Some(drop.id),
        deep,
        ..Request::new(Trigger::Endpoint)
    };
    let request = match asked.how.as_str() {
        "pass" => request,
        "dry_run" => Request {
            dry_run: true,
            ..request
        },
        "confirm" => {
            if let Err(why) = confirmed(&page, &asked, (&coupon, &drop)).await {
                let form = why.into_form("confirm", &[("name", &asked.name)]);
                return refused(&page, &session, (coupon.id, drop.id), form).await;
            }
            Request {
                confirm: true,
                ..request
            }
        }
        _ => return not_understood(),
    };
    started(&page, &session, request).await
}

/// Whether the repairs that are held back are those on the button.
async fn confirmed(
    page: &ScreenState,
    asked: &PassForm,
    (coupon, drop): (&Coupon, &Drop),
) -> Result<(), FormRefusal> {
    unless_named(&asked.name, &coupon.name)?;
    if held_back(page, drop.id).await?.as_ref() == Some(&asked.held) {
        return Ok(());
    }
    let why =
        "Another number of repairs is held back by now. Nothing was done: look at the drop again.";
    Err(FormRefusal::new(StatusCode::CONFLICT, why))
}

/// A pass over everything.
pub(super) async fn pass_over_all(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    form: Result<Form<PassForm>, FormRejection>,
) -> Response {
    let request = Request::new(Trigger::Endpoint);
    let request = match form.as_ref().map(|Form(asked)| asked.how.as_str()) {
        Ok("pass") => request,
        Ok("dry_run") => Request {
            dry_run: true,
            ..request
        },
        _ => return not_understood(),
    };
    started(&page, &session, request).await
}

async fn started(page: &ScreenState, session: &Session, request: Request) -> Response {
    let request = Request {
        by: Some(session.operator.clone()),
        ..request
    };
    match run(&page.app, request, false).await {
        Ok(AskedPass::Begun(run_id)) => Redirect::to(&format!("/runs/{run_id}")).into_response(),
        Ok(AskedPass::Ended(run)) => Redirect::to(&format!("/runs/{}", run.run_id)).into_response(),
        Err(problem) => notice(problem.status(), "No pass was begun", problem.detail()),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn a_larger_quantity_says_how_many_drops_it_concerns() {
        let at = |minute| DateTime::UNIX_EPOCH + TimeDelta::minutes(minute);
        let drop = |id, closes_at: Option<i64>, sealed_at: Option<i64>| Drop {
            id: DropId(id),
            coupon_id: CouponId(3),
            local_date: None,
            opens_at: at(0),
            closes_at: closes_at.map(at),
            quantity: 100,
            closed_early: false,
            sealed_at: sealed_at.map(at),
        };
        let all = [
            drop(1, Some(20), Some(30)),
            drop(2, Some(40), None),
            drop(3, Some(80), None),
            drop(4, None, None),
        ];
        let raised = |drops: &[Drop], minute| to_raise(CouponId(3), drops, at(minute));
        assert_eq!(raised(&all, 39), "3 drops of coupon 3");
        assert_eq!(raised(&all, 40), "2 drops of coupon 3");
        assert_eq!(raised(&all[..2], 39), "coupon 3");
        assert_eq!(raised(&all[..2], 40), "coupon 3");
    }
}
