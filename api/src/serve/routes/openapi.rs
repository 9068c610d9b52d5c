//! `/openapi.json`: made from the handlers; here is what no handler says.

use utoipa::Modify;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, OpenApi};

/// The document without the handlers that the router adds.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Firstcome API",
        description = "Gives out a limited number of coupons, first come, first served. Errors are \
            `application/problem+json` (RFC 9457) with a stable `code`."
    ),
    tags(
        (name = "claims", description = "For people"),
        (name = "coupons", description = "For everybody"),
        (name = "operators", description = "With the OPS_TOKEN"),
        (name = "service", description = "For whoever runs the process")
    ),
    paths(healthz, readyz, metrics, openapi_json),
    modifiers(&Security)
)]
pub(crate) struct Description;

struct Security;

impl Modify for Security {
    fn modify(&self, openapi: &mut OpenApi) {
        let bearer = |text: &str| {
            SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(text)).build())
        };
        let components = openapi.components.get_or_insert_with(Components::new);
        components.add_security_scheme("ops", bearer("The OPS_TOKEN"));
        let person = "With USER_AUTH=jwt, a token whose `sub` is the person. With USER_AUTH=trusted-header the gateway in \
            front sets `X-User-Id` instead, and nobody else can.";
        components.add_security_scheme("person", bearer(person));
    }
}

/// Whether the process runs
#[allow(dead_code)] // served by the code that all services share; these four only describe it
#[utoipa::path(get, path = "/healthz", tag = "service", responses((status = 200, description = "It runs")))]
const fn healthz() {}

/// Whether a claim would be worked
#[allow(dead_code)]
#[utoipa::path(get, path = "/readyz", tag = "service", responses(
    (status = 200, description = "Redis answers and admission is open"),
    (status = 503, description = "Admission is closed; the body says why")
))]
const fn readyz() {}

#[allow(dead_code)]
#[utoipa::path(get, path = "/metrics", tag = "service", responses(
    (status = 200, description = "Figures in Prometheus's text form", content_type = "text/plain")
))]
const fn metrics() {}

#[allow(dead_code)]
#[utoipa::path(get, path = "/openapi.json", tag = "service", responses((status = 200, description = "This document")))]
const fn openapi_json() {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::serve::routes::tests::document;

    #[test]
    fn the_document_has_every_route_of_the_contract_and_no_other() {
        let json = serde_json::to_value(document()).unwrap();
        let paths = json["paths"].as_object().unwrap();
        let listed: BTreeSet<String> = paths
            .iter()
            .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| format!("{method} {path}")))
            .collect();
        let contract = [
            "post /v1/coupons",
            "get /v1/coupons",
            "get /v1/coupons/{id}",
            "patch /v1/coupons/{id}",
            "post /v1/coupons/{id}/claims",
            "get /v1/coupons/{id}/claims/me",
            "get /healthz",
            "get /readyz",
            "get /metrics",
            "get /openapi.json",
        ];
        assert_eq!(listed, contract.map(str::to_owned).into());
    }

    #[test]
    fn operators_routes_ask_for_their_token_and_every_reference_resolves() {
        let json = serde_json::to_value(document()).unwrap();
        for (path, method) in [("/v1/coupons", "post"), ("/v1/coupons/{id}", "patch")] {
            assert!(json["paths"][path][method]["security"][0]["ops"].is_array(), "{method} {path}");
        }
        assert_eq!(json["components"]["securitySchemes"]["ops"]["scheme"], "bearer");
        let text = json.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(json.pointer(pointer).is_some(), "{pointer} is referred to and not there");
        }
    }
}
