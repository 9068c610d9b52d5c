//! docs/openapi-api.json and docs/openapi-reconciler.json are what the services serve
//! (`cargo xtask api-docs` writes them), and describe every route.

use std::path::Path;

use firstcome_harness::{Http, World};
use serde_json::{Map, Value};

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// Lists what a client developer needs and the document lacks.
fn gaps(document: &Value) -> Vec<String> {
    let mut gaps = Vec::new();
    let codes = document["components"]["schemas"]["Code"]["enum"].as_array();
    let codes = codes.expect("a list of codes");
    let routes = object(&document["paths"]).filter(|(path, _)| path.starts_with("/v1/"));
    for (path, method, of) in
        routes.flat_map(|(path, item)| object(item).map(move |(m, of)| (path, m, of)))
    {
        for (status, answer) in object(&of["responses"]) {
            let text = answer["description"].as_str().unwrap_or_default();
            let code = text.split('`').nth(1).unwrap_or_default();
            let is_problem = status.starts_with(['4', '5']);
            let is_named = !is_problem || codes.contains(&code.into());
            let can_wait = status != "503" || !answer["headers"]["Retry-After"].is_null();
            if !is_named || !can_wait {
                gaps.push(format!(
                    "{method} {path}: {status} has no code or Retry-After"
                ));
            }
        }
        for one in of["parameters"].as_array().into_iter().flatten() {
            let is_text = one["schema"]["type"] == "string" && one["schema"]["enum"].is_null();
            if one["description"].is_null() || (is_text && one["example"].is_null()) {
                gaps.push(format!("{method} {path}: {} is not described", one["name"]));
            }
        }
    }
    gaps
}

async fn matches(http: &Http, name: &str) -> Value {
    let document = http.get("/openapi.json").await.body;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let file = docs.join(name);
    let mut text = serde_json::to_string_pretty(&document).unwrap();
    text.push('\n');
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let stands = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(stands == text, "docs/{name}: run cargo xtask api-docs");
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
    assert_eq!(codes(&api), codes(&daemon));
}
