//! docs/openapi-api.json and docs/openapi-reconciler.json are what the services serve
//! (`cargo xtask api-docs` writes them), and describe every route and type.

use std::path::Path;

use firstcome_testkit::{Http, World};
use serde_json::{Map, Value};

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Lists what a client developer needs and the document lacks.
fn gaps(document: &Value) -> Vec<String> {
    let mut gaps = Vec::new();
    let schemas = &document["components"]["schemas"];
    let codes = list(&schemas["Code"]["enum"]);
    let operations = object(&document["paths"])
        .filter(|(path, _)| path.starts_with("/v1/"))
        .flat_map(|(path, item)| object(item).map(move |(method, of)| (path, method, of)));
    for (path, method, of) in operations {
        let mut gap = |what: String| gaps.push(format!("{method} {path}: {what}"));
        for (status, answer) in object(&of["responses"]) {
            let text = answer["description"].as_str().unwrap_or_default();
            let code = text.split('`').nth(1).unwrap_or_default();
            if status.starts_with(['4', '5']) && !codes.contains(&code.into()) {
                gap(format!("{status} names no code"));
            }
            if status == "503" && answer["headers"]["Retry-After"].is_null() {
                gap("503 has no Retry-After".into());
            }
        }
        for one in list(&of["parameters"]) {
            let is_text = one["schema"]["type"] == "string" && one["schema"]["enum"].is_null();
            if one["description"].is_null() || (is_text && one["example"].is_null()) {
                gap(format!("{} has no description or example", one["name"]));
            }
        }
    }
    gaps
}

async fn matches(http: &Http, name: &str) -> Value {
    let document = http.get("/openapi.json").await.body;
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name);
    let mut text = serde_json::to_string_pretty(&document).unwrap();
    text.push('\n');
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let stands = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        stands == text,
        "docs/{name} is out of date: run cargo xtask api-docs"
    );
    document
}

#[tokio::test]
async fn documents_match_the_services_are_complete_and_share_one_set_of_codes() {
    let world = World::new("openapi").await;
    let (api, daemon) = tokio::join!(world.serve(), world.daemon());
    let api = matches(api.http(), "openapi-api.json").await;
    let daemon = matches(daemon.http(), "openapi-reconciler.json").await;
    assert_eq!([gaps(&api), gaps(&daemon)].concat(), [""; 0]);
    let codes = |document: &Value| document["components"]["schemas"]["Code"]["enum"].clone();
    assert!(codes(&api).is_array());
    assert_eq!(codes(&api), codes(&daemon));
}
