//! What needs a person: alerts, taken on and silenced.

use std::collections::HashMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::{FormRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::{Extension, Form};
use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use serde::Deserialize;

use super::html::{Top, answer, notice, unavailable};
use super::session::Session;
use super::state::ScreenState;
use super::times::instant;
use crate::notify::alerts::{About, AlertState};
use crate::notify::render::what_to_do;
use crate::notify::wording::{LONGEST, capital, line};
use crate::notify::{self, AlertError, ListedAlert};

#[derive(Template)]
#[template(path = "alerts.html")]
struct AlertsScreen<'a> {
    top: Top<'a>,
    alerts: &'a [AlertLine],
    /// `firing`, `resolved` or `told`.
    status: &'a str,
    next_before: Option<i64>,
}

/// Alerts on a page.
const PAGE: u32 = 50;

/// Longest silence that the page offers, in hours.
const HOURS_AT_MOST: u16 = 24;

/// One alert as it is shown.
pub(super) struct AlertLine {
    pub(super) id: i64,
    pub(super) what: String,
    pub(super) kind: String,
    pub(super) place: Option<String>,
    /// Where its drop is shown.
    pub(super) drop_page: Option<String>,
    pub(super) todo: Option<&'static str>,
    /// Since when, and until when.
    pub(super) when: String,
    pub(super) taken: Option<String>,
    /// What was done about it just now.
    pub(super) done: String,
    pub(super) silenced: Option<String>,
    pub(super) fires: bool,
    /// Silence is kept per drop.
    pub(super) drop: Option<DropId>,
}

#[derive(Deserialize, Default)]
pub(super) struct AlertsScreenQuery {
    status: Option<String>,
    before: Option<i64>,
    /// The alert about which something was done just now, and what.
    alert: Option<i64>,
    #[serde(default)]
    done: String,
}

pub(super) async fn list(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    query: Result<Query<AlertsScreenQuery>, QueryRejection>,
) -> Response {
    let query = query.map(|Query(query)| query).unwrap_or_default();
    let status = query
        .status
        .filter(|word| ["resolved", "told"].contains(&word.as_str()));
    let status = status.unwrap_or_else(|| "firing".to_owned());
    let db = &page.app.stores.db;
    let listed = match notify::list(db, Some(status.clone()), query.before, PAGE).await {
        Ok(listed) => listed,
        Err(error) => return unavailable(error),
    };
    let mut coupons: Vec<CouponId> = listed
        .alerts
        .iter()
        .filter_map(|alert| alert.alert.coupon_id)
        .collect();
    coupons.sort_unstable();
    coupons.dedup();
    let names: HashMap<CouponId, String> = match db.coupons_by_id(coupons).await {
        Ok(coupons) => coupons
            .into_iter()
            .map(|(coupon, _)| (coupon.id, coupon.name))
            .collect(),
        Err(error) => return unavailable(error),
    };
    let now = Utc::now();
    let mut alerts: Vec<AlertLine> = listed
        .alerts
        .iter()
        .map(|alert| alert_line(alert, &names, now))
        .collect();
    for (line, alert) in alerts
        .iter_mut()
        .zip(&listed.alerts)
        .filter(|(line, _)| Some(line.id) == query.alert)
    {
        line.done = done_text(&query.done, alert, now);
    }
    let top = Top::new("Alerts", "alerts", Some(&session));
    answer(
        StatusCode::OK,
        &AlertsScreen {
            top,
            alerts: &alerts,
            status: &status,
            next_before: listed.next_before,
        },
    )
}

/// What was done just now, as far as it still holds.
fn done_text(done: &str, listed: &ListedAlert, now: DateTime<Utc>) -> String {
    let is_silent = listed.silenced_until.is_some_and(|until| until > now);
    match (done, listed.alert.acknowledged_by.as_deref()) {
        ("acknowledged", Some(by)) => format!("Acknowledged by {}.", line(by, LONGEST)),
        ("silenced", _) if is_silent => "Silenced: no mails on this drop until then.".to_owned(),
        ("heard", _) if !is_silent => "Mails on this drop are sent again.".to_owned(),
        _ => String::new(),
    }
}

