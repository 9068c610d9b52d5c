//! The routes, and the router that combines them.

mod allow_list;
mod change;
pub(crate) mod claims;
mod coupons;
mod create;
pub(super) mod etag;
pub(super) mod extract;
mod issued;
pub(crate) mod middleware;
mod openapi;
pub(super) mod view;

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use firstcome_shared::http::health::{self, HealthCheck};
use firstcome_shared::http::ops::{self, OpsToken};
use firstcome_shared::http::problem::{no_such_method, no_such_route};
use metrics_exporter_prometheus::PrometheusHandle;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::middleware::{RequestGuard, guard};
use crate::serve::auth::Identity;
use crate::serve::openness::{CLOSED, Openness, openness};
use crate::serve::page;
use crate::serve::state::App;

/// Builds the routes at LISTEN_ADDR, including `more`.
pub(crate) fn router(
    app: &App,
    token: OpsToken,
    more: Router,
    request_guard: Arc<RequestGuard>,
) -> Router {
    let (routes, _) = contract(token).split_for_parts();
    routes
        .merge(page::routes(app.coupon_page))
        .with_state(App::clone(app))
        .merge(health::routes_without_metrics(readiness(app), notes(app)))
        .merge(more)
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(request_guard, guard))
}

/// Builds the expensive routes for machines. If METRICS_ADDR is set, they are served only there.
pub(crate) fn for_machines(
    token: OpsToken,
    identity: &Identity,
    prometheus: PrometheusHandle,
) -> Router {
    let (_, document) = contract(token).split_for_parts();
    let document = openapi::completed(document, identity.wants_token());
    let document = document.to_json().unwrap_or_default();
    let openapi = async move || ([(header::CONTENT_TYPE, "application/json")], document);
    Router::new()
        .route("/openapi.json", get(openapi))
        .merge(health::metrics_route(prometheus))
}

/// Builds the public routes with their OpenAPI document.
fn contract(token: OpsToken) -> OpenApiRouter<App> {
    let for_operators = OpenApiRouter::new()
        .routes(routes!(create::create))
        .routes(routes!(change::change))
        .routes(routes!(claims::revoke))
        .routes(routes!(issued::issued))
        .routes(routes!(allow_list::read, allow_list::empty))
        .routes(routes!(allow_list::add))
        .routes(routes!(allow_list::remove))
        .layer(from_fn_with_state(token, ops::require));
    OpenApiRouter::with_openapi(openapi::Description::openapi())
        .routes(routes!(coupons::list))
        .routes(routes!(coupons::one))
        .routes(routes!(claims::claim))
        .routes(routes!(claims::mine, claims::give_back))
        .merge(for_operators)
}

/// Checks for `/readyz`: the process is ready if it would process a claim. Claims continue without
/// MySQL or Kafka, so only Redis is checked.
pub(crate) fn readiness(app: &App) -> Vec<(&'static str, HealthCheck)> {
    let gate = async |app: App| match openness(&app).await {
        Ok(Openness::Closed) => Err(CLOSED.to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("Redis cannot be reached: {error}")),
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
        let problem = app.claims.second_store.publisher.problem();
        problem.map(|why| format!("claims go to MySQL, without Kafka: {why}"))
    });
    let mysql = note(app, |app| app.catalogue.problem().map(str::to_owned));
    let mut notes = vec![("kafka", kafka), ("mysql", mysql)];
    if let Some(keys) = app.identity.key_set().map(Arc::clone) {
        notes.push(("jwt_keys", note(app, move |_| keys.problem())));
    }
    notes.extend(health::durability_of(&app.redis));
    notes.push(health::time_zone_rules());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_names_its_token_and_its_problems() {
        let token = OpsToken::new("t".repeat(32).into()).unwrap();
        let (_, document) = contract(token).split_for_parts();
        let json = serde_json::to_value(openapi::completed(document, true)).unwrap();
        let schema = "/content/application~1problem+json/schema/$ref";
        let mut operations = 0;
        for (path, item) in json["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if !path.starts_with("/v1/") {
                    continue;
                }
                operations += 1;
                let token = match operation["tags"][0].as_str().unwrap() {
                    "operators" => Some("ops"),
                    "claims" => Some("person"),
                    _ => None,
                };
                let named = operation["security"][0].as_object();
                let named = named.map(|named| named.keys().next().unwrap().as_str());
                assert_eq!(named, token, "{method} {path}");
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let problem = response.pointer(schema).and_then(|found| found.as_str());
                    let expected = "#/components/schemas/Problem";
                    let expected = (status.as_str() >= "400").then_some(expected);
                    assert_eq!(problem, expected, "{method} {path} {status}");
                }
            }
        }
        assert_eq!(operations, 13);
        for reference in json.to_string().split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            let found = json.pointer(pointer);
            assert!(found.is_some(), "{pointer} does not resolve");
        }
    }
}
