//! The parts of `/openapi.json` that are not generated from the handlers.

use firstcome_shared::http::Problem;
use firstcome_shared::http::openapi::{self, bearer};
use utoipa::Modify;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa::openapi::{Components, OpenApi};

/// The document without the routes, which the router adds.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Firstcome API",
        description = "Gives out a limited number of coupons, first come, first served. Errors are \
            `application/problem+json` (RFC 9457) with a stable `code` and a human-readable message. A request that \
            is rejected (4xx) changes nothing. After a 503, a change may already have been applied, so repeat the \
            request. When creating a coupon, repeat it with the same `Idempotency-Key`."
    ),
    tags(
        (name = "claims", description = "For users"),
        (name = "coupons", description = "For everybody"),
        (name = "operators", description = "With the OPS_TOKEN"),
        (name = "service", description = "For the people who run the process")
    ),
    components(schemas(Problem)),
    paths(openapi::healthz, readyz, openapi::metrics, openapi::openapi_json),
    modifiers(&SecuritySchemes)
)]
pub(super) struct Description;

struct SecuritySchemes;

impl Modify for SecuritySchemes {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_with(Components::new);
        components.add_security_scheme("ops", bearer("The OPS_TOKEN"));
        let person = "With USER_AUTH=jwt, a token whose `sub` (or JWT_USER_CLAIM) is the user. With \
            USER_AUTH=trusted-header the gateway in front sets `X-User-Id` instead, and nobody else can.";
        components.add_security_scheme("person", bearer(person));
    }
}

/// Adapts the document for tokens: removes the gateway's header, which is ignored in this case.
pub(super) fn with_tokens(mut document: OpenApi) -> OpenApi {
    for item in document.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.post,
            &mut item.patch,
            &mut item.delete,
        ];
        for operation in operations.into_iter().flatten() {
            if let Some(parameters) = &mut operation.parameters {
                parameters.retain(|one| one.name != "X-User-Id");
            }
        }
    }
    document
}

/// Adapts the document for a gateway: users are identified by its header instead of a token.
pub(super) fn with_gateway(mut document: OpenApi) -> OpenApi {
    let components = document.components.get_or_insert_with(Components::new);
    let header = ApiKeyValue::with_description("X-User-Id", "The user, as named by the gateway");
    components.add_security_scheme("person", SecurityScheme::ApiKey(ApiKey::Header(header)));
    document
}

/// Whether this process admits claims
#[allow(dead_code)] // served by the code that all services share; this only describes it
#[utoipa::path(get, path = "/readyz", tag = "service", responses(
    (status = 200, description = "Redis answers and admission is open; `notes` names other stores that are unavailable"),
    (status = 503, description = "Admission is closed; the body says why")
))]
const fn readyz() {}
