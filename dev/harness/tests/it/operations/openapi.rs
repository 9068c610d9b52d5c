//! `/openapi.json` of both services describes every route, and names a code for every error.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Map;

use crate::prelude::*;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// Lists what a client developer needs and the document lacks.
fn gaps(document: &Value) -> Vec<String> {
    let mut gaps = Vec::new();
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap_or_default();
        if document.pointer(pointer).is_none() {
            gaps.push(format!("{pointer} is not in the document"));
        }
    }
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

/// Fails unless a document has every route of its service with every method. The paths come from
/// the router's calls in the sources, in addition to those that the document is generated from. The
/// methods are those that the service allows.
async fn has_every_route(http: &Http, document: &Value, sources: &str) {
    let mut grep = Command::new("grep");
    // HTML pages are not part of the contract, and one file has routes for its own tests.
    grep.args([
        "--exclude-dir=page",
        "--exclude-dir=tests",
        // The attached daemon has other routes, and no document.
        "--exclude-dir=attach",
        "--exclude=deadline.rs",
    ]);
    grep.args([
        "-rzohP",
        r#"\.route\(\s*"\K[^"]+"#,
        sources,
        "shared/src/http/health.rs",
    ]);
    let found = String::from_utf8(grep.current_dir(ROOT).output().unwrap().stdout).unwrap();
    let documented = object(&document["paths"]);
    let mut paths: BTreeSet<&str> = documented.map(|(path, _)| path.as_str()).collect();
    paths.extend(found.split_terminator('\0'));
    for path in paths {
        let asked = path.replace(['{', '}'], "");
        let answer = Http::send(http.ops(Method::TRACE, &asked)).await;
        let Some(allowed) = answer.headers.get("allow") else {
            panic!(
                "{path}: TRACE was answered {}: {}",
                answer.status, answer.body
            );
        };
        let allowed = allowed.to_str().unwrap().to_lowercase();
        let allowed: BTreeSet<&str> = allowed
            .split(',')
            .filter(|method| *method != "head")
            .collect();
        let documented = object(&document["paths"][path]);
        let documented: BTreeSet<&str> = documented.map(|(method, _)| method.as_str()).collect();
        assert_eq!(documented, allowed, "{path}, left: documented");
    }
}

#[tokio::test]
async fn documents_have_every_route_and_share_one_set_of_codes() {
    let world = World::new("openapi").await;
    let (api, daemon) = tokio::join!(world.serve(), world.daemon());
    let (api, daemon) = (api.http(), daemon.http());
    let documents = [
        api.get("/openapi.json").await.body,
        daemon.get("/openapi.json").await.body,
    ];
    has_every_route(api, &documents[0], "api/src").await;
    has_every_route(daemon, &documents[1], "reconciler/src").await;
    assert_eq!(documents.each_ref().map(gaps).concat(), [""; 0]);
    for document in &documents {
        assert_eq!(document["openapi"], "3.1.0");
    }
    let [one, other] = documents
        .each_ref()
        .map(|document| &document["components"]["schemas"]["Code"]["enum"]);
    assert_eq!(one, other);
    let text = documents.each_ref().map(Value::to_string).concat();
    let mut codes = one.as_array().unwrap().iter().filter_map(Value::as_str);
    let unexplained = codes.find(|code| !text.contains(&format!("`{code}`")));
    assert_eq!(unexplained, None, "no answer says when it has this code");
}
