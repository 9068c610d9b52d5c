//! Starting the product's processes.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use firstcome_stack::Stack;
use tokio::process::Command;

use super::janitor::Janitor;
use super::{Service, SystemOptions, TOPIC};

/// Starts the product's processes with the settings they share.
pub(super) struct Launcher<'a> {
    pub(super) bin: PathBuf,
    pub(super) logs: &'a Path,
    pub(super) settings: Vec<(&'static str, String)>,
    pub(super) janitor: &'a Janitor,
}

impl Launcher<'_> {
    fn command(&self, program: &str, args: &[&str], own: &[(&str, String)]) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.args(args).envs(self.settings.iter().map(|(name, value)| (*name, value)));
        command.envs(own.iter().map(|(name, value)| (*name, value))).kill_on_drop(true);
        command
    }

    pub(super) async fn migrate(&self) -> Result<()> {
        let output = self.command("firstcome-api", &["migrate"], &[]).output().await.context("firstcome-api")?;
        if !output.status.success() {
            bail!("firstcome-api migrate failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    pub(super) async fn reconciler(&self, usual_ports: bool) -> Result<Service> {
        let listen = [("LISTEN_ADDR", address(usual_ports.then_some(8081)))];
        self.start("reconciler", self.command("firstcome-reconciler", &["daemon"], &listen), "").await
    }

    pub(super) async fn apis(&self, count: usize, usual_ports: bool) -> Result<Vec<Service>> {
        let mut apis = Vec::new();
        for number in 1..=count {
            let listen = [("LISTEN_ADDR", address((usual_ports && number == 1).then_some(8080)))];
            let command = self.command("firstcome-api", &["serve"], &listen);
            apis.push(self.start(&format!("api-{number}"), command, "").await?);
        }
        Ok(apis)
    }

    pub(super) async fn consumers(&self, count: usize) -> Result<Vec<Service>> {
        let mut consumers = Vec::new();
        for number in 1..=count {
            let listen = [("CONSUME_LISTEN_ADDR", address(None))];
            let command = self.command("firstcome-api", &["consume"], &listen);
            consumers.push(self.start(&format!("consumer-{number}"), command, "consuming ").await?);
        }
        Ok(consumers)
    }

    async fn start(&self, name: &str, command: Command, ready: &str) -> Result<Service> {
        Service::start(name, command, ready, self.logs, self.janitor).await
    }
}

pub(super) fn shared_settings(stack: &Stack, ops_token: &str, options: &SystemOptions) -> Vec<(&'static str, String)> {
    let mut env = stack.env().to_vec();
    env.extend([
        ("OPS_TOKEN", ops_token.to_owned()),
        ("USER_AUTH", "trusted-header".into()),
        ("RECONCILE_CRON", options.reconcile_cron.clone()),
        ("ALERT_FROM", "firstcome@example.com".into()),
        ("ALERT_TO", "on-duty@example.com".into()),
        ("KAFKA_TOPIC", TOPIC.into()),
    ]);
    env
}

pub(super) fn beside_this_program() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().context("this program has no folder")?.to_owned();
    for name in ["firstcome-api", "firstcome-reconciler"] {
        if !folder.join(name).exists() {
            bail!("{} is missing: build the whole workspace with the same profile first", folder.join(name).display());
        }
    }
    Ok(folder)
}

/// The wanted port where it is free, else any.
fn address(wanted: Option<u16>) -> String {
    let port = wanted.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap_or(0);
    format!("127.0.0.1:{port}")
}
