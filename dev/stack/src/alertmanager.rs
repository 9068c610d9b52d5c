//! Alertmanager: the distribution's own package.

use std::fs;

use anyhow::Result;

use crate::fetch;
use crate::plain_http::get;
use crate::process::CommandLine;
use crate::server::{Instance, Server, ServerKind};

#[derive(Debug, Clone, Default)]
pub struct AlertmanagerOptions {}

/// One that notifies nobody and belongs to no cluster.
pub type AlertmanagerServer = Server<AlertmanagerOptions>;

impl AlertmanagerServer {
    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// The alerts that it has, as JSON.
    pub async fn alerts(&self) -> Result<String> {
        get(self.port(), "/api/v2/alerts").await
    }
}

impl ServerKind for AlertmanagerOptions {
    const NAME: &'static str = "alertmanager";
    const PORTS: usize = 1;

    fn prepare(&self, _instance: &Instance) -> Result<()> {
        fetch::alertmanager()
    }

    fn command(&self, instance: &Instance) -> Result<CommandLine> {
        let file = instance.dir.join("alertmanager.yml");
        fs::write(
            &file,
            "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n",
        )?;
        let arguments = [
            format!("--config.file={}", file.display()),
            format!("--storage.path={}", instance.data.display()),
            format!("--web.listen-address=127.0.0.1:{}", instance.port()),
            "--cluster.listen-address=".to_owned(),
        ];
        Ok(std::iter::once("prometheus-alertmanager".to_owned())
            .chain(arguments)
            .map(Into::into)
            .collect())
    }

    async fn answers(&self, instance: &Instance) -> Result<()> {
        get(instance.port(), "/-/ready").await.map(drop)
    }
}
