//! `/healthz` (the process runs), `/readyz` (its dependencies are available), `/metrics`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::redis::Redis;
use crate::schedule::time_zone;

/// A check of one dependency. `Err` describes the fault.
pub type HealthCheck =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// Makes a [`HealthCheck`] from an async closure.
pub fn check<F, Fut>(ask: F) -> HealthCheck
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), String>> + Send + 'static,
{
    Arc::new(move || Box::pin(ask()))
}

/// Maximum duration of one check. A slower store counts as not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// Builds `/healthz` and `/readyz` alone. Notes are checks whose results are shown, but which do
/// not make the service unready.
pub fn routes_without_metrics<S: Clone + Send + Sync + 'static>(
    checks: Vec<(&'static str, HealthCheck)>,
    notes: Vec<(&'static str, HealthCheck)>,
) -> Router<S> {
    probes(
        check(async || Ok(())),
        Readiness {
            checks,
            notes,
            last: Mutex::default(),
        },
    )
}

/// Builds `/metrics` alone.
pub fn metrics_route<S: Clone + Send + Sync + 'static>(metrics: PrometheusHandle) -> Router<S> {
    metrics_of(Arc::new(move || {
        metrics.run_upkeep();
        metrics.render()
    }))
}

/// Renders the response of `/metrics`.
pub type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// Builds all three routes for a service whose work is a loop: `/healthz` returns 503 if `alive`
/// reports that the loop makes no progress, so that the supervisor restarts it.
pub fn routes_of_loop<S: Clone + Send + Sync + 'static>(
    alive: HealthCheck,
    checks: Vec<(&'static str, HealthCheck)>,
    metrics: PrometheusHandle,
) -> Router<S> {
    let readiness = Readiness {
        checks,
        notes: Vec::new(),
        last: Mutex::default(),
    };
    probes(alive, readiness).merge(metrics_route(metrics))
}

/// Builds all three routes, with notes, for a service that renders its `/metrics` itself.
pub fn routes_with<S: Clone + Send + Sync + 'static>(
    checks: Vec<(&'static str, HealthCheck)>,
    notes: Vec<(&'static str, HealthCheck)>,
    metrics: Render,
) -> Router<S> {
    routes_without_metrics(checks, notes).merge(metrics_of(metrics))
}

/// Returns a `/readyz` note if `REDIS_DURABILITY=managed`, because then nothing checks that Redis
/// is durable.
pub fn durability_of(redis: &Redis) -> Option<(&'static str, HealthCheck)> {
    let note = "nothing checks that Redis is durable (REDIS_DURABILITY=managed)";
    redis.is_managed().then(|| {
        (
            "redis_durability",
            check(move || async move { Err(note.to_owned()) }),
        )
    })
}

/// Returns a `/readyz` note with the version of the time zone rules.
pub fn time_zone_rules() -> (&'static str, HealthCheck) {
    let rules = time_zone::rules().to_string();
    let note = check(move || std::future::ready(Err(rules.clone())));
    ("time_zones", note)
}

fn probes<S: Clone + Send + Sync + 'static>(alive: HealthCheck, readiness: Readiness) -> Router<S> {
    let readiness = Arc::new(readiness);
    Router::new()
        .route("/healthz", get(async move || healthy(&alive).await))
        .route("/readyz", get(async move || readiness.answer().await))
}

fn metrics_of<S: Clone + Send + Sync + 'static>(metrics: Render) -> Router<S> {
    Router::new().route(
        "/metrics",
        get(async move || {
            (
                [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
                metrics(),
            )
        }),
    )
}

/// How long a response of `/readyz` is reused. The route is public, and each check reads the
/// stores.
const READY_FOR: Duration = Duration::from_millis(200);

struct Readiness {
    checks: Vec<(&'static str, HealthCheck)>,
    notes: Vec<(&'static str, HealthCheck)>,
    /// One request runs the checks; concurrent requests wait for its result.
    last: Mutex<Option<(Instant, StatusCode, Value)>>,
}

impl Readiness {
    async fn answer(&self) -> Response {
        let mut last = self.last.lock().await;
        if last
            .as_ref()
            .is_none_or(|(at, ..)| at.elapsed() >= READY_FOR)
        {
            let ((checks, ok), (notes, _)) = tokio::join!(ask(&self.checks), ask(&self.notes));
            let status = if ok {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            let mut body =
                json!({"status": if ok { "ok" } else { "unavailable" }, "checks": checks});
            if !self.notes.is_empty() {
                body["notes"] = notes.into();
            }
            *last = Some((Instant::now(), status, body));
        }
        match &*last {
            Some((_, status, body)) => (*status, axum::Json(body)).into_response(),
            None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }
}

async fn healthy(alive: &HealthCheck) -> Response {
    match alive().await {
        Ok(()) => axum::Json(json!({"status": "ok"})).into_response(),
        Err(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            axum::Json(json!({"status": "stuck", "reason": reason})),
        )
            .into_response(),
    }
}

/// Runs the checks. Returns the result of each (`ok` or the fault), and whether all succeeded.
async fn ask(checks: &[(&'static str, HealthCheck)]) -> (Map<String, Value>, bool) {
    let answers = futures_util::future::join_all(checks.iter().map(|(name, check)| async move {
        let answer = tokio::time::timeout(PATIENCE, check()).await;
        (
            *name,
            answer.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}"))),
        )
    }))
    .await;
    let ok = answers.iter().all(|(_, answer)| answer.is_ok());
    let part = |(name, answer): (&str, Result<(), String>)| {
        (
            name.to_owned(),
            answer.map_or_else(Value::from, |()| "ok".into()),
        )
    };
    (answers.into_iter().map(part).collect(), ok)
}
