//! Rejects tests in a target with `test = false`, where they would never run.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use super::report;
use crate::shell::{cargo, files, output, read};
use crate::suite::targets;

pub(crate) fn check() -> Result<()> {
    const METADATA: [&str; 4] = ["metadata", "--no-deps", "--locked", "--format-version=1"];
    let metadata: Value = serde_json::from_str(&output(&mut cargo(&METADATA))?)?;
    let root = std::env::current_dir()?;
    let all: Vec<_> = targets(&metadata)
        .filter_map(|target| Target::read(target, &root))
        .collect();
    let mut found = Vec::new();
    for path in files(&["*.rs"])? {
        if is_never_tested(&path, &all) && has_test(&read(&path)?) {
            found.push(path.display().to_string());
        }
    }
    report(
        &found,
        "these have `test = false` in their Cargo.toml: remove it, or move the tests",
    )
}

struct Target {
    /// The first file of the target.
    path: PathBuf,
    is_lib: bool,
    is_tested: bool,
}

impl Target {
    fn read(target: &Value, root: &Path) -> Option<Self> {
        let path = Path::new(target["src_path"].as_str()?);
        Some(Self {
            path: path.strip_prefix(root).unwrap_or(path).to_owned(),
            is_lib: target["kind"][0] == "lib",
            is_tested: target["test"].as_bool()?,
        })
    }

    /// Whether the file belongs to the target: all files in a library's folder, or a program's
    /// first file.
    fn has(&self, file: &Path) -> bool {
        self.path == file
            || self.is_lib
                && self
                    .path
                    .parent()
                    .is_some_and(|folder| file.starts_with(folder))
    }
}

fn is_never_tested(file: &Path, targets: &[Target]) -> bool {
    let own = targets.iter().find(|target| target.path == file);
    let target = own.or_else(|| targets.iter().find(|target| target.has(file)));
    target.is_some_and(|target| !target.is_tested)
}

fn has_test(text: &str) -> bool {
    text.lines().map(str::trim_start).any(|line| {
        line.strip_prefix("#[")
            .map(|attribute| attribute.trim_start_matches("tokio::"))
            .is_some_and(|attribute| attribute.starts_with("test"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str, is_lib: bool, is_tested: bool) -> Target {
        Target {
            path: path.into(),
            is_lib,
            is_tested,
        }
    }

    #[test]
    fn distinguishes_files_of_a_library_and_its_program() {
        let targets = [
            target("dev/kit/src/lib.rs", true, false),
            target("dev/kit/src/main.rs", false, true),
            target("api/src/lib.rs", true, true),
            target("api/src/main.rs", false, false),
        ];
        let never = |file: &str| is_never_tested(Path::new(file), &targets);
        assert!(never("dev/kit/src/http.rs") && never("api/src/main.rs"));
        assert!(!never("dev/kit/src/main.rs") && !never("api/src/serve/mod.rs"));
    }

    #[test]
    fn knows_the_attributes_of_tests() {
        assert!(has_test("    #[test]\n") && has_test("#[tokio::test(flavor = \"multi_thread\")]"));
        assert!(!has_test("#[cfg(test)]\n#[must_use]"));
    }
}
