//! The Helm chart. `render` writes the manifests that the system tests use. `check` checks the
//! chart with helm, everything with the Kubernetes API schemas, and docker-compose.yml with docker.
//! `fetch` gets the first two tools into the cache folder: building helm with Go takes three
//! minutes of CPU, so without it `check` checks the rendered manifests only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;

use crate::attack::python_package;
use crate::shell::{cache, command, output, read, run as run_command, unchecked};

const HELM: &str = "v3.16.4";
const KUBERNETES: &str = "1.37";
const CHART: &str = "deploy/helm/firstcome";
const MANIFESTS: &str = "dev/harness/tests/it/operations/chart/firstcome.yaml";

#[derive(Clone, Copy, Subcommand)]
pub(crate) enum Part {
    /// Only fetch helm and the API schemas
    Fetch,
    /// Write what the chart renders to the file that the system tests read
    Render,
    /// Check the chart, what it renders, and docker-compose.yml
    Check,
}

pub(crate) fn run(part: Part) -> Result<()> {
    match part {
        Part::Fetch => {
            schemas()?;
            fetch_helm().map(drop)
        }
        Part::Render => Ok(fs::write(MANIFESTS, rendered(&fetch_helm()?)?)?),
        Part::Check => compose().and_then(|()| check()),
    }
}

/// Options that must be refused, each after a word that the reason must contain.
const REFUSED: [(&str, &str); 11] = [
    ("KAFKA_BROKERS", "env.KAFKA_BROKERS="),
    ("DATABASE_URL", "secrets.DATABASE_URL="),
    ("KAFKA_SIGNING_KEY", "secrets.KAFKA_SIGNING_KEY="),
    ("OPS_TOKEN", "secrets.OPS_TOKEN=short"),
    ("USER_AUTH", "api.env.USER_AUTH=nobody"),
    (
        "JWT_ISSUER",
        "api.env.USER_AUTH=jwt,api.env.JWT_ALGORITHM=RS256",
    ),
    ("PUBLIC_URL", "secrets.SMTP_URL=smtp://mail"),
    ("REDIS_URL", "consumer.env.REDIS_URL=redis://redis"),
    ("ingress.api.host", "ingress.api.enabled=true"),
    ("replica", "api.replica=3"),
    (
        "exclude each other",
        "env.ROWS_PER_SECOND=fast,consumer.autoscaling.enabled=true",
    ),
];

/// A setting under `env`, as it is in each program's container.
const PAGES_ON: &str = r#"{name: COUPON_PAGE, value: "on"}"#;

fn compose() -> Result<()> {
    let compose = |words: &[&str]| {
        let mut docker = command("docker");
        docker.arg("compose").args(words);
        docker
    };
    let version = compose(&["version"]).output();
    if !version.is_ok_and(|version| version.status.success()) {
        return unchecked("docker-compose.yml, without docker compose");
    }
    run_command(&mut compose(&["config", "--quiet"]))
}

/// Checks that the manifests are what helm renders, every option renders to valid objects, and
/// wrong values are refused.
fn check() -> Result<()> {
    let schemas = match schemas() {
        Ok(schemas) => schemas,
        Err(error) => return unchecked(&format!("all, without Kubernetes' schemas: {error:#}")),
    };
    validate(&schemas, Path::new(MANIFESTS))?;
    let helm = helm_path()?;
    if !helm.exists() {
        return unchecked("the chart, without helm (cargo xtask helm fetch)");
    }
    ensure!(
        rendered(&helm)? == read(MANIFESTS)?,
        "{MANIFESTS} is not what the chart gives: cargo xtask helm render"
    );
    let work = tempfile::tempdir()?;
    for values in ["minimal", "everything", "attach"] {
        let lint = ["lint", "--quiet", "--strict", CHART];
        run_command(&mut with_values(&helm, &lint, values))?;
        let file = work.path().join(format!("{values}.yaml"));
        fs::write(&file, output(&mut template(&helm, values))?)?;
        validate(&schemas, &file)?;
    }
    let attached = output(&mut template(&helm, "attach"))?;
    ensure!(
        attached.matches("kind: Deployment").count() == 1
            && attached.contains("/etc/shop/shop.toml"),
        "with attach.file the chart gives more than the reconciler"
    );
    let switched_on = ["--set", "env.COUPON_PAGE=on"];
    let rendered = output(template(&helm, "minimal").args(switched_on))?;
    ensure!(
        rendered.matches(PAGES_ON).count() == 4,
        "env.COUPON_PAGE is not that of every program, so a default of the chart wins"
    );
    for (word, option) in REFUSED {
        let tried = template(&helm, "minimal")
            .args(["--set", option])
            .output()?;
        let said = String::from_utf8_lossy(&tried.stderr);
        if tried.status.success() || !said.contains(word) {
            bail!("not refused with the word {word}: {option}: {said}");
        }
    }
    eprintln!("[helm] checked with helm {HELM} and the API of Kubernetes {KUBERNETES}");
    Ok(())
}

fn rendered(helm: &Path) -> Result<String> {
    const HEAD: &str = "# Rendered from deploy/helm/firstcome by cargo xtask helm render.\n";
    Ok(HEAD.to_owned() + &output(&mut template(helm, "manifests"))?)
}

fn template(helm: &Path, values: &str) -> Command {
    with_values(helm, &["template", "firstcome", CHART], values)
}

fn with_values(helm: &Path, words: &[&str], values: &str) -> Command {
    let mut helm = command(helm);
    helm.args(words).args(["--kube-version", KUBERNETES, "-f"]);
    helm.arg(format!("{CHART}/ci/{values}.yaml"));
    helm
}

fn helm_path() -> Result<PathBuf> {
    Ok(cache()?.join(format!("helm-{HELM}")))
}

fn fetch_helm() -> Result<PathBuf> {
    let helm = helm_path()?;
    if helm.exists() {
        return Ok(helm);
    }
    eprintln!("[helm] building helm {HELM} into {}", helm.display());
    let work = tempfile::tempdir_in(cache()?)?;
    let mut go = command("go");
    go.args(["install", "-modcacherw", "-trimpath", "-ldflags", "-s -w"]);
    go.arg(format!("helm.sh/helm/v3/cmd/helm@{HELM}"));
    go.env("GOPATH", work.path().join("path"))
        .env("GOCACHE", work.path().join("cache"));
    go.env("GOBIN", work.path()).env("CGO_ENABLED", "0");
    run_command(&mut go).context("helm is built with Go")?;
    fs::rename(work.path().join("helm"), &helm)?;
    Ok(helm)
}

/// Returns the program that contains the Kubernetes API schemas.
fn schemas() -> Result<PathBuf> {
    let package = python_package("kubernetes-validate", &format!("{KUBERNETES}.0"))?;
    Ok(package.join("bin/kubernetes-validate"))
}

fn validate(schemas: &Path, file: &Path) -> Result<()> {
    let checked = output(command(schemas).arg("--strict").arg(file))?;
    // A kind without a schema is only a warning. There is none for this third-party kind.
    let unknown = |line: &&str| line.starts_with("WARN") && !line.contains("kind ServiceMonitor ");
    let unknown = checked.lines().find(unknown);
    let is_checked = unknown.is_none() && checked.contains("INFO ");
    ensure!(is_checked, "{}: {unknown:?}", file.display());
    Ok(())
}
