//! All checks that do not run the product, cheapest first.

mod comments;
mod deny;
mod features;
mod independent;
mod placement;
mod swallowed;
mod unused;

use anyhow::{Context as _, Result};
use clap::Subcommand;

use crate::shell::{Failed, cargo, command, files, run as run_command};
use crate::{deploy, helm};

#[derive(Subcommand)]
pub(crate) enum Part {
    /// All checks that compile nothing of the product
    Quick,
    /// Formatting, comments and the location of tests, in seconds
    Text,
    /// docker-compose.yml, deploy/kubernetes and the chart's schema
    Deploy,
    /// Licences, bans, sources and advisories of dependencies
    Deny,
    /// No dependency is built twice for different selections of packages
    Features,
}

pub(crate) fn run(part: Option<&Part>) -> Result<()> {
    match part {
        None => {
            quick()?;
            compiled()
        }
        Some(Part::Quick) => quick(),
        Some(Part::Text) => text(),
        Some(Part::Deploy) => deploy::check(),
        Some(Part::Deny) => deny::check(),
        Some(Part::Features) => features::check(),
    }
}

fn step(name: &str, check: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("[lint] {name}");
    check().with_context(|| name.to_owned())
}

fn text() -> Result<()> {
    step("formatting", || {
        run_command(&mut cargo(&["fmt", "--all", "--check"]))
    })?;
    step("comments within 100 columns", comments::check)?;
    step("no tests where none are built", placement::check)?;
    step("the checker of histories stands alone", independent::check)?;
    step("no swallowed answers in dev tools", swallowed::check)?;
    step("unused dependencies and empty files", unused::check)?;
    step("shell scripts", || {
        let mut scripts = files(&["*.sh", "*-entrypoint", ".ci/run"])?;
        scripts.retain(|path| !path.starts_with("deploy/helm"));
        scripts
            .iter()
            .try_for_each(|script| run_command(command("bash").arg("-n").arg(script)))
    })
}

fn quick() -> Result<()> {
    text()?;
    step("docker-compose.yml, deploy", deploy::check)?;
    step("dependencies: licences, bans, sources", deny::check)?;
    step("features: nothing is built twice", features::check)
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

/// Prints the findings of a check, and fails if there are any.
fn report(found: &[String], advice: &str) -> Result<()> {
    for line in found {
        eprintln!("{line}");
    }
    if found.is_empty() {
        Ok(())
    } else {
        Err(Failed::check(advice))
    }
}
