//! `docs/API.md` is made from what the two services say of their routes (`cargo xtask api-docs`).

use std::fmt::Write as _;
use std::path::Path;

use firstcome_testkit::World;
use serde_json::{Map, Value};

const HEAD: &str = "# HTTP routes\n\nMade by `cargo xtask api-docs` from `/openapi.json` of both services; a test compares it. How to work with them is in \
                    [OPERATIONS](OPERATIONS.md).\n";

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    value.as_object().unwrap_or(&NONE).iter()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// One line, as a cell of a table needs it.
fn line(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

/// What a schema takes, in words.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|name| name.rsplit('/').next())
    {
        return format!("`{name}`");
    }
    let variants = ["oneOf", "anyOf", "allOf"]
        .iter()
        .flat_map(|of| list(&schema[*of]));
    let variants: Vec<String> = variants.map(kind).collect();
    if !variants.is_empty() {
        return variants.join(" or ");
    }
    if !list(&schema["enum"]).is_empty() {
        return list(&schema["enum"])
            .iter()
            .map(|value| format!("`{value}`"))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let names = match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        name => vec![name.as_str().unwrap_or("any")],
    };
    let mut words = Vec::new();
    for name in names {
        words.push(match (name, text(schema, "format")) {
            ("array", _) => format!("list of {}", kind(&schema["items"])),
            ("string", "date-time") => "instant".to_owned(),
            ("string", "date") => "date".to_owned(),
            (name, _) => name.to_owned(),
        });
    }
    let bounds = match (
        &schema["minimum"],
        schema["maximum"].as_i64().or(schema["maxLength"].as_i64()),
    ) {
        (Value::Number(least), Some(most)) => format!(", {least} to {most}"),
        (_, Some(most)) => format!(", at most {most}"),
        _ => String::new(),
    };
    words.join(" or ") + &bounds
}

fn fields(out: &mut String, schema: &Value) {
    let required = |name: &str| list(&schema["required"]).iter().any(|one| one == name);
    if schema["properties"].is_object() {
        out.push_str("\n| Field | Type | Meaning |\n|---|---|---|\n");
    }
    for (name, field) in object(&schema["properties"]) {
        let description = std::iter::once(field)
            .chain(list(&field["oneOf"]))
            .map(|of| text(of, "description"));
        let description = line(
            description
                .into_iter()
                .find(|text| !text.is_empty())
                .unwrap_or_default(),
        );
        let optional = if required(name) { "" } else { " (optional)" };
        let _ = writeln!(
            out,
            "| `{name}`{optional} | {} | {description} |",
            kind(field)
        );
    }
}

fn type_section(out: &mut String, name: &str, schema: &Value) {
    let _ = write!(
        out,
        "\n#### `{name}`\n\n{}\n",
        line(text(schema, "description"))
    );
    let variants = list(&schema["oneOf"]);
    for variant in variants {
        if variant["properties"].is_object() {
            let _ = write!(out, "\n{}\n", line(text(variant, "description")));
        }
        fields(out, variant);
    }
    fields(out, schema);
    if variants.is_empty() && !schema["properties"].is_object() {
        let _ = write!(out, "\nType: {}\n", kind(schema));
    }
}

fn body(content: &Value) -> String {
    let types = object(content).map(|(media, of)| match media.as_str() {
        "application/json" | "application/problem+json" => kind(&of["schema"]),
        other => format!("`{other}`"),
    });
    types.collect::<Vec<_>>().join(" or ")
}

fn operation(out: &mut String, method: &str, path: &str, operation: &Value) {
    let _ = write!(out, "\n### `{} {path}`\n\n", method.to_uppercase());
    let description = line(text(operation, "description")).replace("\\|", "|");
    let sentences = match text(operation, "summary") {
        "" => description,
        summary => format!("{summary}. {description}"),
    };
    if !sentences.is_empty() {
        let _ = writeln!(out, "{}", sentences.trim_end());
    }
    let needs = list(&operation["security"])
        .iter()
        .flat_map(object)
        .map(|(name, _)| format!("`{name}`"));
    let needs: Vec<String> = needs.collect();
    if !needs.is_empty() {
        let _ = write!(out, "\nNeeds: {}.\n", needs.join(" or "));
    }
    let parameters = list(&operation["parameters"]);
    if !parameters.is_empty() {
        out.push_str("\n| Parameter | In | Type | Meaning |\n|---|---|---|---|\n");
    }
    for one in parameters {
        let (name, place, meaning) = (
            text(one, "name"),
            text(one, "in"),
            line(text(one, "description")),
        );
        let _ = writeln!(
            out,
            "| `{name}` | {place} | {} | {meaning} |",
            kind(&one["schema"])
        );
    }
    let asked = body(&operation["requestBody"]["content"]);
    if !asked.is_empty() {
        let _ = write!(out, "\nBody: {asked}.\n");
    }
    out.push_str("\n| Answer | Body | Meaning |\n|---|---|---|\n");
    for (status, answer) in object(&operation["responses"]) {
        let _ = writeln!(
            out,
            "| {status} | {} | {} |",
            body(&answer["content"]),
            line(text(answer, "description"))
        );
    }
}

