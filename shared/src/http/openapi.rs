//! The parts that both services' `/openapi.json` share.

use utoipa::openapi::header::Header;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Required, Response};

// `health` and the routers serve these routes; the functions here only describe them.

/// Whether the process runs
#[utoipa::path(get, path = "/healthz", tag = "service", responses((status = 200, description = "It runs")))]
pub const fn healthz() {}

#[utoipa::path(get, path = "/metrics", tag = "service", responses(
    (status = 200, description = "Metrics in Prometheus's text format", content_type = "text/plain")
))]
pub const fn metrics() {}

#[utoipa::path(get, path = "/openapi.json", tag = "service", responses((status = 200, description = "This document")))]
pub const fn openapi_json() {}

/// Describes a token in `Authorization: Bearer`.
pub fn bearer(description: &str) -> SecurityScheme {
    SecurityScheme::Http(
        HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(description))
            .build(),
    )
}

/// Adds the parts that every route shares, so that handlers need not repeat them: common headers,
/// common error responses, and the error schema.
#[must_use]
pub fn with_problems(mut openapi: OpenApi) -> OpenApi {
    for (_, item) in openapi
        .paths
        .paths
        .iter_mut()
        .filter(|(path, _)| path.starts_with("/v1/"))
    {
        let reads = item.get.as_mut().map(|operation| (operation, false));
        let changes = [&mut item.post, &mut item.patch, &mut item.delete]
            .into_iter()
            .flatten();
        for (operation, changes) in changes.map(|operation| (operation, true)).chain(reads) {
            complete(operation, changes);
        }
    }
    openapi
}

const USER_ID: &str = r"^(?!\.{1,2}$)[A-Za-z0-9._@+|:=/-]{1,128}$";
const NAME: &str = "^(?=.*[!-~])[ -~]{1,100}$";

fn complete(operation: &mut Operation, changes: bool) {
    let security = serde_json::to_string(&operation.security).unwrap_or_default();
    let mut headers = Vec::new();
    let mut refusals = vec![("503", "`unavailable`")];
    if operation.request_body.is_some() {
        refusals.push(("413", "`too_large`"));
    }
    if security.contains("person") {
        headers.push((
            "X-User-Id",
            "The user, with USER_AUTH=trusted-header",
            "u-37",
            USER_ID,
        ));
        refusals.push(("400", "`bad_user_id`, or `invalid`"));
        refusals.push(("401", "`unauthorized`"));
    }
    if security.contains("ops") {
        refusals.push(("400", "`invalid`: the message says what is wrong"));
        refusals.push(("401", "`unauthorized`"));
        if changes {
            headers.push((
                "X-Operator",
                "Your name, recorded in `ops_actions`",
                "Kim",
                NAME,
            ));
            refusals.push(("403", "`read_only`: with the OPS_VIEW_TOKEN"));
        }
    }
    let header = |(name, meaning, example, pattern): (&str, &str, &str, &str)| {
        let header = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False);
        let header = header
            .description(Some(meaning))
            .example(Some(example.into()));
        header
            .schema(Some(
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .pattern(Some(pattern)),
            ))
            .build()
    };
    operation
        .parameters
        .get_or_insert_default()
        .extend(headers.into_iter().map(header));
    let responses = &mut operation.responses.responses;
    for (status, meaning) in refusals {
        responses
            .entry(status.to_owned())
            .or_insert_with(|| Response::new(meaning).into());
    }
    for (status, response) in responses {
        if let RefOr::T(response) = response
            && status.starts_with(['4', '5'])
        {
            let problem = Content::new(Some(Ref::from_schema_name("Problem")));
            response
                .content
                .insert("application/problem+json".to_owned(), problem);
            if status == "503" {
                let mut seconds = Header::new(Object::with_type(Type::Integer));
                seconds.description = Some("After how many seconds to try again".to_owned());
                response.headers.insert("Retry-After".to_owned(), seconds);
            }
        }
    }
}
