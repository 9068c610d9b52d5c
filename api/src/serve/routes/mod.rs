//! The routes with what goes round them: metrics, a deadline, a bound on bodies, panics turned into answers.

pub(crate) mod change;
pub(crate) mod claim;
pub(crate) mod claims;
pub(crate) mod coupons;
pub(crate) mod create;
pub(crate) mod extract;
pub(crate) mod middleware;
pub(crate) mod openapi;
pub(crate) mod refusals;
pub(crate) mod validate;
pub(crate) mod view;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse as _;
use axum::routing::get;
use firstcome_shared::http::health;
use firstcome_shared::http::ops::{self, OpsToken};
use firstcome_shared::http::problem::{no_such_method, no_such_route};
use metrics_exporter_prometheus::PrometheusHandle;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::serve::claim::my_claim;
use crate::serve::routes::middleware::{AroundLayer, MAX_BODY_BYTES, Measures, panicked};
use crate::serve::routes::openapi::Description;
use crate::serve::state::App;

/// All routes of `serve`.
pub(crate) fn router(app: &App, token: OpsToken, metrics: PrometheusHandle, measures: Arc<Measures>) -> Router {
    let (routes, description) = described(token).split_for_parts();
    let document = description.to_json().unwrap_or_default();
    let openapi = async move || ([(header::CONTENT_TYPE, "application/json")], document).into_response();
    routes
        .route("/openapi.json", get(openapi))
        .with_state(App::clone(app))
        .merge(health::routes(checks(app), metrics))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        // As one: axum boxes and clones the service behind each layer for each request.
        .layer(
            ServiceBuilder::new()
                .layer(AroundLayer::new(app.request_timeout, measures))
                .layer(CatchPanicLayer::custom(panicked))
                .layer(DefaultBodyLimit::max(MAX_BODY_BYTES)),
        )
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
        .routes(routes!(my_claim::mine))
        .merge(for_operators)
}

/// Ready means: a claim would be worked. MySQL and Kafka are not asked, because claims go on without them.
fn checks(app: &App) -> Vec<(&'static str, health::Check)> {
    let redis = app.redis.clone();
    let gate = health::check(move || {
        let redis = redis.clone();
        async move {
            match redis.gate_is_open().await {
                Ok(true) => Ok(()),
                Ok(false) => Err("admission is closed until the reconciler has verified Redis".to_owned()),
                Err(error) => Err(format!("Redis cannot be reached: {error}")),
            }
        }
    });
    vec![("redis", gate)]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The contract's document, as it is served.
    pub(crate) fn document() -> utoipa::openapi::OpenApi {
        described(OpsToken::new("t".repeat(32).into()).unwrap()).split_for_parts().1
    }
}
