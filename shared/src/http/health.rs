//! `/healthz` (the process runs), `/readyz` (its dependencies are available), `/metrics`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::future::{BoxFuture, join_all};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

/// A check of one dependency. `Err` describes the fault.
pub type HealthCheck = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Checks with the names under which `/readyz` shows their results.
type Checks = Vec<(&'static str, HealthCheck)>;

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

/// Builds `/healthz` and `/readyz`. Notes are checks whose results are shown, but which do not make
/// the service unready.
pub fn routes<S: Clone + Send + Sync + 'static>(checks: Checks, notes: Checks) -> Router<S> {
    routes_of_loop(check(async || Ok(())), checks, notes)
}

/// Builds `/metrics` alone.
pub fn metrics_route<S: Clone + Send + Sync + 'static>(metrics: PrometheusHandle) -> Router<S> {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    Router::new().route(
        "/metrics",
        get(async move || {
            metrics.run_upkeep();
            (kind, metrics.render())
        }),
    )
}

/// Builds `/healthz` and `/readyz` for a service whose work is a loop: `/healthz` returns 503 if
/// `alive` reports that the loop makes no progress, so that the supervisor restarts it.
pub fn routes_of_loop<S>(alive: HealthCheck, checks: Checks, notes: Checks) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let shown = Arc::new((checks, notes));
    let healthz = async move || match alive().await {
        Ok(()) => (StatusCode::OK, Json(Health::Ok)),
        Err(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(Health::Stuck { reason }),
        ),
    };
    Router::new().route("/healthz", get(healthz)).route(
        "/readyz",
        get(async move || readiness(&shown.0, &shown.1).await),
    )
}

/// The response of `/healthz`.
#[derive(Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Health {
    Ok,
    /// The process makes no progress.
    Stuck {
        reason: String,
    },
}

/// The response of `/readyz`.
#[derive(Serialize, ToSchema)]
pub struct Readiness {
    status: ReadinessStatus,
    /// `ok`, or the fault, of everything that the process needs.
    checks: BTreeMap<&'static str, String>,
    /// What else is worth knowing. It does not make the process unready.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    notes: BTreeMap<&'static str, String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ReadinessStatus {
    Ok,
    Unavailable,
}

async fn readiness(checks: &Checks, notes: &Checks) -> (StatusCode, Json<Readiness>) {
    let ((checks, ok), (notes, _)) = tokio::join!(run_checks(checks), run_checks(notes));
    let (code, status) = if ok {
        (StatusCode::OK, ReadinessStatus::Ok)
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            ReadinessStatus::Unavailable,
        )
    };
    let readiness = Readiness {
        status,
        checks,
        notes,
    };
    (code, Json(readiness))
}

/// Runs the checks. Returns the result of each (`ok` or the fault), and whether all succeeded.
async fn run_checks(checks: &Checks) -> (BTreeMap<&'static str, String>, bool) {
    let late = || Err(format!("no answer within {PATIENCE:?}"));
    let answers = join_all(checks.iter().map(async |(name, check)| {
        let answer = timeout(PATIENCE, check()).await;
        (*name, answer.unwrap_or_else(|_| late()))
    }))
    .await;
    let ok = answers.iter().all(|(_, answer)| answer.is_ok());
    (
        answers
            .into_iter()
            .map(|(name, answer)| (name, answer.err().unwrap_or_else(|| "ok".to_owned())))
            .collect(),
        ok,
    )
}
