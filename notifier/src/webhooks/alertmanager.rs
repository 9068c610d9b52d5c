//! Alertmanager is told what holds, again and again, as Prometheus tells it: it forgets an alert
//! that it does not hear of for its `resolve_timeout` (5 minutes). Level-triggered, so there is no
//! outbox: a list that is lost is sent again, and two reconcilers say the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use firstcome_shared::mysql::alerts::{Alert, AlertState};
use firstcome_shared::mysql::{Db, webhooks};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::post::{PostAnswer, PostTarget};
use super::receivers::Receivers;
use super::standing::AlertmanagerStanding;
use crate::alerts::About;
use crate::clock::Clock;
use crate::outage::{AdmissionWatch, OutageNotifier};
use crate::render::{self, Links};
use crate::settings::MailSettings;
use crate::wording;

/// How often an alert is sent again. A pass that has ended sends at once.
const AGAIN: Duration = Duration::from_secs(60);

/// When a list that could not be sent is sent again.
const RETRY: Duration = Duration::from_secs(10);

/// For how long Alertmanager is told that an alert has ended, as Prometheus does.
const ENDED: TimeDelta = TimeDelta::minutes(15);

/// Most alerts that it is told of, and most in one POST.
const ALERTS: i64 = 1_000;
const AT_ONCE: usize = 100;

/// The label of those that stand in the table of alerts: the beginning of the fingerprint.
const ALERT: &str = "alert";

/// The labels that alerts have by themselves.
pub(super) const OWN_LABELS: [&str; 6] = ["alertname", "kind", "severity", "coupon", "drop", ALERT];

/// An alert as `POST /api/v2/alerts` takes it. It is told from others by its labels alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Posted {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<&'static str, String>,
    starts_at: DateTime<Utc>,
    /// None while it fires: Alertmanager's own clock ends it when it hears no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_at: Option<DateTime<Utc>>,
    #[serde(rename = "generatorURL", skip_serializing_if = "Option::is_none")]
    generator_url: Option<String>,
}

impl Posted {
    /// With the installation's labels too.
    fn with(mut self, labels: &BTreeMap<String, String>) -> Self {
        self.labels.extend(labels.clone());
        self
    }
}

/// One Alertmanager, and what it was told last.
pub(crate) struct Alertmanager {
    db: Db,
    settings: Arc<MailSettings>,
    target: PostTarget,
    labels: BTreeMap<String, String>,
    limit: Duration,
    clock: Arc<dyn Clock>,
    outage: Arc<OutageNotifier>,
    admission: Arc<AdmissionWatch>,
    before: Mutex<Vec<Posted>>,
    standing: Mutex<AlertmanagerStanding>,
    pub(crate) wake: Notify,
}

/// What a process knows that stands in no table of alerts.
pub(crate) type Watches = (Arc<OutageNotifier>, Arc<AdmissionWatch>);

impl Receivers {
    pub(crate) fn alertmanagers(
        &self,
        db: &Db,
        settings: &Arc<MailSettings>,
        clock: &Arc<dyn Clock>,
        (outage, admission): &Watches,
    ) -> Vec<Alertmanager> {
        let alertmanager = |target: &PostTarget| Alertmanager {
            db: db.clone(),
            settings: settings.clone(),
            target: target.clone(),
            labels: self.labels.clone(),
            limit: self.limit,
            clock: clock.clone(),
            outage: outage.clone(),
            admission: admission.clone(),
            before: Mutex::default(),
            standing: Mutex::new(AlertmanagerStanding::of(&target.name)),
            wake: Notify::new(),
        };
        self.alertmanagers.iter().map(alertmanager).collect()
    }
}

