//! Checks that docker-compose.yml is well formed, and that the chart's schema names exactly the
//! settings that the programs have: the schema refuses unknown settings, and secrets among the
//! settings. helm.rs has the checks with helm and the Kubernetes API schemas.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use regex_lite::Regex;
use serde_yaml_ng::Value;

use crate::shell::{Failed, command, files, read, run};

const SCHEMA: &str = "deploy/helm/firstcome/values.schema.json";

/// The address that a command listens on, which several commands cannot share.
const LISTEN: &str = "LISTEN_ADDR";

const API: &[&str] = &["api/src/serve"];
const CONSUMER: &[&str] = &["api/src/consume"];
const MIGRATE: &[&str] = &["api/src/migrate"];
const RECONCILER: &[&str] = &["reconciler/src", "notifier/src"];

/// The parts of the chart's settings, each with the folders of the commands that read it.
const PARTS: [(&str, &[&[&str]]); 6] = [
    ("everywhere", &[API, CONSUMER, MIGRATE, RECONCILER]),
    ("apiAndReconciler", &[API, RECONCILER]),
    ("api", &[API]),
    ("consumer", &[CONSUMER]),
    ("migrate", &[MIGRATE]),
    ("reconciler", &[RECONCILER]),
];

pub(crate) fn check() -> Result<()> {
    let text = read(SCHEMA)?;
    if with_names(&text)? != text {
        return Err(Failed::check(format!(
            "{SCHEMA}: the programs have other settings; run cargo xtask setting-names"
        )));
    }
    let compose = command("docker").args(["compose", "version"]).output();
    if !compose.is_ok_and(|version| version.status.success()) {
        eprintln!("[lint] docker-compose.yml: UNCHECKED, since there is no docker compose");
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

/// Writes the names of the settings into the chart's schema.
pub(crate) fn write_names() -> Result<()> {
    let written = with_names(&read(SCHEMA)?)?;
    std::fs::write(SCHEMA, written).with_context(|| format!("cannot write {SCHEMA}"))
}

/// Returns the schema with the names of the programs' settings. It is parsed as YAML, which keeps
/// the order.
fn with_names(text: &str) -> Result<String> {
    let mut schema: Value = serde_yaml_ng::from_str(text)?;
    let shared = source(&["shared/src"])?;
    let mut secret = BTreeSet::new();
    let mut parts = Vec::new();
    for (part, commands) in PARTS {
        let mut names: Option<BTreeSet<String>> = None;
        for folders in commands {
            let own = settings(&source(folders)?, &shared)?;
            secret.extend(own.secret);
            names = Some(match names {
                None => own.all,
                Some(names) => names.intersection(&own.all).cloned().collect(),
            });
        }
        let mut names = names.unwrap_or_default();
        if commands.len() > 1 {
            names.remove(LISTEN);
        }
        parts.push((part, names));
    }
    for (part, names) in parts {
        let (secrets, names): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| secret.contains(name));
        for (kind, names) in [("Names", names), ("Secrets", secrets)] {
            let list = schema.get_mut("$defs").and_then(|all| {
                let part = all.get_mut(format!("{part}{kind}"))?;
                part.get_mut("anyOf")?.get_mut(0)?.get_mut("enum")
            });
            *list.with_context(|| format!("{SCHEMA}: no names of {part}"))? = names.into();
        }
    }
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

#[derive(Default)]
struct Settings {
    all: BTreeSet<String>,
    secret: BTreeSet<String>,
}

/// Reads the settings of a command from its modules, and from the shared structures that they name:
/// `--help` does not show which are secret.
fn settings(own: &str, shared: &str) -> Result<Settings> {
    let mut text = own.to_owned();
    for begin in Regex::new(r"\bstruct (\w+?)Args\b")?.captures_iter(shared) {
        let from = begin.get(0).map_or(0, |found| found.start());
        let name = &begin[1];
        // Every command writes logs. A structure may be part of another one.
        if name == "Log" || text.contains(&format!("{name}Args")) {
            text += shared[from..].split("\n}").next().unwrap_or_default();
        }
    }
    let mut settings = Settings::default();
    settings.all.insert("RUST_LOG".to_owned());
    for found in Regex::new(r#"\benv = "([A-Z0-9_]+)"([^\]]*)\]"#)?.captures_iter(&text) {
        settings.all.insert(found[1].to_owned());
        if found[2].contains("hide_env_values") {
            settings.secret.insert(found[1].to_owned());
        }
    }
    Ok(settings)
}

/// Reads the source of these modules without their tests.
fn source(folders: &[&str]) -> Result<String> {
    let mut source = String::new();
    for folder in folders {
        for path in files(&[&format!("{folder}/*.rs"), &format!("{folder}.rs")])? {
            let text = read(path)?;
            source += text.split("#[cfg(test)]").next().unwrap_or_default();
        }
    }
    Ok(source)
}
