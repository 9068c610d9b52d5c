//! `/healthz` (this process runs), `/readyz` (it can do its work), `/metrics`.

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

/// A named question about one thing this process needs; `Err` says what is wrong.
pub type Check = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// Makes a [`Check`] of an async closure.
pub fn check<F, Fut>(ask: F) -> Check
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), String>> + Send + 'static,
{
    Arc::new(move || Box::pin(ask()))
}

/// Longest that one check may take; a store that says nothing for so long is not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// The three routes every service has.
pub fn routes<S: Clone + Send + Sync + 'static>(
    checks: Vec<(&'static str, Check)>,
    metrics: PrometheusHandle,
) -> Router<S> {
    routes_of_loop(check(async || Ok(())), checks, metrics)
}

/// The text that `/metrics` answers.
pub type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// [`routes`] for a service whose work is a loop: `/healthz` answers 503 when `alive` says that the
/// loop stands still, so that the supervisor starts it anew.
pub fn routes_of_loop<S: Clone + Send + Sync + 'static>(
    alive: Check,
    checks: Vec<(&'static str, Check)>,
    metrics: PrometheusHandle,
) -> Router<S> {
    let render = move || {
        metrics.run_upkeep();
        metrics.render()
    };
    routes_with(alive, checks, Arc::new(render))
}

/// The same for a service that writes its `/metrics` itself.
pub fn routes_with<S: Clone + Send + Sync + 'static>(
    alive: Check,
    checks: Vec<(&'static str, Check)>,
    metrics: Render,
) -> Router<S> {
    let checks = Arc::new(checks);
    Router::new()
        .route("/healthz", get(async move || healthy(&alive).await))
        .route("/readyz", get(async move || ready(&checks).await))
        .route("/metrics", get(async move || ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics())))
}

async fn healthy(alive: &Check) -> Response {
    match alive().await {
        Ok(()) => axum::Json(json!({"status": "ok"})).into_response(),
        Err(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, axum::Json(json!({"status": "stuck", "reason": reason}))).into_response()
        }
    }
}

async fn ready(checks: &[(&'static str, Check)]) -> Response {
    let answers = futures_util::future::join_all(checks.iter().map(|(name, check)| async move {
        let answer = tokio::time::timeout(PATIENCE, check()).await;
        (*name, answer.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}"))))
    }))
    .await;
    let ok = answers.iter().all(|(_, answer)| answer.is_ok());
    let parts: Map<String, Value> = answers
        .into_iter()
        .map(|(name, answer)| (name.to_owned(), answer.map_or_else(Value::from, |()| "ok".into())))
        .collect();
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(json!({"status": if ok { "ok" } else { "unavailable" }, "checks": parts}))).into_response()
}
