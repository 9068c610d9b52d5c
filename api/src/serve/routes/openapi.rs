//! `/openapi.json` is made from the handlers. Here is what no handler says.

use firstcome_shared::http::Problem;
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
        (name = "service", description = "For the people who run the process")
    ),
    components(schemas(Problem)),
    paths(healthz, readyz, metrics, openapi_json),
    modifiers(&Security)
)]
pub(super) struct Description;

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
    (status = 200, description = "Redis answers and admission is open; `notes` says which other store is away. Up to a \
        fifth of a second old"),
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
