//! What both services' `/openapi.json` have in common.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Response};

// Served by `health` and the routers; these only describe it.

/// Whether the process runs
#[utoipa::path(get, path = "/healthz", tag = "service", responses((status = 200, description = "It runs")))]
pub const fn healthz() {}

#[utoipa::path(get, path = "/metrics", tag = "service", responses(
    (status = 200, description = "Figures in Prometheus's text form", content_type = "text/plain")
))]
pub const fn metrics() {}

#[utoipa::path(get, path = "/openapi.json", tag = "service", responses((status = 200, description = "This document")))]
pub const fn openapi_json() {}

/// A token in `Authorization: Bearer`.
pub fn bearer(description: &str) -> SecurityScheme {
    SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build())
}

/// Gives every error of the contract's routes its form, and the refusals of tokens where a route
/// needs one, so that no route has to repeat them.
#[must_use]
pub fn with_problems(mut openapi: OpenApi) -> OpenApi {
    for (_, item) in openapi.paths.paths.iter_mut().filter(|(path, _)| path.starts_with("/v1/")) {
        let reads = item.get.as_mut().map(|operation| (operation, false));
        let changes = [&mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten();
        for (operation, changes) in changes.map(|operation| (operation, true)).chain(reads) {
            let for_operators = serde_json::to_string(&operation.security).is_ok_and(|names| names.contains("ops"));
            let responses = &mut operation.responses.responses;
            if operation.security.is_some() {
                responses.entry("401".to_owned()).or_insert_with(|| Response::new("`unauthorized`").into());
                if changes && for_operators {
                    let read_only = "`read_only`: with the OPS_VIEW_TOKEN; nothing was changed";
                    responses.entry("403".to_owned()).or_insert_with(|| Response::new(read_only).into());
                }
            }
            for (status, response) in responses {
                if let RefOr::T(response) = response
                    && status.starts_with(['4', '5'])
                {
                    let problem = Content::new(Some(Ref::from_schema_name("Problem")));
                    response.content.insert("application/problem+json".to_owned(), problem);
                }
            }
        }
    }
    openapi
}
