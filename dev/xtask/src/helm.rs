//! The Helm chart. `render` writes deploy/kubernetes from it. `check` checks the chart with helm, and
//! everything with the Kubernetes API schemas. `fetch` gets both tools into the cache folder:
//! building helm with Go takes three minutes of CPU, so without it `check` checks the manifests
//! only, and that neither they nor the chart have changed since `render` (SHA256SUMS).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::attack::python_package;
use crate::shell::{Failed, cache, command, files, has, output, read, run as run_command};

const HELM: &str = "v3.16.4";
const KUBERNETES: &str = "1.37";
const CHART: &str = "deploy/helm/firstcome";
const MANIFESTS: &str = "deploy/kubernetes";
const SUMS: &str = "deploy/kubernetes/SHA256SUMS";

#[derive(Clone, Copy, Subcommand)]
pub(crate) enum Part {
    /// Only fetch helm and the API schemas
    Fetch,
    /// Write deploy/kubernetes from the chart, after all checks
    Render,
    /// Check the chart and deploy/kubernetes
    Check,
}

pub(crate) fn run(part: Part) -> Result<()> {
    match part {
        Part::Fetch => {
            schemas()?;
            fetch_helm().map(drop)
        }
        Part::Render => render(),
        Part::Check => check(),
    }
}

fn check() -> Result<()> {
    let schemas = match schemas() {
        Ok(schemas) => schemas,
        Err(error) => {
            eprintln!(
                "[helm] UNCHECKED against the API of Kubernetes, whose schemas could not be fetched: {error:#}"
            );
            return Ok(());
        }
    };
    schemas.validate(&manifests()?, false)?;
    let program = helm_path()?;
    if program.exists() {
        Chart { program, schemas }.check()?;
        eprintln!(
            "[helm] the chart: checked with helm {HELM} and the API of Kubernetes {KUBERNETES}"
        );
        return Ok(());
    }
    run_command(command("sha256sum").args(["--check", "--quiet", SUMS])).context(
        "the chart or deploy/kubernetes has changed since it was checked with helm: cargo xtask helm render",
    )?;
    eprintln!(
        "[helm] deploy/kubernetes: checked with the API of Kubernetes {KUBERNETES}; the chart has not changed since it was checked with helm {HELM}"
    );
    Ok(())
}

fn render() -> Result<()> {
    let chart = Chart {
        program: fetch_helm()?,
        schemas: schemas()?,
    };
    let rendered = chart.rendered()?;
    for path in manifests()? {
        fs::remove_file(path)?;
    }
    for (name, text) in rendered {
        fs::write(Path::new(MANIFESTS).join(name), text)?;
    }
    chart.schemas.validate(&manifests()?, false)?;
    chart.check()?;
    // `cargo xtask setting-names` writes the schema, and `lint` checks it.
    let inputs = ["Chart.yaml", "values.yaml", "templates/*", "ci/*"];
    let inputs = inputs.map(|name| format!("{CHART}/{name}"));
    let mut patterns: Vec<_> = inputs.iter().map(String::as_str).collect();
    patterns.push("deploy/kubernetes/*.yaml");
    let sums = output(command("sha256sum").args(files(&patterns)?))?;
    fs::write(SUMS, sums)?;
    Ok(())
}

fn manifests() -> Result<Vec<PathBuf>> {
    files(&["deploy/kubernetes/*.yaml"])
}

fn helm_path() -> Result<PathBuf> {
    Ok(cache()?.join(format!("helm-{HELM}")))
}

fn fetch_helm() -> Result<PathBuf> {
    let helm = helm_path()?;
    if helm.exists() {
        return Ok(helm);
    }
    if !has("go") {
        return Err(Failed::check("there is no Go to build helm with"));
    }
    eprintln!("[helm] building helm {HELM} into {}", helm.display());
    let work = tempfile::tempdir_in(cache()?)?;
    let mut go = command("go");
    go.args(["install", "-modcacherw", "-trimpath", "-ldflags", "-s -w"]);
    go.arg(format!("helm.sh/helm/v3/cmd/helm@{HELM}"));
    go.env("GOPATH", work.path().join("path"))
        .env("GOCACHE", work.path().join("cache"));
    go.env("GOBIN", work.path()).env("CGO_ENABLED", "0");
    run_command(&mut go)?;
    fs::rename(work.path().join("helm"), &helm)?;
    Ok(helm)
}

