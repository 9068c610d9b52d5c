//! Prometheus from the distribution's package.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::fetch;
use crate::plain_http::get;
use crate::process::CommandLine;
use crate::server::{Instance, Server, ServerKind};

/// Interval at which targets are scraped and rules evaluated.
const EVERY: &str = "1s";

#[derive(Debug, Clone, Default)]
pub struct PrometheusOptions {
    /// Jobs by name, each with the addresses (`host:port`) to scrape.
    pub jobs: Vec<(String, Vec<String>)>,
    /// Rule files.
    pub rules: Vec<PathBuf>,
}

/// A Prometheus that scrapes every second.
pub type PrometheusServer = Server<PrometheusOptions>;

impl PrometheusServer {
    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }
}

impl PrometheusOptions {
    fn config(&self) -> Result<String> {
        let mut text = format!(
            "global: {{scrape_interval: {EVERY}, evaluation_interval: {EVERY}}}\nrule_files:\n"
        );
        for file in &self.rules {
            let file = std::path::absolute(file)?;
            writeln!(text, "- {:?}", file.display().to_string())?;
        }
        text.push_str("scrape_configs:\n");
        for (name, addresses) in &self.jobs {
            writeln!(
                text,
                "- {{job_name: {name:?}, static_configs: [{{targets: {addresses:?}}}]}}"
            )?;
        }
        Ok(text)
    }
}

impl ServerKind for PrometheusOptions {
    const NAME: &'static str = "prometheus";
    const PORTS: usize = 1;

    fn prepare(&self, _instance: &Instance) -> Result<()> {
        fetch::prometheus()
    }

    fn command(&self, instance: &Instance) -> Result<CommandLine> {
        let file = instance.dir.join("prometheus.yml");
        fs::write(&file, self.config()?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        let arguments = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", instance.data.display()),
            format!("--web.listen-address=127.0.0.1:{}", instance.port()),
        ];
        Ok(std::iter::once("prometheus".to_owned())
            .chain(arguments)
            .map(Into::into)
            .collect())
    }

    async fn answers(&self, instance: &Instance) -> Result<()> {
        get(instance.port(), "/-/ready").await.map(drop)
    }
}
