//! Checks that do not run the product, cheapest first.

mod deny;

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use regex_lite::Regex;

use crate::shell::{Failed, cargo, command, files, run as run_command};
use crate::{deploy, helm};

#[derive(Subcommand)]
pub(crate) enum Part {
    /// All checks that compile nothing of the product
    Quick,
    /// The names of settings in the chart's schema, and docker-compose.yml
    Deploy,
    /// Licences, bans, sources and advisories of dependencies
    Deny,
}

pub(crate) fn run(part: Option<&Part>) -> Result<()> {
    match part {
        None => {
            quick()?;
            compiled()
        }
        Some(Part::Quick) => quick(),
        Some(Part::Deploy) => deploy::check(),
        Some(Part::Deny) => deny::check(),
    }
}

fn step(name: &str, check: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("[lint] {name}");
    check().with_context(|| name.to_owned())
}

fn quick() -> Result<()> {
    step("formatting", || {
        run_command(&mut cargo(&["fmt", "--all", "--check"]))
    })?;
    step("no package registry, no path of a machine", neutral)?;
    step("shell scripts", || {
        let mut scripts = files(&["*.sh", ".ci/run"])?;
        scripts.retain(|path| !path.starts_with("deploy/helm"));
        scripts
            .iter()
            .try_for_each(|script| run_command(command("bash").arg("-n").arg(script)))
    })?;
    step("docker-compose.yml, the chart's schema", deploy::check)?;
    step("dependencies: licences, bans, sources", deny::check)
}

fn compiled() -> Result<()> {
    step("the chart and deploy/kubernetes", || {
        helm::run(helm::Part::Check)
    })?;
    step("clippy", || {
        const CLIPPY: [&str; 4] = ["clippy", "--workspace", "--all-targets", "--locked"];
        run_command(cargo(&CLIPPY).args(["--", "-D", "warnings"]))
    })?;
    step("documentation", || {
        const DOC: [&str; 5] = ["doc", "--workspace", "--no-deps", "--locked", "--quiet"];
        run_command(cargo(&DOC).env("RUSTDOCFLAGS", "-D warnings"))
    })
}

/// Rejects files that only work on one machine: the home folder of a developer, or a package
/// registry other than the public ones, which a machine's own configuration may add.
fn neutral() -> Result<()> {
    let home = Regex::new(r#"(^|[\s"'`=(:])/(root|home/[a-z]+|work)/"#)?;
    let registry = Regex::new(r"(?m)^(source = .registry\+|\[source\.|\[registries|index = )")?;
    let mut found = Vec::new();
    for path in files(&["."])? {
        // Pictures are no text.
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let text = text.replace("registry+https://github.com/rust-lang/crates.io-index", "");
        let is_cargos = path == Path::new("Cargo.lock") || path.starts_with(".cargo");
        if home.is_match(&text) || is_cargos && registry.is_match(&text) {
            found.push(path.display().to_string());
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(Failed::check(found.join(", ")))
}
