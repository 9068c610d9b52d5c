//! docs/openapi-api.json and docs/openapi-reconciler.json are what the services serve
//! (`cargo xtask api-docs` puts them in order), and describe every route.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use firstcome_harness::{Http, World};
use reqwest::Method;
use serde_json::{Map, Value};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

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

/// Fails unless a document has exactly the routes of its service. Their paths are those in the
/// sources, and their methods those that the service allows, so that neither is taken from the
/// document.
async fn has_every_route(http: &Http, document: &Value, sources: &str) {
    let mut grep = Command::new("grep");
    // Pages for people are no part of the contract, and one file has routes of its own tests.
    grep.args([
        "--exclude-dir=page",
        "--exclude-dir=tests",
        "--exclude=deadline.rs",
    ]);
    grep.args([
        "-rzohP",
        r#"\.route\(\s*"\K[^"]+"#,
        sources,
        "shared/src/http/health.rs",
    ]);
    let found = String::from_utf8(grep.current_dir(ROOT).output().unwrap().stdout).unwrap();
    let mut routes = BTreeSet::new();
    for path in found.split_terminator('\0') {
        let asked = path.replace(['{', '}'], "");
        let answer = Http::send(http.ops(Method::TRACE, &asked)).await;
        let allowed = answer.headers["allow"].to_str().unwrap().to_lowercase();
        let methods = allowed.split(',').filter(|method| *method != "head");
        routes.extend(methods.map(|method| format!("{method} {path}")));
    }
    let documented = object(&document["paths"])
        .flat_map(|(path, item)| object(item).map(move |(method, _)| format!("{method} {path}")));
    assert_eq!(
        documented.collect::<BTreeSet<_>>(),
        routes,
        "left: documented"
    );
}

async fn matches(http: &Http, name: &str) -> Value {
    let document = http.get("/openapi.json").await.body;
    let file = Path::new(ROOT).join("docs").join(name);
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
async fn documents_have_exactly_the_routes_are_complete_and_share_one_set_of_codes() {
    let world = World::new("openapi").await;
    let (api, daemon) = tokio::join!(world.serve(), world.daemon());
    let (api, daemon) = (api.http(), daemon.http());
    let documents = [
        matches(api, "openapi-api.json").await,
        matches(daemon, "openapi-reconciler.json").await,
    ];
    has_every_route(api, &documents[0], "api/src").await;
    has_every_route(daemon, &documents[1], "reconciler/src").await;
    assert_eq!(documents.each_ref().map(gaps).concat(), [""; 0]);
    let [one, other] = documents.map(|it| it["components"]["schemas"]["Code"]["enum"].clone());
    assert_eq!(one, other);
}
