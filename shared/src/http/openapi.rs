//! `/openapi.json`, which is generated from the handlers and the types (utoipa). This module adds
//! the parts that all operations of a kind share.

use utoipa::PartialSchema as _;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{Object, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Required, Response};

use crate::domain::UserId;

// `health` and the routers serve these routes; the functions here only describe them.

/// Whether the process runs
#[utoipa::path(
    get, path = "/healthz", tag = "service",
    responses((status = 200, description = "It runs", body = super::health::Health))
)]
pub const fn healthz() {}

#[utoipa::path(
    get, path = "/metrics", tag = "service",
    responses((
        status = 200, description = "Metrics in Prometheus's text format",
        content_type = "text/plain"
    ))
)]
pub const fn metrics() {}

#[utoipa::path(
    get, path = "/openapi.json", tag = "service",
    responses((status = 200, description = "This document"))
)]
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

/// Adds the tokens by name. For operations under /v1/, also adds the headers and error responses
/// that operations with the same tokens share, and gives each error response the schema of errors.
#[must_use]
pub fn completed(mut document: OpenApi, tokens: &[(&str, SecurityScheme)]) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        if !path.starts_with("/v1/") {
            continue;
        }
        let has_id = path.contains("{id}");
        if let Some(operation) = &mut item.get {
            complete(operation, has_id, false);
        }
        let changes = [
            &mut item.post,
            &mut item.put,
            &mut item.patch,
            &mut item.delete,
        ];
        for operation in changes.into_iter().flatten() {
            complete(operation, has_id, true);
        }
    }
    let components = document.components.get_or_insert_default();
    for (name, scheme) in tokens {
        components.add_security_scheme(*name, scheme.clone());
    }
    components.schemas.values_mut().for_each(open);
    document
}

fn complete(operation: &mut Operation, has_id: bool, changes: bool) {
    let is_for = |scheme| {
        let required = SecurityRequirement::new(scheme, Vec::<String>::new());
        operation
            .security
            .iter()
            .flatten()
            .any(|it| *it == required)
    };
    let is_for_users = is_for("person");
    let is_for_operators = is_for("ops");
    let is_for_shops = is_for("redeem");
    let has_body = operation.request_body.is_some();
    let all = [
        (true, "500", "`internal`: the log has the reason"),
        (true, "503", "`unavailable`"),
        (has_id, "404", "`not_found`"),
        (has_body, "413", "`too_large`"),
        (
            has_body,
            "415",
            "`unsupported_encoding`: send the body without compression",
        ),
        (is_for_users, "400", "`bad_user_id`, or `invalid`"),
        (
            is_for_operators || is_for_shops,
            "400",
            "`invalid`: the message says what is wrong",
        ),
        (
            is_for_users || is_for_operators || is_for_shops,
            "401",
            "`unauthorized`",
        ),
        (
            is_for_operators && changes,
            "403",
            "`read_only`: with the OPS_VIEW_TOKEN",
        ),
    ];
    let responses = &mut operation.responses.responses;
    for (_, status, meaning) in all.iter().filter(|(applies, ..)| *applies) {
        responses
            .entry((*status).to_owned())
            .or_insert_with(|| Response::new(*meaning).into());
    }
    for (status, response) in responses {
        if let RefOr::T(response) = response
            && status.starts_with(['4', '5'])
        {
            as_problem(response, status);
        }
    }
    let added = if is_for_users {
        Some(user_header())
    } else if is_for_shops {
        Some(name_header("Your name, recorded with the use", "shop-eu"))
    } else if is_for_operators && changes {
        Some(name_header("Your name, recorded in `ops_actions`", "Kim"))
    } else {
        None
    };
    let parameters = operation.parameters.get_or_insert_default();
    parameters.extend(added.map(RefOr::T));
}

