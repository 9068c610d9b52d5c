//! `docs/API.md` is generated from both services' OpenAPI documents (`cargo xtask api-docs`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use firstcome_testkit::World;
use serde_json::{Map, Value};

const HEAD: &str = "# HTTP routes\n\nFor client developers: every route, parameter and type of both services, generated from their \
                    `/openapi.json` by `cargo xtask api-docs`; a test fails if this page is out of date. Responses with a status of \
                    400 or above have the body `Problem` unless stated otherwise; 429 and 503 have `Retry-After`. Routes under `/v1` \
                    can also return: 503 (all); 400, 401 and 429 (with `ops`); 403 (with `ops`, except `GET`); 413 (with a body). \
                    Shared parameters and statuses are explained once, at the start of each service. A field that may be null may \
                    also be absent. See [OPERATIONS](OPERATIONS.md) for how to use the routes.\n";

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

/// Joins lines, because a list item has one line.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a schema is named after an integer type of Rust, such as `u32`.
fn is_primitive(name: &str) -> bool {
    name.starts_with(['i', 'u']) && name[1..].parse::<u8>().is_ok()
}

/// Describes the values of a schema in words.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|name| name.rsplit('/').next())
    {
        return if is_primitive(name) {
            "integer".to_owned()
        } else {
            format!("`{name}`")
        };
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
            ("string", "date-time") => "date-time".to_owned(),
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
        out.push('\n');
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
        let kind = kind(field);
        // A field that may be null may also be absent.
        let is_marked = required(name) || kind.split([' ', ',']).any(|word| word == "null");
        let optional = if is_marked { "" } else { ", optional" };
        let meaning = format!("- `{name}` ({kind}{optional}): {description}");
        let _ = writeln!(out, "{}", meaning.trim_end_matches(": "));
    }
}

