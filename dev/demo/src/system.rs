//! The whole system on this machine: private servers, and the product's own release binaries as processes.

mod janitor;
mod launch;
mod service;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use firstcome_stack::{MailOptions, Stack, StackOptions};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use self::janitor::Janitor;
use self::launch::{Launcher, beside_this_program, shared_settings};
pub use self::service::Service;
use crate::client::Target;
use crate::live::step;
use crate::ops::Ops;

/// Longest wait for the API to admit people after everything was started.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How the system is started.
#[derive(Debug, Clone)]
pub struct SystemOptions {
    /// API processes. The first listens on port 8080 where that is free.
    pub apis: usize,
    pub consumers: usize,
    /// When the reconciler looks, six fields.
    pub reconcile_cron: String,
    /// Where each mail is also written.
    pub mail_folder: Option<PathBuf>,
    /// Where logs go; a temporary folder without it.
    pub log_folder: Option<PathBuf>,
    /// Take the usual ports (8080, 8081) where they are free.
    pub usual_ports: bool,
}

/// Everything that runs. Dropping it kills all of it; [`System::stop`] asks first.
#[derive(Debug)]
pub struct System {
    pub apis: Vec<Service>,
    pub consumers: Vec<Service>,
    pub reconciler: Service,
    /// Redis, MySQL, Kafka and the mail sink.
    pub stack: Stack,
    /// The token of every ops route.
    pub ops_token: String,
    /// The settings that all processes share, by their variables.
    pub settings: Vec<(&'static str, String)>,
    logs: PathBuf,
    _temporary: Option<TempDir>,
}

impl System {
    /// Starts the servers, makes tables and topic, starts the processes, and waits until people can be admitted.
    pub async fn start(options: &SystemOptions) -> Result<Self> {
        step("starting Redis, MySQL, Kafka and a mail server of its own");
        let mail = MailOptions { folder: options.mail_folder.clone(), ..MailOptions::default() };
        let stack = Stack::start(StackOptions { mail, ..StackOptions::default() }).await?;
        let temporary = options.log_folder.is_none().then(TempDir::new).transpose()?;
        let logs = match (&options.log_folder, &temporary) {
            (Some(folder), _) => folder.clone(),
            (None, Some(folder)) => folder.path().to_owned(),
            (None, None) => bail!("no folder for the logs"),
        };
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let ops_token = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let janitor = Janitor::start()?;
        let launcher = Launcher {
            bin: beside_this_program()?,
            logs: &logs,
            settings: shared_settings(&stack, &ops_token, options),
            janitor: &janitor,
        };
        step("making tables and topic");
        launcher.migrate().await?;
        step(format!(
            "starting the reconciler, {} API process(es) and {} consumer(s)",
            options.apis, options.consumers
        ));
        let (reconciler, apis, consumers) = tokio::try_join!(
            launcher.reconciler(options.usual_ports),
            launcher.apis(options.apis, options.usual_ports),
            launcher.consumers(options.consumers),
        )?;
        let settings = launcher.settings;
        let system = Self { apis, consumers, reconciler, stack, ops_token, settings, logs, _temporary: temporary };
        system.until_it_admits().await?;
        Ok(system)
    }

    /// The API's ops routes.
    pub fn api(&self) -> Result<Ops> {
        let api = self.apis.first().context("no API runs")?;
        Ok(Ops { target: api.target()?, token: self.ops_token.clone() })
    }

    pub fn reconciler(&self) -> Result<Ops> {
        Ok(Ops { target: self.reconciler.target()?, token: self.ops_token.clone() })
    }

    /// Where the APIs are.
    pub fn targets(&self) -> Result<Vec<Target>> {
        self.apis.iter().map(Service::target).collect()
    }

    /// Where the logs are.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    async fn until_it_admits(&self) -> Result<()> {
        let begun = Instant::now();
        for service in &self.apis {
            let api = Ops { target: service.target()?, token: String::new() };
            loop {
                let (status, body) = api.get_text("/readyz").await?;
                if status.is_success() {
                    break;
                }
                if begun.elapsed() > READY_LIMIT {
                    bail!(
                        "{} is not ready after {READY_LIMIT:?}: {body}\n{}",
                        service.name(),
                        self.reconciler.log_tail()
                    );
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Asks every process to stop (SIGTERM) and waits. Says which did not end well.
    pub async fn stop(self) -> Vec<String> {
        let mut complaints = Vec::new();
        for service in self.apis.into_iter().chain(self.consumers).chain([self.reconciler]) {
            complaints.extend(service.stop().await.err().map(|error| format!("{error:#}")));
        }
        complaints
    }
}

/// The topic of claims.
pub const TOPIC: &str = "coupon-claims";

/// Waits for Ctrl-C or SIGTERM, and says which.
pub async fn stopped() -> std::io::Result<&'static str> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(tokio::select! { _ = interrupt.recv() => "Ctrl-C", _ = terminate.recv() => "SIGTERM" })
}
