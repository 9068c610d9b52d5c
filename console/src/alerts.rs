//! The screen of alerts, where operators acknowledge them.

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect};
use chrono::{DateTime, Utc};
use firstcome_shared::domain::DropId;
use firstcome_shared::http::views::{Alert, AlertPage, ListedAlert};
use firstcome_shared::report::{AlertKind, AlertState, KindFacts, Remedy};
use firstcome_shared::subject::Subject;
use serde::Deserialize;
use serde_json::json;

use super::client::{encoded, query as query_string};
use super::page::{ConsolePage, Screen, Top, answer};
use super::text::Text;

#[derive(Template)]
#[template(path = "alerts.html")]
struct AlertsScreen<'a> {
    top: Top<'a>,
    alerts: &'a [ListedAlert],
    /// `firing`, `quiet`, `resolved`, or `one` for a single alert.
    status: &'a str,
    next_before: Option<i64>,
}

#[allow(clippy::unused_self, reason = "a template calls methods")]
impl AlertsScreen<'_> {
    fn fires(&self, one: &ListedAlert) -> bool {
        one.alert.state == AlertState::Firing
    }

    /// What explains an alert that fires.
    fn cause(&self, one: &ListedAlert) -> Option<&'static str> {
        let word = one.alert.explained_by.as_deref();
        let kind = AlertKind::from_word(word?).filter(|_| self.fires(one))?;
        Some(kind.facts().noun[0])
    }

    fn gone_since(&self, one: &ListedAlert) -> Option<DateTime<Utc>> {
        one.alert
            .last_seen_at
            .filter(|_| one.alert.state == AlertState::Quiet)
    }

    fn place(&self, one: &ListedAlert) -> Option<String> {
        let coupon = one.alert.coupon_id?;
        let known = one.coupon_name.as_ref().map(Text::text);
        let name = known.or_else(|| coupon.label());
        let drop = one.alert.drop_id.and_then(DropId::label);
        let places: Vec<String> = name.into_iter().chain(drop).collect();
        Some(places.join(" · ")).filter(|place| !place.is_empty())
    }

    /// The address of the screen of its drop or, for a campaign, of the list of passes.
    fn screen(&self, one: &ListedAlert) -> Option<String> {
        let Alert {
            coupon_id, drop_id, ..
        } = one.alert;
        match self.top.subject() {
            Subject::Campaign => Some("/runs".to_owned()),
            Subject::Drop => {
                let coupon = coupon_id?;
                let drop = drop_id?;
                Some(format!("/coupons/{coupon}/drops/{drop}"))
            }
        }
    }

    /// Returns what a firing alert means and what to do about it.
    fn facts(&self, one: &ListedAlert) -> Option<KindFacts> {
        let kind = AlertKind::from_word(&one.alert.kind).filter(|_| self.fires(one))?;
        Some(kind.facts_for(self.top.subject()))
    }
}

#[derive(Deserialize, Default)]
pub(super) struct AlertsScreenQuery {
    status: Option<String>,
    before: Option<i64>,
}

pub(super) async fn list(page: ConsolePage, Query(query): Query<AlertsScreenQuery>) -> Screen {
    let status = match query.status.as_deref() {
        Some("quiet") => "quiet",
        Some("resolved") => "resolved",
        _ => "firing",
    };
    let before = query.before.map(|id| id.to_string()).unwrap_or_default();
    let parameters = [("status", status), ("before", &before), ("limit", "50")];
    let path = format!("/v1/alerts{}", query_string(&parameters));
    let listed: AlertPage = page.get(&path).await?;
    let screen = AlertsScreen {
        top: page.top("Alerts", "alerts"),
        alerts: &listed.alerts,
        status,
        next_before: listed.next_before,
    };
    Ok(answer(StatusCode::OK, &screen))
}

/// Shows one alert, even a resolved one, because mails link to it.
pub(super) async fn one(page: ConsolePage, Path(id): Path<i64>) -> Screen {
    let before = id.saturating_add(1).to_string();
    let path = query_string(&[("before", &before), ("limit", "1")]);
    let mut listed: AlertPage = page.get(&format!("/v1/alerts{path}")).await?;
    listed.alerts.retain(|alert| alert.id == id);
    let screen = AlertsScreen {
        top: page.top("Alert", "alerts"),
        alerts: &listed.alerts,
        status: "one",
        next_before: None,
    };
    Ok(answer(StatusCode::OK, &screen))
}

pub(super) async fn acknowledge(page: ConsolePage, Path(id): Path<String>) -> Screen {
    let path = format!("/v1/alerts/{}/acknowledge", encoded(&id));
    let body = json!({"by": page.session.name});
    let id = page.post::<ListedAlert>(&path, &body).await?.id;
    let to = format!("/alerts/{id}#alert-{id}");
    Ok(Redirect::to(&to).into_response())
}
