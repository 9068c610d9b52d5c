//! One dead letter, mended by hand: corrected or discarded.

use std::sync::Arc;

use axum::extract::rejection::FormRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::{Extension, Form};
use firstcome_shared::domain::{CouponId, Slot, UserId};
use firstcome_shared::mysql::dead_letters::Correction;
use serde::Deserialize;

use super::{Id, WHY, named, no_such, shown};
use crate::execute;
use crate::http::page::html::{FormRefusal, notice, unless_named};
use crate::http::page::session::Session;
use crate::http::page::state::ScreenState;
use crate::notify::wording::line;

#[derive(Deserialize, Default)]
pub(in crate::http::page) struct Correct {
    #[serde(default)]
    coupon: String,
    #[serde(default)]
    drop: String,
    #[serde(default)]
    slot: String,
    #[serde(default)]
    person: String,
    /// The coupon's name.
    #[serde(default)]
    name: String,
}

/// Corrects which claim a dead letter is of. The next pass over its drop issues it.
pub(in crate::http::page) async fn correct(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    id: Id,
    form: Result<Form<Correct>, FormRejection>,
) -> Response {
    let Ok(Path(id)) = id else { return no_such() };
    let typed = form.map(|Form(typed)| typed).unwrap_or_default();
    match corrected(&page, &session, id, &typed).await {
        Ok(()) => Redirect::to(&format!("/dead-letters/{id}?done=corrected")).into_response(),
        Err(why) if why.status == StatusCode::CONFLICT => {
            notice(why.status, "Not corrected", &why.why)
        }
        Err(why) => {
            let Correct {
                coupon,
                drop,
                slot,
                person,
                name,
            } = &typed;
            let fields = [
                ("coupon", coupon.as_str()),
                ("drop", drop),
                ("slot", slot),
                ("person", person),
                ("name", name),
            ];
            // The form is on the screen that was revealed, which is recorded once more.
            shown(
                &page,
                &session,
                Ok(Path(id)),
                true,
                ("", &why.into_form("correct", &fields)),
            )
            .await
        }
    }
}

async fn corrected(
    page: &ScreenState,
    session: &Session,
    id: i64,
    typed: &Correct,
) -> Result<(), FormRefusal> {
    let wrong = |why: &str| FormRefusal::typed(format!("{why} Nothing was done."));
    let (Ok(coupon), Ok(drop)) = (
        typed.coupon.trim().parse::<i64>(),
        typed.drop.trim().parse::<i64>(),
    ) else {
        return Err(wrong("Give the coupon and the drop by their numbers."));
    };
    let found = page.app.stores.db.coupon(CouponId(coupon)).await?;
    let found = found
        .and_then(|(coupon, drops)| Some((drops.into_iter().find(|of| of.id.0 == drop)?, coupon)));
    let (drop, coupon) =
        found.ok_or_else(|| wrong("There is no such coupon, or it has no such drop."))?;
    let slot = typed
        .slot
        .trim()
        .parse::<Slot>()
        .ok()
        .filter(|slot| (1..=drop.quantity).contains(slot));
    let slot =
        slot.ok_or_else(|| wrong(&format!("The drop has the slots 1 to {}.", drop.quantity)))?;
    let user = typed
        .person
        .trim()
        .parse::<UserId>()
        .map_err(|_| wrong("That is no person's id."))?;
    unless_named(&typed.name, &coupon.name)?;
    let to = Correction {
        coupon: coupon.id,
        drop: drop.id,
        slot,
        user,
    };
    if execute::correct(&page.app.stores, id, to, session.operator.clone()).await? {
        return Ok(());
    }
    Err(FormRefusal::new(
        StatusCode::CONFLICT,
        "It has been dealt with already.",
    ))
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::http::page) struct Discard {
    why: String,
    /// The coupon's name, where the dead letter names one.
    name: String,
}

/// Discards a dead letter: no pass looks at it again.
pub(in crate::http::page) async fn discard(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    id: Id,
    form: Result<Form<Discard>, FormRejection>,
) -> Response {
    let Ok(Path(id)) = id else { return no_such() };
    let typed = form.map(|Form(typed)| typed).unwrap_or_default();
    match discarded(&page, &session, id, &typed).await {
        Ok(()) => Redirect::to(&format!("/dead-letters/{id}?done=discarded")).into_response(),
        Err(why) if why.status == StatusCode::CONFLICT => {
            notice(why.status, "Not discarded", &why.why)
        }
        Err(why) => {
            let form = why.into_form("discard", &[("why", &typed.why), ("name", &typed.name)]);
            shown(&page, &session, Ok(Path(id)), false, ("", &form)).await
        }
    }
}

async fn discarded(
    page: &ScreenState,
    session: &Session,
    id: i64,
    typed: &Discard,
) -> Result<(), FormRefusal> {
    let why = line(&typed.why, WHY);
    if why.is_empty() {
        return Err(FormRefusal::typed(
            "Say why it is discarded. Nothing was done.",
        ));
    }
    let coupon = match page.app.stores.db.dead_letter(id).await? {
        Some((letter, _)) => named(page, &letter).await?.0,
        None => None,
    };
    coupon.map_or(Ok(()), |coupon| unless_named(&typed.name, &coupon))?;
    let why = format!("{why} ({})", session.name());
    if execute::discard(&page.app.stores, id, why, session.operator.clone()).await? {
        return Ok(());
    }
    Err(FormRefusal::new(
        StatusCode::CONFLICT,
        "It has been dealt with already.",
    ))
}
