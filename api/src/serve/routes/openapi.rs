//! The parts of `/openapi.json` that are not generated from the handlers.

use firstcome_shared::http::Problem;
use firstcome_shared::http::openapi::{self, bearer, with_problems};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, OpenApi, Response};

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
    paths(openapi::healthz, readyz, openapi::metrics, openapi::openapi_json)
)]
pub(super) struct Description;

/// Adds what all routes of a kind share.
pub(super) fn completed(mut document: OpenApi, wants_token: bool) -> OpenApi {
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme("ops", bearer("The OPS_TOKEN"));
    let person = if wants_token {
        bearer("A token whose `sub` (or JWT_USER_CLAIM) is the user")
    } else {
        let header = "The user, as named by the gateway. Nobody else can set this header";
        let header = ApiKeyValue::with_description("X-User-Id", header);
        SecurityScheme::ApiKey(ApiKey::Header(header))
    };
    components.add_security_scheme("person", person);
    for (path, item) in &mut document.paths.paths {
        let operations = [
            &mut item.get,
            &mut item.post,
            &mut item.patch,
            &mut item.delete,
        ];
        for operation in operations.into_iter().flatten() {
            let schemes = operation.tags.iter().flatten();
            let mut schemes = schemes.filter_map(|tag| match tag.as_str() {
                "operators" => Some("ops"),
                "claims" => Some("person"),
                _ => None,
            });
            let scheme = schemes.next();
            operation.security =
                scheme.map(|scheme| vec![SecurityRequirement::new(scheme, Vec::<String>::new())]);
            if path.contains("{id}") {
                let responses = &mut operation.responses.responses;
                let not_found = || Response::new("`not_found`").into();
                responses.entry("404".to_owned()).or_insert_with(not_found);
            }
        }
    }
    with_problems(document)
}

/// Whether this process admits claims
#[allow(dead_code)] // served by the code that all services share; this only describes it
#[utoipa::path(get, path = "/readyz", tag = "service", responses(
    (status = 200, description = "Redis answers and admission is open; `notes` names other stores that are unavailable"),
    (status = 503, description = "Admission is closed; the body says why")
))]
const fn readyz() {}
