//! Checks that docker-compose.yml, deploy/kubernetes and the chart's schema are well formed and
//! name only settings that the programs have. helm.rs has the checks with helm and the Kubernetes
//! API schemas.

mod compose;
mod kubernetes;
mod process;
mod schema;
mod settings;

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize as _;
use serde_json::Value;

use crate::helm;
use crate::shell::{Failed, command, read, run};

/// Problems, one per line.
type Problems = Vec<String>;

pub(crate) fn check() -> Result<()> {
    let programs = settings::Programs::read()?;
    let mut problems = schema::check(&programs)?;
    problems.extend(compose::check(&programs)?);
    problems.extend(kubernetes::check(&programs)?);
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        return Err(Failed::check(format!("{} problems", problems.len())));
    }
    helm::check_sums()?;
    if !has_compose() {
        return Ok(());
    }
    let mut compose = command("docker");
    compose.args(["compose", "--env-file", ".env.example", "config", "--quiet"]);
    // The file requires these secrets, which have no default.
    for secret in [
        "OPS_TOKEN",
        "MYSQL_PASSWORD",
        "REDIS_PASSWORD",
        "KAFKA_SIGNING_KEY",
    ] {
        compose.env(secret, "checked-for-form-only");
    }
    run(&mut compose)
}

fn has_compose() -> bool {
    let version = command("docker").args(["compose", "version"]).output();
    version.is_ok_and(|version| version.status.success())
}

/// Writes the names of the settings into the chart's schema. Updates its checksum if the previous
/// version had been checked. The names are checked here, so a new setting needs no helm.
pub(crate) fn write_names() -> Result<()> {
    let programs = settings::Programs::read()?;
    let is_checked = helm::sums()? == read(helm::SUMS)?;
    schema::write(&programs)?;
    if is_checked {
        std::fs::write(helm::SUMS, helm::sums()?)?;
    }
    Ok(())
}

/// Reads the documents of a YAML file.
fn documents(path: &Path) -> Result<Vec<Value>> {
    parse(&read(path)?).with_context(|| format!("{} is no YAML", path.display()))
}

fn parse(text: &str) -> Result<Vec<Value>> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| {
            let mut value = serde_yaml_ng::Value::deserialize(document)?;
            // A merged mapping may itself have merged keys.
            let mut before = serde_yaml_ng::Value::Null;
            while value != before {
                before = value.clone();
                value.apply_merge()?;
            }
            Ok(serde_json::to_value(value)?)
        })
        .filter(|value| !matches!(value, Ok(Value::Null)))
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_anchors_and_merged_keys() {
        let read = parse("a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, z: 3}\n---\nd: 4\n---\n")
            .unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0]["c"], serde_json::json!({"x": 1, "y": 2, "z": 3}));
    }
}