fn schemas() -> Result<Schemas> {
    let package = python_package("kubernetes-validate", &format!("{KUBERNETES}.0"))?;
    Ok(Schemas(package.join("bin/kubernetes-validate")))
}

/// The program that contains the Kubernetes API schemas.
struct Schemas(PathBuf);

impl Schemas {
    fn validate(&self, files: &[PathBuf], has_other_kinds: bool) -> Result<()> {
        let mut validate = command(&self.0);
        validate.args(["--strict", "--quiet"]);
        if has_other_kinds {
            validate.arg("--no-warn");
        }
        run_command(validate.args(files))
    }
}

struct Chart {
    program: PathBuf,
    schemas: Schemas,
}

/// Values that must be refused, with a word of the reason.
const REFUSED: [(&str, &str); 24] = [
    ("every pod", "networkPolicy.enabled=false"),
    (
        "openssl rand -hex 32",
        "secrets.apiAndReconciler.OPS_TOKEN=",
    ),
    (
        "OPS_TOKEN",
        "secrets.apiAndReconciler.OPS_TOKEN=openssl rand -hex 32",
    ),
    ("KAFKA_BROKERS", "settings.everywhere.KAFKA_BROKERS="),
    ("DATABASE_URL", "secrets.everywhere.DATABASE_URL="),
    ("KAFKA_SIGNING_KEY", "secrets.everywhere.KAFKA_SIGNING_KEY="),
    ("USER_AUTH", "settings.api.USER_AUTH=nobody"),
    ("PUBLIC_URL", "secrets.reconciler.SMTP_URL=smtp://mail"),
    (
        "PUBLIC_URL",
        "settings.reconciler.PUBLIC_URL=http://127.0.0.1:8081",
    ),
    ("COUPON_PAGES", "settings.api.COUPON_PAGES=on"),
    (
        "OPS_TOKEN",
        "settings.apiAndReconciler.OPS_TOKEN=0123456789abcdef0123456789abcdef",
    ),
    ("SMTP_URL", "secrets.everywhere.SMTP_URL=smtp://mail"),
    (
        "JWT_ISSUER",
        "settings.api.USER_AUTH=jwt,settings.api.JWT_ALGORITHM=RS256",
    ),
    (
        "JWT_JWKS_URL",
        "settings.api.USER_AUTH=jwt,settings.api.JWT_ALGORITHM=RS256,\
         settings.api.JWT_ISSUER=i,settings.api.JWT_AUDIENCE=a",
    ),
    (
        "maxReplicas",
        "consumer.autoscaling.enabled=true,consumer.autoscaling.minReplicas=13",
    ),
    ("LISTEN_ADDR", "settings.api.LISTEN_ADDR=127.0.0.1:8080"),
    ("METRICS_ADDR", "settings.api.METRICS_ADDR="),
    ("LISTEN_ADDR", "settings.reconciler.LISTEN_ADDR=0.0.0.0:80"),
    ("LISTEN_ADDR", "settings.consumer.LISTEN_ADDR=null"),
    (
        "LISTEN_ADDR",
        "settings.apiAndReconciler.LISTEN_ADDR=0.0.0.0:8080",
    ),
    ("REDIS_URL", "secrets.everywhere.REDIS_URL=redis://redis"),
    ("REDIS_URL", "secrets.consumer.REDIS_URL=redis://redis"),
    ("take pod.volumes away", "pod.volumes[0].name=tmp"),
    ("ingress.api.host", "ingress.api.enabled=true"),
];

impl Chart {
    fn helm(&self, words: &[&str], values: &str) -> Command {
        let mut helm = command(&self.program);
        helm.args(words).args(["--kube-version", KUBERNETES, "-f"]);
        helm.arg(format!("{CHART}/ci/{values}.yaml"));
        helm
    }

    fn template(&self, values: &str) -> Command {
        self.helm(&["template", "firstcome", CHART], values)
    }

