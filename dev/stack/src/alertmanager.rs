//! Alertmanager: the distribution's own package.

use std::fs;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fetch;
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

/// A body. HTTP/1.0: it has no chunks.
async fn get(port: u16, path: &str) -> Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    connection.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without an end of its head")?;
    if !head.contains(" 200 ") {
        bail!("{path} was answered with {answer:?}");
    }
    Ok(body.to_owned())
}

impl ServerKind for AlertmanagerOptions {
    const NAME: &'static str = "alertmanager";
    const PORTS: usize = 1;

    fn prepare(&self, _instance: &Instance) -> Result<()> {
        fetch::alertmanager()
    }

    fn command(&self, instance: &Instance) -> Result<CommandLine> {
        let file = instance.dir.join("alertmanager.yml");
        fs::write(&file, "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")?;
        let arguments = [
            format!("--config.file={}", file.display()),
            format!("--storage.path={}", instance.data.display()),
            format!("--web.listen-address=127.0.0.1:{}", instance.port()),
            "--cluster.listen-address=".to_owned(),
        ];
        Ok(std::iter::once("prometheus-alertmanager".to_owned()).chain(arguments).map(Into::into).collect())
    }

    async fn answers(&self, instance: &Instance) -> Result<()> {
        get(instance.port(), "/-/ready").await.map(drop)
    }
}
