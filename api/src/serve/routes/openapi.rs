//! The document of the API: what the handlers and types do not say.

use firstcome_shared::http::health::Readiness;
use firstcome_shared::http::{Problem, openapi};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};

/// The document without the operations, which the router adds.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Firstcome API",
        description = "Gives out a limited number of coupons, first come, first served. Errors \
            are `application/problem+json` (RFC 9457) with a stable `code` and a human-readable \
            message. A request that is rejected (4xx) changes nothing. After a 503, a change may \
            already have been applied, so repeat the request. When creating a coupon, repeat it \
            with the same `Idempotency-Key`. A path answers a method that it does not have with 405 \
            `method_not_allowed`."
    ),
    tags(
        (name = "claims", description = "For users"),
        (name = "codes", description = "For shops with the REDEEM_TOKEN, and for operators"),
        (name = "coupons", description = "For everybody"),
        (name = "operators", description = "With the OPS_TOKEN"),
        (name = "service", description = "For the people who run the process")
    ),
    components(schemas(Problem)),
    paths(openapi::healthz, readyz, openapi::metrics, openapi::openapi_json)
)]
pub(super) struct ApiDescription;

/// Returns the tokens of users, shops and operators, by name.
pub(super) fn tokens() -> [(&'static str, SecurityScheme); 4] {
    let header = "The user, with USER_AUTH=trusted-header: the gateway sets this header, and \
        nobody else can";
    let header = ApiKeyValue::with_description("X-User-Id", header);
    let token = "The user, with USER_AUTH=jwt: the issuer's token, whose claim `sub` names the \
        user. The header X-User-Id is ignored then";
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some(token))
        .build();
    [
        (
            "ops",
            openapi::bearer("The OPS_TOKEN; for GET also the OPS_VIEW_TOKEN"),
        ),
        ("redeem", openapi::bearer("The REDEEM_TOKEN")),
        ("person", SecurityScheme::ApiKey(ApiKey::Header(header))),
        ("user_token", SecurityScheme::Http(token)),
    ]
}

/// Whether this process admits claims
#[allow(dead_code)] // served by the code that all services share; this only describes it
#[utoipa::path(
    get, path = "/readyz", tag = "service",
    responses(
        (
            status = 200, body = Readiness,
            description = "Redis answers and admission is open, if only to some coupons; `notes` \
                names what is unavailable"
        ),
        (
            status = 503, body = Readiness,
            description = "Admission is closed; the body says why"
        )
    )
)]
const fn readyz() {}
