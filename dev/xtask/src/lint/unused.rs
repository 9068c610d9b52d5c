//! Finds dependencies that no source names, and empty files, which the compiler does not report. A
//! dependency that is only needed for its features has a comment on the line before it that begins
//! with `For its features only`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use regex_lite::Regex;
use serde_json::Value;

use super::report;
use crate::shell::{cargo, files, output, read};

pub(crate) fn check() -> Result<()> {
    const METADATA: [&str; 4] = ["metadata", "--no-deps", "--locked", "--format-version=1"];
    let metadata: Value = serde_json::from_str(&output(&mut cargo(&METADATA))?)?;
    let root = std::env::current_dir()?;
    let mut found = empty_files()?;
    let mut named = BTreeSet::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let manifest = package["manifest_path"]
            .as_str()
            .context("a package without a path")?;
        let manifest = Path::new(manifest).strip_prefix(&root)?;
        let folder = manifest.parent().context("a manifest without a folder")?;
        let mut sources = String::new();
        for path in files(&[&format!("{}/*.rs", folder.display())])? {
            sources += &read(path)?;
        }
        let own = dependencies(package);
        let unused = unused(&read(manifest)?, &own, &sources)?;
        found.extend(
            unused
                .iter()
                .map(|name| format!("{}: no source names {name}", manifest.display())),
        );
        named.extend(own);
    }
    let workspace = of_workspace(&read("Cargo.toml")?);
    let nobody = workspace.difference(&named);
    found.extend(nobody.map(|name| format!("Cargo.toml: no member depends on {name}")));
    report(&found, "remove these")
}

fn empty_files() -> Result<Vec<String>> {
    let mut empty = Vec::new();
    for path in files(&["*"])? {
        if fs::metadata(&path)?.len() == 0 {
            empty.push(format!("{} is empty", path.display()));
        }
    }
    Ok(empty)
}

fn dependencies(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    let name = |dependency: &Value| {
        let renamed = dependency["rename"].as_str();
        renamed
            .or_else(|| dependency["name"].as_str())
            .map(str::to_owned)
    };
    all.filter_map(name).collect()
}

fn unused(manifest: &str, own: &BTreeSet<String>, sources: &str) -> Result<Vec<String>> {
    let mut unused = Vec::new();
    for name in own {
        let for_features = Regex::new(&format!(r"(?m)^# For its features only.*\n{name}\b"))?;
        let named = Regex::new(&format!(r"\b{}\b", name.replace('-', "_")))?;
        if !for_features.is_match(manifest) && !named.is_match(sources) {
            unused.push(name.clone());
        }
    }
    Ok(unused)
}

/// Returns the names in `[workspace.dependencies]`.
fn of_workspace(manifest: &str) -> BTreeSet<String> {
    let lines = manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1);
    let section = lines.take_while(|line| !line.starts_with('['));
    section
        .filter_map(|line| Some(line.split_once(" = ")?.0.to_owned()))
        .filter(|name| !name.starts_with('#'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_dependencies_that_no_source_names() {
        let own = ["hyper-util", "lost", "sync_wrapper"]
            .map(str::to_owned)
            .into();
        let manifest =
            "[dependencies]\n# For its features only: see above.\nsync_wrapper.workspace = true\n";
        let unused = unused(manifest, &own, "use hyper_util::rt;").unwrap();
        assert_eq!(unused, ["lost"]);
    }

    #[test]
    fn reads_the_dependencies_of_the_workspace() {
        let manifest = "[workspace]\nmembers = []\n\n[workspace.dependencies]\n# a = b\nanyhow = \"1\"\nserde = { version = \"1\" }\n\n[profile.dev]\ndebug = 1\n";
        let names: Vec<_> = of_workspace(manifest).into_iter().collect();
        assert_eq!(names, ["anyhow", "serde"]);
    }
}
