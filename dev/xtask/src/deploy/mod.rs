//! Checks that docker-compose.yml is well formed, and that the chart's schema names exactly the
//! settings that the programs have. helm.rs has the checks with helm and the Kubernetes API schemas.

mod schema;
mod settings;

use anyhow::Result;

use crate::helm;
use crate::shell::{Failed, command, read, run};

/// Problems, one per line.
type Problems = Vec<String>;

pub(crate) fn check() -> Result<()> {
    let programs = settings::Programs::read()?;
    let problems = schema::check(&programs)?;
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