fn service(out: &mut String, document: &Value) {
    let info = &document["info"];
    let _ = write!(
        out,
        "\n## {}\n\n{}\n",
        text(info, "title"),
        line(text(info, "description"))
    );
    let schemes = &document["components"]["securitySchemes"];
    for (name, scheme) in object(schemes) {
        let place = match text(scheme, "type") {
            "http" => "`Authorization: Bearer`".to_owned(),
            _ => format!("`{}`", text(scheme, "name")),
        };
        let _ = write!(
            out,
            "\n- `{name}`: {place}. {}",
            line(text(scheme, "description"))
        );
    }
    out.push('\n');
    for (path, item) in object(&document["paths"]) {
        for (method, of) in object(item) {
            operation(out, method, path, of);
        }
    }
    out.push_str("\n### Types\n");
    for (name, schema) in object(&document["components"]["schemas"]) {
        type_section(out, name, schema);
    }
}

#[tokio::test]
async fn the_page_of_routes_is_what_the_services_say() {
    let world = World::new("api-docs").await;
    let (api, daemon) = tokio::join!(world.serve(), world.daemon());
    let mut page = HEAD.to_owned();
    for http in [api.http(), daemon.http()] {
        service(&mut page, &http.get("/openapi.json").await.body);
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/API.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let stands = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        stands == page,
        "docs/API.md is not what the services say of their routes: cargo xtask api-docs"
    );
}

/// What a document leaves unsaid of its routes and types.
fn gaps(document: &Value) -> Vec<String> {
    let mut gaps = Vec::new();
    let schemas = &document["components"]["schemas"];
    let codes = list(&schemas["Code"]["enum"]);
    for (path, item) in object(&document["paths"]) {
        for (method, of) in object(item) {
            let mut gap = |what: String| gaps.push(format!("{method} {path}: {what}"));
            let needs: Vec<&String> = list(&of["security"])
                .iter()
                .flat_map(object)
                .map(|(name, _)| name)
                .collect();
            let mut statuses = Vec::new();
            if path.starts_with("/v1/") {
                statuses.push("503");
                statuses.extend(if needs.is_empty() {
                    &[][..]
                } else {
                    &["400", "401"]
                });
                statuses.extend(of["requestBody"].is_object().then_some("413"));
                statuses.extend(
                    (needs.iter().any(|name| *name == "ops") && method != "get").then_some("403"),
                );
            }
            for status in statuses
                .into_iter()
                .filter(|status| of["responses"][*status].is_null())
            {
                gap(format!("{status} is not there"));
            }
            for (status, answer) in object(&of["responses"]) {
                let words: Vec<&str> = text(answer, "description").split('`').collect();
                let is_code = |word: &str| codes.iter().any(|code| code == word);
                if path.starts_with("/v1/")
                    && status.starts_with(['4', '5'])
                    && !words.get(1).is_some_and(|w| is_code(w))
                {
                    gap(format!("{status} says no code: {words:?}"));
                }
                if status == "503"
                    && path.starts_with("/v1/")
                    && answer["headers"]["Retry-After"].is_null()
                {
                    gap("503 has no Retry-After".into());
                }
            }
            for one in list(&of["parameters"]) {
                let of_text = one["schema"]["type"] == "string" && one["schema"]["enum"].is_null();
                // No service asks for one.
                if one["in"] == "query" && one["required"] == true {
                    gap(format!("{} is required", one["name"]));
                }
                if text(one, "description").is_empty() || (of_text && one["example"].is_null()) {
                    gap(format!("{} has no meaning or example", one["name"]));
                }
            }
        }
    }
    for (name, schema) in object(schemas) {
        for part in std::iter::once(schema)
            .chain(list(&schema["oneOf"]))
            .chain(list(&schema["allOf"]))
        {
            for (field, of) in object(&part["properties"]) {
                let types = match &of["type"] {
                    Value::Array(types) => types.clone(),
                    one => vec![one.clone()],
                };
                let says =
                    !of["example"].is_null() || !of["enum"].is_null() || !of["format"].is_null();
                if types.iter().any(|one| one == "string") && !says {
                    gaps.push(format!("{name}.{field} has no example"));
                }
            }
        }
    }
    gaps
}

#[tokio::test]
async fn the_documents_of_both_services_are_complete_and_share_one_vocabulary_of_codes() {
    let world = World::new("api-docs-complete").await;
    let (api, daemon) = tokio::join!(world.serve(), world.daemon());
    let documents =
        [api.http(), daemon.http()].map(async |http| http.get("/openapi.json").await.body);
    let [api, daemon] = futures_util::future::join_all(documents)
        .await
        .try_into()
        .unwrap();
    assert_eq!(gaps(&api), [""; 0]);
    assert_eq!(gaps(&daemon), [""; 0]);
    let codes = |document: &Value| document["components"]["schemas"]["Code"]["enum"].clone();
    assert!(codes(&api).is_array());
    assert_eq!(codes(&api), codes(&daemon));
}
