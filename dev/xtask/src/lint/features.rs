//! Checks that workspace members that are built separately have each dependency with the same
//! features as the whole workspace. Otherwise cargo builds the dependency twice.

use std::collections::BTreeSet;

use anyhow::Result;

use super::report;
use crate::programs::{BENCH, CHAOS, SYSTEM};
use crate::shell::{cargo, output};

pub(crate) fn check() -> Result<()> {
    let all = built_with(&["--workspace", "--edges", "normal,build,dev"])?;
    let mut found = Vec::new();
    for packages in [&[&SYSTEM[..]][..], &[&SYSTEM, &BENCH], &[&SYSTEM, &CHAOS]] {
        let packages = packages.concat();
        let mut selection = vec!["--edges", "normal,build"];
        selection.extend(packages.iter().flat_map(|package| ["-p", package]));
        let others = built_with(&selection)?;
        found.extend(
            others
                .difference(&all)
                .map(|one| format!("for {}: {one}", packages.join(" "))),
        );
    }
    report(
        &found,
        "built twice: give the missing features to these crates in the workspace's Cargo.toml",
    )
}

/// Lists each dependency with its version and features.
fn built_with(selection: &[&str]) -> Result<BTreeSet<String>> {
    const TREE: [&str; 7] = [
        "tree",
        "--locked",
        "--prefix",
        "none",
        "--no-dedupe",
        "--format",
        "{p} {f}",
    ];
    Ok(dependencies(&output(cargo(&TREE).args(selection))?))
}

fn dependencies(tree: &str) -> BTreeSet<String> {
    tree.lines()
        .map(|line| line.replace(" (*)", "").replace(" (proc-macro)", ""))
        .filter(|line| {
            !line.starts_with("firstcome-") && !line.starts_with("xtask ") && !line.is_empty()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_out_workspace_packages_and_duplicates() {
        let tree =
            "firstcome-api v0.1.0 (/here) \nsyn v2.0.0 (proc-macro) full\nsyn v2.0.0 full (*)\n";
        assert_eq!(
            dependencies(tree),
            BTreeSet::from(["syn v2.0.0 full".to_owned()])
        );
    }
}
