//! The routes, and the router that combines them.

mod allow_list;
mod change;
pub(crate) mod claims;
mod codes;
mod coupons;
mod create;
pub(super) mod etag;
pub(super) mod extract;
pub(super) mod fast_path;
mod follow_up;
mod issued;
pub(crate) mod middleware;
mod openapi;
mod page;
pub(super) mod view;

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use firstcome_shared::http::health::{self, HealthCheck};
use firstcome_shared::http::openapi::completed;
use firstcome_shared::http::ops::{self, OpsToken};
use firstcome_shared::http::problem::{no_such_method, no_such_route};
use metrics_exporter_prometheus::PrometheusHandle;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::middleware::guard;
use crate::serve::openness::{Openness, openness, why_closed};
use crate::serve::state::App;

/// Builds the routes at LISTEN_ADDR: those of the [`contract`], the coupon page, the health checks,
/// and `more`.
pub(crate) fn router(app: &App, public: Router<App>, more: Router) -> Router {
    public
        .merge(page::routes(app.coupon_page))
        .with_state(App::clone(app))
        .merge(health::routes(readiness(app), notes(app)))
        .merge(more)
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(App::clone(app), guard))
}

/// Builds the expensive routes for machines. If METRICS_ADDR is set, they are served only there.
pub(crate) fn for_machines(document: String, prometheus: PrometheusHandle) -> Router {
    let openapi = async || ([(header::CONTENT_TYPE, "application/json")], document);
    Router::new()
        .route("/openapi.json", get(openapi))
        .merge(health::metrics_route(prometheus))
}

/// Builds the routes below `/v1`, and the JSON document that describes them.
pub(crate) fn contract(token: OpsToken) -> serde_json::Result<(Router<App>, String)> {
    let for_operators = OpenApiRouter::new()
        .routes(routes!(create::create))
        .routes(routes!(change::change))
        .routes(routes!(claims::revoke))
        .routes(routes!(issued::issued))
        .routes(routes!(allow_list::upload))
        .layer(from_fn_with_state(token.clone(), ops::require));
    let for_shops = OpenApiRouter::new()
        .routes(routes!(codes::code))
        .routes(routes!(codes::use_code, codes::undo))
        .layer(from_fn_with_state(token, ops::require_redeem));
    let (routes, document) = OpenApiRouter::with_openapi(openapi::ApiDescription::openapi())
        .routes(routes!(coupons::list))
        .routes(routes!(coupons::one))
        .routes(routes!(claims::claim))
        .routes(routes!(claims::mine, claims::give_back))
        .merge(for_operators)
        .merge(for_shops)
        .split_for_parts();
    Ok((routes, completed(document, &openapi::tokens()).to_json()?))
}

/// Checks for `/readyz`: the process is ready if it would process a claim. Claims continue without
/// MySQL or Kafka, so Redis is the only store that is checked.
pub(crate) fn readiness(app: &App) -> Vec<(&'static str, HealthCheck)> {
    let gate = async |app: App| match openness(&app).await {
        Ok(Openness::Open | Openness::InPart) => Ok(()),
        Ok(closed @ (Openness::Closed | Openness::NoMaster)) => {
            Err(format!("admission is {}", closed.description()))
        }
        Err(error) => Err(why_closed(&error)),
    };
    let services = App::clone(app);
    let gate = health::check(move || gate(App::clone(&services)));
    let running = note(app, |app| {
        let is_stopping = app.stopping.is_cancelled();
        is_stopping.then(|| "this process is stopping".to_owned())
    });
    vec![("redis", gate), ("process", running)]
}

/// Checks of the stores without which claims continue; `/readyz` reports them as notes.
pub(crate) fn notes(app: &App) -> Vec<(&'static str, HealthCheck)> {
    let kafka = note(app, |app| {
        let publisher = &app.second_store.publisher;
        let problem = publisher.problem().or_else(|| publisher.refusal());
        problem.map(|why| format!("claims go to MySQL, without Kafka: {why}"))
    });
    let mysql = note(app, |app| {
        let away = app.catalogue.problem().map(str::to_owned);
        away.or_else(|| app.second_store.refusal())
    });
    let mut notes = vec![("kafka", kafka), ("mysql", mysql)];
    if let Some(keys) = app.identity.key_set().map(Arc::clone) {
        notes.push(("jwt_keys", note(app, move |_| keys.problem())));
    }
    notes
}

/// Makes a check of a problem that is known without waiting.
fn note(
    app: &App,
    problem: impl Fn(&App) -> Option<String> + Send + Sync + 'static,
) -> HealthCheck {
    let app = App::clone(app);
    health::check(move || std::future::ready(problem(&app).map_or(Ok(()), Err)))
}