    /// The manifests by file name.
    fn rendered(&self) -> Result<BTreeMap<String, String>> {
        // Start-up would refuse the secrets of these values.
        Ok(split(&output(
            self.template("manifests").arg("--skip-schema-validation"),
        )?))
    }

    /// Checks that the manifests are what helm renders, every option renders to valid objects, and
    /// wrong values are refused.
    fn check(&self) -> Result<()> {
        let mut present = BTreeMap::new();
        for path in manifests()? {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            present.insert(name, read(&path)?);
        }
        for (name, text) in &self.rendered()? {
            if present.remove(name).as_ref() != Some(text) {
                return Err(Failed::check(format!(
                    "{MANIFESTS}/{name} is not what the chart gives: cargo xtask helm render"
                )));
            }
        }
        if let Some((name, _)) = present.pop_first() {
            return Err(Failed::check(format!(
                "the chart does not give {MANIFESTS}/{name}"
            )));
        }
        let work = tempfile::tempdir()?;
        for values in ["minimal", "everything"] {
            run_command(&mut self.helm(&["lint", "--quiet", "--strict", CHART], values))?;
            let file = work.path().join(format!("{values}.yaml"));
            fs::write(&file, output(&mut self.template(values))?)?;
            // There is no schema for third-party kinds (ServiceMonitor).
            self.schemas.validate(&[file], true)?;
        }
        REFUSED
            .iter()
            .try_for_each(|(word, option)| self.refuses(word, option))
    }

    fn refuses(&self, word: &str, option: &str) -> Result<()> {
        let mut helm = self.template("minimal");
        let tried = helm
            .args(["--set", option])
            .output()
            .context("cannot start helm")?;
        let said = String::from_utf8_lossy(&tried.stderr);
        if tried.status.success() || !said.contains(word) {
            return Err(Failed::check(format!(
                "not refused with the word {word}: {option}"
            )));
        }
        Ok(())
    }
}

/// Splits the output into one file per template.
fn split(rendered: &str) -> BTreeMap<String, String> {
    let mut manifests = BTreeMap::<String, String>::new();
    for document in format!("\n{rendered}").split("\n---\n") {
        let Some((before, rest)) = document.split_once("# Source: ") else {
            continue;
        };
        let (source, object) = rest.split_once('\n').unwrap_or((rest, ""));
        let object = format!("{before}{object}");
        let has_kind = |kind: &str| object.lines().any(|line| line == format!("kind: {kind}"));
        let name = if has_kind("ConfigMap") {
            "config.yaml"
        } else if has_kind("Secret") {
            "secret.example.yaml"
        } else {
            source.rsplit('/').next().unwrap_or(source)
        };
        // Only helm needs it, to restart pods after a change of settings.
        let lines = object.lines().filter(|line| {
            !line
                .trim_start()
                .starts_with("annotations: {checksum/settings")
        });
        let object = lines.collect::<Vec<_>>().join("\n");
        let manifest = manifests.entry(name.to_owned()).or_default();
        manifest.push_str(if manifest.is_empty() {
            "# Rendered from deploy/helm/firstcome by cargo xtask helm render.\n"
        } else {
            "---\n"
        });
        manifest.push_str(object.trim_end_matches('\n'));
        manifest.push('\n');
    }
    manifests
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENDERED: &str = "\
---
# Source: firstcome/templates/config.yaml
kind: ConfigMap
---
# Source: firstcome/templates/api.yaml
kind: Service
---
# Source: firstcome/templates/secret.yaml
kind: Secret
---
# Source: firstcome/templates/api.yaml
kind: Deployment
spec:
    annotations: {checksum/settings: 1}
    x: 1

";

    #[test]
    fn objects_are_written_to_the_file_of_their_template() {
        const HEAD: &str = "# Rendered from deploy/helm/firstcome by cargo xtask helm render.\n";
        let files = split(RENDERED);
        let names: Vec<_> = files.keys().map(String::as_str).collect();
        assert_eq!(names, ["api.yaml", "config.yaml", "secret.example.yaml"]);
        assert_eq!(files["config.yaml"], format!("{HEAD}kind: ConfigMap\n"));
        assert_eq!(
            files["api.yaml"],
            format!("{HEAD}kind: Service\n---\nkind: Deployment\nspec:\n    x: 1\n")
        );
    }
}