/// Gives an error response the schema of errors, and a 503 its `Retry-After`.
fn as_problem(response: &mut Response, status: &str) {
    let problem = Content::new(Some(Ref::from_schema_name("Problem")));
    let media_type = "application/problem+json".to_owned();
    response.content.insert(media_type, problem.into());
    if status == "503" {
        let mut seconds = Header::new(Object::with_type(Type::Integer));
        seconds.description = Some("After how many seconds to try again".to_owned());
        let name = "Retry-After".to_owned();
        response.headers.insert(name, seconds.into());
    }
}

fn user_header() -> Parameter {
    let meaning = "The user, with USER_AUTH=trusted-header";
    header("X-User-Id", meaning, "u-37", UserId::schema())
}

fn name_header(meaning: &str, example: &str) -> Parameter {
    let printable = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("^(?=.*[!-~])[ -~]{1,100}$"));
    header("X-Operator", meaning, example, printable.into())
}

fn header(name: &str, meaning: &str, example: &str, schema: RefOr<Schema>) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(meaning))
        .example(Some(example.into()))
        .schema(Some(schema))
        .build()
}

/// Lets an object have further fields. The body of a new coupon accepts no unknown fields, and as a
/// part of a response it would refuse the response's other fields.
fn open(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) => object.additional_properties = None,
        RefOr::T(Schema::AllOf(parts)) => parts.items.iter_mut().for_each(open),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};
    use serde_json::{Value, json};
    use utoipa::{OpenApi as _, ToSchema};

    use super::*;
    use crate::http::Problem;

    #[derive(Serialize, Deserialize, ToSchema)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        name: String,
        #[serde(default)]
        paused: bool,
        allow: Option<String>,
    }

    #[derive(Serialize, ToSchema)]
    struct View {
        id: u32,
        #[serde(flatten)]
        settings: Settings,
    }

    #[utoipa::path(
        patch, path = "/v1/things/{id}", request_body = Settings, security(("ops" = [])),
        responses((status = 200, body = View), (status = 409, description = "`paused`"))
    )]
    #[allow(dead_code)] // described, never served
    fn change() {}

    #[utoipa::path(get, path = "/v1/things", responses((status = 200, body = Vec<View>)))]
    #[allow(dead_code)] // described, never served
    fn list() {}

    #[derive(utoipa::OpenApi)]
    #[openapi(paths(change, list), components(schemas(Problem)))]
    struct Things;

    fn document() -> Value {
        serde_json::to_value(completed(Things::openapi(), &[])).unwrap()
    }

    #[test]
    fn body_that_is_a_part_of_a_response_refuses_none_of_its_other_fields() {
        let schemas = &document()["components"]["schemas"];
        assert_eq!(schemas["Settings"]["required"], json!(["name"]));
        assert!(schemas["Settings"]["additionalProperties"].is_null());
        let [settings, own] = &schemas["View"]["allOf"].as_array().unwrap()[..] else {
            panic!("{schemas}");
        };
        assert_eq!(settings["$ref"], "#/components/schemas/Settings");
        assert_eq!(own["required"], json!(["id"]));
    }

    #[test]
    fn operation_lists_the_errors_that_its_token_path_and_body_can_cause() {
        let document = document();
        let change = &document["paths"]["/v1/things/{id}"]["patch"];
        let statuses: Vec<&String> = change["responses"].as_object().unwrap().keys().collect();
        let expected = [
            "200", "400", "401", "403", "404", "409", "413", "415", "500", "503",
        ];
        assert_eq!(statuses, expected);
        let own = &change["responses"]["409"];
        assert_eq!(own["description"], "`paused`");
        let schema = &own["content"]["application/problem+json"]["schema"]["$ref"];
        assert_eq!(schema, "#/components/schemas/Problem");
        assert!(change["responses"]["503"]["headers"]["Retry-After"].is_object());
        assert_eq!(change["parameters"][0]["name"], "X-Operator");
        let list = &document["paths"]["/v1/things"]["get"]["responses"];
        let statuses: Vec<&String> = list.as_object().unwrap().keys().collect();
        assert_eq!(statuses, ["200", "500", "503"], "it needs no token");
    }
}