fn alert_line(
    listed: &ListedAlert,
    names: &HashMap<CouponId, String>,
    now: DateTime<Utc>,
) -> AlertLine {
    let alert = &listed.alert;
    let by = |by: Option<&str>| {
        by.map(|by| format!(" by {}", line(by, LONGEST)))
            .unwrap_or_default()
    };
    let place = alert.coupon_id.map(|coupon| {
        let name = names
            .get(&coupon)
            .map_or_else(|| format!("coupon {coupon}"), |name| line(name, LONGEST));
        alert
            .drop_id
            .map_or(name.clone(), |drop| format!("{name} · drop {drop}"))
    });
    let fires = alert.state == AlertState::Firing;
    let ended = alert
        .resolved_at
        .map(|at| format!(", resolved {}", instant(at)))
        .unwrap_or_default();
    AlertLine {
        id: listed.id,
        what: capital(&line(&alert.summary, LONGEST)),
        kind: line(&alert.kind, LONGEST),
        place,
        drop_page: alert
            .coupon_id
            .zip(alert.drop_id)
            .map(|(coupon, drop)| format!("/coupons/{coupon}/drops/{drop}")),
        todo: About::of_word(&alert.kind)
            .filter(|_| fires)
            .map(what_to_do),
        when: format!("Since {}{ended}", instant(alert.first_seen_at)),
        taken: alert.acknowledged_at.map(|at| {
            format!(
                "Taken on{} at {}",
                by(alert.acknowledged_by.as_deref()),
                instant(at)
            )
        }),
        silenced: listed
            .silenced_until
            .filter(|until| *until > now)
            .map(|until| {
                format!(
                    "No mails on this drop until {}, silenced{}",
                    instant(until),
                    by(listed.silenced_by.as_deref())
                )
            }),
        done: String::new(),
        fires,
        drop: alert.drop_id,
    }
}

type Id = Result<Path<i64>, PathRejection>;

pub(super) async fn acknowledge(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    id: Id,
) -> Response {
    let Ok(Path(id)) = id else { return no_such() };
    let done = notify::acknowledge(
        &page.app.stores.db,
        id,
        session.name(),
        Utc::now(),
        session.operator.clone(),
    );
    done.await
        .map_or_else(refused, |_| back(id, "acknowledged"))
}

#[derive(Deserialize)]
pub(super) struct SilenceForm {
    /// 0 ends a silence.
    hours: u16,
}

pub(super) async fn silence(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    id: Id,
    form: Result<Form<SilenceForm>, FormRejection>,
) -> Response {
    let Ok(Path(id)) = id else { return no_such() };
    let hours = form
        .ok()
        .map(|Form(form)| form.hours)
        .filter(|hours| *hours <= HOURS_AT_MOST);
    let Some(hours) = hours else {
        return notice(
            StatusCode::BAD_REQUEST,
            "Not understood",
            "Choose for how long. Nothing was done.",
        );
    };
    let now = Utc::now();
    let until = now + TimeDelta::hours(hours.into());
    let done = notify::silence(
        &page.app.stores.db,
        id,
        until,
        session.name(),
        now,
        session.operator.clone(),
    );
    done.await.map_or_else(refused, |_| {
        back(id, if hours == 0 { "heard" } else { "silenced" })
    })
}

fn back(id: i64, done: &str) -> Response {
    Redirect::to(&format!("/alerts?done={done}&alert={id}#alert-{id}")).into_response()
}

fn no_such() -> Response {
    notice(
        StatusCode::NOT_FOUND,
        "No such alert",
        "There is no such alert.",
    )
}

fn refused(error: AlertError) -> Response {
    let status = match error {
        AlertError::Database(error) => return unavailable(error),
        AlertError::NotFound(_) => return no_such(),
        AlertError::NotFiring(_) | AlertError::NoDrop(_) => StatusCode::CONFLICT,
        AlertError::NoName | AlertError::TooLong => StatusCode::BAD_REQUEST,
    };
    notice(
        status,
        "Not done",
        &format!("{}.", capital(&error.to_string())),
    )
}
