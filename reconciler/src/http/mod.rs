//! The reconciler's HTTP front, for operators.

mod alerts;
mod people;
mod reconcile;
mod runs;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use firstcome_shared::http::health::{self, check};
use firstcome_shared::http::ops::{OpsToken, require};
use firstcome_shared::http::problem::{no_such_method, no_such_route};
use metrics_exporter_prometheus::PrometheusHandle;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::daemon::runner::Passes;
use crate::stores::Stores;

/// What the routes work with.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) stores: Stores,
    pub(crate) passes: Passes,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Firstcome reconciler", description = "Passes, alerts and people's stories. Every route under /v1 needs the operators' token."),
    modifiers(&OpsSecurity)
)]
struct Api;

struct OpsSecurity;

impl utoipa::Modify for OpsSecurity {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        if let Some(components) = openapi.components.as_mut() {
            components.add_security_scheme("ops", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
        }
    }
}

pub fn router(stores: Stores, passes: Passes, token: OpsToken, metrics: PrometheusHandle) -> Router {
    let (db, redis, drift) = (stores.db.clone(), stores.redis.clone(), passes.drift());
    let render = Arc::new(move || {
        metrics.run_upkeep();
        metrics.render() + &drift.render()
    });
    let app = App { stores, passes };
    let (ops, openapi) = OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(reconcile::reconcile))
        .routes(routes!(runs::list))
        .routes(routes!(runs::read))
        .routes(routes!(alerts::list))
        .routes(routes!(alerts::acknowledge))
        .routes(routes!(alerts::silence))
        .routes(routes!(people::explain))
        .split_for_parts();
    let checks = vec![
        (
            "mysql",
            check(move || {
                let db = db.clone();
                async move { db.ping().await.map_err(|e| e.to_string()) }
            }),
        ),
        (
            "redis",
            check(move || {
                let redis = redis.clone();
                async move { redis.ping().await.map_err(|e| e.to_string()) }
            }),
        ),
    ];
    ops.route_layer(from_fn_with_state(token, require))
        .with_state(app)
        .route("/openapi.json", axum::routing::get(async move || axum::Json(openapi)))
        .merge(health::routes_with(check(async || Ok(())), checks, render))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(axum::extract::DefaultBodyLimit::max(16 * 1024))
}
