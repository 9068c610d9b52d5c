//! Maintains the names in the chart's schema. The schema refuses unknown settings, and secrets
//! among the settings.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_yaml_ng::Value;

use super::Problems;
use super::settings::{Programs, Settings};
use crate::shell::read;

/// The address that a command listens on, which several commands cannot share.
const LISTEN: &str = "LISTEN_ADDR";

const SCHEMA: &str = "deploy/helm/firstcome/values.schema.json";

pub(crate) fn check(programs: &Programs) -> Result<Problems> {
    let text = read(SCHEMA)?;
    let is_same = with_names(&text, programs)? == text;
    let problem =
        format!("{SCHEMA}: the programs have other settings; run cargo xtask setting-names");
    Ok(if is_same { vec![] } else { vec![problem] })
}

pub(crate) fn write(programs: &Programs) -> Result<()> {
    let written = with_names(&read(SCHEMA)?, programs)?;
    std::fs::write(SCHEMA, written).with_context(|| format!("cannot write {SCHEMA}"))
}

/// The names allowed in one part of the values.
struct Group {
    name: &'static str,
    commands: &'static [(&'static str, &'static str)],
}

const API: (&str, &str) = ("firstcome-api", "serve");
const CONSUMER: (&str, &str) = ("firstcome-api", "consume");
const MIGRATE: (&str, &str) = ("firstcome-api", "migrate");
const RECONCILER: (&str, &str) = ("firstcome-reconciler", "daemon");

const GROUPS: [Group; 6] = [
    Group {
        name: "everywhere",
        commands: &[API, CONSUMER, MIGRATE, RECONCILER],
    },
    Group {
        name: "apiAndReconciler",
        commands: &[API, RECONCILER],
    },
    Group {
        name: "api",
        commands: &[API],
    },
    Group {
        name: "consumer",
        commands: &[CONSUMER],
    },
    Group {
        name: "migrate",
        commands: &[MIGRATE],
    },
    Group {
        name: "reconciler",
        commands: &[RECONCILER],
    },
];

impl Group {
    /// Returns the settings that all its commands have. Ports are excluded if there are several
    /// commands.
    fn names(&self, programs: &Programs) -> Result<BTreeSet<String>> {
        let settings = self.commands.iter().map(|(program, command)| {
            let settings = programs.of(program, command);
            settings.with_context(|| format!("there is no {program} {command}"))
        });
        let settings: Vec<&Settings> = settings.collect::<Result<_>>()?;
        let mut names = settings[0].all.clone();
        for other in &settings[1..] {
            names.retain(|name| other.all.contains(name));
        }
        if settings.len() > 1 {
            names.retain(|name| name != LISTEN);
        }
        Ok(names)
    }
}

/// Returns the schema with the names of the programs' settings. It is parsed as YAML, which keeps
/// the order.
fn with_names(text: &str, programs: &Programs) -> Result<String> {
    let mut schema: Value = serde_yaml_ng::from_str(text)?;
    let secret = programs.secret();
    for group in &GROUPS {
        let (secrets, names): (Vec<_>, Vec<_>) = group
            .names(programs)?
            .into_iter()
            .partition(|name| secret.contains(name));
        for (kind, names) in [("Names", names), ("Secrets", secrets)] {
            let key = format!("{}{kind}", group.name);
            let list = schema.get_mut("$defs").and_then(|all| {
                all.get_mut(key.as_str())?
                    .get_mut("anyOf")?
                    .get_mut(0)?
                    .get_mut("enum")
            });
            *list.with_context(|| format!("{SCHEMA}: no names of {}", group.name))? = names.into();
        }
    }
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}
