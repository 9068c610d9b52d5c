//! The document of the reconciler's API: what the handlers and types do not say.

use firstcome_shared::http::health::Readiness;
use firstcome_shared::http::{Problem, openapi};

/// The document without the operations, which the router adds.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Firstcome reconciler",
        description = "Passes, alerts and the history of users, for operators. Errors are \
            `application/problem+json` (RFC 9457) with a stable `code`. A path answers a \
            method that it does not have with 405 `method_not_allowed`."
    ),
    tags(
        (name = "overview", description = "The state of the installation"),
        (name = "runs", description = "Passes and what they found"),
        (name = "alerts", description = "Problems that need an operator"),
        (name = "coupons", description = "Coupons and drops, with their counts"),
        (name = "failed claims", description = "Claims that did not become a row"),
        (name = "people", description = "The history of one user"),
        (name = "service", description = "For operating the process")
    ),
    components(schemas(Problem)),
    paths(openapi::healthz, readyz, openapi::metrics, openapi::openapi_json)
)]
pub(super) struct Description;

/// Whether passes can run
#[allow(dead_code)] // served by the code that all services share; this only describes it
#[utoipa::path(
    get, path = "/readyz", tag = "service",
    responses(
        (status = 200, description = "MySQL and Redis answer", body = Readiness),
        (status = 503, description = "One does not; the body says which", body = Readiness)
    )
)]
const fn readyz() {}
