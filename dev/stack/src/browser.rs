//! The WebDriver server `chromedriver`, which starts a headless Chromium for each session.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fetch;
use crate::process::CommandLine;
use crate::server::{Instance, Server, ServerKind};

#[derive(Debug, Clone, Default)]
pub struct BrowserOptions {}

/// A WebDriver server. Its browsers end with it.
pub type BrowserServer = Server<BrowserOptions>;

impl BrowserServer {
    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }
}

/// Returns the path of the script of axe-core, an accessibility checker. Fetches it if necessary.
pub async fn axe() -> Result<PathBuf> {
    tokio::task::spawn_blocking(fetch::axe).await?
}

impl ServerKind for BrowserOptions {
    const NAME: &'static str = "chromedriver";
    const PORTS: usize = 1;

    fn prepare(&self, _instance: &Instance) -> Result<()> {
        fetch::browser()
    }

    fn command(&self, instance: &Instance) -> Result<CommandLine> {
        // Browsers keep their profiles in the temporary folder, which is deleted with this server.
        let words = [
            "env".to_owned(),
            format!("TMPDIR={}", instance.data.display()),
            "chromedriver".to_owned(),
            format!("--port={}", instance.port()),
            "--log-level=WARNING".to_owned(),
        ];
        Ok(words.map(Into::into).into())
    }

    async fn answers(&self, instance: &Instance) -> Result<()> {
        let mut connection = TcpStream::connect(("127.0.0.1", instance.port())).await?;
        let request = b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        connection.write_all(request).await?;
        let mut answer = vec![0; 2_048];
        let length = connection.read(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer[..length]);
        ensure!(answer.contains("\"ready\":true"), "/status: {answer:?}");
        Ok(())
    }
}
