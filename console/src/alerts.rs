//! The screen of alerts, where operators acknowledge and silence them.

use askama::Template;
use axum::Form;
use axum::extract::Path;
use axum::extract::rejection::FormRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use chrono::{DateTime, TimeDelta, Utc};
use firstcome_notifier::AlertPage;
use firstcome_notifier::wording::{LONGEST, capital, line};
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::alerts::{AlertState, ListedAlert};
use firstcome_shared::report::{AlertKind, Severity};
use serde::Deserialize;
use serde_json::json;

use super::client::{HttpRefusal, encoded, query as query_string};
use super::html::{Top, answer, notice};
use super::state::{OrDefault, Page};
use super::times::instant;

#[derive(Template)]
#[template(path = "alerts.html")]
struct AlertsScreen<'a> {
    top: Top<'a>,
    alerts: &'a [AlertLine],
    /// `firing`, `resolved`, or `one` for a single alert.
    status: &'a str,
    next_before: Option<i64>,
}

/// Number of alerts per page.
const PAGE: &str = "50";

/// Maximum silence that the page offers, in hours.
const HOURS_AT_MOST: u16 = 24;

/// One alert in the list.
pub(super) struct AlertLine {
    pub(super) id: i64,
    pub(super) what: String,
    pub(super) kind: String,
    pub(super) place: Option<String>,
    /// The path of its drop's page.
    pub(super) drop_page: Option<String>,
    pub(super) todo: Option<&'static str>,
    /// When the alert began, and when it ended.
    pub(super) when: String,
    pub(super) taken: Option<String>,
    /// The action just completed on it.
    pub(super) done: String,
    pub(super) silenced: Option<String>,
    pub(super) fires: bool,
    /// The drop that the form silences.
    pub(super) drop: Option<DropId>,
}

#[derive(Deserialize, Default)]
pub(super) struct AlertsScreenQuery {
    status: Option<String>,
    before: Option<i64>,
    /// The alert of the action just completed.
    alert: Option<i64>,
    #[serde(default)]
    done: String,
}

pub(super) async fn list(
    page: Page,
    OrDefault(query): OrDefault<AlertsScreenQuery>,
) -> Result<Response, HttpRefusal> {
    let status = query.status.filter(|word| word == "resolved");
    let status = status.unwrap_or_else(|| "firing".to_owned());
    let before = query.before.map(|id| id.to_string()).unwrap_or_default();
    let parameters = [
        ("status", status.as_str()),
        ("before", &before),
        ("limit", PAGE),
    ];
    let path = format!("/v1/alerts{}", query_string(&parameters));
    let listed: AlertPage = page.get(&path).await?;
    let now = Utc::now();
    let mut alerts: Vec<AlertLine> = listed
        .alerts
        .iter()
        .map(|alert| alert_line(alert, now))
        .collect();
    for (line, alert) in alerts
        .iter_mut()
        .zip(&listed.alerts)
        .filter(|(line, _)| Some(line.id) == query.alert)
    {
        line.done = done_text(&query.done, alert, now);
    }
    Ok(answer(
        StatusCode::OK,
        &AlertsScreen {
            top: Top::new("Alerts", Some(&page.session), "alerts"),
            alerts: &alerts,
            status: &status,
            next_before: listed.next_before,
        },
    ))
}

/// Shows one alert, also when it is silenced or over: mails link to it.
pub(super) async fn one(page: Page, Path(id): Path<i64>) -> Result<Response, HttpRefusal> {
    let before = id.saturating_add(1).to_string();
    let path = query_string(&[("before", &before), ("limit", "1")]);
    let listed: AlertPage = page.get(&format!("/v1/alerts{path}")).await?;
    let alerts = listed.alerts.iter().filter(|alert| alert.id == id);
    let alerts: Vec<AlertLine> = alerts.map(|it| alert_line(it, Utc::now())).collect();
    Ok(answer(
        StatusCode::OK,
        &AlertsScreen {
            top: Top::new("Alert", Some(&page.session), "alerts"),
            alerts: &alerts,
            status: "one",
            next_before: None,
        },
    ))
}

/// Returns the message about the action just completed, if it still applies.
fn done_text(done: &str, listed: &ListedAlert, now: DateTime<Utc>) -> String {
    let is_silent = listed.silenced_until.is_some_and(|until| until > now);
    match (done, listed.alert.acknowledged_by.as_deref()) {
        ("acknowledged", Some(by)) => format!("Acknowledged by {}.", line(by, LONGEST)),
        ("silenced", _) if is_silent => {
            "Silenced: no mails on this drop until then, except about critical problems.".to_owned()
        }
        ("heard", _) if !is_silent => "Mails about this drop are sent again.".to_owned(),
        _ => String::new(),
    }
}

fn alert_line(listed: &ListedAlert, now: DateTime<Utc>) -> AlertLine {
    let alert = &listed.alert;
    let by = |by: Option<&str>| {
        by.map(|by| format!(" by {}", line(by, LONGEST)))
            .unwrap_or_default()
    };
    let place = alert.coupon_id.map(|coupon| {
        let name = listed
            .coupon_name
            .as_deref()
            .map_or_else(|| format!("coupon {coupon}"), |name| line(name, LONGEST));
        alert
            .drop_id
            .map_or(name.clone(), |drop| format!("{name} · drop {drop}"))
    });
    let kind = AlertKind::from_word(&alert.kind);
    let is_critical = kind.is_some_and(|kind| kind.facts().severity == Severity::Critical);
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
        todo: kind.filter(|_| fires).map(|kind| kind.facts().to_do),
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
                    "No mails about this drop until {}, silenced{}",
                    instant(until),
                    by(listed.silenced_by.as_deref())
                )
            }),
        done: String::new(),
        fires,
        // A silence hides no critical problem.
        drop: alert.drop_id.filter(|_| !is_critical),
    }
}

pub(super) async fn acknowledge(page: Page, Path(id): Path<String>) -> Response {
    let path = format!("/v1/alerts/{}/acknowledge", encoded(&id));
    let body = json!({"by": page.session.name()});
    let done = page.post::<ListedAlert>(&path, &body);
    done.await
        .map_or_else(refused, |alert| back(alert.id, "acknowledged"))
}

#[derive(Deserialize)]
pub(super) struct SilenceForm {
    /// Length of the silence in hours; 0 ends it.
    hours: u16,
}

pub(super) async fn silence(
    page: Page,
    Path(id): Path<String>,
    form: Result<Form<SilenceForm>, FormRejection>,
) -> Response {
    let hours = form
        .ok()
        .map(|Form(form)| form.hours)
        .filter(|hours| *hours <= HOURS_AT_MOST);
    let Some(hours) = hours else {
        return notice(
            "Not understood",
            StatusCode::BAD_REQUEST,
            "Choose for how long. Nothing was done.",
        );
    };
    let until = Utc::now() + TimeDelta::hours(hours.into());
    let path = format!("/v1/alerts/{}/silence", encoded(&id));
    let body = json!({"until": until, "by": page.session.name()});
    let done = page.post::<ListedAlert>(&path, &body);
    done.await.map_or_else(refused, |alert| {
        back(alert.id, if hours == 0 { "heard" } else { "silenced" })
    })
}

fn back(id: i64, done: &str) -> Response {
    Redirect::to(&format!("/alerts?done={done}&alert={id}#alert-{id}")).into_response()
}

#[allow(clippy::needless_pass_by_value)] // as map_err hands it over
fn refused(refusal: HttpRefusal) -> Response {
    notice("Not done", refusal.status, &refusal.sentence())
}
