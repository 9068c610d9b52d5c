//! The routes, and the router that combines them.

mod allow_list;
mod change;
pub(crate) mod claim;
mod coupons;
mod create;
pub(super) mod etag;
pub(super) mod extract;
mod issued;
pub(crate) mod middleware;
mod openapi;
mod revoke;
pub(super) mod view;

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use firstcome_shared::http::health;
use firstcome_shared::http::openapi::with_problems;
use firstcome_shared::http::ops::{self, OpsToken};
use firstcome_shared::http::problem::{no_such_method, no_such_route};
use metrics_exporter_prometheus::PrometheusHandle;
use tower::layer::layer_fn;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::middleware::{Guarded, RequestGuard};
use crate::serve::auth::Identity;
use crate::serve::openness::{CLOSED, Openness, openness};
use crate::serve::page;
use crate::serve::state::App;

/// Builds the routes at LISTEN_ADDR, including `more`.
pub(crate) fn router(app: &App, token: OpsToken, more: Router, guard: Arc<RequestGuard>) -> Router {
    let (routes, _) = contract(token).split_for_parts();
    routes
        .merge(page::routes(app.coupon_page))
        .with_state(App::clone(app))
        .merge(health::routes_without_metrics(readiness(app), notes(app)))
        .merge(more)
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(layer_fn(move |inner| {
            Guarded::new(Arc::clone(&guard), inner)
        }))
}

/// Builds the expensive routes for machines. If METRICS_ADDR is set, they are served only there.
pub(crate) fn for_machines(
    token: OpsToken,
    identity: &Identity,
    prometheus: PrometheusHandle,
) -> Router {
    let (_, document) = contract(token).split_for_parts();
    let document = with_problems(document);
    let for_people = if identity.wants_token() {
        openapi::with_tokens
    } else {
        openapi::with_gateway
    };
    let document = for_people(document);
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
        .routes(routes!(revoke::revoke))
        .routes(routes!(issued::issued))
        .merge(allow_list::routes())
        .layer(from_fn_with_state(token, ops::require));
    OpenApiRouter::with_openapi(openapi::Description::openapi())
        .routes(routes!(coupons::list))
        .routes(routes!(coupons::one))
        .routes(routes!(claim::claim))
        .routes(routes!(claim::mine, revoke::give_back))
        .merge(for_operators)
}

/// Checks for `/readyz`: the process is ready if it would process a claim. Claims continue without
/// MySQL or Kafka, so only Redis is checked.
pub(crate) fn readiness(app: &App) -> Vec<(&'static str, health::HealthCheck)> {
    let services = App::clone(app);
    let gate = health::check(move || {
        let services = App::clone(&services);
        async move {
            match openness(&services).await {
                Ok(Openness::Closed) => Err(CLOSED.to_owned()),
                Ok(_) => Ok(()),
                Err(error) => Err(format!("Redis cannot be reached: {error}")),
            }
        }
    });
    let stopping = app.stopping.clone();
    let running = health::check(move || {
        let stopping = stopping.is_cancelled();
        async move {
            if stopping {
                Err("this process is stopping".to_owned())
            } else {
                Ok(())
            }
        }
    });
    vec![("redis", gate), ("process", running)]
}