fn type_section(out: &mut String, name: &str, schema: &Value) {
    let _ = write!(out, "\n#### `{name}`\n");
    let description = line(text(schema, "description"));
    if !description.is_empty() {
        let _ = write!(out, "\n{description}\n");
    }
    let variants = list(&schema["oneOf"]);
    for variant in variants {
        if variant["properties"].is_object() {
            let _ = write!(out, "\n{}\n", line(text(variant, "description")));
        }
        fields(out, variant);
    }
    let parts = list(&schema["allOf"]);
    for part in parts.iter().filter(|part| part["$ref"].is_string()) {
        let _ = write!(out, "\nThe fields of {}, and:\n", kind(part));
    }
    for part in parts {
        fields(out, part);
    }
    let is_open = |part: &&Value| part["$ref"].is_null() && part["properties"].is_null();
    for part in parts.iter().filter(is_open) {
        let _ = writeln!(out, "- {}", line(text(part, "description")));
    }
    fields(out, schema);
    if variants.is_empty() && parts.is_empty() && !schema["properties"].is_object() {
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

/// Lines that many operations of a document share. They are listed once, by a short name.
struct Shared(BTreeMap<String, String>);

impl Shared {
    /// A line is shared if at least this many operations have it.
    const MANY: usize = 3;

    /// Keeps the most frequent line of each name, if it occurs often enough.
    fn of(named_lines: impl Iterator<Item = (String, String)>) -> Self {
        let mut counts: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        for (name, line) in named_lines {
            *counts.entry(name).or_default().entry(line).or_default() += 1;
        }
        let most = counts.into_iter().filter_map(|(name, lines)| {
            let (line, count) = lines.into_iter().max_by_key(|(_, count)| *count)?;
            (count >= Self::MANY).then_some((name, line))
        });
        Self(most.collect())
    }

    /// Writes the lines that are not shared, then the names of the shared lines that are not
    /// implied.
    fn rest(&self, out: &mut String, named_lines: &[(String, String)], implied: &[&str]) {
        let is_shared =
            |(name, line): &&(String, String)| self.0.get(name).is_some_and(|own| own == line);
        for (_, line) in named_lines.iter().filter(|one| !is_shared(one)) {
            let _ = writeln!(out, "- {line}");
        }
        let names: Vec<&str> = named_lines
            .iter()
            .filter(is_shared)
            .map(|(name, _)| name.as_str())
            .filter(|name| !implied.contains(name))
            .collect();
        if !names.is_empty() {
            let _ = writeln!(out, "- {}", names.join(", "));
        }
    }

    fn write(&self, out: &mut String, title: &str) {
        if !self.0.is_empty() {
            let _ = write!(out, "\n{title}:\n\n");
        }
        for line in self.0.values() {
            let _ = writeln!(out, "- {line}");
        }
    }
}

fn parameters(operation: &Value) -> Vec<(String, String)> {
    let lines = list(&operation["parameters"]).iter().map(|one| {
        let name = format!("`{}`", text(one, "name"));
        let line = format!(
            "{name} ({}, {}): {}",
            text(one, "in"),
            kind(&one["schema"]),
            line(text(one, "description"))
        );
        (name, line)
    });
    lines.collect()
}

fn answers(operation: &Value) -> Vec<(String, String)> {
    let lines = object(&operation["responses"]).map(|(status, answer)| {
        let mut what = body(&answer["content"]);
        if what == "`Problem`" {
            what.clear();
        }
        let what = format!("{status} {what}");
        let line = format!("{}: {}", what.trim_end(), line(text(answer, "description")));
        (status.clone(), line)
    });
    lines.collect()
}

fn operations(document: &Value) -> impl Iterator<Item = (&String, &String, &Value)> {
    object(&document["paths"])
        .flat_map(|(path, item)| object(item).map(move |(method, of)| (path, method, of)))
}

/// Returns the statuses that [`HEAD`] promises for a route.
fn implied_statuses(path: &str, is_get: bool, operation: &Value) -> Vec<&'static str> {
    let mut statuses = Vec::new();
    if !path.starts_with("/v1/") {
        return statuses;
    }
    statuses.push("503");
    if needs(operation).any(|name| name == "ops") {
        statuses.extend(["400", "401", "429"]);
        statuses.extend((!is_get).then_some("403"));
    }
    statuses.extend(operation["requestBody"].is_object().then_some("413"));
    statuses
}

/// Returns the security schemes of a route.
fn needs(operation: &Value) -> impl Iterator<Item = &String> {
    list(&operation["security"])
        .iter()
        .flat_map(object)
        .map(|(name, _)| name)
}

fn operation(out: &mut String, operation: &Value, shared: [&Shared; 2], implied_statuses: &[&str]) {
    let description = line(text(operation, "description"));
    let sentences = match text(operation, "summary") {
        "" => description,
        summary => format!("{summary}. {description}"),
    };
    if !sentences.is_empty() {
        let _ = writeln!(out, "{}\n", sentences.trim_end());
    }
    let needs: Vec<String> = needs(operation).map(|name| format!("`{name}`")).collect();
    if !needs.is_empty() {
        let _ = writeln!(out, "- Needs {}", needs.join(" or "));
    }
    let [shared_parameters, shared_answers] = shared;
    shared_parameters.rest(out, &parameters(operation), &[]);
    let asked = body(&operation["requestBody"]["content"]);
    if !asked.is_empty() {
        let _ = writeln!(out, "- Body: {asked}");
    }
    shared_answers.rest(out, &answers(operation), implied_statuses);
}

/// Writes a service's section. Types that the other service's document, `before`, also has are not
/// repeated.
fn service(out: &mut String, document: &Value, before: Option<&Value>) {
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
    let shared_parameters = Shared::of(operations(document).flat_map(|(_, _, of)| parameters(of)));
    let shared_answers = Shared::of(operations(document).flat_map(|(_, _, of)| answers(of)));
    shared_parameters.write(out, "Parameters of many routes");
    shared_answers.write(out, "Responses of many routes");
    for (path, method, of) in operations(document) {
        let _ = write!(out, "\n### `{} {path}`\n\n", method.to_uppercase());
        let implied = implied_statuses(path, method == "get", of);
        operation(out, of, [&shared_parameters, &shared_answers], &implied);
    }
    out.push_str("\n### Types\n");
    let is_known = |name: &str, schema: &Value| {
        before.is_some_and(|other| &other["components"]["schemas"][name] == schema)
    };
    let types = object(&document["components"]["schemas"]).filter(|(name, _)| !is_primitive(name));
    let (known, new): (Vec<_>, Vec<_>) = types.partition(|(name, schema)| is_known(name, schema));
    if !known.is_empty() {
        let names: Vec<_> = known.iter().map(|(name, _)| format!("`{name}`")).collect();
        let _ = write!(out, "\nAs above: {}.\n", names.join(", "));
    }
    for (name, schema) in new {
        type_section(out, name, schema);
    }
}

#[tokio::test]
async fn api_md_matches_the_routes_of_both_services() {
    let world = World::new("api-docs").await;
    let (api, daemon) = tokio::join!(world.serve(), world.daemon());
    let mut page = HEAD.to_owned();
    let of_api = api.http().get("/openapi.json").await.body;
    let of_reconciler = daemon.http().get("/openapi.json").await.body;
    service(&mut page, &of_api, None);
    service(&mut page, &of_reconciler, Some(&of_api));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/API.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let stands = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        stands == page,
        "docs/API.md differs from the services' routes: run cargo xtask api-docs"
    );
}

/// Lists the routes and types of a document that have no description.
fn gaps(document: &Value) -> Vec<String> {
    let mut gaps = Vec::new();
    let schemas = &document["components"]["schemas"];
    let codes = list(&schemas["Code"]["enum"]);
    for (path, item) in object(&document["paths"]) {
        for (method, of) in object(item) {
            let mut gap = |what: String| gaps.push(format!("{method} {path}: {what}"));
            let mut statuses = implied_statuses(path, method == "get", of);
            if path.starts_with("/v1/") && needs(of).next().is_some() {
                statuses.extend(["400", "401"]);
            }
            for status in statuses
                .into_iter()
                .filter(|status| of["responses"][*status].is_null())
            {
                gap(format!("{status} is not documented"));
            }
            for (status, answer) in object(&of["responses"]) {
                let words: Vec<&str> = text(answer, "description").split('`').collect();
                let is_code = |word: &str| codes.iter().any(|code| code == word);
                if path.starts_with("/v1/")
                    && status.starts_with(['4', '5'])
                    && !words.get(1).is_some_and(|w| is_code(w))
                {
                    gap(format!("{status} names no code: {words:?}"));
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
                // No service has required query parameters.
                if one["in"] == "query" && one["required"] == true {
                    gap(format!("{} is required", one["name"]));
                }
                if text(one, "description").is_empty() || (of_text && one["example"].is_null()) {
                    gap(format!("{} has no description or example", one["name"]));
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
async fn both_openapi_documents_are_complete_and_share_one_set_of_codes() {
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
