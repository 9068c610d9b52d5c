//! The launcher: the product's programs as processes, on private servers.
//!
//! [`Servers`] are shared by all processes of a run. An [`Installation`] has settings and starts
//! the product's programs with them, each as a [`Service`].

mod installation;
mod service;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use firstcome_stack::{Janitor, Stack, StackOptions};
use tempfile::TempDir;
use tokio::process::Command;

pub use installation::{ANY_PORT, Installation, InstallationCoupon, until};
pub use service::Service;

/// Redis, MySQL, Kafka and a mail sink that only this run uses, and a folder for logs.
#[derive(Debug)]
pub struct Servers {
    pub stack: Stack,
    logs: PathBuf,
    _temporary: Option<TempDir>,
    janitor: Janitor,
}

impl Servers {
    /// Starts the servers. Without a folder, logs go to a temporary one.
    pub async fn start(options: StackOptions, logs: Option<&Path>) -> Result<Self> {
        let stack = Stack::start(options).await?;
        let temporary = logs.is_none().then(TempDir::new).transpose()?;
        let logs = logs
            .or(temporary.as_ref().map(TempDir::path))
            .context("no folder for the logs")?
            .to_owned();
        std::fs::create_dir_all(&logs)
            .with_context(|| format!("cannot make {}", logs.display()))?;
        Ok(Self {
            stack,
            logs,
            _temporary: temporary,
            janitor: Janitor::start()?,
        })
    }

    /// Starts a program and waits until it has printed its address, and a line that begins with
    /// `ready`.
    pub async fn spawn(&self, name: &str, command: &mut Command, ready: &str) -> Result<Service> {
        Service::start(name, command.as_std_mut(), ready, &self.logs, &self.janitor).await
    }
}
