//! The licences of all crates in the programs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::PROGRAMS;
use crate::shell::{cargo, output};

/// Collects the licence of each crate, with its text if the crate contains it.
pub(super) fn collect() -> Result<String> {
    // Build dependencies are included, because openssl-src has the sources of a library that is
    // linked.
    let mut tree = cargo(&["tree", "--locked", "--edges", "normal,build"]);
    tree.args(["--prefix", "none", "--format", "{p}"]);
    for program in PROGRAMS {
        tree.args(["-p", program]);
    }
    let tree = output(&mut tree)?;
    let mut metadata = cargo(&["metadata", "--locked", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&output(&mut metadata)?)?;
    let used = crates(&tree);
    let mut text = String::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let of = |field: &str| package[field].as_str().unwrap_or_default();
        let is_ours = package["source"].is_null();
        if is_ours || !used.contains(&(of("name"), of("version"))) {
            continue;
        }
        let title = format!("{} {}: {}", of("name"), of("version"), of("license"));
        writeln!(text, "{:=<80}\n{title}\n", "")?;
        let manifest = Path::new(of("manifest_path"));
        let folder = manifest.parent().context("a crate without a folder")?;
        let mut files = Vec::new();
        // Sources of C libraries are one or two folders deeper.
        find(folder, 2, &mut files)?;
        files.sort();
        for file in files {
            let licence = fs::read(&file)?;
            writeln!(text, "{}", String::from_utf8_lossy(&licence))?;
        }
    }
    Ok(text)
}

/// Returns the names and versions of crates in the output of `cargo tree`.
fn crates(tree: &str) -> BTreeSet<(&str, &str)> {
    let crates = tree.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.next()?.strip_prefix('v')?))
    });
    crates.collect()
}

fn find(folder: &Path, depth: u8, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() && is_licence(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        } else if kind.is_dir() && depth > 0 {
            find(&entry.path(), depth - 1, found)?;
        }
    }
    Ok(())
}

fn is_licence(name: &str) -> bool {
    let name = name.to_uppercase();
    let words = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];
    let is_source = [".RS", ".C", ".H"].iter().any(|end| name.ends_with(end));
    !is_source && words.iter().any(|word| name.starts_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_versions_from_cargo_tree() {
        let tree = "ring v0.17.14\nserde_derive v1.0.1 (proc-macro)\nring v0.17.14 (*)\n\n";
        let expected = BTreeSet::from([("ring", "0.17.14"), ("serde_derive", "1.0.1")]);
        assert_eq!(crates(tree), expected);
    }

    #[test]
    fn finds_licence_files_in_nested_folders() {
        let folder = tempfile::tempdir().unwrap();
        let nested = folder.path().join("zstd/lib");
        fs::create_dir_all(&nested).unwrap();
        for file in ["LICENSE-MIT", "license.rs", "README.md", "zstd/lib/COPYING"] {
            fs::write(folder.path().join(file), "").unwrap();
        }
        let mut found = Vec::new();
        find(folder.path(), 2, &mut found).unwrap();
        found.sort();
        let expected = ["LICENSE-MIT", "zstd/lib/COPYING"].map(|name| folder.path().join(name));
        assert_eq!(found, expected);
    }
}