/// Checks of the stores without which claims continue; `/readyz` reports them as notes.
pub(crate) fn notes(app: &App) -> Vec<(&'static str, health::HealthCheck)> {
    let [kafka, mysql] = std::array::from_fn(|_| App::clone(app));
    let kafka = health::check(move || {
        let problem = kafka.claims.second_store.publisher.problem();
        async move {
            problem.map_or(Ok(()), |why| {
                Err(format!("claims go to MySQL, without Kafka: {why}"))
            })
        }
    });
    let mysql = health::check(move || {
        let problem = mysql.catalogue.problem();
        std::future::ready(problem.map_or(Ok(()), |why| Err(why.to_owned())))
    });
    let keys = app.identity.key_set().map(|keys| {
        let keys = Arc::clone(keys);
        let ask = health::check(move || std::future::ready(keys.problem().map_or(Ok(()), Err)));
        ("jwt_keys", ask)
    });
    let always = [("kafka", kafka), ("mysql", mysql)].into_iter();
    always
        .chain(keys)
        .chain(health::durability_of(&app.redis))
        .chain([health::time_zone_rules()])
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Returns the document of `/openapi.json`.
    fn document() -> serde_json::Value {
        let token = OpsToken::new("t".repeat(32).into()).unwrap();
        serde_json::to_value(with_problems(contract(token).split_for_parts().1)).unwrap()
    }

    #[test]
    fn document_lists_exactly_the_public_routes() {
        let json = document();
        let paths = json["paths"].as_object().unwrap();
        let listed: BTreeSet<String> = paths
            .iter()
            .flat_map(|(path, item)| {
                item.as_object()
                    .unwrap()
                    .keys()
                    .map(move |method| format!("{method} {path}"))
            })
            .collect();
        let contract = [
            "post /v1/coupons",
            "get /v1/coupons",
            "get /v1/coupons/{id}",
            "patch /v1/coupons/{id}",
            "get /v1/coupons/{id}/issued",
            "get /v1/coupons/{id}/allow-list",
            "delete /v1/coupons/{id}/allow-list",
            "post /v1/coupons/{id}/allow-list/add",
            "post /v1/coupons/{id}/allow-list/remove",
            "get /v1/coupons/{id}/allow-list/people/{user_id}",
            "post /v1/coupons/{id}/claims",
            "get /v1/coupons/{id}/claims/me",
            "delete /v1/coupons/{id}/claims/me",
            "post /v1/coupons/{id}/people/{user_id}/revoke",
            "get /healthz",
            "get /readyz",
            "get /metrics",
            "get /openapi.json",
        ];
        assert_eq!(listed, contract.map(str::to_owned).into());
    }

    #[test]
    fn operator_routes_require_the_token_and_all_references_resolve() {
        let json = document();
        for (path, method) in [
            ("/v1/coupons", "post"),
            ("/v1/coupons/{id}", "patch"),
            ("/v1/coupons/{id}/issued", "get"),
            ("/v1/coupons/{id}/allow-list", "get"),
            ("/v1/coupons/{id}/allow-list", "delete"),
            ("/v1/coupons/{id}/allow-list/add", "post"),
            ("/v1/coupons/{id}/allow-list/remove", "post"),
            ("/v1/coupons/{id}/allow-list/people/{user_id}", "get"),
            ("/v1/coupons/{id}/people/{user_id}/revoke", "post"),
        ] {
            let operation = &json["paths"][path][method];
            assert!(
                operation["security"][0]["ops"].is_array(),
                "{method} {path}"
            );
            let codes = ["401", "403"].map(|status| operation["responses"][status].is_object());
            assert_eq!(codes, [true, method != "get"], "{method} {path}");
        }
        assert_eq!(
            json["components"]["securitySchemes"]["ops"]["scheme"],
            "bearer"
        );
        let text = json.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(
                json.pointer(pointer).is_some(),
                "{pointer} does not resolve"
            );
        }
    }

    #[test]
    fn all_error_responses_refer_to_the_problem_schema() {
        let json = document();
        let problem = "/content/application~1problem+json/schema/$ref";
        let mut problems = 0;
        for item in json["paths"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(path, _)| path.starts_with("/v1/"))
        {
            for operation in item.1.as_object().unwrap().values() {
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let expected =
                        (status.as_str() >= "400").then_some("#/components/schemas/Problem");
                    assert_eq!(
                        response.pointer(problem).map(|r| r.as_str().unwrap()),
                        expected,
                        "{} {status}",
                        item.0
                    );
                    problems += usize::from(expected.is_some());
                }
            }
        }
        assert!(problems > 20, "{problems}");
    }
}