impl Alertmanager {
    /// Tells it until `shutdown`.
    pub(crate) async fn run(&self, shutdown: &CancellationToken) {
        let mut is_failing = false;
        loop {
            let told = tokio::select! {
                told = self.tell() => told,
                () = shutdown.cancelled() => return,
            };
            let pause = if told.is_ok() { AGAIN } else { RETRY };
            if let Err(error) = &told
                && !is_failing
            {
                tracing::warn!(
                    error,
                    target = self.target.name,
                    "Alertmanager can't be told; it is tried again"
                );
            }
            is_failing = told.is_err();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Tells it once what holds, and what has ended since it was told so.
    pub(crate) async fn tell(&self) -> Result<(), String> {
        let now = self.clock.now().trunc_subsecs(3);
        let before = self.before.lock().clone();
        let alerts = with_ended(&before, self.holding(&before, now).await, now);
        self.before.lock().clone_from(&alerts);
        let told = self.post_all(&alerts).await;
        self.standing.lock().note(alerts.len(), &told, now);
        told
    }

    /// What became of the lists so far.
    pub(crate) fn standing(&self) -> AlertmanagerStanding {
        self.standing.lock().clone()
    }

    async fn post_all(&self, alerts: &[Posted]) -> Result<(), String> {
        for some in alerts.chunks(AT_ONCE) {
            let told = self.post(some).await;
            let result = if told.is_ok() { "sent" } else { "failed" };
            metrics::counter!("firstcome_alertmanager_posts_total", "result" => result)
                .increment(1);
            told?;
        }
        Ok(())
    }

    async fn post(&self, alerts: &[Posted]) -> Result<(), String> {
        let body = serde_json::to_string(alerts).map_err(|error| error.to_string())?;
        let answer = self.target.post(self.limit, &[], body).await;
        answer
            .map_err(|error| error.to_string())
            .and_then(PostAnswer::success)
    }

    /// What is in the table, and what is about MySQL and admission. While MySQL is away, what held
    /// before goes on: silence would end it.
    async fn holding(&self, before: &[Posted], now: DateTime<Utc>) -> Vec<Posted> {
        let links = &self.settings.links;
        let mut holding: Vec<Posted> = match webhooks::told_alerts(&self.db, now, ENDED, ALERTS)
            .await
        {
            Ok(rows) => rows
                .iter()
                .map(|(id, alert, coupon)| {
                    posted(*id, alert, coupon.as_deref(), links).with(&self.labels)
                })
                .collect(),
            Err(error) => {
                tracing::debug!(%error, "the alerts for Alertmanager can't be read");
                let fires =
                    |alert: &&Posted| alert.ends_at.is_none() && alert.labels.contains_key(ALERT);
                before.iter().filter(fires).cloned().collect()
            }
        };
        let outage = self.outage.noticed_since().map(|since| {
            (
                since,
                "mysql_unreachable",
                "The reconciler cannot use MySQL",
                "Bring MySQL back; nothing else is to be done.",
            )
        });
        let admission = self.admission.mailed_since().map(|(since, is_reachable)| {
            let (summary, todo) = if is_reachable {
                let todo = "See why passes cannot verify Redis: the last runs say so.";
                ("Admission is closed: claims get 503", todo)
            } else {
                let todo = "See that Redis answers, and that the reconciler's host reaches it.";
                (
                    "The reconciler cannot reach Redis: if the APIs cannot either, claims get 503",
                    todo,
                )
            };
            (since, "admission_closed", summary, todo)
        });
        for (since, kind, summary, todo) in outage.into_iter().chain(admission) {
            let alert = of_process(since, (kind, summary, todo), links).with(&self.labels);
            holding.retain(|other| other.labels != alert.labels);
            holding.push(alert);
        }
        holding
    }
}

/// What was told before and holds no more ends now. It is told so for a while, since the list may
/// be lost on its way.
pub(super) fn with_ended(
    before: &[Posted],
    mut now_holding: Vec<Posted>,
    now: DateTime<Utc>,
) -> Vec<Posted> {
    let ended: Vec<Posted> = before
        .iter()
        .filter(|old| !now_holding.iter().any(|alert| alert.labels == old.labels))
        .map(|old| Posted {
            ends_at: Some(old.ends_at.unwrap_or(now)),
            ..old.clone()
        })
        .filter(|old| old.ends_at.is_some_and(|at| now - at < ENDED))
        .collect();
    now_holding.extend(ended);
    now_holding
}

fn posted(id: i64, alert: &Alert, coupon: Option<&str>, links: &Links) -> Posted {
    let about = About::of_word(&alert.kind);
    let is_critical = about.is_some_and(About::is_critical);
    let name = if about == Some(About::BrokenPromise) {
        "FirstcomeBrokenPromise"
    } else {
        "FirstcomeDrift"
    };
    let mut labels = labels(name, &alert.kind, is_critical);
    labels.extend(
        alert
            .coupon_id
            .map(|coupon| ("coupon".to_owned(), coupon.to_string())),
    );
    labels.extend(
        alert
            .drop_id
            .map(|drop| ("drop".to_owned(), drop.to_string())),
    );
    // Two stalls of one kind are two alerts.
    labels.insert(
        ALERT.to_owned(),
        alert.fingerprint.chars().take(12).collect(),
    );
    let place = match (coupon, alert.drop_id) {
        (Some(coupon), Some(drop)) => format!("{} (drop {drop}): ", wording::line(coupon, 100)),
        (None, Some(drop)) => format!("drop {drop}: "),
        _ => String::new(),
    };
    let mut annotations = BTreeMap::from([
        ("summary", alert.summary.clone()),
        (
            "description",
            format!("{place}{} (alert {id})", alert.summary),
        ),
    ]);
    annotations.extend(about.map(|about| ("what_to_do", render::what_to_do(about).to_owned())));
    annotations.extend(links.runbook(&alert.kind).map(|url| ("runbook_url", url)));
    let ends_at = alert
        .resolved_at
        .filter(|_| alert.state != AlertState::Firing);
    let generator_url = links.alerts();
    Posted {
        labels,
        annotations,
        starts_at: alert.first_seen_at,
        ends_at,
        generator_url,
    }
}

fn of_process(
    since: DateTime<Utc>,
    (kind, summary, todo): (&str, &str, &str),
    links: &Links,
) -> Posted {
    let annotations = BTreeMap::from([
        ("summary", summary.to_owned()),
        (
            "description",
            format!("{summary}, since {}", since.format("%Y-%m-%d %H:%M:%S UTC")),
        ),
        ("what_to_do", todo.to_owned()),
    ]);
    let (labels, generator_url) = (labels("FirstcomeDrift", kind, true), links.alerts());
    Posted {
        labels,
        annotations,
        starts_at: since,
        ends_at: None,
        generator_url,
    }
}

fn labels(name: &str, kind: &str, is_critical: bool) -> BTreeMap<String, String> {
    let severity = if is_critical { "critical" } else { "warning" };
    [("alertname", name), ("kind", kind), ("severity", severity)]
        .map(|(name, is)| (name.to_owned(), is.to_owned()))
        .into()
}

/// The alert of `test-webhook`, which ends by itself.
pub(super) fn test_alert(own: &BTreeMap<String, String>, now: DateTime<Utc>) -> String {
    let text =
        "Alerts of the Firstcome reconciler arrive here; this one ends by itself within a minute.";
    let alert = Posted {
        labels: labels("FirstcomeTest", "test", false),
        annotations: BTreeMap::from([
            ("summary", text.to_owned()),
            ("description", text.to_owned()),
        ]),
        starts_at: now,
        ends_at: Some(now + TimeDelta::minutes(1)),
        generator_url: None,
    };
    let alert = alert.with(own);
    serde_json::to_string(&[alert]).unwrap_or_default()
}
