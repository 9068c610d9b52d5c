//! Measures Firstcome against its own ceilings and against other designs, in one run on real
//! servers.
//!
//! - [`ceiling`]: the least work on the stores that has the same result as the product.
//! - [`sections`]: the measurements. Each part can run alone, and starts once the machine is
//!   [`quiet`].
//! - [`report`]: the table and `report.json`.
//!
//! `firstcome-load` generates the load; [`baselines`] has other designs and bare routes.

pub mod baselines;
pub mod ceiling;
pub mod cli;
pub mod quiet;
pub mod report;
pub mod run;
pub mod sections;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use firstcome_load::launch::{Installation, Servers, Service};
use firstcome_stack::built_program;
use tokio::process::Command;

/// The servers and builds that are measured.
#[derive(Debug)]
pub struct Bench {
    pub servers: Arc<Servers>,
    /// The programs of another build.
    pub other_build: Option<PathBuf>,
}

impl Bench {
    /// Creates a new installation on these servers.
    pub async fn install(&self, name: &str) -> Result<Installation> {
        Installation::named(&self.servers, name, None).await
    }

    /// Starts the route that does nothing.
    pub async fn nothing(&self) -> Result<Service> {
        self.baseline(&["nothing"], &BTreeMap::new()).await
    }

    /// Starts a program of the baselines with these arguments and settings.
    pub async fn baseline(
        &self,
        args: &[&str],
        settings: &BTreeMap<&'static str, String>,
    ) -> Result<Service> {
        let mut command = Command::new(built_program(baselines::PROGRAM)?);
        self.servers
            .spawn(
                args.first().copied().unwrap_or("baseline"),
                command.args(args).envs(settings),
                "",
            )
            .await
    }
}
