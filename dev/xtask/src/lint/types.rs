//! Checks that each type name that is visible to other modules is defined once in the workspace,
//! except associated types and private types inside a function or an inline module.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use regex_lite::Regex;

use super::report;
use crate::shell::{files, read};

/// The command line of each program, and types that dev/model models under the same name.
const EXEMPT: [&str; 11] = [
    "Cli",
    "Command",
    "Admission",
    "Claim",
    "Coupon",
    "Life",
    "Pass",
    "Person",
    "Reconciler",
    "Redis",
    "Slot",
];

/// Models share a vocabulary. Paths such as `gate::State` distinguish the types.
const MODELS: &str = "dev/model/";

/// No crate depends on this program, so no other module sees its types.
const XTASK: &str = "dev/xtask/";

pub(crate) fn check() -> Result<()> {
    let mut names = Names::default();
    let mut all = files(&["*.rs"])?;
    // The model names what it models, and no other crate depends on it.
    all.retain(|path| !path.starts_with(XTASK) && !path.starts_with(MODELS));
    for path in all {
        names.add(&path, &read(&path)?)?;
    }
    report(
        &names.shared(),
        "another type has the same name; docs/DEVELOPING.md has the rule",
    )
}

#[derive(Default)]
struct Names(BTreeMap<String, Places>);

#[derive(Default)]
struct Places {
    paths: Vec<PathBuf>,
    is_visible: bool,
    is_modelled: bool,
}

impl Names {
    fn add(&mut self, path: &Path, text: &str) -> Result<()> {
        let definition = Regex::new(
            r"^(?P<vis> *pub(?:\([a-z: ]+\))? )?(?:unsafe )?(?:struct|enum|trait|type|union) (?P<name>[A-Z][A-Za-z0-9_]*)",
        )?;
        for defined in text.lines().filter_map(|line| definition.captures(line)) {
            let name = &defined["name"];
            let places = self.0.entry(name.to_owned()).or_default();
            let is_model = path.starts_with(MODELS);
            if is_model && std::mem::replace(&mut places.is_modelled, true) {
                continue;
            }
            places.is_visible |= defined.name("vis").is_some();
            places.paths.push(path.to_owned());
        }
        Ok(())
    }

    fn shared(&self) -> Vec<String> {
        let is_shared = |name: &str, places: &Places| {
            places.paths.len() > 1 && places.is_visible && !EXEMPT.contains(&name)
        };
        let shared = self
            .0
            .iter()
            .filter(|(name, places)| is_shared(name, places));
        shared
            .map(|(name, places)| {
                let paths = places
                    .paths
                    .iter()
                    .map(|path| format!("\n  {}", path.display()));
                format!("{name}{}", paths.collect::<String>())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(files: &[(&str, &str)]) -> Vec<String> {
        let mut names = Names::default();
        for (path, text) in files {
            names.add(Path::new(path), text).unwrap();
        }
        names.shared()
    }

    #[test]
    fn finds_visible_names_with_two_definitions() {
        let both = [("a.rs", "pub struct Answer;"), ("b.rs", "enum Answer {}")];
        assert_eq!(shared(&both), ["Answer\n  a.rs\n  b.rs"]);
        assert!(shared(&[("a.rs", "struct Row;"), ("b.rs", "struct Row;")]).is_empty());
        assert!(
            shared(&[
                ("a.rs", "pub type Out = u8;"),
                ("b.rs", "    type Out = u8;")
            ])
            .is_empty()
        );
    }

    #[test]
    fn models_share_their_vocabulary() {
        let models = [
            ("dev/model/a.rs", "pub struct Step;"),
            ("dev/model/b.rs", "pub struct Step;"),
        ];
        assert!(shared(&models).is_empty());
    }
}
