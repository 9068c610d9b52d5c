//! The routes with what goes round them: metrics, a deadline, a bound on bodies, panics turned into answers.

use std::any::Any;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use firstcome_shared::http::ops::{self, OpsToken};
use firstcome_shared::http::problem::{no_such_method, no_such_route};
use firstcome_shared::http::{Problem, health};
use metrics::{counter, histogram};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::too_large;
use super::openapi::Description;
use super::routes::{change, claims, coupons, create, me};
use super::state::App;

/// Largest body, in bytes. Only operators' requests have one that is read.
pub(super) const MAX_BODY_BYTES: usize = 16 * 1024;

/// All routes of `serve`.
pub(super) fn router(app: &App, token: OpsToken, metrics: PrometheusHandle) -> Router {
    let (routes, description) = described(token).split_for_parts();
    let document = description.to_json().unwrap_or_default();
    let openapi = async move || ([(header::CONTENT_TYPE, "application/json")], document).into_response();
    routes
        .route("/openapi.json", get(openapi))
        .with_state(App::clone(app))
        .merge(health::routes(checks(app), metrics))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(App::clone(app), bounded))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(measured))
}

/// The routes of the contract, with their description.
fn described(token: OpsToken) -> OpenApiRouter<App> {
    let for_operators = OpenApiRouter::new()
        .routes(routes!(create::create))
        .routes(routes!(change::change))
        .layer(from_fn_with_state(token, ops::require));
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(coupons::list))
        .routes(routes!(coupons::one))
        .routes(routes!(claims::claim))
        .routes(routes!(me::mine))
        .merge(for_operators)
}

/// Ready means: a claim would be worked. MySQL and Kafka are not asked, because claims go on without them.
fn checks(app: &App) -> Vec<(&'static str, health::Check)> {
    let redis = app.redis.clone();
    let licence = health::check(move || {
        let redis = redis.clone();
        async move {
            match redis.has_licence().await {
                Ok(true) => Ok(()),
                Ok(false) => Err("admission is closed until the reconciler has verified Redis".to_owned()),
                Err(error) => Err(format!("Redis cannot be reached: {error}")),
            }
        }
    });
    vec![("redis", licence)]
}

/// Answers within the deadline, and refuses a body that says it is too long before any of it is read.
async fn bounded(State(app): State<App>, request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length > MAX_BODY_BYTES) {
        return too_large().into_response();
    }
    match tokio::time::timeout(app.request_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable("this took too long; try again").into_response(),
    }
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    // The panic itself is on standard error already.
    tracing::error!("a request panicked");
    Problem::internal().into_response()
}

/// Counts and times requests by the route's pattern, so that ids in paths don't make a series each.
async fn measured(path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let path = path.map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        _ => "other",
    };
    let begun = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    histogram!("firstcome_http_request_seconds", "method" => method, "path" => path.clone())
        .record(begun.elapsed().as_secs_f64());
    counter!("firstcome_http_requests_total", "method" => method, "path" => path, "status" => status).increment(1);
    response
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The contract's document, as it is served.
    pub(in crate::serve) fn document() -> utoipa::openapi::OpenApi {
        described(OpsToken::new("t".repeat(32).into()).unwrap()).split_for_parts().1
    }
}
